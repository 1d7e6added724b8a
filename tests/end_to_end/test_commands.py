"""`ldm txt2img` and its like against `ldm serve`, and without it: the same images, files, signals, exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm_core.params import TASKS
from tests.abuse.gateway import Gateway
from tests.command import IMAGE, command, environment, ldm, said, terminal
from tests.documents import ROOT, commands
from tests.end_to_end.serving import Served, eventually, picture

pytestmark = pytest.mark.slow

QUICK = ("--seed", "7", "--steps", "3")
LONG = ("--seed", "7", "--steps", "1000", "--n", "8")
PROMPT = "a red house by the sea"
ALICE = "ldm_alice-0123456789"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in {"photo": picture(32, 32), "small": picture(16, 16), "mask": picture(32, 32, "L")}.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("out*")}


DRAWN: list[tuple[str, list[str]]] = [
    ("out.png", ["txt2img", PROMPT, *QUICK]),
    ("out.png", ["txt2img", PROMPT, *QUICK, "--image", "photo.png", "--strength", "0.7"]),
    ("out.webp", ["txt2img", PROMPT, *QUICK, "--upscale", "--n", "2", "--width", "32", "--sampler", "euler_a"]),
    ("out.jpg", ["txt2img", "", *QUICK, "--negative", "a boat", "--eta", "1", "--output-compression", "50"]),
    ("out.png", ["inpaint", PROMPT, *QUICK, "--image", "photo.png", "--mask", "mask.png", "--upscale"]),
    ("out.png", ["superres", "small.png", *QUICK, "--n", "2"]),
]


@pytest.mark.parametrize(
    ("out", "words"), DRAWN, ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else ""
)
def test_the_same_bytes_from_a_server_and_without_one(
    served: Served, tiny_dirs: list[Path], folder: Path, out: str, words: list[str]
) -> None:
    drawn = ldm(*words, "-o", out, cwd=folder, LDM_SERVER=served.url)
    assert (drawn.returncode, drawn.stdout) == (0, b""), said(drawn)
    from_server = files(folder)
    models = [part for path in tiny_dirs for part in ("--model-dir", str(path))]
    local = ldm(*words, "-o", out, "--local", "--force", *models, cwd=folder, LDM_DEVICE="cpu", OMP_NUM_THREADS="1")
    assert (local.returncode, local.stdout) == (0, b""), said(local)
    n = 2 if "--n" in words else 1
    assert len(from_server) == n and files(folder) == from_server
    warned = [[line for line in said(done).splitlines() if "warning" in line] for done in (drawn, local)]
    assert warned[0] == warned[1]
    suffix = {"jpg": "JPEG"}.get(out.partition(".")[2], out.partition(".")[2].upper())
    assert {Image.open(io.BytesIO(data)).format for data in from_server.values()} == {suffix}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--steps", "0"], "--steps: should be greater than or equal to 1"),
        (["--guidance-scale", "99"], "--guidance-scale: should be less than or equal to 30"),
        (["--width", "33"], "--width: must be a multiple of"),
        (["--sampler", "magic"], "--sampler: "),
        (["--model", "none"], "--model: 'none' is not served here"),
        (["--image", "mask.txt"], "--image: "),
        (["--strength", "0.5"], "--strength: needs an image"),
    ],
)
def test_what_the_service_refuses_is_named_as_its_option(
    served: Served, tiny_dirs: list[Path], folder: Path, words: list[str], wanted: str
) -> None:
    (folder / "mask.txt").write_text("no image")
    refused = ldm("txt2img", PROMPT, *words, "-o", "out.png", "--server", served.url, cwd=folder)
    local = ldm("txt2img", PROMPT, *words, "-o", "out.png", "--local", "--model-dir", str(tiny_dirs[0]), cwd=folder)
    for done in (refused, local):
        assert (done.returncode, done.stdout, said(done).count("\n")) == (2, b"", 1), said(done)
        assert said(done).startswith(f"ldm: {wanted}")
    assert not files(folder)


def test_images_come_from_standard_input_and_go_to_standard_output(served: Served, folder: Path) -> None:
    data = (folder / "small.png").read_bytes()
    piped = ldm("superres", "-", *QUICK, "-o", "-", cwd=folder, stdin=data, LDM_SERVER=served.url)
    named = ldm("superres", "small.png", *QUICK, "-o", "out.png", "--quiet", cwd=folder, LDM_SERVER=served.url)
    assert piped.returncode == named.returncode == 0
    assert piped.stdout == (folder / "out.png").read_bytes() and not IMAGE.search(piped.stderr)
    assert said(named) == "" and re.search(r"ldm: step 3 of 3\n", said(piped))


def test_warnings_of_the_job_are_on_stderr_even_where_all_else_is_quiet(served: Served, folder: Path) -> None:
    drawn = ldm("txt2img", "a (red:1.2) house", *QUICK, "-o", "out.png", "-q", cwd=folder, LDM_SERVER=served.url)
    assert said(drawn).startswith("ldm: warning: PROMPT: '(red:1.2)' is read as plain text")
    assert all(line.startswith("ldm: warning: ") for line in said(drawn).splitlines())
    odd = ldm("txt2img", "a house", *QUICK, "--format", "webp", "-o", "out.jpg", cwd=folder, LDM_SERVER=served.url)
    assert "ldm: warning: --out: out.jpg will hold WEBP" in said(odd)


def test_a_terminal_shows_a_bar_a_preview_and_the_image(served: Served, folder: Path) -> None:
    words = ("txt2img", PROMPT, "--steps", "12", "-o", "out.png", "--show", "--server", served.url)
    with terminal(*words, cwd=folder, TERM="xterm-kitty") as shown:
        assert shown.exit_code() == 0
    assert b"step 12/12" in shown.shown and b"steps/s" in shown.shown and b"ETA" in shown.shown
    assert b"\x1b_Ga=T,f=100,q=2,r=8,i=4711" in shown.shown and b"\x1b_Ga=T,f=100,q=2,r=16,m" in shown.shown
    with terminal(*words, "--force", "--no-preview", cwd=folder, TERM_PROGRAM="iTerm.app") as shown:
        assert shown.exit_code() == 0
    assert len(re.findall(rb"\x1b\]1337;File=inline=1", shown.shown)) == 1
    with terminal(*words, "--force", "--graphics", "sixel", cwd=folder) as shown:
        assert shown.exit_code() == 0
    assert b'\x1bPq"1;1;' in shown.shown
    with terminal(*words, "--force", cwd=folder, TERM="xterm-kitty", TMUX="/tmp/tmux") as shown:
        assert shown.exit_code() == 0
    assert not IMAGE.search(shown.shown) and b"images cannot be shown here" in shown.shown


def only_job(served: Served) -> dict[str, Any]:
    return dict(served.http.get("/v1/jobs?limit=1").json()["data"][0])


def test_ctrl_c_cancels_the_job_on_the_server(served: Served, folder: Path) -> None:
    with terminal("txt2img", PROMPT, *LONG, "-o", "out.png", "--server", served.url, cwd=folder) as shown:
        shown.until(b"step 1/")
        shown.press_ctrl_c()
        assert shown.exit_code() == 130
    job = only_job(served)
    assert job["status"] == "cancelled"
    assert b"cancelling the job; Ctrl-C again leaves at once" in shown.shown
    assert f"job {job['id']} is cancelled".encode() in shown.shown
    assert not files(folder)


def test_a_second_ctrl_c_leaves_at_once(serve: Callable[..., Served], folder: Path) -> None:
    """While the gateway is stopped, so that cancelling takes long."""
    served = serve()
    served.wait_until_ready()
    with terminal("txt2img", PROMPT, *LONG, "-o", "out.png", "--server", served.url, cwd=folder) as shown:
        shown.until(b"step 1/")
        gateways = served.processes("gateway")
        for pid in gateways:
            os.kill(pid, signal.SIGSTOP)
        try:
            shown.press_ctrl_c()
            shown.until(b"Ctrl-C again")
            shown.press_ctrl_c()
            assert shown.exit_code() == 130
        finally:
            for pid in gateways:
                os.kill(pid, signal.SIGCONT)
    assert b"left; the job may go on at the server" in shown.shown


def test_jobs_are_listed_shown_followed_saved_and_cancelled(served: Served, folder: Path) -> None:
    def job(*words: str) -> Any:
        return ldm(*words, cwd=folder, LDM_SERVER=served.url)

    made = served.submit("txt2img", prompt="a pine\x1b[2J in the snow", seed=7, steps=4, n=2)["id"]
    assert job("job", made, "--follow", "-o", "out.png").returncode == 0
    assert files(folder) == {f"out-{i + 1}.png": served.image(made, i) for i in range(2)}
    shown = job("job", made)
    assert re.search(rf"job +{made}\nstatus +succeeded, step 4 of 4", shown.stdout.decode())
    listed = job("jobs", "--limit", "1")
    assert made in listed.stdout.decode() and "\x1b" not in listed.stdout.decode()
    assert json.loads(job("jobs", "--limit", "1", "--json").stdout)[0]["id"] == made

    long = served.submit("txt2img", prompt=PROMPT, steps=1000, n=8)["id"]
    assert job("job", long, "--cancel").returncode == 0
    eventually(lambda: served.job(long)["status"] == "cancelled")
    assert long in job("jobs", "--status", "cancelled").stdout.decode()
    saved = job("job", long, "-o", "never.png")
    assert (saved.returncode, said(saved)) == (1, f"ldm: Job {long} was cancelled\n")
    unknown = job("job", "no-such-job")
    assert (unknown.returncode, said(unknown).count("\n")) == (1, 1)


def test_a_disk_that_takes_nothing_is_told_and_the_image_stays_at_the_server(served: Served, folder: Path) -> None:
    words = command("txt2img", PROMPT, *QUICK, "-o", "out.png", "-q", "--server", served.url)
    full = subprocess.run(
        ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *words],
        cwd=folder, env=environment(), capture_output=True, check=False,
    )  # fmt: skip
    first, second = said(full).splitlines()
    assert full.returncode == 1 and "`ldm job ID -o FILE`" in first
    assert second == "ldm: --out: cannot write out.png: File too large"
    assert not files(folder)


def test_a_job_that_fails_is_one_sentence(served: Served, folder: Path) -> None:
    failed = ldm("txt2img", PROMPT, *LONG, "--timeout", "1", "-o", "out.png", "-q", cwd=folder, LDM_SERVER=served.url)
    assert (failed.returncode, said(failed).count("\n")) == (1, 1)
    assert only_job(served)["error"]["detail"] in said(failed)
    followed = ldm("job", only_job(served)["id"], "--follow", cwd=folder, LDM_SERVER=served.url)
    assert followed.returncode == 1 and b"failed" in followed.stdout


def test_a_server_that_goes_while_a_job_runs_is_waited_for_and_then_named(
    serve: Callable[..., Served], folder: Path
) -> None:
    served = serve()
    served.wait_until_ready()
    with terminal("txt2img", PROMPT, *LONG, "-o", "out.png", "--server", served.url, cwd=folder) as shown:
        shown.until(b"step 1/")
        served.stop()
        assert shown.exit_code() == 3
    assert b"trying again in" in shown.shown and b"goes on without us: `ldm job " in shown.shown
    assert f"no server answers at {served.url}".encode() in shown.shown


def test_a_gateway_without_a_worker_is_not_ready(redis_url: str, folder: Path) -> None:
    there = Gateway(redis_url, folder)
    try:
        told = ldm("status", cwd=folder, LDM_SERVER=there.url)
    finally:
        there.stop()
    assert told.returncode == 1
    assert told.stdout.decode().startswith(f"{there.url} is NOT ready: No live worker serves a model.")


def test_the_server_s_state_is_told(served: Served, folder: Path) -> None:
    told = ldm("status", cwd=folder, LDM_SERVER=served.url)
    assert told.returncode == 0
    assert told.stdout.decode().startswith(f"{served.url} is ready\n")
    assert re.search(r"\nscenes +txt2img,inpaint +64x64 +4 +1 +\d", told.stdout.decode())
    state = json.loads(ldm("status", "--json", cwd=folder, LDM_SERVER=served.url).stdout)
    assert state["ready"] and {model["id"] for model in state["models"]} == {"scenes", "scenes-superres"}
    assert set(state["queue"]) == {"scenes", "scenes-superres"}


def test_a_key_is_asked_for_and_read_from_a_file(serve: Callable[..., Served], folder: Path) -> None:
    served = serve(api_keys=f"alice:{ALICE}")
    served.wait_until_ready()
    (folder / "key.txt").write_text(f"{ALICE}\n")
    words = ("txt2img", PROMPT, *QUICK, "--server", served.url, "-o", "out.png")
    for refused in (ldm(*words, cwd=folder), ldm(*words, cwd=folder, LDM_API_KEY="ldm_wrong-0123456789")):
        assert (refused.returncode, said(refused).count("\n")) == (2, 1)
        assert "--api-key-file" in said(refused) and "ldm_wrong" not in said(refused)
    assert ldm(*words, "--api-key-file", "key.txt", cwd=folder).returncode == 0
    assert ldm(*words, "--force", cwd=folder, LDM_API_KEY=ALICE).returncode == 0


@pytest.mark.parametrize(
    "line", [line for line in commands() if re.match(rf"ldm ({'|'.join([*TASKS, 'jobs', 'status'])}) ", f"{line} ")]
)
def test_a_line_of_the_readme_does_what_it_says(builtin: Served, tmp_path: Path, line: str) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = ldm(*shlex.split(line, comments=True)[1:], cwd=tmp_path, LDM_SERVER=builtin.url)
    assert done.returncode == 0, said(done)
    made = [path for path in tmp_path.iterdir() if path.name != "examples"]
    assert bool(made) == (" -o " in line) and all(
        Image.open(io.BytesIO(path.read_bytes())).width >= 64 for path in made
    )
