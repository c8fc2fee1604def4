"""The notebook: paired with its text, and running from start to end with the figures of the tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
TEXT = FOLDER / "softmax.py"


def executed(monkeypatch: pytest.MonkeyPatch, data: Path) -> Any:
    """The notebook after all its cells have run, with this folder of data."""
    monkeypatch.setenv("GPUSOFTMAX_DATA", str(data))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    notebook = jupytext.read(TEXT)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return notebook


def printed(notebook: Any) -> str:
    """What all cells printed."""
    outputs = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def pictures(notebook: Any) -> int:
    """How many cells show a figure."""
    return sum(
        any("image/png" in output.get("data", {}) for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    )


def test_the_notebook_has_the_cells_of_its_text() -> None:
    text, notebook = jupytext.read(TEXT), jupytext.read(FOLDER / "softmax.ipynb")
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in text.cells
    ]


def test_the_notebook_is_committed_without_outputs() -> None:
    assert not [cell for cell in jupytext.read(FOLDER / "softmax.ipynb").cells if cell.get("outputs")]


@pytest.mark.slow
def test_it_runs_on_digits_where_cifar10_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notebook = executed(monkeypatch, tmp_path)
    text = printed(notebook)
    assert "The digits of scikit-learn take the place of CIFAR-10." in text
    assert "the loss with loops: right" in text
    assert "- the gradient of the penalty is missing" in text
    assert pictures(notebook) >= 6


@pytest.mark.slow
@pytest.mark.cifar10
def test_its_figures_on_cifar10_are_those_of_the_course(monkeypatch: pytest.MonkeyPatch, cifar10_folder: Path) -> None:
    text = printed(executed(monkeypatch, cifar10_folder))

    def percent(pattern: str) -> float:
        (found,) = re.findall(pattern + r"([\d.]+)%", text)
        return float(found)

    # a run's accuracy on 10,000 images scatters by a point between seeds; see docs/cifar10.md for the means
    assert percent(r"softmax, the course's settings: validation [\d.]+%, test ") == pytest.approx(33.0, abs=1.5)
    assert percent(r"SVM, the course's settings: validation [\d.]+%, test ") == pytest.approx(36.4, abs=1.5)
    assert percent(r"chosen .*: test accuracy ") == pytest.approx(41.2, abs=0.3)
