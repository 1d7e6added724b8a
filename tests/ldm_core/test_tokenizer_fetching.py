"""Tokenizers by name: each answer that a hub, a proxy or nobody gives. The whole command: tests/service."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import BertTokenizer, CLIPTokenizer

from ldm_core.errors import ModelError
from ldm_core.loading.tokenizer_fetching import ANSWER_S, tokenizer_folder
from tests.hub import hub

DATA = Path(__file__).resolve().parents[1] / "golden/data"
CLIP = "openai/clip-vit-large-patch14"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def ask(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """As HF_ENDPOINT does, which the library reads when it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.mark.parametrize("status", [200, 401, 403, 404, 407, 503])
def test_whoever_answers_in_place_of_the_hub_is_named(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with hub(status) as endpoint:
        ask(monkeypatch, endpoint)
        with pytest.raises(ModelError) as raised:
            tokenizer_folder(CLIP, CLIPTokenizer)
    reason = f"answers {status}" if status != 200 else "answers, but is no hub"
    assert str(raised.value) == f"{CLIP}: is not on this machine, and {endpoint} {reason}"


def test_nobody_at_the_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:1 cannot be reached \(.*refused"):
        tokenizer_folder(CLIP, CLIPTokenizer)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="may not be asked"):
        tokenizer_folder(CLIP, CLIPTokenizer)


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ask(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(ModelError, match="cannot be reached"):
            tokenizer_folder(CLIP, CLIPTokenizer)
    assert time.monotonic() - began < 5 * ANSWER_S


def test_a_tokenizer_is_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(repositories={"bert-base-uncased": DATA / "v-text2img-bert/bert-tiny"}) as endpoint:
        ask(monkeypatch, endpoint)
        folder = tokenizer_folder("bert-base-uncased", BertTokenizer)
        with pytest.raises(ModelError, match=f"is no tokenizer at {endpoint}"):
            tokenizer_folder("someone/else", BertTokenizer)
    assert {file.name for file in folder.iterdir()} == {"vocab.txt", "tokenizer_config.json"}
    assert tokenizer_folder("bert-base-uncased", BertTokenizer) == folder


@pytest.mark.parametrize("name", ["/no/such/folder", "./gone", "a/b/c", "two words"])
def test_a_name_that_cannot_be_on_a_hub_is_refused_unasked(name: str) -> None:
    with pytest.raises(ModelError, match=r"is no folder|is neither a folder nor the name"):
        tokenizer_folder(name, CLIPTokenizer)
