"""The command line, as a user types it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings
from safetensors.torch import load_file, save_file

from service.access.auth import KeyRing
from service.access.exposure import warn_if_open
from service.cli import COMMANDS, SERVING, main, parser
from service.commands.unknown_settings import take_unknown_settings
from service.settings import GatewaySettings
from tests.end_to_end.serving import free_port
from tests.published import write_stable_diffusion
from tests.tiny import write_tiny_models
from tests.worker.processes import ROOT
from worker.settings import ServeSettings, WorkerSettings, default_data_dir, read_settings


def ldm(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=180, check=False
    )


def test_models_lists_directories_without_torch(tmp_path: Path) -> None:
    write_tiny_models(tmp_path)
    directories = sorted(path.parent for path in tmp_path.glob("*/model_index.json"))
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    options = [part for directory in directories for part in ("--model", str(directory))]
    shown = ldm("models", *options, PYTHONPATH=path)
    assert shown.returncode == 0
    assert shown.stderr == "ldm models: no worker is installed here, so that no weights are looked at\n"
    for line, directory in zip(shown.stdout.splitlines(), directories, strict=True):
        assert line.startswith(directory.name)
        assert line.endswith(str(directory))


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    shown = ldm("models", "--model", str(tmp_path / "nothing"))
    assert shown.returncode == 1
    assert str(tmp_path / "nothing") in shown.stderr


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [("LDM_PORT", "http", "integer"), ("LDM_MAX_ROWS", "0", "greater"), ("LDM_DTYPE", "int3", "float32")],
)
def test_a_bad_setting_is_named_with_its_value_and_what_was_wanted(
    tmp_path: Path, name: str, value: str, wanted: str
) -> None:
    said = ldm("serve", "--data-dir", str(tmp_path), **{name: value})
    assert said.returncode == 2
    assert said.stderr.startswith(f"{name}={value}: ")
    assert wanted in said.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["gateway", "worker", "serve"])
@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("http://user:hunter2@host", "must start with redis://, rediss:// or unix://"),
        ("redis://user:hunter2@host:port/0", "has a port or an option that cannot be read"),
        ("redis://user:hunter2/0", "has a port or an option that cannot be read"),
        ("redis://host/0?password=hunter2&socket_timeout=long", "has a port or an option that cannot be read"),
    ],
)
def test_an_address_of_redis_is_refused_and_not_repeated(
    command: str, address: str, wanted: str, tmp_path: Path
) -> None:
    told = ldm(command, LDM_REDIS_URL=address, LDM_DATA_DIR=str(tmp_path), LDM_PORT=str(free_port()))
    assert told.returncode == 2
    assert told.stderr.strip() == f"LDM_REDIS_URL=***: {wanted}"
    assert "hunter2" not in told.stdout


IMPORT = ["import", "--ckpt", "a", "--config", "b", "--out", "c"]
PATHS = [
    *[(command, "--model") for command in ("serve", "worker", "models")],
    *[(command, "--data-dir") for command in ("serve", "worker", "gateway")],
    *[(command, "--api-keys-file") for command in ("serve", "gateway")],
    ("key", "--file"),
    *[("import", f"--{name}") for name in ("ckpt", "config", "out", "tokenizer", "clip", "vae", "labels")],
]


@pytest.mark.parametrize(("command", "option"), PATHS)
@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_the_current_directory(
    command: str, option: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args([*(IMPORT if command == "import" else [command]), option, path])
    assert capsys.readouterr().err.endswith(f": error: argument {option}: must be a path, got an empty one\n")


def test_every_option_that_takes_a_path_is_tried_with_an_empty_one() -> None:
    (commands,) = (action for action in parser()._actions if action.dest == "command")
    takers = {
        (command, action.option_strings[0])
        for command, options in commands.choices.items()  # type: ignore[union-attr]
        if COMMANDS[command].module == SERVING  # the others' are tried in test_commands.py
        for action in options._actions
        if action.metavar in {"DIR", "FILE", "PATH"}
    }
    assert takers == set(PATHS)


@pytest.mark.parametrize("kind", [GatewaySettings, ServeSettings, WorkerSettings])
def test_an_empty_data_directory_is_the_default(kind: type[BaseSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_DATA_DIR", "")
    assert read_settings(kind).data_dir == default_data_dir()  # type: ignore[attr-defined]


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = ldm("serve", "--data-dir", str(tmp_path), "--port", str(port))
    assert said.returncode == 1
    assert (said.stdout + said.stderr).count("\n") == 1
    assert f"127.0.0.1:{port}" in said.stdout and "make run PORT=" in said.stdout
    assert not list(tmp_path.iterdir())


def test_a_fresh_key_goes_to_stderr_and_its_entry_to_stdout() -> None:
    made = ldm("key", "alice")
    assert made.returncode == 0
    secret = made.stderr.split()[-1]
    table = tomllib.loads(made.stdout)
    assert table == {"alice": {"sha256": hashlib.sha256(secret.encode()).hexdigest()}}
    assert secret not in made.stdout
    assert ldm("key", "two words").returncode == 1


def test_a_key_for_a_file_is_alone_on_stdout_and_its_name_is_taken_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secrets = {}
    for name in ("alice", "bob"):
        made = ldm("key", name, "--file", str(file))
        assert made.returncode == 0 and str(file) in made.stderr
        secrets[name] = made.stdout.removesuffix("\n")
    ring = KeyRing("", file)
    assert {name: ring.caller(secret).name for name, secret in secrets.items()} == {"alice": "alice", "bob": "bob"}
    before = file.read_bytes()
    refused = ldm("key", "alice", "--file", str(file))
    assert (refused.returncode, refused.stdout, file.read_bytes()) == (1, "", before)
    assert f"{file} has a key of alice" in refused.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["doctor", "--modle", "X"], "ldm doctor: error: it takes no option --modle (see ldm doctor --help)\n"),
        (["status", "now"], "ldm status: error: it takes no argument now (see ldm status --help)\n"),
    ],
)
def test_an_option_that_there_is_not_is_named_as_one(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 2
    assert capsys.readouterr().err == said


def test_a_misspelt_setting_is_said_before_anything_else_of_a_start(tmp_path: Path) -> None:
    told = ldm("serve", LDM_PORTS="9", LDM_PORT="many", LDM_TEST_MARK="1", LDM_DATA_DIR=str(tmp_path))
    assert told.returncode == 2
    assert told.stderr.splitlines()[0] == "ldm: LDM_PORTS is set and unknown: did you mean LDM_PORT?"
    assert told.stderr.splitlines()[1].startswith("LDM_PORT=many: ")


def test_a_gateway_and_a_worker_log_a_misspelt_setting_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        unreachable = {"LDM_REDIS_URL": "redis://127.0.0.1:1/0", "LDM_DATA_DIR": str(tmp_path), "LDM_PORT": port}
        given = {"LDM_MODEL": str(tmp_path / "nowhere"), "LDM_QUEUE_LIMITS": "3", **unreachable}
        for command in ("gateway", "worker"):
            told = ldm(command, **given)
            (line,) = [json.loads(line) for line in told.stderr.splitlines() if "LDM_QUEUE_LIMITS" in line]
            assert (line["level"], "did you mean LDM_QUEUE_LIMIT?" in line["message"]) == ("warning", True)


def test_what_is_unknown_is_unset_for_child_processes() -> None:
    environment = {"LDM_PORTS": "9", "LDM_PORT": "8000", "LDM_TEST_MARK": "1", "LDM_BIND": "0.0.0.0", "HOME": "/"}
    assert [unknown.name for unknown in take_unknown_settings(environment)] == ["LDM_PORTS"]
    assert list(environment) == ["LDM_PORT", "LDM_TEST_MARK", "LDM_BIND", "HOME"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.example"])
def test_a_server_open_to_all_says_so(host: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_open(host, 8000, keys=True)
    assert not caplog.records
    warn_if_open(host, 8000, keys=False)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert f"NO API KEYS ARE CONFIGURED: whoever reaches {host}:8000" in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_server_of_this_machine_needs_no_warning(host: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_open(host, 8000, keys=False)
    assert not caplog.records


@pytest.mark.parametrize("keys", ["alice:short", "a b:0123456789abcdef0123"])
@pytest.mark.parametrize("command", ["gateway", "serve"])
def test_bad_keys_stop_the_start_and_are_not_repeated(command: str, keys: str, tmp_path: Path) -> None:
    said = ldm(command, LDM_API_KEYS=keys, LDM_DATA_DIR=str(tmp_path), LDM_PORT=str(free_port()))
    assert said.returncode == 2
    assert "LDM_API_KEYS: entry 1" in said.stderr
    assert keys.split(":")[1] not in said.stdout + said.stderr
    assert said.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["gateway", "serve"])
def test_a_missing_file_of_keys_stops_the_start(command: str, tmp_path: Path) -> None:
    settings = {"LDM_DATA_DIR": str(tmp_path), "LDM_PORT": str(free_port())}
    said = ldm(command, "--api-keys-file", str(tmp_path / "nowhere"), **settings)
    assert said.returncode == 2
    assert str(tmp_path / "nowhere") in said.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["gateway", "serve"])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LDM_QUEUE_LIMIT", "0", "LDM_QUEUE_LIMIT=0: Input should be greater than or equal to 1"),
        ("LDM_ALLOWED_HOSTS", "a b", "LDM_ALLOWED_HOSTS=a b: 'a b' "),
        ("LDM_ROOT_PATH", "ldm", "LDM_ROOT_PATH=ldm: must be a path such as /ldm"),
        ("LDM_WEBHOOK_HOSTS", "a.example", "LDM_WEBHOOK_SECRET must be set where LDM_WEBHOOK_HOSTS is"),
        ("LDM_WEBHOOK_HOSTS", "*", "LDM_WEBHOOK_HOSTS=*: '*' is no host"),
        ("LDM_WEBHOOK_SECRET", "whsec_c2hvcnQ=", "LDM_WEBHOOK_SECRET=***: must be whsec_ and base64 of 24 to 64"),
        ("LDM_WEBHOOK_BACKOFF_S", "soon", "LDM_WEBHOOK_BACKOFF_S=soon: must be seconds"),
        ("LDM_BODIES_BUDGET_BYTES", "1", "LDM_BODIES_BUDGET_BYTES=1 must be at least twice LDM_MAX_BODY_BYTES="),
    ],
)
def test_a_bad_setting_of_the_gateway_is_the_only_line(
    command: str, name: str, value: str, said: str, tmp_path: Path
) -> None:
    told = ldm(command, **{name: value, "LDM_DATA_DIR": str(tmp_path), "LDM_PORT": str(free_port())})
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith(said) and told.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_names_every_command() -> None:
    shown = ldm("--help").stdout
    assert all(command in shown for command in ("serve", "worker", "gateway", "models", "import", "key"))


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


def no_bias(directory: Path) -> None:
    file = directory / "unet/diffusion_pytorch_model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if key != "conv_in.bias"}, file)


def setting(directory: Path) -> None:
    (directory / "service.json").write_text('{"max_pixels": "abc"}')


def other_family(directory: Path) -> None:
    (directory / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a weight is missing": (no_bias, "missing: conv_in.bias"),
    "a setting of another type": (setting, "service.json: max_pixels = 'abc'"),
    "another family": (other_family, "is SDXL"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_models_and_serve_say_the_same_of_a_broken_directory(stable_diffusion: Path, tmp_path: Path, name: str) -> None:
    damage, said = BROKEN[name]
    directory = Path(shutil.copytree(stable_diffusion, tmp_path / "sd"))
    damage(directory)
    listed = ldm("models", "--model", str(directory))
    assert (listed.returncode, listed.stdout) == (1, "")
    assert listed.stderr.count("\n") == 1
    assert said in listed.stderr
    data = str(tmp_path / "data")
    port = str(free_port())
    served = ldm("serve", "--model", str(directory), "--data-dir", data, "--port", port, LDM_METRICS_PORT="0")
    assert served.returncode == 3
    assert listed.stderr.strip() in served.stdout + served.stderr
    assert "Traceback" not in served.stdout + served.stderr


def test_models_lists_a_sound_directory_and_what_of_it_is_not_followed(stable_diffusion: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(stable_diffusion, tmp_path / "sd"))
    file = directory / "scheduler/scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_karras_sigmas": True}))
    listed = ldm("models", "--model", str(directory))
    assert listed.returncode == 0
    assert listed.stdout.startswith("sd  txt2img, inpaint  32x32")
    assert listed.stderr.strip().endswith("use_karras_sigmas = True is not followed")


@pytest.mark.parametrize("command", ["models", "serve", "worker"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("someone/some-model", "hf download someone/some-model --local-dir DIR"),
        ("v1.safetensors", "ldm import --ckpt"),
        ("nowhere", "there is no such directory"),
    ],
)
def test_what_is_no_directory_is_one_sentence_with_the_way_out(
    redis_url: str, tmp_path: Path, command: str, given: str, said: str
) -> None:
    (tmp_path / "v1.safetensors").write_bytes(b"")
    wanted = str(tmp_path / given) if given.startswith("v1") else given
    settings = {"LDM_DATA_DIR": str(tmp_path / "data"), "LDM_REDIS_URL": redis_url, "LDM_METRICS_PORT": "0"}
    shown = ldm(command, "--model", wanted, **settings)
    assert shown.returncode == (1 if command == "models" else 3)
    assert (shown.stdout, shown.stderr.count("\n")) == ("", 1)
    assert said in shown.stderr
    assert given in shown.stderr
    assert str(ROOT) not in shown.stderr


@pytest.mark.parametrize("command", ["models", "serve", "worker"])
def test_two_directories_of_one_name_are_refused(
    stable_diffusion: Path, redis_url: str, tmp_path: Path, command: str
) -> None:
    other = shutil.copytree(stable_diffusion, tmp_path / "sd")
    settings = {"LDM_DATA_DIR": str(tmp_path / "data"), "LDM_REDIS_URL": redis_url, "LDM_METRICS_PORT": "0"}
    shown = ldm(command, "--model", str(stable_diffusion), "--model", str(other), **settings)
    assert shown.returncode == (1 if command == "models" else 3)
    assert shown.stderr.count("\n") == 1
    assert f"is a second model called 'sd' beside {stable_diffusion}" in shown.stderr
