"""The commands of who runs a service: serve, worker, gateway, models, import, key. Torch is a worker's and import's."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ldm_core.errors import ModelError
from ldm_core.model_directory.card_reader import check_directories, read_card
from service.access.auth import BadKeys, KeyRing, add_key, new_key
from service.commands.unknown_settings import take_unknown_settings
from service.settings import GatewaySettings
from worker.logs import set_up_logging
from worker.settings import ServeSettings, WorkerSettings, read_settings
from worker.store.connection import WrongDatabase, check_database
from worker.vital import EXIT_BAD_SETTING, EXIT_BROKEN_MODEL

log = logging.getLogger(__name__)

EMBEDDED = "redis://embedded"  # stands for the address of a Redis that has not started


def run(args: argparse.Namespace) -> int:
    """Runs one command and returns its exit code."""
    if args.command == "import":
        return _import(args)
    if args.command == "key":
        return _key(args.name, args.file)
    for name, value in vars(args).items():  # the settings classes, here and in child processes, read the environment
        if name == "model_dirs":
            value = ",".join(map(_absolute, value or ())) or None
            name = "model"
        if name != "command" and value is not None:
            os.environ[f"LDM_{name.upper()}"] = str(value)
    return {"serve": _serve, "worker": _worker, "gateway": _gateway, "models": _models}[args.command]()


def _absolute(directory: str) -> str:
    """For child processes. What does not exist stays as it was given: it may be the name of a model on the hub."""
    path = Path(directory).expanduser()
    return str(path.resolve()) if path.exists() else directory


def _serve() -> int:
    if not _worker_installed():
        return 1
    from worker.process.supervisor import Supervisor

    for unknown in take_unknown_settings():  # first: a misspelt name may be why a setting is missing
        print(f"ldm: {unknown}", file=sys.stderr)
    # a bad value or model shall end the command before children start
    settings = read_settings(ServeSettings)
    directories = read_settings(WorkerSettings, redis_url=EMBEDDED).model_dirs
    gateway, keys = _read_gateway(redis_url=EMBEDDED)
    if _refuses_one(directories):
        return EXIT_BROKEN_MODEL
    return Supervisor(settings, keys=keys.configured, page=gateway.playground).run()


def _worker() -> int:
    if not _worker_installed():
        return 1
    settings = read_settings(WorkerSettings)
    _set_up_logging(settings.log_format)
    if _refuses_one(settings.model_dirs):  # before torch is imported
        return EXIT_BROKEN_MODEL
    return int(import_module("worker.process.prefork").main())


def _refuses_one(directories: Sequence[Path]) -> bool:
    """Whether a model directory is refused before anything is loaded; it is said why."""
    try:
        check_directories(directories)
    except ModelError as error:
        print(f"ldm: {error}", file=sys.stderr)
        return True
    return False


def _read_gateway(**given: str) -> tuple[GatewaySettings, KeyRing]:
    """A gateway's settings and API keys. A bad one ends the process, named."""
    settings = read_settings(GatewaySettings, **given)
    try:
        return settings, KeyRing(settings.api_keys.get_secret_value(), settings.api_keys_file)
    except BadKeys as error:
        print(f"ldm: {error}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_SETTING) from None


def _gateway() -> int:
    from service.access.exposure import warn_if_open
    from service.app import create_app
    from service.http.server import run

    settings, keys = _read_gateway()
    try:
        check_database(settings.redis_url)
    except WrongDatabase as error:
        print(f"ldm: {error}", file=sys.stderr)
        return EXIT_BAD_SETTING
    _set_up_logging(settings.log_format)
    warn_if_open(settings.host, settings.port, keys=keys.configured)
    return run(create_app(settings, keys=keys), settings)


def _set_up_logging(log_format: Literal["json", "text"]) -> None:
    set_up_logging(log_format)
    for unknown in take_unknown_settings():
        log.warning("%s", unknown)


def _key(name: str, file: Path | None) -> int:
    """With a file, the key alone goes to stdout: redirected, that is a file for --api-key-file."""
    try:
        if file is not None:
            secret = add_key(name, file)
            print(f"{file} has the entry of {name}; the key, shown only this once:", file=sys.stderr, flush=True)
            print(secret)
            return 0
        secret, entry = new_key(name)
    except BadKeys as error:
        print(f"ldm key: {error}", file=sys.stderr)
        return 1
    print(entry)
    print(f"the key, shown only this once: {secret}", file=sys.stderr)
    return 0


def _models() -> int:
    code, sound = 0, list[Path]()
    has_worker = find_spec("torch") is not None
    if not has_worker:
        print("ldm models: no worker is installed here, so that no weights are looked at", file=sys.stderr)
    for directory in read_settings(WorkerSettings).model_dirs:
        try:
            check_directories([*sound, directory])
            card = read_card(directory)
            if has_worker:
                import_module("ldm_core.loading.model").check_model(directory)
            sound.append(directory)
        except ModelError as error:
            print(error, file=sys.stderr)
            code = 1
            continue
        width, height = card.native_size
        steps = f"{card.default_steps} steps of {card.default_sampler}"
        print(f"{card.id}  {', '.join(card.tasks)}  {width}x{height}  {steps}  {directory}")
        for warning in card.warnings:
            print(f"{directory}: {warning.detail}", file=sys.stderr)
    return code


def _import(args: argparse.Namespace) -> int:
    if not _worker_installed():
        return 1
    reading_ahead = import_module("ldm_core.weights.read_ahead").reading_ahead
    try:
        with reading_ahead(args.ckpt):  # 4 GB from a disk: 14 s instead of 24 s
            out = import_module("ldm_core.checkpoints").import_checkpoint(
                args.ckpt,
                args.config,
                args.out,
                ema=args.ema,
                tokenizer=args.tokenizer,
                clip=args.clip,
                vae=args.vae,
                labels=args.labels,
                size=args.size,
                progress=print,
            )
        card = read_card(out) if (out / "model_index.json").exists() else None
    except ModelError as error:
        print(f"ldm import: {error}", file=sys.stderr)
        return 1
    print(f"written: {out}" + (f"; try it: ldm serve --model {out}   ({', '.join(card.tasks)})" if card else ""))
    return 0


def _worker_installed() -> bool:
    if find_spec("torch") is None:
        print("ldm: no worker is installed here; to have one, in the clone: pip install '.[worker]'", file=sys.stderr)
        return False
    return True
