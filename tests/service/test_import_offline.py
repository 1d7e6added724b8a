"""`ldm import` of a model whose tokenizer is on a hub: one that works, and those that people have behind a proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hub import hub
from tests.worker.processes import ROOT

pytestmark = pytest.mark.slow

DATA = ROOT / "tests/golden/data"
CLIP, BERT = "openai/clip-vit-large-patch14", "bert-base-uncased"


def ldm_import(tmp_path: Path, endpoint: str, case: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The real command with an empty cache, in place of a yaml's own tokenizer the published one."""
    config = tmp_path / "model.yaml"
    config.write_text((DATA / case / "model.yaml").read_text().replace("version: clip-tiny", f"version: {CLIP}"))
    command = ["--ckpt", DATA / case / "model.ckpt", "--config", config, "--out", tmp_path / "models/out"]
    (tmp_path / "models").mkdir()
    hub_env = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": endpoint, **env}
    return subprocess.run(
        [sys.executable, "-m", "service", "import", *map(str, command)],
        cwd=ROOT, env=os.environ | hub_env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def assert_refused(tmp_path: Path, said: subprocess.CompletedProcess[str], repository: str, reason: str) -> None:
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert said.stderr.startswith(f"ldm import: {repository}: is not on this machine, and ")
    assert reason in said.stderr and said.stderr.endswith("; pass --tokenizer DIR\n")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_proxy_in_place_of_the_hub_is_named_with_its_answer(tmp_path: Path) -> None:
    with hub(403) as endpoint:
        said = ldm_import(tmp_path, endpoint, "v-sd1")
    assert_refused(tmp_path, said, CLIP, "answers 403")


def test_a_hub_whose_name_nobody_knows_is_named_in_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    assert_refused(tmp_path, ldm_import(tmp_path, "http://no-such-host.invalid", "v-text2img-bert"), BERT, "reached")
    assert time.monotonic() - began < 90  # a few seconds, most of them the start of the command; it was four minutes


def test_a_hub_that_has_the_tokenizer_is_asked_once(tmp_path: Path) -> None:
    with hub(repositories={BERT: DATA / "v-text2img-bert/bert-tiny"}) as endpoint:
        said = ldm_import(tmp_path, endpoint, "v-text2img-bert")
    assert (said.returncode, (tmp_path / "models/out/tokenizer").is_dir()) == (0, True), said.stderr
    (tmp_path / "models").rename(tmp_path / "first")
    again = ldm_import(tmp_path, "http://127.0.0.1:1", "v-text2img-bert")  # from the cache
    assert again.returncode == 0, again.stderr


def test_an_empty_address_of_the_hub_is_none(tmp_path: Path) -> None:
    said = ldm_import(tmp_path, "", "v-text2img-bert", HF_HUB_OFFLINE="1")
    assert_refused(tmp_path, said, BERT, "and https://huggingface.co may not be asked (HF_HUB_OFFLINE)")
