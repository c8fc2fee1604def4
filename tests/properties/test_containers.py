"""Containers of X other than arrays and frames give the results of arrays, wherever X is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import ShuffleSplit

from gpusoftmax import (
    LinearSVMClassifier,
    SoftmaxClassifier,
    SoftmaxClassifierCV,
    linear_probe,
    loss_and_gradient,
    sweep_cs231n,
)
from gpusoftmax.reports.accuracy import measure
from tests.support.cases import sweep_with

ROWS = 60
Y = np.arange(ROWS) % 2
X = np.random.default_rng(0).standard_normal((ROWS, 3)) + Y[:, None]
COLUMNS = dict(zip("abc", X.T, strict=True))
SHUFFLED = ShuffleSplit(2, random_state=0)  # row numbers in no order, which h5py refuses
FITTED = SoftmaxClassifier().fit(X, Y)


class Exporter:
    """What only NumPy can read."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(X, dtype)


@pytest.fixture(params=["h5py", "zarr", "table", "chunked table", "batch", "memmap", "lists", "exporter"])
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """X in each kind of container."""
    kind = request.param
    if kind == "h5py":
        return pytest.importorskip("h5py").File(tmp_path / "x.h5", "w").create_dataset("X", data=X)
    if kind == "zarr":
        return pytest.importorskip("zarr").array(X, chunks=(7, 3))
    if kind == "memmap":
        np.save(tmp_path / "x.npy", X)
        return np.load(tmp_path / "x.npy", mmap_mode="r")
    if kind in ("lists", "exporter"):
        return X.tolist() if kind == "lists" else Exporter()
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table(COLUMNS)
    if kind == "chunked table":
        return pyarrow.concat_tables([table.slice(0, 13), table.slice(13)])
    return table if kind == "table" else pyarrow.RecordBatch.from_pydict(COLUMNS)


def accuracy(model: Any, features: Any, labels: Any) -> float:
    return float((model.predict(features) == labels).mean())


def swept(features: Any, **arguments: Any) -> Any:
    return sweep_with(features, Y, {"C": [0.1, 1.0]}, **arguments).trials.score


def probed(features: Any, protocol: str, **arguments: Any) -> Any:
    if protocol == "dinov2-linear":
        arguments |= {"n_iterations": 2, "batch_size": 8}
    return linear_probe(features, Y, features, Y, protocol=protocol, **arguments).estimator.coef_


WAYS: dict[str, Any] = {
    "fit": lambda x: SoftmaxClassifier().fit(x, Y, validation=(x, Y)).coef_,
    "fit an SVM": lambda x: LinearSVMClassifier().fit(x, Y).coef_,
    "partial_fit": lambda x: SoftmaxClassifier().partial_fit(x, Y).coef_,
    "score": lambda x: FITTED.score(x, Y),
    "predict_log_proba": lambda x: FITTED.predict_log_proba(x),
    "sweep": lambda x: swept(x, cv=SHUFFLED, out_of_fold=False),
    "sweep by a scorer": lambda x: swept(x, cv=SHUFFLED, scoring="f1"),
    "sweep by a function": lambda x: swept(x, cv=SHUFFLED, scoring=accuracy),
    "sweep by a scorer on a share": lambda x: swept(x, validation=0.3, scoring="f1"),
    "sweep by a scorer on given rows": lambda x: swept(x, validation=(x, Y), scoring="f1"),
    "CV by a scorer": lambda x: SoftmaxClassifierCV(Cs=2, cv=SHUFFLED, scoring="f1").fit(x, Y).score(x, Y),
    "course": lambda x: sweep_cs231n(
        x, Y, validation=(x, Y), learning_rates=[1e-3], regs=[1.0], n_iterations=2, batch_size=4
    ).best_estimator.coef_,
    "probe": lambda x: probed(x, "dinov2-logreg"),
    "probe with validation rows": lambda x: probed(x, "dinov2-logreg", validation=(x, Y)),
    "probe by SGD with validation rows": lambda x: probed(x, "dinov2-linear", validation=(x, Y)),
    "measure": lambda x: measure(FITTED, x, Y).top_1,
    "loss_and_gradient": lambda x: loss_and_gradient(x, Y, np.ones((3, 2)), np.zeros(2))[0],
}  # fmt: skip
IGNORED = "ignore:(X has feature names, but|validation and test rows are the same|.*above tol=|.*not within tol)"


@pytest.mark.slow
@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_container_is_worth_its_array(way: Any, container: Any) -> None:
    np.testing.assert_allclose(way(container), way(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["table", "batch"])
def test_columns_of_pyarrow_are_compared_by_name(kind: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    make = pyarrow.table if kind == "table" else pyarrow.RecordBatch.from_pydict
    model = SoftmaxClassifier().fit(make(COLUMNS), Y)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    swapped = make({name: COLUMNS[name] for name in "cba"})
    with pytest.raises(ValueError, match="same order"):
        model.predict(swapped)
    with pytest.raises(ValueError, match=r"validation\[0\] has other columns"):
        linear_probe(make(COLUMNS), Y, make(COLUMNS), Y, protocol="clip", validation=(swapped, Y))


@pytest.mark.slow
def test_labels_may_be_in_a_file(tmp_path: Path) -> None:
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    file = h5py.File(tmp_path / "y.h5", "w")
    file["y"], file["names"] = Y, np.array(["a", "b"], "S")[Y]
    for labels in (file["y"], zarr.array(Y)):
        np.testing.assert_array_equal(SoftmaxClassifier().fit(X, labels).coef_, FITTED.coef_)
        assert linear_probe(X, labels, X, labels, protocol="dinov2-logreg", validation=(X[::-1], Y[::-1])).test.k == 2
    with pytest.raises(TypeError, match=r"y holds labels of types bytes_; .*: y.asstr\(\)\[:\]"):
        SoftmaxClassifier().fit(X, file["names"])
    SoftmaxClassifier().fit(X, file["names"].asstr()[:])


def test_measuring_rows_of_an_array_misses_no_names() -> None:
    pandas = pytest.importorskip("pandas")
    model = SoftmaxClassifier().fit(pandas.DataFrame(COLUMNS), Y)
    assert measure(model, X, Y).top_1 == FITTED.score(X, Y)


def test_soft_labels_may_be_a_table() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    model = SoftmaxClassifier().fit(X, pyarrow.table({"no": 1.0 - Y, "yes": 1.0 * Y}))
    assert model.classes_.tolist() == ["no", "yes"]
