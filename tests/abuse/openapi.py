"""Holds a gateway process against its own OpenAPI with schemathesis: every route, every check.

    python -m tests.abuse.openapi --cases 5000 --seed 7

Ends with the number of cases and of failures. A round has all phases; those that come after it, until there are as many
cases as wanted, only the random ones, because what systematic coverage sends is always the same.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.engine import Status, events, from_schema

from tests.abuse.gateway import alone
from tests.abuse.suiting import suit

STREAMS = r"/events$"  # an answer without an end is not held against a schema
CHECKS = {
    "enabled": True,
    # DELETE cancels a job, which can be read afterwards: the promise is its record, not its end.
    "use_after_free": {"enabled": False},
}
SYSTEMATIC = ("examples", "coverage")


@dataclass
class Findings:
    """What a run counted; `failures` by operation, check and message, and for each a command that shows it again."""

    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[tuple[str, ...]] = field(default_factory=Counter)
    samples: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add(self, event: events.ScenarioFinished) -> None:
        self.cases[str(event.phase)] += len(event.recorder.interactions)
        for interaction in event.recorder.interactions.values():
            self.statuses[interaction.response.status_code if interaction.response else 0] += 1
        for check in (check for checks in event.recorder.checks.values() for check in checks):
            if check.status != Status.SUCCESS and check.failure_info is not None:
                key = (event.recorder.label, check.name, str(check.failure_info.failure.message)[:500])
                self.failures[key] += 1
                self.samples.setdefault(key, check.failure_info.code_sample[:1200])


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _kwargs: dict[str, Any]) -> None:
    """A case that is meant to be valid has to be taken, so it is made to suit a model. None waits: no job ends here."""
    case.headers.pop("Prefer", None)
    if "/images/" in case.operation.path and "{" not in case.operation.path:  # which wait without it
        case.headers["Prefer"] = "wait=0"
    positive = case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE
    if positive:
        case.headers.pop("Idempotency-Key", None)  # or two cases might share one
        (case.query or {}).pop("cursor", None)  # which only an answer could give
    if positive and case.operation.method == "post" and isinstance(case.body, dict):
        form = (case.media_type or "").startswith("multipart/")
        case.body = suit(case.operation.path.rpartition("/")[2], case.body, form=form)
        case._record_starting_state()  # else it is judged anew, and the bytes of a file are no string to the judge


def explore(
    url: str, findings: Findings, *, examples: int, seed: int, systematic: bool = True, but: str = "$^"
) -> None:
    """One round over every operation but streams, and but those whose path matches `but`."""
    phases = {phase: {"enabled": systematic} for phase in SYSTEMATIC}
    settings = {
        "seed": seed, "checks": CHECKS, "phases": phases, "continue-on-failure": True, "request-timeout": 20,
        "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
    }  # fmt: skip
    config = schemathesis.Config.from_dict(settings)
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    schema = schema.exclude(path_regex=STREAMS).exclude(path_regex=but)
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            findings.add(event)
        elif isinstance(event, events.NonFatalError):
            findings.failures[event.label, "error", str(event.value)[:500]] += 1
        elif isinstance(event, events.FatalError):
            raise event.exception


def run(cases: int, seed: int) -> Findings:
    """Rounds against a gateway of its own, until there are as many cases as wanted."""
    findings, rounds = Findings(), 0
    with alone(queue_limit=10**6) as gateway:
        while rounds == 0 or findings.cases.total() < cases:
            explore(gateway.url, findings, examples=40, seed=seed + rounds, systematic=rounds == 0)
            rounds += 1
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    started = time.monotonic()
    findings = run(args.cases, args.seed)
    for failure, count in findings.failures.most_common(20):
        print(f"\n{count} x {'  |  '.join(failure)}\n{findings.samples.get(failure, '')}")
    by_phase = ", ".join(f"{phase} {count}" for phase, count in sorted(findings.cases.items()))
    by_status = ", ".join(f"{status}: {count}" for status, count in sorted(findings.statuses.items()))
    print(f"answers by status: {by_status}")
    print(
        f"{findings.cases.total()} cases ({by_phase}; seed {args.seed}), {findings.failures.total()} failures, "
        f"{time.monotonic() - started:.0f} s"
    )
    return int(bool(findings.failures))


if __name__ == "__main__":
    raise SystemExit(main())
