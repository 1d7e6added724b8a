"""Tokenizers that the transformers library reads without a word and that are not their text encoder's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertTokenizer, CLIPTokenizer

from ldm_core.checkpoints import import_checkpoint
from ldm_core.errors import ModelError
from ldm_core.loading.model import load_model
from ldm_core.loading.tokenizer import read_tokenizer

DATA = Path(__file__).resolve().parents[1] / "golden/data"
SD1, BERT = DATA / "v-sd1", DATA / "v-text2img-bert"
CONFIG = {"vocab_size": 647, "bos_token_id": 645, "eos_token_id": 646}


def without_merges(folder: Path) -> None:
    (folder / "merges.txt").write_text("#version: 0.2\n")


def two_tokens(folder: Path) -> None:
    """What the transformers library gives where the hub cannot be reached, and saves."""
    for file in folder.iterdir():
        file.unlink()
    CLIPTokenizer().save_pretrained(str(folder))


def no_words(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    renamed = {f"#{name}" if "<|" not in name and len(name) > 1 else name: i for name, i in vocabulary.items()}
    (folder / "vocab.json").write_text(json.dumps(renamed))
    without_merges(folder)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no merges": (lambda folder: (folder / "merges.txt").unlink(), "has no vocabulary"),
    "empty merges": (without_merges, "does not read the words of its own vocabulary"),
    "two tokens": (two_tokens, "has 2 tokens, its text encoder knows 647"),
    "no words": (no_words, "does not read the words"),
    "damaged": (lambda folder: (folder / "vocab.json").write_text('{"a": 1'), "no tokenizer that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_tokenizer_stops_the_import_and_the_loading(tmp_path: Path, broken: str) -> None:
    damage, said = BROKEN[broken]
    folder = tmp_path / "clip-tiny"
    shutil.copytree(SD1 / "clip-tiny", folder)
    damage(folder)
    with pytest.raises(ModelError, match=said):
        import_checkpoint(SD1 / "model.ckpt", SD1 / "model.yaml", tmp_path / "bad", tokenizer=folder)
    assert not (tmp_path / "bad").exists()
    out = import_checkpoint(SD1 / "model.ckpt", SD1 / "model.yaml", tmp_path / "out")
    shutil.rmtree(out / "tokenizer")
    shutil.copytree(folder, out / "tokenizer")
    with pytest.raises(ModelError, match=f"out/tokenizer: .*{said}"):
        load_model(out)


def test_an_empty_bert_tokenizer_is_refused(tmp_path: Path) -> None:
    BertTokenizer().save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="has 5 tokens, its text encoder knows 30522"):
        read_tokenizer(tmp_path, BertTokenizer, {"vocab_size": 30522})


@pytest.mark.parametrize(
    ("config", "said"),
    [({**CONFIG, "vocab_size": 646}, "has 647 tokens"), ({**CONFIG, "vocab_size": 1295}, "has 647 tokens"),
     ({**CONFIG, "eos_token_id": 644}, r"the tokens \(645, 646\), its text encoder with \(645, 644\)")],
)  # fmt: skip
def test_a_tokenizer_of_another_text_encoder_is_refused(config: dict[str, int], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        read_tokenizer(SD1 / "clip-tiny", CLIPTokenizer, config)


def test_the_ids_of_published_configurations_which_are_wrong_are_not_held_against_a_tokenizer() -> None:
    legacy = {**CONFIG, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    assert len(read_tokenizer(SD1 / "clip-tiny", CLIPTokenizer, legacy)) == 647
    assert len(read_tokenizer(BERT / "bert-tiny", BertTokenizer, {"vocab_size": 1000})) == 1000
