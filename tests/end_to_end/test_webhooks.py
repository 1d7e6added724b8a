"""Webhooks of a whole service: the API guide's receiver and request as they stand there, and no secret in a log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.documents import DOCS, blocks, commands
from tests.end_to_end.serving import Served, eventually, free_port
from tests.receiver import SECRET, receiving

pytestmark = pytest.mark.slow

MARK = "marker-8675309"
GUIDE = DOCS / "api.md"


def test_the_receiver_of_the_guide_is_told_that_its_request_is_drawn(serve: Callable[..., Served]) -> None:
    (program,), port = blocks("python", GUIDE), free_port()
    (setting,) = [command for command in commands(GUIDE) if "LDM_WEBHOOK_HOSTS=" in command]
    (request,) = [command for command in commands(GUIDE) if command.startswith("curl ") and '"webhook"' in command]
    given = dict(re.findall(r"LDM_(\w+)=(localhost:9000|1|whsec_\$\([^)]*\))", setting))
    secret = subprocess.run(
        ["bash", "-c", f"echo {given['WEBHOOK_SECRET']}"], capture_output=True, text=True, check=True
    )
    here = {"LDM_WEBHOOK_SECRET": secret.stdout.strip()}
    service = serve(
        webhook_hosts=given["WEBHOOK_HOSTS"].replace("9000", str(port)), webhook_private=given["WEBHOOK_PRIVATE"],
        webhook_secret=here["LDM_WEBHOOK_SECRET"],
    )  # fmt: skip
    service.wait_until_ready()
    command = [sys.executable, "-c", program.replace("9000", str(port))]
    with subprocess.Popen(command, env=os.environ | here, stdout=subprocess.PIPE) as receiver:
        asked = request.replace("localhost:8000", service.url.removeprefix("http://")).replace("9000", str(port))
        made = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        assert receiver.stdout is not None
        said = receiver.stdout.readline().decode().split()
        receiver.kill()
    assert said[0] == "job.succeeded" and f'"id":"{said[1]}"' in made.stdout


def test_what_may_be_secret_of_a_webhook_is_in_no_log_and_no_metric(serve: Callable[..., Served]) -> None:
    with receiving(500) as receiver:
        service = serve(
            webhook_hosts=receiver.hosts(), webhook_private=1, webhook_secret=SECRET, webhook_backoff_s="0.1",
            log_format="json",
        )  # fmt: skip
        service.wait_until_ready()
        job = service.submit("txt2img", prompt="a pine", webhook=receiver.url(path=f"/{MARK}?token={MARK}"))
        eventually(lambda: len(receiver.told) == 2)
        told = receiver.told[1].verified()["data"]
        assert told == service.job(job["id"]) and told["images"][0]["bytes"] > 0
        eventually(lambda: "webhook of" in service.log() and "taken" in service.log())
        gateway, worker = service.metrics()
    assert receiver.told[0].path == f"/{MARK}?token={MARK}"
    assert MARK not in service.log() + gateway + worker + str(told)
    assert SECRET not in service.log() and SECRET.removeprefix("whsec_") not in service.log()
