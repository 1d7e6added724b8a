"""A hook of mkdocs: a link from a page to a file of the repository takes the file along into the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"((?:\]\(|src=\"))\.\./([^)#\s\"]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds each file outside docs/ that a page links to, under the path that it has in the repository."""
    pages = [file.content_string for file in files.documentation_pages()]
    for path in sorted({path for text in pages for _, path in LINK.findall(text)}):
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Follows the files: `../examples/photo.png` on GitHub is `examples/photo.png` on the site."""
    return LINK.sub(r"\1\2", markdown)
