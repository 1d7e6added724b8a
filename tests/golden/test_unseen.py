"""Cases that differ from those in `data/`, with values that are right by construction or computed by others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.golden.__main__ import main
from tests.golden.case import Case
from tests.golden.compare import Row, compare

DATA = Path(__file__).parent / "data"
Tensors = dict[str, Tensor]
Info = dict[str, Any]


def changed(source: str, to: Path, change: Callable[[Info, Tensors], None]) -> Case:
    """A copy of a case whose numbers and description are changed in place."""
    folder = Path(shutil.copytree(DATA / source, to / "case"))
    info, tensors = json.loads((folder / "case.json").read_text()), load_file(folder / "golden.safetensors")
    change(info, tensors)
    (folder / "case.json").write_text(json.dumps(info))
    save_file(tensors, folder / "golden.safetensors")
    return Case(folder, to / "work")


def without(info: Info, tensors: Tensors, *starts: str) -> None:
    for name in [name for name in tensors if name.startswith(starts)]:
        del tensors[name], info["tensors"][name]


def output(info: Info, tensors: Tensors, name: str, value: Tensor, atol: float = 1e-5) -> None:
    tensors[name] = value.contiguous()
    info["tensors"][name] = {"role": "output", "shape": list(value.shape), "dtype": "float32", "atol": atol}


def missed(case: Case) -> list[Row]:
    rows = compare(case)
    assert rows
    return [row for row in rows if not row.ok]


def test_a_class_case_without_an_unconditional_label(tmp_path: Path) -> None:
    """The thousand classes alone: the class that stands for none is cut off, everything else stays as it was."""

    def change(info: Info, tensors: Tensors) -> None:
        info["uncond_label"] = None
        for run in [run for run, about in info["runs"].items() if about["guidance_scale"] != 1]:
            del info["runs"][run]
            without(info, tensors, f"{run}/")
        without(info, tensors, "cond/uncond_context")

    case = changed("v-class", tmp_path, change)
    assert int(case["cond/labels"].max()) < 1000
    config = yaml.safe_load((case.folder / "model.yaml").read_text())
    config["model"]["params"]["cond_stage_config"]["params"]["n_classes"] = 1000
    (case.folder / "model.yaml").write_text(yaml.safe_dump(config))
    checkpoint = torch.load(case.folder / "model.ckpt", weights_only=True)
    state = checkpoint["state_dict"]
    state["cond_stage_model.embedding.weight"] = state["cond_stage_model.embedding.weight"][:1000].clone()
    torch.save(checkpoint, case.folder / "model.ckpt")
    assert missed(case) == []
    assert not case.model.card.guidance


def blended(latents: Tensor, decode: Callable[[Tensor], Tensor], given: Info) -> Tensor:
    """Windows decoded each on its own, weighted by their distance to the border and summed: written out plainly."""
    side, stride, factor = given["ks"][0], given["stride"][0], given["vqf"]
    places = range(0, latents.shape[2] - side + 1, stride)
    windows = [decode(latents[:, :, y : y + side, x : x + side]) for y in places for x in places]
    size = {"kernel_size": side * factor, "stride": stride * factor}
    line = torch.arange(side * factor) / (side * factor - 1)
    nearest = torch.minimum(torch.minimum(line, 1 - line)[:, None], torch.minimum(line, 1 - line)[None])
    weight = nearest.clip(given["clip_min_weight"], given["clip_max_weight"])
    whole = (latents.shape[2] * factor, latents.shape[3] * factor)
    parts = torch.stack([(window * weight).flatten(1) for window in windows], dim=-1)
    weights = weight.expand(1, 3, -1, -1).flatten(1)[..., None].expand(-1, -1, len(windows))
    return F.fold(parts, whole, **size) / F.fold(weights, whole, **size)


@torch.inference_mode()
def test_a_patch_wise_run_that_is_decoded_with_quantisation_too(tmp_path: Path) -> None:
    peer = diffusers.VQModel.from_pretrained(Case(DATA / "v-superres", tmp_path / "peer").imported / "vqvae")
    differences = []

    def change(info: Info, tensors: Tensors) -> None:
        given = info["runs"]["split"]["split_input_params"]
        x = tensors["split/samples"]
        smooth = blended(x, lambda z: peer.decode(z, force_not_quantize=True).sample, given)
        differences.append((smooth - tensors["split/decoded_noquant"]).abs().max())
        output(info, tensors, "split/decoded", blended(x, lambda z: peer.decode(z).sample, given), atol=1e-4)

    case = changed("v-superres", tmp_path, change)
    assert differences[0] < 1e-4  # what is written out above is what the reference does
    assert missed(case) == []
    assert (case["split/decoded"] - case["split/decoded_noquant"]).abs().max() > 0.01
    tensors = load_file(case.folder / "golden.safetensors")
    tensors["split/decoded"] = tensors["split/decoded_noquant"].clone()
    save_file(tensors, case.folder / "golden.safetensors")
    assert [row.quantity for row in missed(Case(case.folder, tmp_path / "again"))] == ["split/decoded"]


def unknown_output(info: Info, tensors: Tensors) -> None:
    output(info, tensors, "split/dreamt", torch.zeros(1))


def undescribed_tensor(info: Info, tensors: Tensors) -> None:
    tensors["first_stage/undescribed"] = torch.zeros(1)


def unknown_role(info: Info, tensors: Tensors) -> None:
    info["tensors"]["first_stage/moments"]["role"] = "result?"
    info["tensors"]["first_stage/moments"]["atol"] = -1


def tensor_that_is_not_there(info: Info, tensors: Tensors) -> None:
    del tensors["first_stage/mean"]


def unknown_run(info: Info, tensors: Tensors) -> None:
    info["runs"]["dpm"] = {"sampler": "unheard-of", "steps": 5, "eta": 0.0, "guidance_scale": 1.0, "batch": 1}
    output(info, tensors, "dpm/samples", torch.zeros(1))


def not_a_number(info: Info, tensors: Tensors) -> None:
    tensors["first_stage/decoded"] = torch.full_like(tensors["first_stage/decoded"], torch.nan)


@pytest.mark.parametrize(
    ("change", "quantity", "remark"),
    [
        (unknown_output, "split/dreamt", "not compared"),
        (undescribed_tensor, "first_stage/undescribed", "not compared"),
        (unknown_role, "first_stage/moments", ""),
        (tensor_that_is_not_there, "first_stage/mean", "is not in golden.safetensors"),
        (unknown_run, "dpm/samples", "not compared"),
        (not_a_number, "first_stage/decoded", ""),
    ],
)
def test_what_the_runner_cannot_compare_it_names(
    tmp_path: Path, change: Callable[[Info, Tensors], None], quantity: str, remark: str
) -> None:
    rows = missed(changed("v-kl-f8", tmp_path, change))
    assert [row.quantity for row in rows] == [quantity]
    assert rows[0].remark.startswith(remark)


def test_a_case_that_does_not_import_says_so_once_and_the_others_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = changed("v-kl-f8", tmp_path, lambda info, tensors: None)
    (broken.folder / "model.ckpt").write_bytes(b"cut")
    sound = tmp_path / "other" / "case"  # of the same name
    shutil.copytree(DATA / "v-kl-f8", sound)
    monkeypatch.setattr("sys.argv", ["golden", str(broken.folder), str(sound)])
    assert main() == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert all(line.count("model.ckpt") == 1 for line in lines if "MISSED" in line)
    assert last == f"{len(lines)} quantities of 2 cases, {len(lines) // 2} missed"
