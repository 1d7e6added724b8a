"""The written tokenizer is one that transformers reads, knows every word of the grammar and survives all others."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from training.scenes.captions import caption, vocabulary
from training.scenes.scene import random_scene
from training.scenes.tokenizer import MAX_TOKENS, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return CLIPTokenizer.from_pretrained(str(directory))


def pieces(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])[1:-1]


def test_every_word_of_the_grammar_is_one_token(tokenizer: CLIPTokenizer) -> None:
    assert [word for word in [*vocabulary(), ","] if len(pieces(tokenizer, word)) != 1] == []


def test_upper_case_reads_as_lower_case(tokenizer: CLIPTokenizer) -> None:
    assert pieces(tokenizer, "A Red HOUSE") == pieces(tokenizer, "a red house")


def test_captions_fit(tokenizer: CLIPTokenizer) -> None:
    rng = np.random.default_rng(1)
    texts = [caption(random_scene(rng), rng).text for _ in range(500)]
    assert max(len(ids) for ids in tokenizer(texts)["input_ids"]) <= MAX_TOKENS == tokenizer.model_max_length


@pytest.mark.parametrize("text", ["übermütig", "a 🎈 over 東京", "naïve café", "x\u0301y", "12 % of $5 (no!)", "zebra"])
def test_other_words_are_spelled_from_bytes_and_read_back(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = pieces(tokenizer, text)
    assert tokenizer.unk_token_id not in ids
    read_back = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    assert "".join(read_back.split()) == "".join(normalised(text).split())


def normalised(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()


def test_padding_is_the_end_token(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a house", padding="max_length")["input_ids"]
    assert len(ids) == MAX_TOKENS and set(ids[4:]) == {tokenizer.eos_token_id} == {tokenizer.pad_token_id}
    assert ids[0] == tokenizer.bos_token_id
