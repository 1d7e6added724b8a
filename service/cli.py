"""The command `ldm`: serve, worker, gateway, models, import, key. Only a worker and import load torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ldm_core.errors import ModelError
from ldm_core.model_directory.card_reader import check_directories, read_card
from ldm_core.release import release
from service.access.auth import BadKeys, KeyRing, new_key
from service.settings import GatewaySettings
from worker.settings import ServeSettings, WorkerSettings, read_settings
from worker.store.connection import WrongDatabase, check_database
from worker.vital import EXIT_BAD_SETTING, EXIT_BROKEN_MODEL

SERVE = "everything on this machine: Redis, gateway and worker"
KEY = "a fresh API key on stderr, and its entry for LDM_API_KEYS_FILE on stdout"
EMBEDDED = "redis://embedded"  # stands for the address of a Redis that has not started
EPILOG = "Every option is also an environment variable, LDM_<NAME>; docs/configuration.md lists all settings."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    args = parser().parse_args(argv)
    if args.command == "import":
        return _import(args)
    if args.command == "key":
        return _key(args.name)
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


def _given(text: str) -> str:
    """For options that take a path: an empty one would mean the current directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a path, got an empty one")
    return text


def _path(text: str) -> Path:
    return Path(_given(text))


def parser() -> argparse.ArgumentParser:
    """The options of `ldm` and of each of its commands."""
    ldm = argparse.ArgumentParser(prog="ldm", description=__doc__.split(":", 1)[0], epilog=EPILOG)
    ldm.add_argument("--version", action="version", version=f"ldm-service {release()}")
    commands = ldm.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help=SERVE, description=SERVE, epilog=EPILOG)
    worker = commands.add_parser("worker", help="one worker, for a Redis given by LDM_REDIS_URL", epilog=EPILOG)
    gateway = commands.add_parser("gateway", help="one gateway, for a Redis given by LDM_REDIS_URL", epilog=EPILOG)
    models = commands.add_parser("models", help="what the model directories hold", epilog=EPILOG)
    importer = commands.add_parser(
        "import", help="a research checkpoint (.ckpt or .safetensors, and its yaml) into a model directory"
    )
    key = commands.add_parser("key", help=KEY, description=KEY)
    key.add_argument("name", metavar="NAME", help="letters, digits, '_' and '-'")
    importer.add_argument("--ckpt", type=_path, required=True, metavar="FILE")
    importer.add_argument("--config", type=_path, required=True, metavar="FILE", help="the yaml it was trained with")
    importer.add_argument("--out", type=_path, required=True, metavar="DIR", help="the directory to write")
    importer.add_argument(
        "--ema", action=argparse.BooleanOptionalAction, help="averaged weights or not (what the yaml says)"
    )
    importer.add_argument(
        "--tokenizer", type=_given, metavar="DIR", help="a tokenizer's folder, where the yaml names none at hand"
    )
    importer.add_argument(
        "--clip", type=_path, metavar="DIR", help="a CLIPModel's folder, for retrieval-augmented models"
    )
    importer.add_argument(
        "--size", type=int, metavar="PIXELS", help="the side that it was trained at, where the yaml has another"
    )
    importer.add_argument(
        "--vae", type=_path, metavar="PATH", help="a first stage in place of its own: a diffusers folder, or a file"
    )
    importer.add_argument("--labels", type=_path, metavar="FILE", help="names of its classes or labels, one a line")
    for command in (serve, gateway):
        command.add_argument(
            "--api-keys-file", type=_given, metavar="FILE", help="who may send jobs; `ldm key` makes its entries"
        )
        command.add_argument("--host", help="address to listen on (127.0.0.1)")
        command.add_argument("--port", type=int, help="port to listen on (8000)")
    for command in (worker, gateway):
        command.add_argument("--redis-url", metavar="URL", help="redis://, rediss:// or unix://")
    for command in (serve, worker, gateway):
        command.add_argument("--data-dir", type=_given, metavar="DIR", help="where jobs and images are kept")
    for command in (serve, worker):
        command.add_argument("--device", help="cpu, cuda, cuda:1 (the best there is)")
    for command in (serve, worker, models):
        command.add_argument(
            "--model",
            type=_given,
            metavar="DIR",
            action="append",
            dest="model_dirs",
            help="a model directory; may be repeated",
        )
    return ldm


def _serve() -> int:
    if not _worker_installed():
        return 1
    from worker.process.supervisor import Supervisor

    # a bad value or model shall end the command before children start
    settings = read_settings(ServeSettings)
    directories = read_settings(WorkerSettings, redis_url=EMBEDDED).model_dirs
    _, keys = _read_gateway(redis_url=EMBEDDED)
    if _refuses_one(directories):
        return EXIT_BROKEN_MODEL
    return Supervisor(settings, keys=keys.configured).run()


def _worker() -> int:
    if not _worker_installed():
        return 1
    if _refuses_one(read_settings(WorkerSettings).model_dirs):  # before torch is imported
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
    from worker.logs import set_up_logging

    settings, keys = _read_gateway()
    try:
        check_database(settings.redis_url)
    except WrongDatabase as error:
        print(f"ldm: {error}", file=sys.stderr)
        return EXIT_BAD_SETTING
    set_up_logging(settings.log_format)
    warn_if_open(settings.host, settings.port, keys=keys.configured)
    return run(create_app(settings, keys=keys), settings)


def _key(name: str) -> int:
    try:
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
