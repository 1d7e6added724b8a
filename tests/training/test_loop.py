"""Training goes on where it stopped, notices when it runs away, and ends in directories that load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ldm_core.loading.model import load_model
from training.loop import EMA, Guard, Loop, Session, TimeUp, warmup_stable_decay

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_a_stage_stopped_by_its_limit_goes_on_from_there(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    steps = iter(Loop("stage", 5, Session(tmp_path, deadline=0.0), {"model": model}))
    seen = [next(steps)]
    nn.init.constant_(model.weight, 7.0)
    with pytest.raises(TimeUp, match="step 1 of 5"):
        next(steps)
    again = nn.Linear(1, 1)
    seen += list(Loop("stage", 5, Session(tmp_path), {"model": again}))
    assert seen == [0, 1, 2, 3, 4]
    assert again.weight.item() == 7.0
    assert list(Loop("stage", 5, Session(tmp_path), {"model": again})) == []


def test_the_guard_takes_noise_for_noise_and_a_runaway_for_one() -> None:
    torch.manual_seed(0)
    guard = Guard()
    calm = [bool(guard.diverged(0.05 * torch.rand(()) + 0.02)) for _ in range(2000)]
    assert not any(calm)
    away = [guard.diverged(torch.tensor(0.9)) for _ in range(guard.every)]
    assert sum(away) == 1 and guard.scale == 0.5
    resumed = Guard()
    resumed.load_state_dict(guard.state_dict())
    assert resumed.scale == 0.5 and resumed.best == guard.best


def test_the_average_follows_the_weights_slowly() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = EMA(model, decay=0.9)
    for _ in range(500):
        nn.init.constant_(model.weight, 1.0)
        ema.update(model)
    assert ema.weights()["weight"].item() == pytest.approx(1.0, abs=1e-3)
    nn.init.constant_(model.weight, 11.0)
    ema.update(model)
    assert ema.weights()["weight"].item() == pytest.approx(2.0, abs=1e-2)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    factor = warmup_stable_decay(1000)
    assert factor(0) < 0.01 and factor(300) == 1.0 == factor(690)
    assert factor(999) < 0.05 < factor(900) < 1.0


def test_the_command_writes_models_that_load_and_comes_back_to_nothing_left_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.train", "--run", str(tmp_path), "--recipe", "tiny"]
    command += ["--workers", "1"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    models = {path.parent.name: load_model(path.parent) for path in tmp_path.glob("models/*/model_index.json")}
    assert {name: model.card.tasks for name, model in models.items()} == {
        "scenes": ("txt2img", "inpaint"),
        "scenes-superres": ("superres",),
    }
    again = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "unet  resumed at step 3" in again.stderr and "step 1/3" not in again.stderr
