"""Every command in README.md does what it says, or is at least one that the program it names would take."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ldm_core.model_directory.card_reader import read_card
from service.cli import parser
from tests.documents import README, ROOT, blocks, commands

LINK = re.compile(r"\]\(([^)#\s]+)")


def a_target_of_make(command: str) -> None:
    words = [word for word in shlex.split(command, comments=True)[1:] if "=" not in word]
    known = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(known)


def a_command_of_ldm(command: str) -> None:
    words = shlex.split(command.partition(" >> ")[0], comments=True)[1:]
    if len(words) == 1:  # it is only mentioned
        words.append("--help")
        with pytest.raises(SystemExit, match=r"^0$"):
            parser().parse_args(words)
    else:
        parser().parse_args(words)


def a_module(command: str) -> None:
    module = shlex.split(command)[2]
    assert importlib.util.find_spec(module) is not None
    assert (ROOT / Path(*module.split("."))).exists() or (ROOT / Path(*module.split("."))).with_suffix(".py").exists()


def existing_files(command: str) -> None:
    assert all((ROOT / path).exists() for path in shlex.split(command)[1:])


def a_compose_file(command: str) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    built = {service["build"]["target"] for service in services.values() if "build" in service}
    stages = re.findall(r"^FROM .* AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.IGNORECASE)
    assert built <= set(stages)
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    assert all((ROOT / path).exists() for path in mounted if path.startswith("./"))
    assert all(set(service.get("depends_on", ())) <= set(services) for service in services.values())


def a_kustomization(command: str) -> None:
    folder = ROOT / shlex.split(command)[-1]
    if shutil.which("kubectl"):
        made = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout
    else:
        assert (folder / "kustomization.yaml").exists(), f"{folder} is what kubectl would be given"
        named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        made = "\n---\n".join((folder / path).read_text() for path in named if (folder / path).is_file())
    assert all(document["kind"] for document in yaml.safe_load_all(made) if document)


def a_setting(command: str) -> None:
    assert shlex.split(command)[1].startswith("LDM_")


def an_install_from_the_clone(command: str) -> None:
    extras = re.findall(r"\[(\w+)\]", command)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= set(declared)
    assert (ROOT / shlex.split(command)[2].partition("[")[0] / "pyproject.toml").exists()


def run_by_another_test(command: str) -> None:
    """`tests/end_to_end/test_readme.py` runs every curl of the blocks."""


KINDS: dict[str, Callable[[str], None]] = {
    r"make( |$)": a_target_of_make,
    r"ldm ": a_command_of_ldm,
    r"python -m ": a_module,
    r"pytest ": existing_files,
    r"docker compose up": a_compose_file,
    r"kubectl apply -k ": a_kustomization,
    r"pip install '?\.": an_install_from_the_clone,
    r"export LDM_": a_setting,
    r"(time )?curl ": run_by_another_test,
}


@pytest.mark.parametrize("command", commands())
def test_a_command_is_one_that_its_program_takes(command: str) -> None:
    (check,) = [check for start, check in KINDS.items() if re.match(start, command)]
    check(command)


def test_nothing_is_promised_from_an_index_that_has_no_release() -> None:
    assert not [command for command in commands() if re.match(r"pip install ['\"]?ldm-service", command)]


def test_every_link_leads_to_a_file_of_the_repository() -> None:
    links = {link for link in LINK.findall(README.read_text()) if not link.startswith(("http", "#"))}
    assert [link for link in sorted(links) if not (ROOT / link).exists()] == []


def test_every_setting_that_the_readme_lists_is_read_and_every_one_that_is_read_is_listed() -> None:
    from service.settings import GatewaySettings
    from worker.settings import ServeSettings, WorkerSettings

    read = {
        f"LDM_{name.upper()}" for kind in (GatewaySettings, ServeSettings, WorkerSettings) for name in kind.model_fields
    }
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `LDM_")]
    listed = set(re.findall(r"`(LDM_[A-Z_0-9]+)`", " ".join(row.split("|")[1] for row in rows)))
    assert listed == read - {"LDM_WORKER_NAME"}  # which the prefork master gives its worker


def test_the_built_in_model_knows_as_many_words_as_the_readme_says() -> None:
    (said,) = re.findall(r"knows (\d+) words", README.read_text())
    assert int(said) == len(read_card(ROOT / "ldm_core/builtin/scenes").vocabulary or ())


def test_the_python_example_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("python")
    (tmp_path / "ldm_core").symlink_to(ROOT / "ldm_core")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "pine.png").read_bytes().startswith(b"\x89PNG")
