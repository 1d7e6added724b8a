"""`ldm import` where something is wrong: one sentence each, and nothing left behind. What goes well: tests/golden."""

from __future__ import annotations

import json
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
from transformers import CLIPTextConfig, CLIPTextModel

from ldm_core.checkpoints import import_checkpoint
from ldm_core.checkpoints.components import parameters
from ldm_core.checkpoints.conditions import clip_text_parameters
from ldm_core.checkpoints.configs import autoencoder_config
from ldm_core.checkpoints.names import first_stage_source
from ldm_core.checkpoints.writing import write_tensors
from ldm_core.errors import ModelError
from ldm_core.loading.model import load_first_stage, load_model
from ldm_core.networks.autoencoder import Autoencoder
from ldm_core.networks.conditioning import TextEncoder
from tests.compvis_layout import open_clip_state, retrieval_augmented, sd1_yaml, write_checkpoint

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
    assert "attends to 32 values a token; model.yaml has a context_dim of none" in said
    said = refusal(tmp_path, DATA / "v-superres" / "model.ckpt")
    assert "takes 6 channels; model.yaml has in_channels of 3" in said


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, bad: float) -> None:
    key = "first_stage_model.decoder.conv_out.bias"
    said = refusal(tmp_path, with_state(tmp_path, lambda state: state[key].fill_(bad)))
    assert key in said and "not finite" in said


def test_weights_of_another_dtype_are_named(tmp_path: Path) -> None:
    key = "first_stage_model.decoder.conv_out.bias"
    said = refusal(tmp_path, with_state(tmp_path, lambda state: state.update({key: state[key].char()})))
    assert key in said and "int8" in said


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
    "no mapping": (lambda m: m["params"]["first_stage_config"]["params"].update(ddconfig=[1]), "is no mapping"),
    "a value of another type": (
        lambda m: m["params"]["unet_config"]["params"].update(channel_mult="1,2"),
        "channel_mult = '1,2' must be a list",
    ),
    "betas of its own": (lambda m: m["params"].update(given_betas=[0.1]), "given_betas"),
    "no task": (lambda m: m["params"].update(cond_stage_config="__is_first_stage__"), "fit no task"),
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


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        import_checkpoint(UNCOND / "model.ckpt", UNCOND / "model.yaml", tmp_path / "file" / "out")


