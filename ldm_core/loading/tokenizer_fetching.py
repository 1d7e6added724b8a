"""Finds a tokenizer that a configuration only names: in the hub's cache on this machine, or on the hub itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RemoteEntryNotFoundError

from ldm_core.errors import ModelError
from ldm_core.loading.tokenizer import VOCABULARIES, TokenizerClass

ANSWER_S = 4.0  # for one small request, names looked up included; a hub that needs longer is as good as away
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")


def tokenizer_folder(name: str, kind: TokenizerClass) -> Path:
    """A folder with the tokenizer called `name`, which is a folder itself or a repository on the hub.

    Raises ModelError within seconds where there is no hub: the library itself would try again for minutes, then give
    a tokenizer without words.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_absolute() or path.exists() or name.startswith("."):
        raise ModelError(path, "is no folder")
    found = _cached(name, kind)
    return found if found is not None else _fetched(name, kind)


def _cached(name: str, kind: TokenizerClass) -> Path | None:
    for files in VOCABULARIES[kind]:
        found = [_cached_file(name, file) for file in files]
        if all(found):
            return Path(str(found[0])).parent
    return None


def _cached_file(name: str, file: str) -> str | None:
    try:
        found = try_to_load_from_cache(name, file)
    except HFValidationError:
        raise ModelError(name, "is neither a folder nor the name of a repository") from None
    return found if isinstance(found, str) else None


def _fetched(name: str, kind: TokenizerClass) -> Path:
    """The folder in the cache to which the files have been fetched."""
    try:
        for files in VOCABULARIES[kind]:
            if _in_time(partial(_is_there, name, files[0])):
                for setting in SETTINGS:
                    with suppress(RemoteEntryNotFoundError):
                        hf_hub_download(name, setting, etag_timeout=ANSWER_S, endpoint=constants.ENDPOINT)
                return {
                    Path(hf_hub_download(name, file, etag_timeout=ANSWER_S, endpoint=constants.ENDPOINT)).parent
                    for file in files
                }.pop()
    except Exception as error:  # the hub's, the HTTP client's, the operating system's
        raise ModelError(name, f"is not on this machine, and {constants.ENDPOINT} {_reason(error)}") from None
    raise ModelError(name, f"is no tokenizer at {constants.ENDPOINT}")


def _is_there(name: str, file: str) -> bool:
    try:
        found = get_hf_file_metadata(hf_hub_url(name, file), timeout=ANSWER_S)
    except RemoteEntryNotFoundError:
        return False
    if found.commit_hash is None:
        raise LookupError("answers, but is no hub")
    return True


def _in_time(ask: Callable[[], bool]) -> bool:
    """What `ask` gives; TimeoutError after ANSWER_S. Looking up a name in the DNS has no limit of its own."""
    given: list[bool | Exception] = []

    def run() -> None:
        try:
            given.append(ask())
        except Exception as error:
            given.append(error)

    thread = threading.Thread(target=run, name="ask the hub", daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if not given:
        raise TimeoutError
    if isinstance(given[0], Exception):
        raise given[0]
    return given[0]


def _reason(error: Exception) -> str:
    """In a few words: the status that a hub or a proxy answered with, or what kept it from answering."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"answers {response.status_code}"
    if isinstance(error, OfflineModeIsEnabled):
        return "may not be asked (HF_HUB_OFFLINE)"
    if isinstance(error, LookupError):
        return str(error)
    said = (str(error).splitlines() or [""])[0][:120]
    return f"cannot be reached ({said or 'no answer in time'})"
