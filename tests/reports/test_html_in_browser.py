"""Reports in a real browser: drawn, without errors or requests, and accessible by axe-core's rules."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import SoftmaxClassifier, load_digits, report, sweep

pytestmark = [pytest.mark.slow, pytest.mark.browser]
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ATTACK = "<script>document.title='hacked'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: install Debian's package chromium, or Chrome")
    with playwright.sync_playwright() as started:
        one = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield one
        one.close()


@pytest.fixture(scope="module")
def page_of_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section."""
    digits = load_digits()
    result = sweep(SoftmaxClassifier(), {"C": [1e-4, 1e-3, 1e-2]}, *digits.parts["train"], cv=3)
    path = tmp_path_factory.mktemp("report") / "digits.html"
    report(result, path, data=digits, command="gpusoftmax sweep digits --cv 3")
    return path


@pytest.fixture(scope="module")
def page_of_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a table whose names are hostile."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(90, 3)), columns=[ATTACK, "width", "height"])
    labels = np.array([ATTACK, "birch", "cedar"])[rng.integers(0, 3, 90)]
    path = tmp_path_factory.mktemp("report") / "table.html"
    report(SoftmaxClassifier().fit(frame, labels), path, data=(frame, labels), title=ATTACK)
    return path


def opened(browser: Any, path: Path, **options: Any) -> tuple[Any, list[str], list[str]]:
    """A page that has drawn its plots, its errors and what it requested."""
    page = browser.new_context(**options).new_page()
    errors: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]", timeout=20_000)
    return page, errors, [url for url in requests if not url.startswith(("file:", "data:"))]


@pytest.fixture(params=["digits", "table"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"page_of_{request.param}")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_plots_are_drawn_without_errors_or_requests(browser: Any, path: Path, scheme: str) -> None:
    page, errors, requests = opened(browser, path, color_scheme=scheme)
    assert errors == []
    assert requests == []
    n = page.locator(".chart").count()
    assert n >= 3
    assert page.locator(".chart svg").count() == n
    boxes = [chart.bounding_box() for chart in page.locator(".chart svg").all()]
    assert all(box["width"] > 100 and box["height"] > 100 for box in boxes)


def test_names_of_a_table_are_text(browser: Any, page_of_table: Path) -> None:
    page, _, _ = opened(browser, page_of_table)
    assert page.title() == f"{ATTACK}: report"
    assert page.get_by_role("heading", level=1).inner_text() == ATTACK
    page.locator(".chart svg path[aria-label]").first.hover(force=True)
    assert page.title() == f"{ATTACK}: report"


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_as_wide_as_the_window(browser: Any, path: Path, width: int) -> None:
    page, _, _ = opened(browser, path, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_classes_are_sorted_and_filtered_by_keyboard(browser: Any, page_of_digits: Path) -> None:
    page, _, _ = opened(browser, page_of_digits)
    table = page.locator("#classes")
    table.get_by_role("button", name="recall").press("Enter")
    assert table.get_by_role("columnheader", name="recall").get_attribute("aria-sort") == "ascending"
    recalls = [float(cell) for cell in table.locator("tbody td:nth-child(4)").all_inner_texts()]
    assert recalls == sorted(recalls)
    page.get_by_label("Show classes whose name contains").fill("3")
    assert table.locator("tbody tr:visible").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser: Any, path: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, _, _ = opened(browser, path, color_scheme=scheme)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found] == []


def test_a_page_is_drawn_in_a_moment(browser: Any, page_of_digits: Path) -> None:
    started = time.monotonic()
    opened(browser, page_of_digits)
    assert time.monotonic() - started < 60  # a page that hangs; how fast it is, is measured elsewhere
