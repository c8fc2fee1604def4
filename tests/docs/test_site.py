"""The documentation site: built without a warning, complete, and without a link that leads nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import gpusoftmax

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("material", reason="pip install -e '.[docs]'")
pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'")


class Page(HTMLParser):
    """A page's anchors, its links, and what a browser loads to show it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "__skip"}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in ("script", "img", "iframe") and "src" in values:
            self.loaded.append(values["src"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_public_name_has_its_page(site: Path, pages: dict[Path, Page]) -> None:
    names = [name for name in gpusoftmax.__all__ if name != "__version__"]
    assert [name for name in names if site / "api" / f"{name}.html" not in pages] == []
    assert [name for name in names if f"gpusoftmax.{name}" not in pages[site / "api" / f"{name}.html"].anchors] == []
    index = {link.removesuffix(".html") for link in pages[site / "api" / "index.html"].links}
    assert set(names) <= index


def test_every_page_of_the_docs_is_in_the_navigation(site: Path, pages: dict[Path, Page]) -> None:
    start = set(pages[site / "index.html"].links) | {"index.html"}
    assert {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= start


def test_no_link_leads_nowhere(pages: dict[Path, Page]) -> None:
    missing = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target not in pages:
                found = target.is_file() and not parts.fragment
            else:
                found = unquote(parts.fragment) in pages[target].anchors
            if not found:
                missing.append(f"{path.name}: {link}")
    assert missing == []


def test_pages_load_nothing_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert [link for page in pages.values() for link in page.loaded if urlsplit(link).scheme not in ("", "data")] == []


def test_the_search_index_holds_the_pages_of_the_api(site: Path) -> None:
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert [name for name in gpusoftmax.__all__ if name != "__version__" and f'"api/{name}.html"' not in text] == []
