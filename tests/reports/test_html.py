"""Reports as pages: what is on them, and that untrusted names stay text."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import (
    LinearSVMClassifier,
    SoftmaxClassifier,
    SoftmaxClassifierCV,
    load_digits,
    make_table_classifier,
    report,
    scale_temperature,
    sweep,
)
from gpusoftmax.reports.accuracy import measure
from gpusoftmax.reports.evaluation import evaluation
from gpusoftmax.reports.html import charts, features

for package in ("altair", "vl_convert", "jinja2", "PIL"):
    pytest.importorskip(package)

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


class Page(html.parser.HTMLParser):
    """The tags of a page, the text outside scripts, and the scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text, self.scripts, self.inside = "", [], False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag in ("script", "style")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.text += data
        elif self.scripts:
            self.scripts[-1] += data

    def points(self, words: str) -> Any:
        """The data of the plot with these words in its description."""
        (spec,) = (spec for spec in self.specs if words in spec["description"])
        return values_of(spec)

    @property
    def specs(self) -> list[dict[str, Any]]:
        """The plots."""
        return [json.loads(found["data-spec"]) for _, found in self.tags if "data-spec" in found]

    def of(self, tag: str) -> list[dict[str, Any]]:
        """The attributes of all tags of a kind."""
        return [found for name, found in self.tags if name == tag]


def values_of(spec: dict[str, Any]) -> Any:
    """The data of a plot's first layer, which Altair puts beside the layers if all have them."""
    return (spec if "data" in spec else spec["layer"][0])["data"]["values"]


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_digits()


@pytest.fixture(scope="module")
def model(digits: Any) -> Any:
    return SoftmaxClassifier(C=1e-3).fit(*digits.parts["train"])


def test_figures_are_those_of_the_model(model: Any, digits: Any, tmp_path: Path) -> None:
    report(model, tmp_path / "page.html", data=digits)
    page = Page(tmp_path / "page.html")
    measured = measure(model, *digits.parts["test"])
    assert json.loads(page.scripts[0]) == evaluation(measured, np.array(list("0123456789"), dtype=object))
    assert f"{measured.top_1:.2%}" in page.text
    assert [cell["count"] for cell in page.points("confusion matrix")] == measured.confusion.ravel().tolist()
    assert measured.reliability is not None
    (diagram,) = (spec for spec in page.specs if "reliability" in spec["description"])
    assert f"{measured.reliability.error:.2%}" in diagram["description"]


def test_digits_have_templates_and_mistakes_as_images(model: Any, digits: Any, tmp_path: Path) -> None:
    report(model, tmp_path / "page.html", data=digits)
    page = Page(tmp_path / "page.html")
    wrong = int((model.predict(digits.X_test) != digits.y_test).sum())
    images = page.of("img")
    assert [one["alt"] for one in images].count("weights of 3") == 1
    assert len(images) == 10 + min(wrong, 24)
    assert all(one["src"].startswith("data:image/png;base64,") for one in images)


def test_nothing_is_loaded_from_elsewhere(model: Any, digits: Any, tmp_path: Path) -> None:
    report(model, tmp_path / "page.html", data=digits)
    page = Page(tmp_path / "page.html")
    for tag, found in page.tags:
        for name in ("src", "href", "data", "srcset", "action"):
            value = found.get(name)
            assert value is None or value.startswith(("data:image/png", "#")), (tag, name, value)
    (policy,) = (found["content"] for found in page.of("meta") if found.get("http-equiv"))
    assert "default-src 'none'" in policy
    (script,) = (found for found in page.of("script") if "nonce" in found)
    assert f"'nonce-{script['nonce']}'" in policy


def test_names_of_classes_and_columns_stay_text(rng: np.random.Generator, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rng.normal(size=(90, 2)), columns=[ATTACK, "b"])
    labels = np.array([ATTACK, "{{ 7 * 7 }}", "c"])[rng.integers(0, 3, 90)]
    model = SoftmaxClassifier().fit(frame, labels)
    report(model, tmp_path / "page.html", data=(frame, labels), title=ATTACK, command=ATTACK)
    page = Page(tmp_path / "page.html")
    assert page.text.count(ATTACK) > 3
    assert "{{ 7 * 7 }}" in page.text
    assert not [found for tag, found in page.tags if "onerror" in found]
    assert len(page.of("script")) == 2


def test_a_sweep_shows_how_C_was_chosen(digits: Any, tmp_path: Path) -> None:
    result = sweep(SoftmaxClassifier(), {"C": [1e-4, 1e-3, 1e-2]}, *digits.parts["train"], cv=3)
    report(result, tmp_path / "page.html", data=digits)
    page = Page(tmp_path / "page.html")
    np.testing.assert_allclose([point["score"] for point in page.points("was chosen")], result.mean_scores_)
    assert "0.001 (chosen)" in page.text or "0.01 (chosen)" in page.text or "0.0001 (chosen)" in page.text


def test_two_parameters_are_a_map(digits: Any, tmp_path: Path) -> None:
    grid = {"C": [0.1, 1.0], "learning_rate": [0.01, 0.1]}
    result = sweep(SoftmaxClassifier(solver="sgd", max_iter=2, tol=0), grid, *digits.parts["train"], cv=2)
    report(result, tmp_path / "page.html")
    assert any("C and learning_rate" in spec["description"] for spec in Page(tmp_path / "page.html").specs)