def test_a_tokenizer_must_have_a_vocabulary_that_the_encoder_knows(tmp_path: Path) -> None:
    case = DATA / "v-text2img-bert"
    (tmp_path / "empty").mkdir()
    for tokenizer, named in ((tmp_path / "empty", "no vocabulary"), (DATA / "v-sd1" / "clip-tiny", "--tokenizer")):
        with pytest.raises(ModelError, match=named):
            import_checkpoint(case / "model.ckpt", case / "model.yaml", tmp_path / "out", tokenizer=tokenizer)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_from_before_zip_files_is_read(tmp_path: Path) -> None:
    checkpoint = torch.load(UNCOND / "model.ckpt", weights_only=True)
    torch.save(checkpoint, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert import_checkpoint(tmp_path / "old.ckpt", UNCOND / "model.yaml", tmp_path / "out").exists()


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


def test_stable_diffusion_2_reads_the_last_but_one_layer_and_predicts_v(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "projection_dim": 32, "vocab_size": 647, "max_position_embeddings": 77, "hidden_act": "gelu",
        "bos_token_id": 645, "eos_token_id": 646, "pad_token_id": 0,
    }  # fmt: skip
    monkeypatch.setattr("ldm_core.checkpoints.conditions.OPEN_CLIP_VIT_H", sizes)
    text = CLIPTextModel(CLIPTextConfig(**sizes)).eval()
    config = sd1_yaml()
    params = config["params"]
    params["parameterization"] = "v"
    unet_params = params["unet_config"]["params"]
    del unet_params["num_heads"]
    unet_params |= {"num_head_channels": 16, "use_linear_in_transformer": True}
    params["cond_stage_config"] = {
        "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
        "params": {"freeze": True, "layer": "penultimate"},
    }
    state = {f"cond_stage_model.model.{key}": value for key, value in open_clip_state(text).items()}
    state["cond_stage_model.model.logit_scale"] = torch.ones(())
    written, unet, _ = write_checkpoint(tmp_path, config, state)

    out = import_checkpoint(written.ckpt, written.config, tmp_path / "out", tokenizer=DATA / "v-sd1" / "clip-tiny")
    model = load_model(out)
    assert model.schedule.prediction_type == "v_prediction"
    assert isinstance(model.condition, TextEncoder)
    assert model.condition.tokenize(["a palm tree"])[0, -1] == 0  # open_clip pads with the first token
    assert model.unet.config.use_linear_projection and model.unet.config.attention_head_dim == (2, 4, 2, 2)
    ids = torch.randint(640, (2, 77))
    with torch.inference_mode():
        seen = text(ids, output_hidden_states=True).hidden_states[-2]
        expected = text.get_submodule("final_layer_norm")(seen)
        assert (model.condition(ids) - expected).abs().max() < 1e-5
        x, t, context = torch.randn(2, 4, 16, 16), torch.tensor([1, 900]), torch.randn(2, 77, 32)
        assert (model.unet(x, t, context) - unet(x, t, context)).abs().max() < 1e-5


def test_first_stages_with_attention_in_their_levels_keep_every_weight(tmp_path: Path) -> None:
    """VQ and KL at f = 8 and 16 attend where their maps are 32 and 16 wide."""
    torch.manual_seed(0)
    for kind, extra in (("AutoencoderKL", {}), ("VQModel", {"n_embed": 64})):
        dd = {
            "double_z": kind == "AutoencoderKL", "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3,
            "ch": 32, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 2, "attn_resolutions": [16, 8], "dropout": 0.0,
        }  # fmt: skip
        node = {"target": f"ldm.models.autoencoder.{kind}", "params": {"embed_dim": 4, "ddconfig": dd, **extra}}
        (tmp_path / "ae.yaml").write_text(yaml.safe_dump({"model": node}))
        first_stage = Autoencoder(autoencoder_config(tmp_path / "ae.yaml", node, 1.0)).eval()
        state = {}
        for name, value in first_stage.state_dict().items():
            convolution = ".attentions." in name and value.ndim == 2
            state[first_stage_source(first_stage.config)(name).key] = value[..., None, None] if convolution else value
        assert {"encoder.down.2.attn.1.q.weight", "decoder.up.3.attn.0.proj_out.weight"} <= set(state)
        torch.save({"state_dict": state}, tmp_path / "ae.ckpt")
        out = import_checkpoint(tmp_path / "ae.ckpt", tmp_path / "ae.yaml", tmp_path / kind)
        loaded = load_first_stage(out / "vqvae")
        x = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            assert torch.equal(loaded.decode(loaded.moments(x)[0]), first_stage.decode(first_stage.moments(x)[0]))


def test_a_retrieval_augmented_model_wants_the_clip_that_it_was_trained_with(tmp_path: Path) -> None:
    written = retrieval_augmented(tmp_path)
    with pytest.raises(ModelError, match=r"model\.yaml: attends to CLIP embeddings.* --clip DIR"):
        import_checkpoint(written.ckpt, written.config, tmp_path / "out")
    with pytest.raises(ModelError, match="no CLIP embeddings; leave --clip out"):
        import_checkpoint(UNCOND / "model.ckpt", UNCOND / "model.yaml", tmp_path / "out", clip=written.clip)
    assert written.clip is not None
    config = json.loads((written.clip / "config.json").read_text())
    (written.clip / "config.json").write_text(json.dumps(config | {"projection_dim": 16}))
    with pytest.raises(ModelError, match="context_dim = 24, CLIPModel gives 16"):
        import_checkpoint(written.ckpt, written.config, tmp_path / "out", clip=written.clip)
    (written.clip / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        import_checkpoint(written.ckpt, written.config, tmp_path / "out", clip=written.clip)
    assert not (tmp_path / "out").exists()


def classes(folder: Path, text: str) -> Path:
    """A model of 1000 classes, imported with a file of their names."""
    (folder / "names").write_text(text)
    case = DATA / "v-class"
    return import_checkpoint(case / "model.ckpt", case / "model.yaml", folder / "out", labels=folder / "names")


@pytest.mark.parametrize("kind", ["lines", "array", "object"])
def test_labels_are_read_from_lines_or_json(tmp_path: Path, kind: str) -> None:
    names = ["tench, Tinca tinca", *(f"class {number}" for number in range(1, 1000))]
    texts = {
        "lines": "\n".join(names) + "\n",
        "array": json.dumps(names),
        "object": json.dumps({str(number): name for number, name in enumerate(names)}),
    }
    card = load_model(classes(tmp_path, texts[kind])).card
    assert (card.label_id("Tinca Tinca"), card.label_id("class 999"), card.label_count) == (0, 999, 1000)


@pytest.mark.parametrize(
    ("text", "named"),
    [("tench\n" * 999, "999 names"), ('["tench", 7]', "one name a line"), ("[", "cannot be read"),
     ('{"1": "tench"}', "by id"), ("tench\n\n", "one name a line")],
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        classes(tmp_path, text)
    assert not (tmp_path / "out").exists()


def test_a_text_encoder_is_asked_for_as_transformers_names_it() -> None:
    config = CLIPTextConfig(
        hidden_size=8, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=20,
        max_position_embeddings=7,
    )  # fmt: skip
    theirs = {name: value.shape for name, value in parameters(CLIPTextModel(config)).items()}
    assert {name: value.shape for name, value in clip_text_parameters(config).items()} == theirs


def test_what_reads_back_otherwise_than_it_was_written_is_named(tmp_path: Path) -> None:
    """As on a disk that loses a bit: every second time that the tensor is read, it is another."""
    reads = iter(torch.zeros(2, 3) + number for number in range(2))
    shapes = {"weight": (torch.float32, (2, 3))}
    with pytest.raises(ModelError, match="weight does not read back"):
        write_tensors(tmp_path / "x.safetensors", shapes, lambda name: next(reads), lambda name, tensor: None)
