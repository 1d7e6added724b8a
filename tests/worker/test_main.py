"""The worker process with its real engine and tiny real models."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from PIL import Image
from redis import Redis

from ldm_core.params import GenerationParams
from service.broker.broker import Broker
from tests.tiny import write_tiny_models
from tests.worker.processes import ROOT, eventually
from worker.jobs import JobPayload
from worker.vital import EXIT_BAD_SETTING, EXIT_BROKEN_MODEL


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    write_tiny_models(root)
    return sorted(path.parent for path in root.glob("*/model_index.json"))


def start(directories: list[Path], redis_url: str, data_dir: Path, **settings: str) -> subprocess.Popen[str]:
    env = os.environ | {
        "LDM_REDIS_URL": redis_url, "LDM_DATA_DIR": str(data_dir), "LDM_MODEL": ",".join(map(str, directories)),
        "LDM_DEVICE": "cpu", "LDM_METRICS_PORT": "0", "LDM_WORKER_NAME": "real", "OMP_NUM_THREADS": "1", **settings,
    }  # fmt: skip
    command = [sys.executable, "-m", "worker.process.main"]
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def worker(directories: list[Path], redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(directories, redis_url, tmp_path)
    eventually(lambda: process.poll() is not None or redis.exists("ldm:worker:real"), 60)
    yield process
    process.kill()
    process.communicate()


async def test_a_prompt_becomes_a_picture(worker: subprocess.Popen[str], broker: Broker) -> None:
    models = await broker.models()
    card = next(model.card for model in models if "txt2img" in model.card.tasks)
    width, height = card.native_size
    params = GenerationParams(
        task="txt2img", width=width, height=height, steps=3, guidance_scale=2.0, seed=5, prompt="a red house", n=2
    )
    job = JobPayload(id=uuid4().hex, model=card.id, params=params)
    await broker.submit(job)
    done = await broker.wait(job.id, 60)
    assert done is not None
    assert done.status == "succeeded"
    data = await broker.image(job.id, 1)
    assert data is not None
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (width, height) == (done.images[1].width, done.images[1].height)
    assert json.loads(picture.text["parameters"])["seed"] == done.images[1].seed == 6
    worker.terminate()
    assert worker.wait(30) == 0


def test_a_broken_model_directory_stops_the_start_with_one_sentence(
    directories: list[Path], redis_url: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_text("{}")
    process = start([broken], redis_url, tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_BROKEN_MODEL
    assert said.strip().splitlines() == [f"ldm worker: {broken}/model_index.json: component 'unet' is missing"]


def test_half_precision_for_gpus_is_refused_on_a_cpu(directories: list[Path], redis_url: str, tmp_path: Path) -> None:
    process = start(directories, redis_url, tmp_path, LDM_DTYPE="float16")
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_BAD_SETTING
    (line,) = said.strip().splitlines()
    assert line.startswith("LDM_DTYPE=float16: ") and "bfloat16" in line


def test_a_call_of_more_rows_than_run_at_once_is_refused(
    directories: list[Path], redis_url: str, tmp_path: Path
) -> None:
    process = start(directories, redis_url, tmp_path, LDM_ROWS="8", LDM_MAX_ROWS="4")
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_BAD_SETTING
    assert said.strip().splitlines() == ["LDM_ROWS=8 must be at most LDM_MAX_ROWS=4"]


def test_what_of_a_directory_is_not_followed_is_on_each_of_its_jobs_cards(
    directories: list[Path], redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(directories[0], tmp_path / "karras"))
    file = directory / "scheduler/scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_karras_sigmas": True}))
    process = start([directory], redis_url, tmp_path)
    try:
        eventually(lambda: process.poll() is not None or redis.exists("ldm:worker:real"), 60)
        (card,) = json.loads(redis.get("ldm:worker:real") or "[]")
        assert [warning["code"] for warning in card["warnings"]] == ["scheduler_setting_ignored"]
        assert card["default_sampler"] == "ddim"
    finally:
        process.kill()
        process.communicate()
