"""`ldm import` where something is wrong: one sentence each, and nothing left behind. What goes well: tests/golden."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from ldm_core.compvis import import_checkpoint
from ldm_core.errors import ModelError
from ldm_core.loading import load_model

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/golden/data"
UNCOND = DATA / "v-uncond"
State = dict[str, torch.Tensor]


class Trap:
    """Makes a file when it is unpickled by something that runs what is in a pickle."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


def with_state(tmp_path: Path, change: Callable[[State], None], case: Path = UNCOND) -> Path:
    """A checkpoint like the case's, changed."""
    checkpoint = torch.load(case / "model.ckpt", weights_only=True)
    change(checkpoint["state_dict"])
    torch.save(checkpoint, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def with_yaml(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    config = yaml.safe_load((UNCOND / "model.yaml").read_text())
    change(config["model"])
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "model.yaml"


def refusal(tmp_path: Path, ckpt: Path = UNCOND / "model.ckpt", config: Path = UNCOND / "model.yaml") -> str:
    """What the import says, in one sentence; it must have left nothing."""
    out = tmp_path / "models" / "imported"
    with pytest.raises(ModelError) as raised:
        import_checkpoint(ckpt, config, out)
    assert list(out.parent.iterdir()) == []
    said = str(raised.value)
    assert "\n" not in said
    return said


def test_code_in_a_pickle_is_named_and_never_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "callbacks": Trap(tmp_path / "sprung")}, tmp_path / "evil.ckpt")
    said = refusal(tmp_path, tmp_path / "evil.ckpt")
    assert "evil.ckpt" in said and "(getattr)" in said and "not run" in said
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_of_old_with_code_in_it_is_not_run_either(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=False)
    assert "evil.ckpt" in refusal(tmp_path, tmp_path / "evil.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    data = (UNCOND / "model.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(data[: len(data) // 2])
    assert "half.ckpt" in refusal(tmp_path, tmp_path / "half.ckpt")


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("not weights")
    assert "text.ckpt" in refusal(tmp_path, tmp_path / "text.ckpt")
    torch.save({"state_dict": {"betas": "none"}}, tmp_path / "odd.ckpt")
    assert "no state dict" in refusal(tmp_path, tmp_path / "odd.ckpt")
    assert "gone.ckpt" in refusal(tmp_path, tmp_path / "gone.ckpt")


def test_the_checkpoint_of_another_model_lacks_keys_by_name(tmp_path: Path) -> None:
    said = refusal(tmp_path, DATA / "v-class" / "model.ckpt")
    assert "model_ema" in said
    said = refusal(tmp_path, DATA / "v-superres" / "model.ckpt")
    assert "shape" in said or "lacks" in said


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, bad: float) -> None:
    key = "first_stage_model.decoder.conv_out.bias"
    said = refusal(tmp_path, with_state(tmp_path, lambda state: state[key].fill_(bad)))
    assert key in said and "not finite" in said


def test_weights_that_have_no_place_are_named(tmp_path: Path) -> None:
    said = refusal(tmp_path, with_state(tmp_path, lambda state: state.update(extra=torch.zeros(1))))
    assert "no place for: extra" in said


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown model": (lambda m: m.update(target="ldm.models.Other"), "ldm.models.Other"),
    "unknown first stage": (
        lambda m: m["params"]["first_stage_config"].update(target="os.system"), "os.system"
    ),
    "unknown condition": (lambda m: m["params"].update(cond_stage_config={"target": "x.Y"}), "x.Y"),
    "unknown key": (lambda m: m["params"]["unet_config"]["params"].update(secret=1), "secret"),
    "unsupported value": (lambda m: m["params"]["unet_config"]["params"].update(dims=3), "dims = 3"),
    "missing key": (lambda m: m["params"]["unet_config"]["params"].pop("model_channels"), "model_channels is missing"),
    "schedule": (lambda m: m["params"].update(beta_schedule="sqrt"), "beta_schedule = 'sqrt'"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_yaml_that_asks_for_something_else_is_refused_by_name(tmp_path: Path, change: str) -> None:
    edit, named = CHANGES[change]
    said = refusal(tmp_path, config=with_yaml(tmp_path, edit))
    assert "model.yaml" in said and named in said


def test_a_yaml_that_runs_code_is_only_data(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text(f"model: !!python/object/apply:os.mkdir ['{tmp_path}/made']")
    assert "evil.yaml" in refusal(tmp_path, config=tmp_path / "evil.yaml")
    assert not (tmp_path / "made").exists()


def test_a_directory_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ModelError, match="exists"):
        import_checkpoint(UNCOND / "model.ckpt", UNCOND / "model.yaml", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stops the writing where a full disk would."""
    command = ["--ckpt", UNCOND / "model.ckpt", "--config", UNCOND / "model.yaml", "--out", tmp_path / "models/out"]
    shown = subprocess.run(
        [sys.executable, "-m", "service", "import", *map(str, command)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )  # fmt: skip
    assert shown.returncode == 1
    assert "cannot be written" in shown.stderr and "Traceback" not in shown.stderr
    assert list((tmp_path / "models").iterdir()) == []


def test_a_safetensors_file_gives_what_its_ckpt_gives(tmp_path: Path) -> None:
    state = torch.load(UNCOND / "model.ckpt", weights_only=True)["state_dict"]
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    one = import_checkpoint(UNCOND / "model.ckpt", UNCOND / "model.yaml", tmp_path / "one")
    two = import_checkpoint(tmp_path / "model.safetensors", UNCOND / "model.yaml", tmp_path / "two")
    for file in one.rglob("*.*"):
        assert file.read_bytes() == (two / file.relative_to(one)).read_bytes()


def test_averaged_weights_are_taken_unless_told_otherwise(tmp_path: Path) -> None:
    unets = [
        load_model(import_checkpoint(UNCOND / "model.ckpt", UNCOND / "model.yaml", tmp_path / str(ema), ema=ema)).unet
        for ema in (None, True, False)
    ]
    default, averaged, raw = (unet.conv_in.weight for unet in unets)
    assert torch.equal(default, averaged) and not torch.equal(default, raw)
