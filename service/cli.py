"""The command `ldm`: what commands there are. Their modules are imported as they are called: help comes at once."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

SERVING, OPTIONS = "service.commands.serving", "service.commands.serving_options"
DRAW, TASKS = "service.commands.draw", "service.commands.task_options"
JOBS, STATUS, DOCTOR = "service.commands.jobs", "service.commands.status", "service.commands.doctor"

OURS = {"ldm_core", "service", "worker"}  # a module of ours that is missing is a bug


class Command(NamedTuple):
    """One command: what it is for, the modules of its options and of what it does, and lines to try."""

    group: str
    summary: str
    options: str
    module: str
    examples: tuple[str, ...] = ()


LOOK, RUN, TEND = "Look at a server", "Run a server", "Models and keys"
DRAWING = "Draw, with a server or without one (--local)"
SERVE = "everything on this machine: Redis, gateway and worker"
KEY = "a fresh API key, and its entry for LDM_API_KEYS_FILE"
COMMANDS = {
    "txt2img": Command(DRAWING, "a prompt to an image; with --image an image to another", TASKS, DRAW, (
        'ldm txt2img "a red house by the sea" -o out.png',
        'ldm txt2img "a pine in the snow" --seed 7 --steps 30 --n 4 -o pines.png',
        'ldm txt2img "a red house by the sea" --upscale --local -o large.png',
        'ldm txt2img "a white house" --image photo.png --strength 0.6 -o white.jpg',
    )),
    "inpaint": Command(DRAWING, "an image with a hole to a whole one", TASKS, DRAW, (
        'ldm inpaint "a blue house in a green field" --image photo.png --mask mask.png -o repainted.png',
        'ldm inpaint --image hole.png -o whole.png',
    )),
    "superres": Command(DRAWING, "a small image to a large one", TASKS, DRAW, (
        "ldm superres small.png -o large.png", "cat small.png | ldm superres - -o - > large.png",
    )),
    "class2img": Command(DRAWING, "a class, by its id or its name, to an image", TASKS, DRAW, (
        "ldm class2img 207 -o dog.png", 'ldm class2img "golden retriever" --guidance-scale 3 -o dog.png',
    )),
    "semantic2img": Command(DRAWING, "a semantic map to an image", TASKS, DRAW, (
        "ldm semantic2img map.png -o out.png",
    )),
    "layout2img": Command(DRAWING, "things and their places to an image", TASKS, DRAW, (
        "ldm layout2img --object Tree 0.1 0.2 0.5 0.9 --object House 0.5 0.4 0.9 0.9 -o out.png",
    )),
    "unconditional": Command(DRAWING, "an image of what the model was trained on", TASKS, DRAW, (
        "ldm unconditional --seed 7 -o out.png",
    )),
    "jobs": Command(LOOK, "your jobs, newest first", JOBS, JOBS, (
        "ldm jobs --status running", "ldm jobs --limit 5 --json",
    )),
    "job": Command(LOOK, "one job: show it, follow it, save its images, cancel it", JOBS, JOBS, (
        "ldm job ID", "ldm job ID --follow -o out.png", "ldm job ID --cancel",
    )),
    "status": Command(LOOK, "whether the server is ready, its models, workers and queue", STATUS, STATUS, (
        "ldm status", "ldm status --server https://gpu.example --api-key-file key.txt",
    )),
    "doctor": Command(LOOK, "what is wrong with this installation, and what to do", DOCTOR, DOCTOR, (
        "ldm doctor", "ldm doctor --model models/NAME", "ldm doctor --json",
    )),
    "serve": Command(RUN, SERVE, OPTIONS, SERVING, ("ldm serve", "ldm serve --port 9000 --model models/NAME")),
    "gateway": Command(RUN, "one gateway, for a Redis given by LDM_REDIS_URL", OPTIONS, SERVING, (
        "ldm gateway --redis-url redis://queue:6379/0",
    )),
    "worker": Command(RUN, "one worker, for a Redis given by LDM_REDIS_URL", OPTIONS, SERVING, (
        "ldm worker --redis-url redis://queue:6379/0 --device cuda",
    )),
    "models": Command(TEND, "what the model directories hold", OPTIONS, SERVING, ("ldm models --model models/NAME",)),
    "import": Command(
        TEND, "a research checkpoint (.ckpt or .safetensors, and its yaml) into a model directory", OPTIONS, SERVING,
        ("ldm import --ckpt model.ckpt --config config.yaml --out models/NAME",),
    ),
    "key": Command(TEND, KEY, OPTIONS, SERVING, (
        "ldm key alice --file keys.toml", "ldm key bob --file keys.toml > bob.txt", "ldm key carol >> keys.toml",
    )),
}  # fmt: skip
ABOUT = "Draw images with latent diffusion models, and serve them to others."
BEGIN = """Begin here:
  ldm serve                                          starts a server on this machine; leave it running
  ldm txt2img "a red house by the sea" -o out.png    in another terminal: draws with it
  ldm txt2img "a red house by the sea" -o out.png --local    the same without a server
  ldm doctor                                         where something does not work

