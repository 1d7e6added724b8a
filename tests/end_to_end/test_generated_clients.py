"""Clients that generators make of the OpenAPI document: each runs a job, and its image arrives."""

from __future__ import annotations

import base64
import importlib
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.documents import DOCS, commands
from tests.end_to_end.node import installed
from tests.end_to_end.serving import TERMINAL, Served, eventually, picture

pytestmark = pytest.mark.slow

CONFIG = "content_type_overrides:\n  image/png: application/octet-stream\npost_hooks: []\n"
JOBS = ".api.jobs"
NODE_PACKAGES = ["openapi-typescript@7", "openapi-fetch@0.17", "typescript@5"]
SCRIPT = """
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };
const client = createClient<paths>({ baseUrl: process.argv[2] });
const made = await client.POST("/v1/txt2img", {
  params: { header: { Prefer: "wait=60" } },
  headers: { Accept: "application/json" },
  body: { prompt: "a red house", seed: 7, steps: 2, priority: "high" },
});
// an image would be a string: nothing but the job is accepted here
if (made.data === undefined || typeof made.data === "string") throw new Error(made.error?.detail ?? "no job");
const job: components["schemas"]["Job"] = made.data;
const image = await client.GET("/v1/jobs/{job_id}/images/{index}", {
  params: { path: { job_id: job.id, index: "0" } },
  parseAs: "arrayBuffer",
});
const bytes = image.data as unknown as ArrayBuffer;
const refused = await client.POST("/v1/txt2img", { body: { prompt: "x", steps: 5000 } });
const pointer: string | undefined = refused.error?.errors?.[0]?.pointer;
console.log(JSON.stringify({ seed: job.request.seed, bytes: bytes.byteLength, told: job.images[0]?.bytes, pointer }));
"""
COMPILER = {
    "compilerOptions": {
        "strict": True, "target": "es2022", "module": "nodenext", "lib": ["es2022", "dom"],
        "noUncheckedIndexedAccess": True, "skipLibCheck": True,
    },
    "files": ["run.ts"],
}  # fmt: skip


Generated = Callable[[str], Any]
Generate = Callable[[Served], Generated]


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generate:
    """Makes a package of a server's document with openapi-python-client; imports its modules."""

    def make(service: Served) -> Generated:
        (tmp_path / "config.yml").write_text(CONFIG)
        command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
        command += ["--url", f"{service.url}/openapi.json", "--config", str(tmp_path / "config.yml")]
        made = subprocess.run(
            [*command, "--output-path", str(tmp_path / "generated_client")], capture_output=True, text=True, timeout=120
        )
        assert made.returncode == 0, made.stdout + made.stderr
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.split(".")[0] == "generated_client"]:
            monkeypatch.delitem(sys.modules, name)
        return lambda name: importlib.import_module(f"generated_client{name}")

    return make


def test_openapi_python_client_runs_a_job(served: Served, generate: Generate, tmp_path: Path) -> None:
    generated = generate(served)
    modules = [path.stem for path in (tmp_path / "generated_client" / "models").glob("[!_]*.py")]
    assert 20 < len(modules) <= 60
    models, create, get_image = (
        generated(".models"),
        generated(f"{JOBS}.create_txt2img"),
        generated(f"{JOBS}.get_image"),
    )
    with generated("").Client(served.url, raise_on_unexpected_status=True) as client:
        body = models.Txt2ImgRequest(prompt="a red house", seed=7, steps=2)
        job = create.sync(client=client, body=body, prefer="wait=60")
        assert isinstance(job, models.Job)
        assert job.status == models.JobStatus.SUCCEEDED and job.request.seed == 7
        file = get_image.sync(job.id, "0", client=client)
        assert Image.open(io.BytesIO(file.payload.getvalue())).size == (job.images[0].width, job.images[0].height)
        form = models.Txt2ImgForm(prompt="a red house", seed=7, steps=2, metadata=models.Metadata.from_dict({"a": "b"}))
        again = create.sync(client=client, body=form, prefer="wait=60")
        assert again.images[0].sha256 == job.images[0].sha256
        assert again.request.metadata.to_dict() == {"a": "b"}
        refused = create.sync(client=client, body=models.Txt2ImgRequest(prompt="x", steps=5000))
        assert isinstance(refused, models.Problem) and refused.errors[0].pointer == "/steps"


