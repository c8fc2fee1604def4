"""Results of a sweep as a table, in words and in plots; how the best is chosen, and its warnings."""

from __future__ import annotations

import builtins
import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax.search.result import SweepResult, Trials, choose, edges, standard_errors

NAN = np.nan


def result_of(scores: Any, candidates: list[dict[str, Any]], **options: Any) -> SweepResult:
    """A result with these scores (splits, candidates)."""
    trials = Trials.empty(*np.shape(scores))
    trials.score[...] = scores
    trials.accuracy[...], trials.loss[...], trials.objective[...], trials.passes[...] = 0.5, 1.5, 2.5, 4.0
    trials.status[...] = "converged"
    best, ties = choose(trials.score, -np.arange(len(candidates), dtype=float), np.zeros(len(candidates)), "best")
    return SweepResult(
        candidates, trials, "accuracy", "best", best, ties, edges(candidates, best), np.arange(3), [], **options
    )


CS = [{"C": C} for C in (0.1, 1.0, 10.0)]


@pytest.mark.parametrize(
    ("scores", "strengths", "rates", "best", "ties"),
    [
        ([[1, 3, 2]], [3, 2, 1], [0, 0, 0], 1, []),
        ([[3, 3, 2]], [1, 2, 3], [0, 0, 0], 1, [0]),  # of equals the strongest penalty
        ([[3, 3, 3]], [1, 1, 1], [2, 1, 3], 1, [0, 2]),  # then the smallest rate
        ([[NAN, 1, 2], [9, 1, 2]], [3, 2, 1], [0, 0, 0], 2, []),  # one without a split does not count
        ([[0.1, 0.3, 0.2], [0.3, 0.1, 0.1]], [1, 2, 3], [0, 0, 0], 1, [0]),  # equal but for rounding
    ],
)
def test_the_best_has_the_largest_mean_score(scores: Any, strengths: Any, rates: Any, best: int, ties: Any) -> None:
    assert choose(np.array(scores, float), np.array(strengths), np.array(rates), "best") == (best, ties)


def test_within_a_standard_error_the_strongest_penalty_is_taken() -> None:
    scores = np.array([[0.6, 0.69, 0.8], [0.6, 0.69, 0.6]])  # the best has a mean of 0.7 and an error of 0.1
    strengths, rates = np.array([3.0, 2.0, 1.0]), np.zeros(3)
    assert choose(scores, strengths, rates, "1se")[0] == 0
    assert choose(scores - np.array([0.02, 0, 0]), strengths, rates, "1se")[0] == 1


def test_standard_errors_are_of_means_over_splits() -> None:
    scores = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    np.testing.assert_allclose(standard_errors(scores), [1 / np.sqrt(3), 0.0])
    assert np.isnan(standard_errors(scores[:1])).all()


@pytest.mark.parametrize(
    ("candidates", "best", "expected"),
    [
        (CS, 0, {"C": "smallest"}),
        (CS, 1, {}),
        (CS, 2, {"C": "largest"}),
        ([{"C": 1.0}], 0, {}),
        ([{"C": 1.0, "class_weight": w} for w in (None, "balanced")], 0, {}),
        ([{"C": C, "momentum": m} for C in (1.0, 2.0) for m in (0.0, 0.5, 0.9)], 1, {"C": "smallest"}),
    ],
)
def test_a_best_value_at_the_end_of_the_grid_is_flagged(candidates: Any, best: int, expected: Any) -> None:
    assert edges(candidates, best) == expected


def test_the_table_has_a_row_for_each_candidate() -> None:
    pandas = pytest.importorskip("pandas")
    table = result_of([[0.5, 0.7, 0.6], [0.5, 0.9, 0.6]], CS).table
    assert isinstance(table, pandas.DataFrame)
    assert table["C"].tolist() == [0.1, 1.0, 10.0]
    assert table["rank"].tolist() == [3, 1, 2]
    np.testing.assert_allclose(table["score"], [0.5, 0.8, 0.6])
    np.testing.assert_allclose(table["score_1"], [0.5, 0.9, 0.6])
    assert table["status"].tolist() == ["converged"] * 3


def test_without_pandas_it_is_a_structured_array(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name in ("pandas", "pyarrow"):
            raise ImportError(f"No module named {name!r}")
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    result = result_of([[0.5, 0.7, 0.6]], CS)
    table = result.table
    assert (type(table), table["C"].tolist(), table["rank"].tolist()) == (np.ndarray, [0.1, 1.0, 10.0], [3, 1, 2])
    with pytest.raises(ImportError, match=r"Parquet needs pandas and pyarrow .*; install them, or use to_csv"):
        result.to_parquet("table.parquet")


def test_csv_holds_the_table(tmp_path: Path) -> None:
    result = result_of([[0.5, 0.7], [0.5, 0.9]], [{"C": 0.1, "class_weight": w} for w in (None, {"a": 2})])
    result.to_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class_weight"] for row in rows] == ["None", "{'a': 2}"]
    assert [float(row["score"]) for row in rows] == pytest.approx([0.5, 0.8])


def test_parquet_holds_the_table(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    result = result_of([[0.5, 0.7, 0.6]], CS)
    result.to_parquet(tmp_path / "table.parquet")
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "table.parquet"), result.table)