def test_a_table_lists_weights_by_name_and_reasons(rng: np.random.Generator, tmp_path: Path) -> None:
    colours = np.array(["red", "green", "blue"])[rng.integers(0, 3, 120)]
    table = {"colour": colours, "size": rng.normal(size=120)}
    labels = np.where(rng.random(120) < 0.8, colours, "other")
    model = make_table_classifier(min_frequency=2).fit(table, labels)
    report(model, tmp_path / "page.html", data=(table, labels))
    text = Page(tmp_path / "page.html").text
    assert "for red" in text
    assert "colour=red" in text or "colour_red" in text or "colour" in text
    assert "what spoke for it most" in text


def test_an_svm_has_no_probabilities(digits: Any, tmp_path: Path) -> None:
    model = LinearSVMClassifier(C=1e-3).fit(*digits.parts["train"])
    report(model, tmp_path / "page.html", data=digits)
    text = Page(tmp_path / "page.html").text
    assert "Whether the probabilities" not in text
    assert "lead of its score" in text


def test_a_model_alone_has_a_page(model: Any, tmp_path: Path) -> None:
    report(model, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "How the fit went" in page.text
    assert "Each class" not in page.text


def test_many_classes_have_a_list_of_confusions(rng: np.random.Generator, tmp_path: Path) -> None:
    c = charts.MOST_IN_MATRIX + 5
    X, y = rng.normal(size=(600, 4)), np.arange(600) % c
    model = SoftmaxClassifier(max_iter=2, tol=1.0).fit(X, y)
    report(model, tmp_path / "page.html", data=(X, y))
    page = Page(tmp_path / "page.html")
    assert "The most frequent confusions" in page.text
    assert not any("confusion matrix" in spec["description"] for spec in page.specs)


def test_two_classes_of_one_name_are_two_rows_of_the_matrix() -> None:
    spec = charts.confusion(np.eye(3, dtype=int), ["a", "a", "b"])
    assert {cell["label"] for cell in values_of(spec)} == {"0 a", "1 a", "b"}


@pytest.mark.parametrize("what", ["a model", SoftmaxClassifier])
def test_what_is_no_model_is_refused(what: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="what is a"):
        report(what, tmp_path / "page.html")


def test_a_failed_report_leaves_no_file(model: Any, digits: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a list of 10 names"):
        report(model, tmp_path / "page.html", data=digits, names=["a", "b"])
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpusoftmax.reports.html import page

    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "vl_convert" else object())
    with pytest.raises(ImportError, match=r"need vl_convert.*gpusoftmax\[report\]"):
        report(model, tmp_path / "page.html")


@pytest.mark.cifar10
def test_cifar10_fits_into_three_megabytes(cifar10_folder: Path, tmp_path: Path) -> None:
    from gpusoftmax import load_cifar10

    data = load_cifar10(cifar10_folder)
    model = SoftmaxClassifier(C=1e-3, scaling="standard").fit(data.X_train, data.y_train)
    report(model, tmp_path / "page.html", data=data)
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


def test_reasons_are_relative_to_the_average_row() -> None:
    lead, x, centres = np.array([1.0, 1.0, -1.0]), np.array([[100.0, 3.0, 0.0]]), np.array([100.0, 1.0, 1.0])
    assert features.reasons(lead, x, centres, ["far", "near", "below"]) == [("near", 2.0), ("below", 1.0)]


def test_sparse_rows_have_weights_and_reasons(rng: np.random.Generator, tmp_path: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    X = sparse.random_array((120, 30), density=0.2, format="csr", rng=rng)
    model = SoftmaxClassifier().fit(X, np.arange(120) % 3)
    model.feature_names_in_ = np.array([f"word {j}" for j in range(30)], dtype=object)
    report(model, tmp_path / "page.html", data=(X, np.arange(120) % 3))
    assert "word " in Page(tmp_path / "page.html").text


def test_a_calibrated_model_shows_its_temperature(digits: Any, tmp_path: Path) -> None:
    model = scale_temperature(SoftmaxClassifier(C=1000).fit(*digits.parts["train"]), *digits.parts["validation"])
    report(model, tmp_path / "page.html", data=digits)
    text = Page(tmp_path / "page.html").text
    assert f"{model.temperature_:.4g}" in text
    assert "before the temperature" in text


def test_a_long_fit_is_thinned(digits: Any, tmp_path: Path) -> None:
    model = SoftmaxClassifier(solver="sgd", max_iter=400, batch_size="full", tol=0).fit(*digits.parts["train"])
    report(model, tmp_path / "page.html")
    drawn = {point["passes"] for point in Page(tmp_path / "page.html").points("training loss from")}
    assert len(drawn) == 200
    assert max(drawn) == 400


def test_a_cross_validated_classifier_has_a_page(digits: Any, tmp_path: Path) -> None:
    model = SoftmaxClassifierCV([1e-3, 1e-2], cv=2).fit(*digits.parts["train"])
    report(model, tmp_path / "page.html", data=digits)
    assert "SoftmaxClassifierCV" in Page(tmp_path / "page.html").text


def test_no_rows_are_refused(model: Any, digits: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data has no rows"):
        report(model, tmp_path / "page.html", data=(digits.X_test[:0], digits.y_test[:0]))


def test_features_without_names_have_numbers(rng: np.random.Generator, tmp_path: Path) -> None:
    X, y = rng.normal(size=(90, 3)), np.arange(90) % 3
    report(SoftmaxClassifier().fit(X, y), tmp_path / "page.html", data=(X, y))
    assert "feature 2" in Page(tmp_path / "page.html").text
