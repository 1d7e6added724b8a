"""What clients should never send: every route against its OpenAPI, and damaged images by the thousand."""

from __future__ import annotations

from tests.abuse import image_fuzz, openapi
from tests.chaos.figures import Figure, exactly
from tests.chaos.world import World


def routes(world: World) -> list[Figure]:
    cases = world.scaled(5000)
    findings = openapi.run(cases, world.seed)
    done = findings.cases.total()
    name = "schemathesis"
    return [
        Figure(name, "cases over the whole OpenAPI", f">= {cases}", str(done), done >= cases),
        exactly(name, "failures", findings.failures.total(), 0),
    ]


def pictures(world: World) -> list[Figure]:
    inputs = world.scaled(20_000)
    findings = image_fuzz.run(inputs, world.seed)
    name = "image fuzz"
    return [
        exactly(name, "damaged pictures", findings.inputs, inputs),
        exactly(name, "crashes", len(findings.crashes), 0),
        exactly(name, "5xx", len(findings.failures), 0),
        exactly(name, "warnings let out", len(findings.warnings), 0),
    ]
