"""Reads a tokenizer, and makes sure that it fits its text encoder.

Apart from `condition_loading`, whose networks take the transformers library some seconds to import.
"""

from __future__ import annotations

from pathlib import Path

from transformers import BertTokenizer, CLIPTokenizer

from ldm_core.errors import ModelError

TokenizerClass = type[CLIPTokenizer] | type[BertTokenizer]
VOCABULARIES = {CLIPTokenizer: ("tokenizer.json", "vocab.json"), BertTokenizer: ("tokenizer.json", "vocab.txt")}


def read_tokenizer(name: str, kind: TokenizerClass, entries: int) -> CLIPTokenizer | BertTokenizer:
    """A tokenizer from a folder, or by a name that the transformers library finds. Raises ModelError.

    It must have a vocabulary, which the library does not ask for in a folder, of at most `entries` tokens.
    """
    path = Path(name)
    if path.is_dir() and not any((path / file).exists() for file in VOCABULARIES[kind]):
        raise ModelError(path, f"has no vocabulary ({' or '.join(VOCABULARIES[kind])})")
    try:
        tokenizer = kind.from_pretrained(name)
    except Exception as error:  # it raises what it likes: OSError, ValueError, KeyError, its tokenizers' own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(path, f"is no tokenizer that can be read ({reason})") from None
    if len(tokenizer) > entries:
        raise ModelError(path, f"has {len(tokenizer)} tokens, its text encoder knows {entries}")
    return tokenizer
