"""Which bytes a component is made from: SHA-256 over its files, computed in threads while its weights are loaded."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from threading import Event

from ldm_core.errors import ModelError
from ldm_core.model_directory.components import CONDITIONS
from ldm_core.model_directory.json_files import read_json
from ldm_core.model_directory.weight_files import find_weights

PIECE = 16 * 2**20  # bytes of a file that are mapped at once
Hash = Callable[[], str]  # waits for it


@contextmanager
def hashing(paths: Iterable[Path]) -> Iterator[Mapping[Path, Hash]]:
    """The content hash of each component, to be waited for inside the block.

    Raises ModelError where a file is missing or cannot be read. Hashing that is not over ends with the block.
    """
    ended = Event()
    with ExitStack() as stack:
        try:
            opened = {
                path: [stack.enter_context(file.open("rb", buffering=0)) for file in _files(path)] for path in paths
            }
        except OSError as error:
            raise _unreadable(error) from None
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="hash"))
        stack.callback(ended.set)  # before the pool is waited for
        parts = {path: [pool.submit(_digest, stream, ended) for stream in streams] for path, streams in opened.items()}
        yield {path: _hash_of(futures) for path, futures in parts.items()}


def outline(path: Path) -> str:
    """What differs at once between most components of other content: the sizes of their files."""
    return ",".join(str(file.stat().st_size) for file in _files(path))


def _files(path: Path) -> list[Path]:
    """All that a component is made from; a text encoder's tokenizer lies beside it."""
    read_json(path / "config.json")
    files = [path / "config.json"]
    if path.name != "condition" or any(path.glob("*.safetensors")):  # some condition encoders have no weights
        files += find_weights(path)
    if path.name in CONDITIONS:
        files += sorted((path.parent / "tokenizer").glob("*.*"))
    return files


def _hash_of(digests: list[Future[bytes]]) -> Hash:
    def wait() -> str:
        try:
            return hashlib.sha256(b"".join(digest.result() for digest in digests)).hexdigest()
        except OSError as error:
            raise _unreadable(error) from None

    return wait


def _digest(stream: FileIO, ended: Event) -> bytes:
    """Hashes mapped pieces, which spares a copy. hashlib lets other threads run while it computes."""
    digest, size = hashlib.sha256(), os.fstat(stream.fileno()).st_size
    for start in range(0, size, PIECE):
        if ended.is_set():
            break
        with mmap.mmap(stream.fileno(), min(PIECE, size - start), access=mmap.ACCESS_READ, offset=start) as piece:
            digest.update(piece)
    return digest.digest()


def _unreadable(error: OSError) -> ModelError:
    return ModelError(error.filename, f"cannot be read: {error.strerror}")
