"""The commands that draw and look, where there is no server: their help, their options, and what is refused at once."""

from __future__ import annotations

import re
import resource
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ldm_core.params import TASKS, Task
from service.cli import COMMANDS, parser
from service.commands.draw import fields_of
from service.commands.graphics import iterm2, kitty, sixel
from service.commands.task_options import LABEL, named, options_of
from service.intake.tasks import REQUESTS
from tests.command import command, environment, ldm, said
from tests.end_to_end.serving import free_port, picture

FIRST = {"txt2img": ["a house"], "superres": ["small.png"], "class2img": ["3"], "semantic2img": ["map.png"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.png").write_bytes(picture(16, 16))
    (tmp_path / "map.png").write_bytes(picture(16, 16, "L"))
    (tmp_path / "nothing.png").write_bytes(b"")
    return tmp_path


def test_ldm_alone_is_help_for_a_newcomer(tmp_path: Path) -> None:
    shown = ldm(cwd=tmp_path)
    assert shown.returncode == 0
    text = shown.stdout.decode()
    assert all(f"  {name} " in text for name in COMMANDS)
    assert 'ldm txt2img "a red house by the sea" -o out.png' in text and "ldm serve" in text


def test_help_comes_at_once_and_without_torch_or_httpx(tmp_path: Path) -> None:
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)  # the processor's time, whatever else is running here
        subprocess.run(command("--help"), cwd=tmp_path, env=environment(), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.5
    program = "import sys; sys.argv = ['ldm']; from service.cli import main; main(); print(*sys.modules)"
    done = subprocess.run(
        [*command()[:2], "-c", program], cwd=tmp_path, env=environment(), capture_output=True, check=True
    )
    assert not {"torch", "importlib.metadata", "httpx", "pydantic", "rich", "redis", "numpy"} & set(
        done.stdout.decode().split()
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[name].examples
    for line in COMMANDS[name].examples:
        words = shlex.split(line.partition(" >")[0].rpartition("| ")[2])
        assert words[:2] == ["ldm", name]
        parser(name).parse_args(words[1:])
    with pytest.raises(SystemExit, match="0"):
        parser(name).parse_args([name, "--help"])
    assert "examples:" in capsys.readouterr().out


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_an_option_for_each_field_of_its_request(task: Task) -> None:
    names = {option.settings.get("dest", option.flags[0]) for option in options_of(task)}
    fields = set(REQUESTS[task].model_fields)
    assert names == (fields - set(LABEL) | {"label"} if task == "class2img" else fields)


def parsed(*words: str) -> dict[str, Any]:
    args = parser(words[0]).parse_args([*words, "-o", "out.png"])
    return fields_of(args.command, args)


def test_options_become_the_fields_of_a_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    small = (folder / "small.png").read_bytes()
    assert parsed("txt2img", "a house") == {"prompt": "a house"}
    many = ("--negative", "b", "--n", "2", "--guidance-scale", "3", "--upscale", "--eta", "0")
    assert parsed("txt2img", "a", *many) == {
        "prompt": "a", "negative_prompt": "b", "n": 2, "guidance_scale": 3.0, "upscale": True, "eta": 0.0,
    }  # fmt: skip
    assert parsed("txt2img", "a", "--neighbors", "small.png", "--neighbors", "small.png")["neighbors"] == [small] * 2
    assert parsed("txt2img", "a", "--metadata", "a=b=c", "--metadata", "d=")["metadata"] == {"a": "b=c", "d": ""}
    assert parsed("inpaint", "--image", "small.png") == {"image": small}
    assert parsed("superres", "small.png") == {"image": small}
    assert parsed("class2img", "207") == {"class_id": 207}
    assert parsed("class2img", "golden retriever") == {"class_name": "golden retriever"}
    assert parsed("layout2img", "--object", "Tree", "0", ".2", "1", "1", "--object", "7", "0", "0", "1", "1") == {
        "objects": [{"label": "Tree", "box": [0, 0.2, 1, 1]}, {"label": 7, "box": [0, 0, 1, 1]}]
    }  # fmt: skip


def test_a_field_at_fault_is_named_as_its_option() -> None:
    assert named("txt2img", "guidance_scale") == "--guidance-scale"
    assert (named("txt2img", "prompt"), named("superres", "image")) == ("PROMPT", "IMAGE")
    assert (named("class2img", "class_name"), named("layout2img", "objects/0/label")) == ("LABEL", "--object 1 label")


REFUSED = [
    (["txt2img", "a"], "say where the image goes"),
    (["txt2img", "a", "--show"], "--show: this terminal is not known to show images"),
    (["txt2img", "a", "-o", "there.png"], "--out: there.png exists; --force overwrites it"),
    (["txt2img", "a", "--n", "3", "-o", "there.png", "--local"], "--out: there-2.png exists; --force overwrites it"),
    (["txt2img", "a", "-o", "none/out.png"], "--out: there is no directory none"),
    (["txt2img", "a", "-o", "."], "--out: . is a directory"),
    (["txt2img", "a", "-o", "out.gif"], "--out: .gif is no format here"),
    (["txt2img", "a", "--n", "2", "-o", "-"], "--out: standard output takes one image, not 2"),
    (["txt2img", "a", "--image", "gone.png", "-o", "out.png"], "--image: cannot read gone.png: No such file"),
    (["superres", "gone.png", "-o", "out.png"], "IMAGE: cannot read gone.png: No such file"),
    (["superres", "nothing.png", "-o", "out.png"], "IMAGE: nothing.png is empty"),
    (["inpaint", "--image", "-", "--mask", "-", "-o", "out.png"], "standard input holds one image"),
    (
        ["layout2img", "--object", "Tree", "a", "b", "c", "d", "-o", "out.png"],
        "--object 1: X0 Y0 X1 Y1 must be numbers",
    ),
    (["txt2img", "a", "--server", "nowhere:8000", "-o", "out.png"], "--server: must begin with http:// or https://"),
    (["txt2img", "a", "--api-key-file", "gone", "-o", "out.png"], "--api-key-file: cannot read gone: No such file"),
    (["txt2img", "a", "--api-key-file", "small.png", "-o", "o.png"], "--api-key-file: cannot read small.png: it is no"),
    (["txt2img", "a", "--api-key-file", "nothing.png", "-o", "o.png"], "must hold an API key and nothing else"),
    (["txt2img", "a", "--local", "--webhook", "https://a.example", "-o", "o.png"], "--webhook is for a server"),
    (["txt2img", "a", "--local", "--server", "http://a", "-o", "o.png"], "--server does not go with --local"),
    (["txt2img", "a", "--model-dir", "m", "-o", "o.png"], "--model-dir goes with --local"),
    (["job", "../models"], "ID: '../models' is no job's id"),
    (["job", "some-id", "--cancel", "--follow"], "--cancel does not go with --follow or --out"),
    (["jobs", "--limit", "0"], "--limit: must be at least 1"),
]


@pytest.mark.parametrize(
    ("words", "wanted"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_cannot_be_done_is_one_sentence_before_anything_is(folder: Path, words: list[str], wanted: str) -> None:
    for name in ("there.png", "there-2.png"):
        (folder / name).write_bytes(b"mine")
    before = sorted(folder.iterdir())
    refused = ldm(*words, cwd=folder, LDM_SERVER=f"http://127.0.0.1:{free_port()}")
    *warnings, line = said(refused).splitlines()
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert line.startswith("ldm: ") and wanted in line
    assert all(warning.startswith("ldm: warning: ") for warning in warnings)
    assert sorted(folder.iterdir()) == before and (folder / "there.png").read_bytes() == b"mine"


def test_an_empty_path_is_not_the_current_directory(capsys: pytest.CaptureFixture[str]) -> None:
    words = [["superres", ""], ["txt2img", "a", "--image", ""], ["txt2img", "a", "-o", " "], ["job", "a", "-o", ""]]
    for given in [
        *words,
        ["inpaint", "--mask", ""],
        ["jobs", "--api-key-file", ""],
        ["unconditional", "--model-dir", ""],
    ]:
        with pytest.raises(SystemExit, match="2"):
            parser().parse_args(given)
        assert "must be a path, got an empty one" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["txt2img", "a"], ["txt2img", "a", "--steps", "many"], ["superres"], ["layout2img"]])
def test_what_argparse_refuses_is_a_usage_error(folder: Path, words: list[str]) -> None:
    refused = ldm(*words, *(["-o", "out.png", "--stepz", "3"] if len(words) == 2 else ["-o", "out.png"]), cwd=folder)
    assert refused.returncode == 2 and f"ldm {words[0]}" in said(refused)


@pytest.mark.parametrize("words", [["txt2img", "a", "-o", "out.png"], ["jobs"], ["job", "some-id"], ["status"]])
def test_a_server_that_is_not_there_is_one_sentence_at_once(folder: Path, words: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    lost = ldm(*words, "--server", url, cwd=folder)
    assert (lost.returncode, lost.stdout, said(lost).count("\n")) == (3, b"", 1)
    assert said(lost).startswith(f"ldm: no server answers at {url} (")
    assert "`ldm serve`" in said(lost) and "--local" in said(lost)
    assert time.monotonic() - started < 20
    assert not (folder / "out.png").exists()


@pytest.mark.parametrize("missing", ["rich", "httpx", "ldm_client"])
def test_a_package_that_is_missing_is_one_sentence(folder: Path, missing: str) -> None:
    (folder / "sitecustomize.py").write_text(f"import sys; sys.modules[{missing!r}] = None")
    path = f"{folder}:{environment()['PYTHONPATH']}"
    broken = ldm("txt2img", "a", "-o", "out.png", cwd=folder, PYTHONPATH=path)
    assert broken.returncode == 1 and said(broken).count("\n") == 1
    assert said(broken).startswith(f"ldm: {missing}") and "`ldm doctor`" in said(broken)


def test_kitty_takes_png_in_chunks_and_the_others_what_there_is() -> None:
    png = picture(64, 64)
    shown = kitty(png, 8, True)
    assert shown.startswith(b"\x1b_Ga=T,f=100,q=2,r=8,i=4711,p=1,C=1,m=") and shown.endswith(b"\x1b\\")
    parts = re.findall(rb"\x1b_G[^;]*m=([01]);([^\x1b]*)\x1b\\", shown)
    assert [more for more, _ in parts] == [b"1"] * (len(parts) - 1) + [b"0"]
    assert all(len(data) <= 4096 for _, data in parts)
    assert b"height=8" in iterm2(png, 8, False) and iterm2(png, 8, False).endswith(b"\x07")


def test_sixel_draws_every_pixel_once() -> None:
    shown = sixel(picture(40, 40), 3, False).decode()
    width, height = map(int, re.findall(r'^\x1bPq"1;1;(\d+);(\d+)#', shown)[0])
    body = re.sub(r"#\d+;2;\d+;\d+;\d+", "", shown.partition("#")[2].removesuffix("\x1b\\"))
    bits = 0
    for run, char in re.findall(r"(?:!(\d+))?([?-~])", re.sub(r"^\d+;2;\d+;\d+;\d+", "", body)):
        bits += int(run or 1) * (ord(char) - 63).bit_count()
    assert bits == width * height
