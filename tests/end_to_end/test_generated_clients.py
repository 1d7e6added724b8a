"""Clients that generators make of the OpenAPI document: each runs a job, and its image arrives."""

from __future__ import annotations

import importlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.end_to_end.serving import Served

pytestmark = pytest.mark.slow

CONFIG = "content_type_overrides:\n  image/png: application/octet-stream\npost_hooks: []\n"
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


@pytest.fixture
def document(served: Served, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_text(served.http.get("/openapi.json").text)
    return path


def test_openapi_python_client_runs_a_job(
    served: Served, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yml").write_text(CONFIG)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
    command += ["--path", str(document), "--config", str(tmp_path / "config.yml")]
    made = subprocess.run(
        [*command, "--output-path", str(tmp_path / "ldm_client")], capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stdout + made.stderr
    modules = [path.stem for path in (tmp_path / "ldm_client" / "models").glob("[!_]*.py")]
    assert 20 < len(modules) <= 60
    monkeypatch.syspath_prepend(tmp_path)
    package, models = importlib.import_module("ldm_client"), importlib.import_module("ldm_client.models")
    create: Any = importlib.import_module("ldm_client.api.jobs.create_txt2img")
    get_image: Any = importlib.import_module("ldm_client.api.jobs.get_image")
    with package.Client(served.url, raise_on_unexpected_status=True) as client:
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


@pytest.fixture(scope="module")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generator and the compiler; skips where they cannot be had."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: generating a TypeScript client needs it")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    try:
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", *NODE_PACKAGES], cwd=folder, check=True, capture_output=True,
            timeout=180,
        )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm could not install {', '.join(NODE_PACKAGES)}: {(error.stderr or b'').decode()[-300:]}")
    return folder


def test_openapi_typescript_makes_types_that_compile_and_run_a_job(
    served: Served, document: Path, node_packages: Path
) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=node_packages, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("node_modules/.bin/openapi-typescript", str(document), "-o", "api.d.ts")
    (node_packages / "run.ts").write_text(SCRIPT)
    (node_packages / "tsconfig.json").write_text(json.dumps(COMPILER))
    run("node_modules/.bin/tsc")
    told = json.loads(run("node", "run.js", served.url))
    assert told["seed"] == 7
    assert told["bytes"] == told["told"] > 0
    assert told["pointer"] == "/steps"