def test_openapi_python_client_edits_enlarges_waits_lists_and_cancels(served: Served, generate: Generate) -> None:
    generated = generate(served)
    models, types = generated(".models"), generated(".types")
    create, enlarge = generated(f"{JOBS}.create_inpaint"), generated(f"{JOBS}.create_superres")
    get_job, list_jobs, cancel = (generated(f"{JOBS}.{name}") for name in ("get_job", "list_jobs", "cancel_job"))
    image, mask = picture(64, 64), picture(64, 64, "L")
    with generated("").Client(served.url, raise_on_unexpected_status=True) as client:

        def ended(job: Any) -> Any:
            assert isinstance(job, models.Job), job
            return eventually(lambda: now if (now := get_job.sync(job.id, client=client)).status in TERMINAL else None)

        form = models.InpaintForm(
            image=types.File(io.BytesIO(image), "photo.png", "image/png"), prompt="a house", seed=7, steps=2,
            mask=types.File(io.BytesIO(mask), "mask.png", "image/png"), priority=models.Priority.HIGH,
        )  # fmt: skip
        body = models.InpaintRequest(
            image=base64.b64encode(image).decode(), mask=base64.b64encode(mask).decode(), prompt="a house", seed=7,
            steps=2, priority=models.Priority.HIGH,
        )  # fmt: skip
        edited = [ended(create.sync(client=client, body=each)) for each in (form, body)]
        assert edited[0].images[0].sha256 == edited[1].images[0].sha256
        assert edited[0].started_at < edited[0].finished_at and edited[0].warnings == []
        small = models.SuperresForm(image=types.File(io.BytesIO(picture(32, 32)), "small.png", "image/png"), steps=2)
        large = ended(enlarge.sync(client=client, body=small))
        assert large.images[0].width == 128
        body = models.InpaintRequest(image=base64.b64encode(image).decode(), mask=body.mask, steps=1000, n=8)
        first, again = (create.sync_detailed(client=client, body=body, idempotency_key="generated") for _ in range(2))
        assert first.parsed.id == again.parsed.id and again.headers["Idempotent-Replay"] == "true"
        assert cancel.sync(first.parsed.id, client=client).id == first.parsed.id
        assert ended(first.parsed).status == models.JobStatus.CANCELLED
        page = list_jobs.sync(client=client, limit=2)
        assert [job.id for job in page.data] == [first.parsed.id, large.id]
        assert len(list_jobs.sync(client=client, cursor=page.next_cursor, limit=1).data) == 1
        assert get_job.sync("nowhere", client=client).status == 404


def test_openapi_python_client_is_refused_with_a_wrong_key(serve: Callable[..., Served], generate: Generate) -> None:
    """The document of a server with keys has the refusals; one without never sends them."""
    service = serve(api_keys="alice:ldm_alice-0123456789")
    service.wait_until_ready()
    generated = generate(service)
    package, models, create = generated(""), generated(".models"), generated(f"{JOBS}.create_txt2img")
    body = models.Txt2ImgRequest(prompt="a red house", seed=7, steps=2)
    with package.AuthenticatedClient(service.url, "ldm_mallory", raise_on_unexpected_status=True) as client:
        refused = create.sync_detailed(client=client, body=body)
        assert (refused.status_code, refused.parsed.status) == (401, 401)
        assert isinstance(refused.parsed, models.Problem)
    key = "ldm_alice-0123456789"
    with package.AuthenticatedClient(service.url, key, raise_on_unexpected_status=True) as client:
        job = create.sync(client=client, body=body, prefer="wait=60")
        assert job.status == models.JobStatus.SUCCEEDED
        assert service.http.get(job.images[0].signed_url).status_code == 200
        assert job.urls.events_signed.startswith(job.urls.events)


@pytest.fixture(scope="module")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generator and the compiler; skips where they cannot be had."""
    return installed(tmp_path_factory.mktemp("node"), *NODE_PACKAGES)


def test_openapi_typescript_makes_types_that_compile_and_run_a_job(served: Served, node_packages: Path) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=node_packages, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (shown,) = [command for command in commands(DOCS / "clients.md") if command.startswith("npx openapi-typescript ")]
    run("npx", "--no-install", *shlex.split(shown.replace("http://localhost:8000", served.url))[1:])
    (node_packages / "run.ts").write_text(SCRIPT)
    (node_packages / "tsconfig.json").write_text(json.dumps(COMPILER))
    run("node_modules/.bin/tsc")
    told = json.loads(run("node", "run.js", served.url))
    assert told["seed"] == 7
    assert told["bytes"] == told["told"] > 0
    assert told["pointer"] == "/steps"