`ldm COMMAND --help` has a command's options, and examples."""
SETTINGS = "Every option is also an environment variable, LDM_<NAME>; docs/configuration.md lists them all."
CODES = "Exit codes: 0 done, 1 it failed, 2 asked wrongly, 3 no server there, 130 interrupted."


class Version(argparse.Action):
    """Says which release this is; looking that up takes longer than all else of a help text."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"ldm-service {import_module('ldm_core.release').release()}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a prompt may have characters that the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # while modules were imported: later on, commands have an answer to it
        return 130
    except ModuleNotFoundError as missing:
        if str(missing.name).partition(".")[0] in OURS:
            raise
        print(f"ldm: {missing.name} is not installed here; `ldm doctor` says what else is wrong", file=sys.stderr)
        return 1


def _run(given: Sequence[str]) -> int:
    ldm = parser(given[0] if given else "")
    if not given:
        ldm.print_help()
        return 0
    args, unknown = ldm.parse_known_args(given)
    if unknown:  # argparse itself would show the usage of `ldm`, not of the command
        name = args.command
        what = "option" if unknown[0].startswith("-") else "argument"
        print(f"ldm {name}: error: it takes no {what} {unknown[0]} (see ldm {name} --help)", file=sys.stderr)
        return 2
    code: int = import_module(COMMANDS[args.command].module).run(args)
    return code


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The options of `ldm` and of each of its commands; those of `only` one command, where that is the first word."""
    ldm = argparse.ArgumentParser(
        prog="ldm", usage="ldm [--version] COMMAND ...", description=f"{ABOUT}\n\n{_overview()}", epilog=BEGIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    ldm.add_argument("--version", action=Version, nargs=0, help="which release this is")
    commands = ldm.add_subparsers(dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    for name, command in COMMANDS.items():
        parts = commands.add_parser(
            name, prog=f"ldm {name}", description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=_epilog(command),
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=command.module == SERVING,
        )  # fmt: skip
        if only in {None, name}:
            import_module(command.options).add_options(name, parts)
    return ldm


def _overview() -> str:
    """Every command in a line, by groups."""
    groups = dict.fromkeys(command.group for command in COMMANDS.values())
    parts = ["\n".join([f"{group}:", *_lines(group)]) for group in groups]
    return "\n\n".join(parts)


def _lines(group: str) -> list[str]:
    return [f"  {name:14} {command.summary}" for name, command in COMMANDS.items() if command.group == group]


def _epilog(command: Command) -> str:
    examples = "\n".join(["examples:", *(f"  {line}" for line in command.examples)])
    return f"{examples}\n\n{SETTINGS if command.module == SERVING else CODES}"
