"""A small byte-pair vocabulary in CLIP's format: a caption's words are one token each, all else is spelled in bytes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from training.scenes.captions import vocabulary

MAX_TOKENS = 48
START, END = "<|startoftext|>", "<|endoftext|>"
Pair = tuple[str, str]


def byte_symbols() -> list[str]:
    """A printable character for each of the 256 bytes, as in CLIP's and GPT-2's vocabularies."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def merges_for(words: list[str]) -> list[Pair]:
    """Merges under which every word becomes one token; earlier words are never broken by later merges."""
    merges: list[Pair] = []
    for word in words:
        pieces = _apply([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return merges


def _apply(pieces: list[str], merges: list[Pair]) -> list[str]:
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(merges)))
        if best not in ranks:
            break
        i = pairs.index(best)
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]
    return pieces


def write_tokenizer(directory: Path) -> None:
    """Writes what `transformers.CLIPTokenizer.from_pretrained` reads."""
    directory.mkdir(parents=True, exist_ok=True)
    merges = merges_for([*vocabulary(), ","])
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in merges), START, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (directory / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
