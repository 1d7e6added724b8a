"""From start to stop: what survives a killed worker and a restart, what is left behind, what stops a start."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer
from safetensors.torch import load_file, save_file

from service.access.auth import new_key
from tests.end_to_end.bodies import TASKS, request
from tests.end_to_end.serving import TERMINAL, Served, eventually

pytestmark = pytest.mark.slow

Serve = Callable[..., Served]


def successes(served: Served, job_id: str) -> int:
    """How often RQ saw the job succeed."""
    with Redis(unix_socket_path=str(served.data_dir / "redis" / "redis.sock")) as redis:
        results = Job.fetch(job_id, connection=redis, serializer=JSONSerializer).results()
    return sum(result.type == Result.Type.SUCCESSFUL for result in results)


def test_a_worker_killed_in_the_middle_of_jobs_finishes_them_once(serve: Serve) -> None:
    service = serve()
    service.wait_until_ready()
    bodies = {task: request(service, task, steps=150) for task in TASKS}
    alone = {task: service.finished(service.submit(task, **bodies[task])["id"]) for task in TASKS}

    again = {task: service.submit(task, **bodies[task]) for task in TASKS}
    for job in again.values():
        service.running(job["id"])
    worker = service.worker()
    os.kill(worker, signal.SIGKILL)

    for task, job in again.items():
        ended = service.finished(job["id"])
        assert ended["status"] == "succeeded"
        assert ended["images"][0]["sha256"] == alone[task]["images"][0]["sha256"]
        assert successes(service, job["id"]) == 1
    assert service.worker() != worker


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_no_process_and_keeps_what_is_queued(serve: Serve, number: int) -> None:
    service = serve(max_rows=2, drain_s=0.2)
    service.wait_until_ready()
    long = service.submit("txt2img", **request(service, "txt2img", steps=1000))
    service.running(long["id"])
    waiting = [service.submit(task, **request(service, task)) for task in TASKS]

    assert service.stop(number) == 0, service.log()
    assert service.processes() == []
    assert "Traceback" not in service.log()

    service = serve(max_rows=2)
    service.wait_until_ready()
    assert service.job(long["id"])["status"] not in TERMINAL
    service.http.delete(f"/v1/jobs/{long['id']}")
    assert [service.finished(job["id"])["status"] for job in waiting] == ["succeeded"] * 3


def test_when_the_service_is_killed_outright_nothing_of_it_stays(serve: Serve) -> None:
    service = serve()
    service.wait_until_ready()
    service.process.kill()
    eventually(lambda: not service.processes())


def test_a_stop_while_models_load_is_a_stop(serve: Serve) -> None:
    service = serve()
    eventually(lambda: service.processes("worker.process.prefork"))
    assert service.stop() == 0, service.log()
    assert service.processes() == []


def test_only_the_worker_has_torch_in_memory(served: Served) -> None:
    def holds_torch(part: str) -> bool:
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in served.processes(part)]
        return any("libtorch" in text for text in maps)

    assert holds_torch("worker.process.prefork")
    assert not holds_torch("service\0gateway")
    assert not holds_torch("service\0serve")


def test_the_start_message_holds_the_address_and_a_curl(serve: Serve) -> None:
    service = serve()
    service.wait_until_ready()
    eventually(lambda: "ready at" in service.log())
    assert f"curl {service.url}/v1/txt2img" in service.log()


def test_the_curl_of_a_start_with_keys_has_a_place_for_one(serve: Serve, tmp_path: Path) -> None:
    secret, entry = new_key("alice")
    (tmp_path / "keys.toml").write_text(entry)
    service = serve(api_keys_file=tmp_path / "keys.toml")
    service.wait_until_ready()
    eventually(lambda: "ready at" in service.log())
    (shown,) = [line.strip() for line in service.log().splitlines() if line.startswith("  curl ")]
    assert "-H 'Authorization: Bearer KEY'" in shown
    command = [*shlex.split(shown.replace("Bearer KEY", f"Bearer {secret}")), "-sS", "--fail-with-body"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def refusal(service: Served) -> str:
    """What a start that must fail says of it."""
    code = eventually(lambda: service.process.poll() is not None and service.process)
    assert code
    assert service.process.returncode not in {0, None}
    assert service.processes() == []
    assert "Traceback" not in service.log()
    return service.log()


def test_a_model_that_lacks_a_weight_stops_the_start_with_its_file_and_key(
    serve: Serve, tiny_dirs: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_dirs[0], broken)
    (weights,) = (broken / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    del tensors["conv_in.weight"]
    save_file(tensors, weights)
    said = refusal(serve([broken])).splitlines()
    assert [line for line in said if "conv_in.weight" in line] == said[-1:]
    assert str(Path("broken") / "unet") in said[-1]


def test_a_model_directory_that_does_not_exist_stops_the_start(serve: Serve, tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refusal(serve([tmp_path / "nowhere"]))


def test_a_taken_port_stops_the_start_with_a_sentence(serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refusal(serve(port=port))


def test_a_folder_in_use_stops_the_second_start_and_leaves_the_first_alone(serve: Serve) -> None:
    first = serve()
    first.wait_until_ready()
    assert str(first.data_dir) in refusal(serve())
    assert first.http.get("/readyz").status_code == 200


def test_a_bad_setting_stops_the_start_and_is_named(serve: Serve) -> None:
    assert "LDM_MAX_ROWS=many" in refusal(serve(max_rows="many"))
