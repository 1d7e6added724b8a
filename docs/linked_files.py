"""A hook of mkdocs: a link from a page to a file of the repository takes the file along into the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"((?:\]\(|src=\"))\.\./([^)#\s\"]+)")
BESIDE = re.compile(r"\]\(([^)#\s:]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds each file outside docs/ that a page links to, under the path that it has in the repository."""
    paths = {path for file in files.documentation_pages() for _, path in LINK.findall(file.content_string)}
    paths |= {other for path in paths if path.endswith(".md") for other in linked_from(Path(path))}
    for path in sorted(paths):
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def linked_from(page: Path) -> set[str]:
    """The files that a page outside docs/ links to."""
    found = ((page.parent / link).as_posix() for link in BESIDE.findall((ROOT / page).read_text()))
    return {path for path in found if (ROOT / path).is_file()}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Follows the files: `../examples/photo.png` on GitHub is `examples/photo.png` on the site."""
    return LINK.sub(r"\1\2", markdown)
