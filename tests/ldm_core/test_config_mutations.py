"""Every key of every network's configuration, with every kind of wrong value: one sentence, or a network as before."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_core.checkpoints import import_checkpoint
from ldm_core.checkpoints.configs import autoencoder_config
from ldm_core.checkpoints.diffusion import read_diffusion
from ldm_core.checkpoints.reader import read_yaml
from ldm_core.errors import ModelError
from ldm_core.loading.condition import build_condition
from ldm_core.loading.model import _build_unet, load_first_stage
from ldm_core.networks.clip_config import HALVES, LIMITS
from tests.compvis_layout import retrieval_augmented
from tests.tiny import write_tiny_models

DATA = Path(__file__).resolve().parents[1] / "golden/data"
WRONG: list[Any] = ["abc", -1, 0, 0.5, 10**12, float("nan"), None, [], {"a": [1]}, [10**9] * 3, [None]]
NAMES = ("_class_name", "architectures", "model_type")  # what the directory's own reader looks at
MEMORY = 256 * 2**10  # KiB that a process may grow by; the networks here have 20 MB
TARGET = "ldm.models.diffusion.ddpm.LatentDiffusion"
Build = Callable[[Path], object]

# component of a directory → how it is built from its folder
PARTS: dict[str, Build] = {
    "unet": _build_unet, "vae": load_first_stage, "vqvae": load_first_stage, "text_encoder": build_condition,
    "bert": build_condition, "condition": build_condition,
}  # fmt: skip
CASES = {
    "churches": ("unet",), "v-class": ("condition", "vqvae"), "v-text2img-bert": ("bert",),
    "v-semantic": ("condition",), "v-inpainting": ("condition",), "clip": ("condition",),
    "scenes": ("vae", "text_encoder"),
    "scenes-superres": ("unet",),
}  # fmt: skip
YAMLS = ("churches", "v-class", "v-layout", "v-semantic", "v-sd1")


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for each case."""
    root = tmp_path_factory.mktemp("directories")
    write_tiny_models(root)
    for name in CASES:
        if (DATA / name).exists():
            tokenizer = next(iter((DATA / name).glob("bert-*")), None)
            import_checkpoint(DATA / name / "model.ckpt", DATA / name / "model.yaml", root / name, tokenizer=tokenizer)
    (root / "made").mkdir()
    written = retrieval_augmented(root / "made")
    import_checkpoint(written.ckpt, written.config, root / "clip", clip=written.clip)
    return root


def wrong_values(node: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a configuration with one value changed, at any depth, and what was changed."""
    of_clip = {"hidden_act", "layer_norm_eps", *HALVES, *LIMITS}  # it has a hundred keys more, which do nothing
    keys = of_clip.intersection(node) if node.keys() & {"hidden_act", *HALVES} else node.keys() - set(NAMES)
    for key in sorted(keys):
        for value in WRONG:
            yield f"{key} = {value!s:.40}", {**node, key: value}
        yield f"{key} is gone", {other: value for other, value in node.items() if other != key}
        if isinstance(node[key], dict):
            yield from ((f"{key}.{what}", {**node, key: inner}) for what, inner in wrong_values(node[key]))


def refusal(build: Callable[[], object], what: str) -> str | None:
    """The sentence with which it refuses, None if it does not; anything else that it raises fails the test."""
    try:
        build()
    except ModelError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    else:
        return None
    assert "\n" not in said and len(said) < 1000
    return said


def used() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("case", "part"), [(case, part) for case, parts in CASES.items() for part in parts])
def test_a_component_is_built_or_refused_in_one_sentence(
    directories: Path, tmp_path: Path, case: str, part: str
) -> None:
    copied = Path(shutil.copytree(directories / case, tmp_path / case))
    file = copied / part / "config.json"
    config = json.loads(file.read_text())
    PARTS[part](file.parent)
    before, refused = used(), set()
    for what, changed in wrong_values(config):
        file.write_text(json.dumps(changed))
        said = refusal(lambda: PARTS[part](file.parent), what)
        assert said is None or str(copied) in said
        refused |= {what} if said else set()
    assert len(refused) > len(config), "hardly anything was refused"
    assert used() - before < MEMORY


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", YAMLS)
def test_a_yaml_is_read_or_refused_in_one_sentence(case: str) -> None:
    path = DATA / case / "model.yaml"
    params = read_yaml(path)["params"]
    before, refused = used(), set()
    for what, changed in wrong_values(params):
        said = refusal(lambda changed=changed: read_diffusion(path, {"target": TARGET, "params": changed}), what)  # type: ignore[misc]
        assert said is None or str(path) in said
        refused |= {what} if said else set()
    assert len(refused) > 100
    assert used() - before < MEMORY


@pytest.mark.parametrize("case", ["v-kl-f8", "v-vq-f4"])
def test_a_first_stages_yaml_is_too(case: str) -> None:
    path = DATA / case / "model.yaml"
    model = read_yaml(path)
    changes = [{**model, "params": params} for _, params in wrong_values(model["params"])]
    said = [refusal(lambda node=node: autoencoder_config(path, node, 1.0), str(node)) for node in changes]  # type: ignore[misc]
    assert len([each for each in said if each]) > 50


def test_memory_is_not_taken_for_a_network_that_the_weights_do_not_fit(directories: Path, tmp_path: Path) -> None:
    """Within the bounds of every key, but a hundred gigabytes."""
    copied = Path(shutil.copytree(directories / "scenes", tmp_path / "scenes"))
    file = copied / "unet/config.json"
    config = json.loads(file.read_text())
    before = used()
    file.write_text(json.dumps({**config, "block_out_channels": [16384, 32768, 65536], "layers_per_block": 32}))
    with pytest.raises(ModelError, match="missing"):
        _build_unet(copied / "unet")
    assert used() - before < MEMORY
    assert torch.get_default_device().type == "cpu"
