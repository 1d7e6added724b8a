"""What README.md and docs/ show and no service is needed for: commands, files, links, settings, the site."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from docs import configuration
from ldm_core.model_directory.card_reader import read_card
from service.access.auth import KeyRing
from service.cli import parser
from service.settings import GatewaySettings
from tests.documents import DOCS, PAGES, README, ROOT, Block, blocks_of, lines_of, quoted
from tests.end_to_end.page_script import matches, script_of
from worker.settings import ServeSettings, WorkerSettings

LINK = re.compile(r"(?:\]\(|src=\")([^)#\s\"]+)")
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHOWN = {"text", "html", "nginx"}  # languages of which nothing here can parse a block
PARSERS: dict[str, Callable[[str], object]] = {
    "json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load, "python": ast.parse,
}  # fmt: skip


def a_target_of_make(command: str) -> None:
    words = [word for word in shlex.split(command, comments=True)[1:] if "=" not in word]
    known = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(known)


def a_command_of_ldm(command: str) -> None:
    words = shlex.split(re.split(r" >>? ", command)[0], comments=True)[1:]
    if len(words) == 1:  # it is only mentioned
        words.append("--help")
        with pytest.raises(SystemExit, match=r"^0$"):
            parser().parse_args(words)
    else:
        parser().parse_args(words)


def a_module(command: str) -> None:
    module = shlex.split(command)[2]
    assert importlib.util.find_spec(module) is not None
    assert (ROOT / Path(*module.split("."))).exists() or (ROOT / Path(*module.split("."))).with_suffix(".py").exists()


def existing_files(command: str) -> None:
    assert all((ROOT / path).exists() for path in shlex.split(command)[1:])


def a_compose_file(command: str) -> None:
    named = re.findall(r"-f (\S+)", command)
    assert all(yaml.safe_load((ROOT / path).read_text())["services"] for path in named)
    services = yaml.safe_load((ROOT / (named or ["docker-compose.yml"])[0]).read_text())["services"]
    built = {service["build"]["target"] for service in services.values() if "build" in service}
    stages = re.findall(r"^FROM .* AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.IGNORECASE)
    assert built <= set(stages)
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    assert all((ROOT / path).exists() for path in mounted if path.startswith("./"))
    assert all(set(service.get("depends_on", ())) <= set(services) for service in services.values())


def a_kustomization(command: str) -> None:
    folder = ROOT / shlex.split(command)[-1]
    if shutil.which("kubectl"):
        made = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout
    else:
        assert (folder / "kustomization.yaml").exists(), f"{folder} is what kubectl would be given"
        named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        made = "\n---\n".join((folder / path).read_text() for path in named if (folder / path).is_file())
    assert all(document["kind"] for document in yaml.safe_load_all(made) if document)


def a_secret_that_the_gateway_reads(command: str) -> None:
    if shutil.which("kubectl"):
        shown = [*shlex.split(command), "--dry-run=client", "-o", "yaml"]
        made = yaml.safe_load(subprocess.run(shown, capture_output=True, text=True, check=True).stdout)
        assert made["kind"] == "Secret" and KeyRing(b64decode(made["data"]["LDM_API_KEYS"]).decode()).configured
    gateway = (ROOT / "deploy/kubernetes/base/gateway.yaml").read_text()
    assert f"secretRef: {{name: {shlex.split(command)[6]}," in gateway


def a_dependency_of_tests(command: str) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'"{shlex.split(command)[-1]}>=' in text


def a_setting(command: str) -> None:
    assert shlex.split(command)[1].startswith("LDM_")


def an_install_from_the_clone(command: str) -> None:
    extras = re.findall(r"\[(\w+)\]", command)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= set(declared)
    assert (ROOT / shlex.split(command)[2].partition("[")[0] / "pyproject.toml").exists()


def run_by_another_test(command: str) -> None:
    """`tests/end_to_end/test_documents.py` runs the curl of the blocks, and those that sentences quote abridge them."""


def a_sentence_about(command: str) -> None:
    """It has an ellipsis where a reader puts something in."""
    assert "…" in command


KINDS: dict[str, Callable[[str], None]] = {
    r"[^…]*…": a_sentence_about,
    r"make( |$)": a_target_of_make,
    r"ldm ": a_command_of_ldm,
    r"python -m ": a_module,
    r"pytest ": existing_files,
    r"docker compose (-f \S+ )*up": a_compose_file,
    r"kubectl apply -k ": a_kustomization,
    r"kubectl -n ldm create secret ": a_secret_that_the_gateway_reads,
    r"pip install '?(\.|\./)": an_install_from_the_clone,
    r"pip install (openai|standardwebhooks)$": a_dependency_of_tests,
    r"export LDM_": a_setting,
    r"curl ": run_by_another_test,
}


def check(command: str) -> None:
    """Holds a command against the first kind that it is of. Raises StopIteration for one of no kind."""
    next(check for start, check in KINDS.items() if re.match(start, command))(command)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.marker == "checked"], ids=str)
def test_a_command_that_cannot_run_here_is_one_that_its_program_takes(block: Block) -> None:
    for command in lines_of(block.text):
        check(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_that_a_sentence_quotes_is_one_that_its_program_takes(page: Path) -> None:
    for command in quoted(page):
        check(command)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_can_be_parsed_and_its_comment_is_known(block: Block) -> None:
    assert re.fullmatch(r"|checked|fails|output|file: [\w.]+|run by \S+", block.marker)
    assert block.language in {"sh", "js", *SHOWN, *PARSERS}
    assert block.language not in SHOWN - {"nginx"} or block.marker or block.page.name == "browser.md"
    PARSERS.get(block.language, str)(block.text)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.marker.startswith("run by ")], ids=str)
def test_another_test_names_the_page_whose_block_it_runs(block: Block) -> None:
    assert f'"{block.page.name}"' in (ROOT / block.marker.removeprefix("run by ")).read_text()


@pytest.mark.parametrize(
    ("language", "shown", "said", "equal"),
    [
        ("json", '{"a": {"b": "x…"}}', 'curl: (22)\n{"a": {"b": "xyz", "c": 1}}', True),
        ("json", '{"a": [1]}', '{"a": [1, 2]}', False),
        ("json", '{"status": 422}', '{"status": 500}', False),
        ("json", '{"a": 1}', "", False),
        ("text", "id: …\nevent: succeeded", "id: 7\nevent: status\nevent: succeeded", True),
        ("text", "event: succeeded\nid: …", "id: 7\nevent: succeeded", False),
    ],
)
def test_an_output_that_differs_is_noticed(language: str, shown: str, said: str, equal: bool) -> None:
    assert matches(said, Block(README, 1, "output", language, shown)) is equal


@pytest.mark.parametrize(
    ("language", "marker", "text", "code"),
    [("sh", "", "false", 1), ("sh", "", "false | true", 1), ("sh", "fails", "true", 1), ("sh", "fails", "false", 0),
     ("python", "", "assert False", 1), ("sh", "", "true", 0)],
)  # fmt: skip
def test_a_block_that_goes_wrong_is_noticed(language: str, marker: str, text: str, code: int, tmp_path: Path) -> None:
    script = script_of([Block(README, 1, marker, language, f"{text}\n")], "http://localhost:1", tmp_path)
    ran = subprocess.run(["bash", "-c", script.text], cwd=tmp_path, check=False, stdout=subprocess.DEVNULL)
    assert ran.returncode == code


def test_compose_passes_on_every_setting_to_the_part_that_reads_it() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    of_the_container = {"host", "port", "data_dir", "metrics_host", "metrics_port", "worker_name"}
    for part, kind in (("gateway", GatewaySettings), ("worker", WorkerSettings)):
        wanted = {configuration.variable(name) for name in kind.model_fields if name not in of_the_container}
        assert set(services[part]["environment"]) == wanted


def test_the_folders_that_compose_is_given_are_where_its_settings_look() -> None:
    (text,) = [block.text for block in BLOCKS if block.marker == "file: .env" and "LDM_MODEL=" in block.text]
    given = dict(line.split("=", 1) for line in text.splitlines())
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for part, folder, setting in (
        ("gateway", "LDM_KEYS_DIR", "LDM_API_KEYS_FILE"), ("worker", "LDM_MODELS_DIR", "LDM_MODEL"),
    ):  # fmt: skip
        (volume,) = [each for each in services[part]["volumes"] if folder in each]
        inside = volume.rpartition("}:")[2].removesuffix(":ro")
        assert given[folder].startswith("./") and given[setting].startswith(f"{inside}/")
        assert setting in services[part]["environment"]


def test_the_keys_that_compose_is_given_are_keys() -> None:
    (text,) = [block.text for block in BLOCKS if block.marker == "file: .env" and "LDM_API_KEYS=" in block.text]
    given = dict(line.split("=", 1) for line in text.splitlines())
    assert set(given) <= set(re.findall(r"LDM_\w+", (ROOT / "docker-compose.yml").read_text()))
    assert KeyRing(given["LDM_API_KEYS"]).configured


def test_the_proxy_has_nginx_s_grammar_and_lets_events_and_images_pass(tmp_path: Path) -> None:
    (text,) = [block.text for block in BLOCKS if block.language == "nginx"]
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    assert all(re.fullmatch(r"(\w+( [^;{}]+)?;|\w+( [^;{}]+)? \{|\}|)", re.sub(" +", " ", line)) for line in lines)
    assert text.count("{") == text.count("}") == 2
    assert "proxy_buffering off;" in text and "client_max_body_size 20m;" in text


def test_nothing_is_promised_from_an_index_that_has_no_release() -> None:
    assert not [page for page in PAGES if re.search(r"pip install ['\"]?ldm-(service|client)", page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_of_the_repository(page: Path) -> None:
    links = {link for link in LINK.findall(page.read_text()) if not link.startswith("http")}
    assert [link for link in sorted(links) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "ARCHITECTURE.md"], ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/*]+\.py)", page.read_text())
    assert not [path for path in named if not any(ROOT.glob(path))]


def test_the_readme_fits_on_a_few_screens() -> None:
    assert README.read_text().count("\n") <= 150


def test_the_page_of_settings_is_written_from_the_classes_and_has_all_of_them() -> None:
    page = configuration.page()
    assert configuration.PAGE.read_text() == page, "python -m docs.configuration"
    kinds = (GatewaySettings, ServeSettings, WorkerSettings)
    fields = {name: field for kind in kinds for name, field in kind.model_fields.items()}
    assert all(field.description for field in fields.values())
    listed = set(re.findall(r"^\| `(LDM_\w+)` \|", page, re.MULTILINE))
    assert listed == {configuration.variable(name) for name in fields} - {"LDM_WORKER_NAME"}


def test_every_setting_that_a_page_names_is_read() -> None:
    elsewhere = [ROOT / "clients/python/README.md", ROOT / "docker-compose.yml"]
    known = set(re.findall(r"LDM_\w*", "".join([configuration.page(), *(path.read_text() for path in elsewhere)])))
    for page in PAGES:
        assert set(re.findall(r"\bLDM_[A-Z0-9_]+", page.read_text())) <= known, page.name


def test_the_built_in_model_knows_as_many_words_as_the_pages_say() -> None:
    said = {words for page in PAGES for words in re.findall(r"knows (\d+)", page.read_text())}
    assert said == {str(len(read_card(ROOT / "ldm_core/builtin/scenes").vocabulary or ()))}


def test_the_site_builds_strictly_and_loads_nothing_from_another_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list(DOCS.glob("*.md")))
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"?(?:https?:)?//|<link[^>]+href=\"?(?:https?:)?//")
    assert not [page.name for page in pages if loads.search(page.read_text())]
    styles = [path.read_text() for path in (tmp_path / "site").rglob("*.css")]
    assert not [style for style in styles if re.search(r"url\([\"']?(?:https?:)?//|@import", style)]
    assert not list((tmp_path / "site").rglob("*.py"))
