"""`clients/javascript` in Node against `ldm serve`."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.documents import BLOCK, ROOT
from tests.end_to_end.bodies import request
from tests.end_to_end.node import installed
from tests.end_to_end.serving import Served, eventually, picture

pytestmark = pytest.mark.slow

Serve = Callable[..., Served]
CLIENT = ROOT / "clients" / "javascript"
ALICE = "ldm_alice-0123456789"
HEAD = """
import * as ldm from "ldm-client";
const tell = (value) => console.log(JSON.stringify(value));
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const client = new ldm.Client({ log: (message) => console.error(message) });
const QUICK = { seed: 7, steps: 3 }, LONG = { seed: 7, steps: 1000, n: 8 };
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a program finds `ldm-client` as npm would install it."""
    if shutil.which("node") is None:
        pytest.skip("there is no Node")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "ldm-client").symlink_to(CLIENT)
    return tmp_path


def start(folder: Path, served: Served, program: str, **env: str) -> subprocess.Popen[str]:
    (folder / "program.mjs").write_text(HEAD + program)
    return subprocess.Popen(
        ["node", "program.mjs"], cwd=folder, env=os.environ | {"LDM_SERVER": served.url} | env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(folder: Path, served: Served, program: str, **env: str) -> list[Any]:
    """What the program tells, line by line."""
    with start(folder, served, program, **env) as process:
        told, trouble = process.communicate(timeout=120)
    assert process.returncode == 0, trouble
    return [json.loads(line) for line in told.splitlines()]


def test_a_prompt_becomes_an_image_which_is_edited_and_enlarged(served: Served, folder: Path) -> None:
    mask = base64.b64encode(picture(64, 64, "L")).decode()
    (told,) = run(folder, served, f"""
        const job = await client.txt2img("a red house", {{ ...QUICK, n: 2, width: null, metadata: {{ a: "b" }} }});
        const before = [job.status, job.images.length];
        await job.wait({{ timeout: 60 }});
        const image = await job.images[0].blob();
        const edited = await (await client.inpaint(image, bytes("{mask}"), {{ prompt: "a house", ...QUICK }})).wait();
        const changed = await (await client.img2img((await image.arrayBuffer()), "a boat", QUICK)).wait();
        const large = await (await client.superres(await edited.images[0].bytes(), QUICK)).wait();
        const listed = [];
        for await (const each of client.jobs({{ limit: 4 }})) listed.push(each.id);
        const again = await client.job(job.id);
        const models = (await client.models()).map((model) => model.id);
        const file = Buffer.from(await image.arrayBuffer()).toString("base64");
        tell({{ before, job: job.raw, again: again.raw, file, type: image.type, second: job.images[1].seed, models,
          width: large.images[0].width,
          keys: {{ Job: Object.keys(job), JobImage: Object.keys(job.images[0]) }},
          listed, made: [large.id, changed.id, edited.id, job.id], ended: job.ended }});
    """)  # fmt: skip
    assert told["before"] == ["queued", 0] and told["ended"]
    assert told["job"] == told["again"] == served.job(told["job"]["id"])
    assert hashlib.sha256(base64.b64decode(told["file"])).hexdigest() == told["job"]["images"][0]["sha256"]
    assert (told["type"], told["second"], told["width"]) == ("image/png", 8, 256)
    assert told["listed"] == told["made"]
    assert "scenes" in told["models"]
    types = (CLIENT / "ldm-client.d.ts").read_text()
    for name, keys in told["keys"].items():
        (body,) = re.findall(rf"^export class {name} \{{\n(.*?)^\}}", types, re.MULTILINE | re.DOTALL)
        assert set(keys) == set(re.findall(r"^  readonly (\w+):", body, re.MULTILINE))


def test_a_job_is_followed_with_previews_and_cancelled(served: Served, folder: Path) -> None:
    followed, cancelled = run(folder, served, """
        const job = await client.txt2img("a red house", { seed: 7, steps: 400 });
        const events = [];
        for await (const event of job.events({ preview: true })) events.push(event);
        tell({ names: events.map((event) => event.name), status: job.status, images: job.images.length,
          steps: events.filter((event) => event.name === "progress").map((event) => event.data.step),
          preview: events.findLast((event) => event.data.preview).data.preview });
        const long = await client.txt2img("a red house", LONG);
        for await (const event of long.events()) if (event.name === "progress") break;
        await long.cancel();
        tell(await long.wait().catch((error) => [error instanceof ldm.JobCancelled, long.status]));
    """)  # fmt: skip
    assert (followed["names"][0], followed["names"][-1], followed["status"]) == ("status", "succeeded", "succeeded")
    assert followed["images"] == 1 and len(followed["steps"]) > 5 and followed["steps"] == sorted(followed["steps"])
    assert base64.b64decode(followed["preview"].partition(",")[2]).startswith(b"\xff\xd8")
    assert cancelled == [True, "cancelled"]


def test_what_is_wrong_is_told_by_its_kind(served: Served, folder: Path) -> None:
    refused, unknown, no_image, failed, late, away, aborted = run(folder, served, """
        const kind = (error) => [error.name, error.status ?? null, error.pointers ?? [], error.requestId ?? null];
        tell(await client.txt2img("x", { steps: 5000 }).catch(kind));
        tell(await client.job("nowhere").catch(kind));
        tell(await client.superres("photo.png").catch(kind));
        const slow = await client.txt2img("a red house", { ...LONG, timeout: 1 });
        const hasty = await slow.wait({ timeout: 0.1 }).catch(kind);
        tell(await slow.wait().catch((error) => [error.name, error.problem.status]));
        tell(hasty);
        const nobody = new ldm.Client({ server: "http://127.0.0.1:9", retryFor: 1, log: () => {} });
        tell(await nobody.models().catch(kind));
        const signal = AbortSignal.timeout(300);
        const long = await client.txt2img("a red house", LONG);
        const heard = (async () => { for await (const event of long.events({ signal })); })();
        tell([await long.wait({ signal }).catch(kind), await heard.catch(kind)].map(([name]) => name));
        await long.cancel();
    """)  # fmt: skip
    assert refused[:3] == ["ValidationError", 422, ["/steps"]] and refused[3]
    assert unknown[:2] == ["NotFound", 404]
    assert no_image[0] == "TypeError"
    assert failed == ["JobFailed", 504]
    assert late[0] == "WaitTimeout"
    assert away[0] == "ConnectionFailed"
    assert aborted == ["TimeoutError", "TimeoutError"]


def test_keys_come_from_the_environment_and_a_wrong_one_is_refused_at_once(serve: Serve, folder: Path) -> None:
    service = serve(api_keys=f"alice:{ALICE}")
    service.wait_until_ready()
    wrong, signed = run(folder, service, """
        tell(await new ldm.Client({ apiKey: "ldm_mallory" }).txt2img("x").catch((error) => error.name));
        const job = await (await client.txt2img("a red house", QUICK)).wait();
        tell((await fetch(client.server + job.images[0].signed_url)).status);
    """, LDM_API_KEY=ALICE)  # fmt: skip
    assert (wrong, signed) == ("Unauthorized", 200)


def test_a_full_queue_is_waited_for_as_it_says(serve: Serve, folder: Path) -> None:
    service = serve(queue_limit=1)
    service.wait_until_ready()
    first = service.submit("txt2img", **request(service, "txt2img", steps=300))
    hasty, patient = run(folder, service, """
        const hasty = new ldm.Client({ retryFor: 0 });
        tell(await hasty.txt2img("x", QUICK).catch((error) => [error.name, error.retryAfter]));
        const patient = new ldm.Client({ retryFor: 60, log: () => {} });
        tell((await (await patient.txt2img("a red house", QUICK)).wait()).status);
    """)  # fmt: skip
    assert hasty[0] == "RateLimited" and hasty[1] >= 1
    assert patient == service.job(first["id"])["status"] == "succeeded"


def test_events_and_waits_go_on_when_the_gateway_was_killed_and_the_service_restarted(
    serve: Serve, folder: Path
) -> None:
    service = serve(drain_s=0.2)
    service.wait_until_ready()
    process = start(folder, service, """
        const patient = new ldm.Client({ retryFor: 60, log: () => {} });
        const job = await patient.txt2img("a red house", { ...LONG, steps: 250 });
        const waited = patient.job(job.id).then((same) => same.wait({ timeout: 100 }));
        const steps = [];
        for await (const event of job.events()) {
          if (event.name === "progress") steps.push(event.data.step);
          if (steps.length === 5) tell(job.id);
        }
        tell({ steps, status: job.status, images: (await waited).images.length });
    """)  # fmt: skip
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        (gateway,) = service.processes("service\0gateway")
        os.kill(gateway, signal.SIGKILL)
        eventually(lambda: [pid for pid in service.processes("service\0gateway") if pid != gateway])
        service.wait_until_ready()
        assert service.stop() == 0
        serve(port=service.port)
        told = json.loads(process.communicate(timeout=150)[0].splitlines()[-1])
    assert told["status"] == "succeeded" and told["images"] == 8
    assert len(told["steps"]) > 10 and max(told["steps"]) >= 240


def test_a_killed_client_finds_its_job_again_by_its_key(served: Served, folder: Path) -> None:
    program = f"""
        const job = await client.txt2img("a red house", {{ steps: 3, idempotencyKey: "order-{os.getpid()}-js" }});
        tell(job.id);
        await new Promise((resolve) => setTimeout(resolve, 60000));
    """
    ids = []
    for _ in range(2):
        with start(folder, served, program) as process:
            assert process.stdout is not None
            ids.append(process.stdout.readline())
            process.kill()
    assert ids[0] == ids[1] and len(ids[0]) > 10


def test_a_repeat_after_a_lost_answer_makes_no_second_job(served: Served, folder: Path) -> None:
    lost, listed = run(folder, served, """
        const real = globalThis.fetch;
        let lost = 0;
        globalThis.fetch = async (...given) => {
          const response = await real(...given);
          if (given[1].method === "POST" && lost++ === 0) throw new TypeError("fetch failed");
          return response;
        };
        const before = new Set();
        for await (const job of client.jobs()) before.add(job.id);
        const made = await client.txt2img("a red house", QUICK);
        const after = [];
        for await (const job of client.jobs()) if (!before.has(job.id)) after.push(job.id);
        tell(lost);
        tell(after.length === 1 && after[0] === made.id);
    """)  # fmt: skip
    assert (lost, listed) == (2, True)


def test_the_client_s_page(builtin: Served, folder: Path) -> None:
    (program,) = [
        text for language, text in BLOCK.findall((CLIENT / "README.md").read_text()) if language == "javascript"
    ]
    mask = (ROOT / "examples" / "mask.png").resolve()
    (folder / "page.mjs").write_text(
        'import { readFile } from "node:fs/promises";\n' + program.replace("http://localhost:8000", builtin.url)
        + f"\nfunction maskOf() {{ return readFile({json.dumps(str(mask))}); }}\n"
    )  # fmt: skip
    done = subprocess.run(["node", "page.mjs"], cwd=folder, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "image/png []" in done.stdout and "with a preview" in done.stdout and "256" in done.stdout
    assert "[ '/steps' ]" in done.stdout


def exported(text: str) -> set[str]:
    return set(re.findall(r"^export (?:class|const|function) (\w+)", text, re.MULTILINE))


def members(text: str, name: str) -> set[str]:
    """The public methods of a class, in the module as in its types."""
    (body,) = re.findall(rf"^export class {name}\b[^\n]*\{{\n(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^  (?:async )?\*?(\w+)\(", body, re.MULTILINE)
    return {method for method in found if not method.startswith("_")} - {"constructor"}


def test_the_types_name_what_the_module_exports() -> None:
    code, types = (CLIENT / "ldm-client.js").read_text(), (CLIENT / "ldm-client.d.ts").read_text()
    assert exported(code) == exported(types)
    for name in ("Client", "Job", "JobImage"):
        assert members(code, name) == members(types, name), name
    assert code.count("\n") <= 350


TYPED = """
import { Client, ValidationError, type Job, type JobEvent } from "ldm-client";
const client = new Client({ server: "http://localhost", retryFor: 3, log: (message: string) => message.trim() });
export async function draw(mask: Uint8Array, image: Blob): Promise<number> {
  const job: Job = await client.inpaint(image, mask, { prompt: "x", seed: 7, metadata: { a: "b" } });
  for await (const event of job.events({ preview: true })) {
    const any: JobEvent = event;
    if (event.name === "progress") console.log(event.data.preview?.length, any.id);
  }
  // @ts-expect-error a typo
  await client.txt2img("x", { guidance: 3 });
  const { images } = await job.wait({ timeout: 3 }).catch((error: unknown) => {
    if (error instanceof ValidationError) console.log(error.pointers[0], error.retryAfter);
    throw error;
  });
  for await (const listed of client.jobs({ status: "queued", limit: 3 })) await listed.cancel();
  return images.length + (await images[0]!.bytes()).length;
}
"""


def test_a_typed_program_compiles_and_a_typo_does_not(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    compiler = installed(tmp_path_factory.mktemp("tsc"), "typescript@5") / "node_modules" / ".bin" / "tsc"
    (folder / "program.ts").write_text(TYPED)
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom,dom.iterable"]
    done = subprocess.run([compiler, *options, "program.ts"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
