"""How a command ends: exit codes, and what went wrong as one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


class Stop(Exception):
    """Ends a command with a sentence for who called it; `code` is its exit code."""

    def __init__(self, said: str, code: int = FAILED) -> None:
        super().__init__(said)
        self.code = code


def say(text: str) -> None:
    """A line on stderr."""
    print(f"ldm: {text}", file=sys.stderr, flush=True)


def ending(work: Callable[[], int], server: str, flag_of: Callable[[str], str] = str) -> int:
    """The exit code of `work`; what it raises on purpose is said. `flag_of` names a request's field as an option."""
    try:
        return work()
    except Stop as stop:
        say(str(stop))
        return stop.code
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        stopped = _stop_of(error, server, flag_of)
        if stopped is None:
            raise
        say(str(stopped))
        return stopped.code


def _stop_of(error: Exception, server: str, flag_of: Callable[[str], str]) -> Stop | None:
    """What an error of the client means here; None: it is a bug."""
    import ldm_client

    match error:
        case ldm_client.ConnectionFailed():
            return Stop(
                f"no server answers at {server} ({_reason(error)}); start one with `ldm serve`, name another with "
                "--server, or draw without one: --local",
                UNREACHABLE,
            )
        case ldm_client.Unauthorized():
            detail = f"{server} asks for an API key: {error.detail} Set LDM_API_KEY, or give --api-key-file FILE"
            return Stop(detail, USAGE)
        case ldm_client.ApiError(status=400 | 403 | 413 | 422):
            return Stop(_of_fields(error.errors, error.detail, flag_of), USAGE)
        case ldm_client.ApiError() | ldm_client.JobFailed():
            return Stop(_of_fields(error.errors, error.detail, flag_of))
        case ldm_client.LdmError():
            return Stop(str(error))
    return None


def _reason(error: Exception) -> str:
    return str(error).removeprefix("The connection failed: ")


def _of_fields(errors: Sequence[tuple[str, str]], detail: str, flag_of: Callable[[str], str]) -> str:
    """Each field at fault by its option's name; without any, the problem's own sentence."""
    named = [f"{flag_of(pointer.lstrip('/'))}: {said}" for pointer, said in errors if pointer]
    return "; ".join(named) or detail
