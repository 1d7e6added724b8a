"""`ldm serve`: Redis, gateway and worker as children of one process, restarted when they die, ended together."""

from __future__ import annotations

import http.client
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from redis.exceptions import RedisError

from worker.leasing.heartbeat import revoke
from worker.process.embedded_redis import EmbeddedRedis, RedisUnavailable, die_with_parent
from worker.process.restarts import Restarts, how_it_ended
from worker.settings import ServeSettings
from worker.store.blobs import DirectoryBlobs
from worker.store.connection import AWAY, able, connect, not_there
from worker.store.keys import Key

ROOT = Path(__file__).resolve().parents[2]
LONG_LIFE_S = 2.0  # the uptime after which a child of a ready service is restarted at once
GATEWAY_STOP_S = 5.0
SWEEP_S = 60.0


class Child:
    """One child process, and when it may start again."""

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.name, self._command, self._env = name, command, env
        self.process: subprocess.Popen[bytes] | None = None
        self.not_before = 0.0
        self.restarts = Restarts()
        self._started_at = 0.0

    def start(self) -> None:
        """Starts it in a session of its own: Ctrl-C reaches only the supervisor, which ends them in order."""
        self._started_at = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *self._command],
            env=self._env, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip

    def exit_code(self) -> int | None:
        """The code with which it ended, once; None while it runs."""
        code = self.process.poll() if self.process else None
        if code is not None:
            self.process = None
            now = time.monotonic()
            served = self.restarts.ever_served and now - self._started_at > LONG_LIFE_S
            self.not_before = now + self.restarts.pause_s(served=served)
        return code

    def terminate(self) -> None:
        """SIGTERM, if it runs."""
        if self.process is not None:
            self.process.terminate()

    def wait(self, patience_s: float) -> None:
        """Until it has ended; with force after `patience_s`."""
        if self.process is None:
            return
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class Supervisor:
    """Owns the children. `run` returns an exit code when all of them are gone."""

    def __init__(self, settings: ServeSettings, *, keys: bool = False, page: bool = True, **env: str) -> None:
        """`keys`: whether the gateway asks for an API key; `page`: whether it has the page at `/`."""
        self._settings, self._keys, self._page = settings, keys, page
        self._redis = None if settings.redis_url else EmbeddedRedis(settings.data_dir.expanduser() / "redis")
        self._url = settings.redis_url or (self._redis.url if self._redis else "")
        loopback = settings.host in {"127.0.0.1", "localhost", "::1"}
        path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
        environment = os.environ | {"PYTHONPATH": path} | env | {
            "LDM_REDIS_URL": self._url, "LDM_DATA_DIR": str(settings.data_dir.expanduser().resolve()),
            "LDM_HOST": settings.host, "LDM_PORT": str(settings.port), "LDM_LOG_FORMAT": settings.log_format,
            "LDM_METRICS_HOST": "127.0.0.1" if loopback else settings.host,
            "LDM_METRICS_PORT": str(settings.metrics_port), "LDM_DRAIN_S": str(settings.drain_s),
        }  # fmt: skip
        self._gateway = Child("gateway", ["service", "gateway"], environment)
        self._worker = Child("worker", ["worker.process.prefork"], environment)
        self._files = DirectoryBlobs(settings.data_dir.expanduser() / "blobs")
        self._swept_at = 0.0
        self._stop = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put is safe in a signal handler

    def run(self) -> int:
        """Starts everything, keeps it up until SIGTERM or SIGINT, ends everything."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: self._wake.put(None))
        if not self._port_is_free():
            return 1
        try:
            self._start()
            return self._watch()
        except RedisUnavailable as error:
            say(str(error))
            return 1
        finally:
            self._end()

    def _on_stop(self, signum: int, frame: FrameType | None) -> None:
        self._stop = True
        self._wake.put(None)

    def _port_is_free(self) -> bool:
        host, port = self._settings.host, self._settings.port
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            said = f"cannot listen on {host}:{port}: {error.strerror}"
            say(f"{said}; choose another port: ldm serve --port N, or make run PORT=N")
            return False
        return True

    def _start(self) -> None:
        if self._redis is not None:
            self._settings.data_dir.expanduser().mkdir(parents=True, exist_ok=True, mode=0o700)
            self._sweep()  # the expired may be what its disk is full of
            self._redis.start()
            say(f"redis is up, its data in {self._redis.directory}")
            self._wait_until_it_writes(self._redis.directory)
        else:
            self._look_for_redis()
        if self._stop:
            return
        self._gateway.start()
        self._worker.start()
        say("gateway and worker are starting; the worker loads its models")

    def _look_for_redis(self) -> None:
        """Says so where the Redis of others does not answer; gateway and worker wait for it."""
        try:
            with connect(self._url) as redis:
                redis.ping()
        except (RedisError, OSError) as error:
            say(f"not ready: {not_there(self._url, error)}; start it, or correct LDM_REDIS_URL; waiting for it")

    def _watch(self) -> int:
        ready = False
        while not self._stop:
            self._keep_redis()
            if time.monotonic() - self._swept_at >= SWEEP_S:
                self._sweep()
            for child in (self._gateway, self._worker):
                code = child.exit_code()
                if code is not None and child.restarts.is_final(code):
                    return code  # its error stays the last line
                if code is not None:
                    say(f"the {child.name} ended with {how_it_ended(code)}; starting it again")
                if child.process is None and time.monotonic() >= child.not_before:
                    child.start()
            if not ready and self._is_ready():
                ready = self._gateway.restarts.ever_served = self._worker.restarts.ever_served = True
                say(self._welcome())
            with suppress(queue.Empty):
                self._wake.get(timeout=0.5 if ready else 0.1)
        say("stopping")
        return 0

    def _keep_redis(self) -> None:
        """Gateway and worker wait for it meanwhile. Raises RedisUnavailable when it does not come back."""
        code = self._redis.exit_code() if self._redis is not None else None
        if self._redis is not None and code is not None:
            say(f"redis ended with {how_it_ended(code)}; starting it again")
            self._redis.start()

    def _wait_until_it_writes(self, directory: Path) -> None:
        """A Redis whose disk is full comes back when there is space again."""
        said = False
        while not self._stop:
            try:
                with able():
                    self._revoke_all()
                return
            except AWAY as error:
                if not said:
                    say(f"redis cannot write to {directory}, whose disk may be full; waiting for space ({error})")
                said = True
            self._sweep()
            with suppress(queue.Empty):
                self._wake.get(timeout=1.0)

    def _sweep(self) -> None:
        """Deletes expired files, whatever state Redis and the worker are in."""
        self._swept_at = time.monotonic()
        with suppress(OSError):
            self._files.sweep()

    def _revoke_all(self) -> None:
        """The Redis is ours alone, so whoever was working when it last stopped is gone."""
        redis: Any = connect(self._url)
        for name in redis.smembers(Key.WORKERS):
            revoke(redis, name.decode())
        redis.close()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self._reachable_host(), self._settings.port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _reachable_host(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.host, self._settings.host)  # noqa: S104

    def _welcome(self) -> str:
        host = self._reachable_host()
        address = f"http://{f'[{host}]' if ':' in host else host}:{self._settings.port}"
        key = "-H 'Authorization: Bearer KEY' " if self._keys else ""
        return (
            f"ready at {address}{': open it in a browser, or' if self._page else ''}\n\n"
            f"  curl {address}/v1/txt2img {key}-H 'Accept: image/png' -H 'Content-Type: application/json' "
            """-d '{"prompt":"a red house by the sea at sunset"}' -o out.png\n\n"""
            f"  API docs: {address}/docs    Ctrl-C ends everything; queued jobs stay."
        )

    def _end(self) -> None:
        """Worker and gateway at once, then Redis, which has to outlive both."""
        self._gateway.terminate()
        self._worker.terminate()
        self._worker.wait(self._settings.drain_s + 10)
        self._gateway.wait(GATEWAY_STOP_S)
        if self._redis is not None:
            self._redis.stop()


def say(text: str) -> None:
    """A line for whoever started us."""
    print(f"ldm: {text}", flush=True)