def test_the_report_says_what_was_chosen_how_sure_it_is_and_where_the_grid_ends() -> None:
    report = result_of([[0.5, 0.5, 0.7], [0.5, 0.5, 0.9]], CS, seconds_=1.25).report
    assert "3 configurations on 2 splits, SGD, 1.2 s; score: accuracy" in report
    assert "* C = 10   0.8000 ± 0.1000  accuracy 50.00%  loss 1.5000  4 passes" in report
    assert "chosen (best score): C = 10\n" in report
    assert "C is the largest value that was tried: a better one may lie beyond it" in report


def test_of_equals_the_chosen_one_is_the_first() -> None:
    result = result_of([[0.5, 0.5, 0.5]], CS)
    result.best_index_ = 2
    assert result.order_.tolist() == [2, 0, 1]
    assert result.report.splitlines()[1].startswith("* C = 10")


def test_the_report_names_ties() -> None:
    assert "same score: C = 1; C = 10" in result_of([[0.5, 0.5, 0.5]], CS).report
    (ties,) = re.findall("same score: .*", result_of([[0.5] * 15], [{"C": float(10**k)} for k in range(15)]).report)
    assert ties.count("C = ") == 10
    assert ties.endswith("; and 4 more")


def test_the_report_is_short_for_a_large_grid() -> None:
    report = result_of([np.linspace(0, 1, 50)], [{"C": float(k + 1)} for k in range(50)]).report
    assert "and 40 more" in report
    assert len(report.splitlines()) < 16


def test_repr_is_a_line() -> None:
    assert repr(result_of([[0.5, 0.7, 0.6]], CS)) == "<SweepResult: 3 candidates x 1 splits, best C=1.0, accuracy 0.7>"


@pytest.mark.slow
def test_a_curve_has_error_bars_and_a_logarithmic_axis() -> None:
    pytest.importorskip("matplotlib")
    ax = result_of([[0.5, 0.7, 0.6], [0.5, 0.9, 0.6]], CS).plot()
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "C")
    (container,) = ax.containers
    np.testing.assert_allclose(np.asarray(container.lines[0].get_xdata(), float), [0.1, 1.0, 10.0])
    np.testing.assert_allclose(np.asarray(container.lines[0].get_ydata(), float), [0.5, 0.8, 0.6])
    assert container.has_yerr
    assert "chosen: C = 1" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_what_is_no_number_has_a_curve_each() -> None:
    pytest.importorskip("matplotlib")
    candidates = [{"C": C, "class_weight": w} for C in (0.1, 1.0) for w in (None, "balanced")]
    ax = result_of([[0.1, 0.2, 0.3, 0.4]], candidates).plot()
    assert [c.get_label() for c in ax.containers] == ["class_weight = None", "class_weight = balanced"]


def test_two_numbers_make_a_map() -> None:
    pytest.importorskip("matplotlib")
    candidates = [{"C": C, "learning_rate": r} for C in (0.1, 1.0) for r in (0.01, 0.1, 1.0)]
    ax = result_of([[1, 2, 3, 4, 5, np.nan]], candidates).plot()
    np.testing.assert_array_equal(np.ma.filled(ax.images[0].get_array(), np.nan), [[1, 4], [2, 5], [3, np.nan]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("C", "learning_rate")


def test_a_plot_goes_where_it_is_told() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    ax = figure.add_subplot()
    assert result_of([[0.5, 0.7, 0.6]], CS).plot(ax) is ax


@pytest.mark.parametrize(
    "candidates",
    [
        [{"C": 1.0}],
        [{"C": C, "momentum": m, "learning_rate": r} for C in (1.0, 2.0) for m in (0.0, 0.9) for r in (0.1, 0.2)],
    ],
)
def test_what_cannot_be_drawn_is_refused(candidates: Any) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match=r"a plot needs one or two numbers that vary.*result\.table"):
        result_of([np.linspace(0, 1, len(candidates))], candidates).plot()


def test_an_infinite_C_has_no_place_on_the_axis() -> None:
    pytest.importorskip("matplotlib")
    ax = result_of([[0.5, 0.7, 0.6]], [{"C": 0.1}, {"C": 1.0}, {"C": np.inf}]).plot()
    assert len(ax.containers[0].lines[0].get_xdata()) == 2


def test_what_was_halved_away_is_not_drawn_beside_what_was_not() -> None:
    pytest.importorskip("matplotlib")
    result = result_of([[0.5, 0.7, 0.6]], CS)
    result.trials.status[0, 0] = "halved"
    assert len(result.plot().containers[0].lines[0].get_xdata()) == 2


def test_a_candidate_that_was_interrupted_says_how_far_it_came() -> None:
    result = result_of([[0.5, 0.7, np.nan], [0.5, 0.9, np.nan]], CS)
    result.trials.status[1, 2] = ""
    assert result.rows[2]["status"] == "1 of 2 splits"
