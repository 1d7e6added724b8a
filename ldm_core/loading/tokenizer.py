"""Reads a tokenizer, and makes sure that it fits its text encoder.

Apart from `condition`, whose networks take the transformers library some seconds to import.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import BertTokenizer, CLIPTokenizer

from ldm_core.errors import ModelError

Tokenizer = CLIPTokenizer | BertTokenizer
TokenizerClass = type[CLIPTokenizer] | type[BertTokenizer]
# any one of these sets of files is a whole vocabulary
VOCABULARIES: Mapping[TokenizerClass, tuple[tuple[str, ...], ...]] = {
    CLIPTokenizer: (("tokenizer.json",), ("vocab.json", "merges.txt")),
    BertTokenizer: (("tokenizer.json",), ("vocab.txt",)),
}
END_OF_WORD = {CLIPTokenizer: "</w>", BertTokenizer: ""}  # what a vocabulary writes behind a whole word
WORDS = 100  # of the vocabulary, read as a trial
LEGACY_END = 2  # what published CLIP configurations say of their end token, whatever it is


def read_tokenizer(folder: Path, kind: TokenizerClass, text_config: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer from a folder, for the text encoder of this configuration. Raises ModelError.

    The transformers library gives an empty tokenizer where files are missing, so what it gives is tried: it must know
    at least half of the encoder's `vocab_size` tokens and no more, begin and end texts with the encoder's ids, and
    read the words of its own vocabulary as one token each.
    """
    if not any(all((folder / file).exists() for file in files) for files in VOCABULARIES[kind]):
        wanted = " or ".join(" with ".join(files) for files in VOCABULARIES[kind])
        raise ModelError(folder, f"has no vocabulary ({wanted})")
    try:
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True)
        problem = _problem(tokenizer, kind, text_config)
    except Exception as error:  # it raises what it likes: OSError, ValueError, KeyError, its tokenizers' own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(folder, f"is no tokenizer that can be read ({reason})") from None
    if problem is not None:
        raise ModelError(folder, problem)
    return tokenizer


def _problem(tokenizer: Tokenizer, kind: TokenizerClass, text_config: Mapping[str, Any]) -> str | None:
    """What keeps a tokenizer from being this text encoder's."""
    entries, found = int(text_config["vocab_size"]), len(tokenizer)
    if not entries / 2 <= found <= entries:
        return f"has {found} tokens, its text encoder knows {entries}"
    ends = _ends(tokenizer, kind)
    if None in ends or ends[0] == ends[1]:
        return "has no tokens for the beginning and the end of a text"
    wanted = (text_config.get("bos_token_id"), text_config.get("eos_token_id"))
    if kind is CLIPTokenizer and _are_ids(wanted, entries) and ends != wanted:
        return f"begins and ends a text with the tokens {ends}, its text encoder with {wanted}"
    return None if _reads_its_words(tokenizer, kind) else "does not read the words of its own vocabulary"


def _ends(tokenizer: Tokenizer, kind: TokenizerClass) -> tuple[int | None, int | None]:
    if kind is CLIPTokenizer:
        return tokenizer.bos_token_id, tokenizer.eos_token_id
    return tokenizer.cls_token_id, tokenizer.sep_token_id


def _are_ids(wanted: tuple[Any, Any], entries: int) -> bool:
    return all(isinstance(one, int) and one < entries for one in wanted) and wanted[1] != LEGACY_END


def _reads_its_words(tokenizer: Tokenizer, kind: TokenizerClass) -> bool:
    """Whether most whole words of its vocabulary are one token, and whether there are at least two."""
    end, vocabulary = END_OF_WORD[kind], tokenizer.get_vocab()
    words = (token.removesuffix(end) for token in vocabulary if token.endswith(end))
    tried = list(islice((word for word in words if re.fullmatch("[a-z]{3,}", word)), WORDS))
    read = [word for word in tried if _ids(tokenizer, word) == [vocabulary[word + end]]]
    return len(read) > 1 and len(read) >= len(tried) / 2


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)
