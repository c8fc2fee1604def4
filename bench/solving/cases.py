"""The cases that solvers are compared on: real data, and data that are hard for some of them.

Each is scikit-learn's objective at one C: (1 / n) sum_i loss_i + ||W||^2 / (2 C n), the intercept free. The loss is
softmax, or the squared hinge of Weston and Watkins: sum_{j != y} max(0, z_j - z_y + 1)^2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, load_npz

Array = npt.NDArray[Any]

QUICK_ROWS = 1000  # of a case under --quick
MINILM = "embeddings-minilm.npz"


@dataclass(frozen=True)
class Case:
    """A case; `make` draws or loads its data, of which the first `rows` are taken (None: all).

    `file` is what the folder of the data has to hold beside CIFAR-10, or instead of it.
    """

    name: str
    words: str
    C: float
    make: Callable[[Path | None], tuple[Array, Array, Any]]
    needs_data: bool = False
    rows: int | None = None
    loss: str = "softmax"
    file: str = ""

    def quick(self) -> Case:
        """The case with few rows, for trying things out."""
        return replace(self, rows=QUICK_ROWS if self.rows is None else min(self.rows, QUICK_ROWS))

    def problem(self, data: Path | None) -> Problem:
        """The data; ValueError if they are not there."""
        X, y, scaling = self.make(data)
        return Problem(self, X[: self.rows], y[: self.rows], scaling, data)


@dataclass(frozen=True)
class Problem:
    """X (n, d) as a user has it, an array or a csr_array, labels y (n,) from 0, and the shift and scale in which the
    penalty is meant; `data` is the folder that they come from."""

    case: Case
    X: Array
    y: Array
    scaling: Any
    data: Path | None = None

    @property
    def n_classes(self) -> int:
        """c."""
        return int(self.y.max()) + 1

    @property
    def l2(self) -> float:
        """The penalty on the mean loss."""
        return 1.0 / (self.case.C * len(self.y))

    def scaled(self) -> Array:
        """X for contenders that fold no scaling: float64 if X is, else float32."""
        if self.scaling is None:
            return self.X if self.X.dtype in (np.float32, np.float64) else self.X.astype(np.float32)
        shift, scale = self.scaling
        return ((self.X.astype(np.float64) - shift) / scale).astype(np.float32)


def cifar10(folder: Path | None) -> tuple[Array, Array, Any]:
    """cs231n's 49000 training images, uint8; minus the mean image and / 64."""
    from gpusoftmax import load_cifar10

    if folder is None:
        raise ValueError("CIFAR-10 needs --data DIR")
    found = load_cifar10(folder)
    return found.X_train, found.y_train, (found.X_train.mean(axis=0), np.full(found.X_train.shape[1], 64.0))


def digits(folder: Path | None) -> tuple[Array, Array, Any]:
    """scikit-learn's 1797 images of 64 pixels from 0 to 1: separable, so that a weak penalty means confidence."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.data / 16, found.target, None


def raw_digits(folder: Path | None) -> tuple[Array, Array, Any]:
    """scikit-learn's digits as they are, with pixels from 0 to 16."""
    X, y, _ = digits(folder)
    return X * 16, y, None


def standardised_digits(folder: Path | None) -> tuple[Array, Array, Any]:
    """Digits, each pixel with mean 0 and standard deviation 1; those that are always 0 stay so."""
    X, y, _ = digits(folder)
    deviations = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(deviations > 0, deviations, 1.0), y, None


def minilm(folder: Path | None) -> tuple[Array, Array, Any]:
    """Real embeddings: descriptions of packages by MiniLM, 384 features in float16, sections as classes."""
    assert folder is not None
    with np.load(folder / MINILM) as found:
        train = ~found["test"]
        return found["X"][train], found["y"][train].astype(np.int64), None


def iris(folder: Path | None) -> tuple[Array, Array, Any]:
    """scikit-learn's 150 flowers: so few that a solver's own overhead is what takes time."""
    from sklearn.datasets import load_iris

    found = load_iris()
    return found.data, found.target, None


def embeddings(folder: Path | None, n: int = 100_000, d: int = 768, c: int = 100) -> tuple[Array, Array, Any]:
    """Class means and noise, rows of length about 1; 10% of the labels are wrong."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((c, d)).astype(np.float32)
    y = rng.integers(0, c, n)
    X = 0.2 * means[y] + rng.standard_normal((n, d), dtype=np.float32)
    X /= np.sqrt(np.float32(d))
    wrong = rng.random(n) < 0.1
    return X, np.where(wrong, rng.integers(0, c, n), y), None


def separable(folder: Path | None) -> tuple[Array, Array, Any]:
    """Ten classes far apart."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 10, 5000)
    X = 2 * rng.standard_normal((10, 100))[y] + rng.standard_normal((5000, 100))
    return X.astype(np.float32), y, None


def rare(folder: Path | None) -> tuple[Array, Array, Any]:
    """Five classes, of which three have 0.4, 0.08 and 0.02% of the rows."""
    rng = np.random.default_rng(5)
    y = rng.choice(5, 25_000, p=[0.5, 0.495, 0.004, 0.0008, 0.0002])
    y[:5] = np.arange(5)
    X = 0.3 * rng.standard_normal((5, 300))[y] + rng.standard_normal((25_000, 300))
    return X.astype(np.float32), y, None


def unscaled(folder: Path | None) -> tuple[Array, Array, Any]:
    """Columns whose sizes go from a thousandth to a thousand, with offsets, as tables of measurements have."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 5, 20_000)
    X = rng.standard_normal((5, 50))[y] * 0.4 + rng.standard_normal((20_000, 50)) + 3 * rng.standard_normal(50)
    return X * np.logspace(-3, 3, 50), y, None


def wide(folder: Path | None) -> tuple[Array, Array, Any]:
    """Fewer rows than features."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 10, 500)
    X = 0.1 * rng.standard_normal((10, 5000))[y] + rng.standard_normal((500, 5000))
    return X.astype(np.float32), y, None


def words(folder: Path | None, n: int = 20_000, d: int = 75_000, c: int = 20) -> tuple[Any, Array, Any]:
    """Sparse rows like those of tf-idf: 78 words of the frequencies of a language, some of them typical of a class."""
    rng = np.random.default_rng(4)
    y = rng.integers(0, c, n)
    drawn = np.minimum((d ** rng.random((n, 78))).astype(np.int64), d - 1)
    typical = rng.random(drawn.shape) < 0.15
    drawn[typical] = (drawn[typical] * c + np.broadcast_to(y[:, None], drawn.shape)[typical]) % d
    indptr = np.arange(0, drawn.size + 1, 78, dtype=np.int32)  # saga takes no others
    X = csr_array((np.ones(drawn.size, np.float32), drawn.ravel().astype(np.int32), indptr), (n, d))
    X.sum_duplicates()
    frequency = np.bincount(X.indices, minlength=d)
    X.data[:] = (1 + np.log(X.data)) * np.log(n / frequency[X.indices])
    lengths = np.sqrt(X.multiply(X).sum(axis=1))
    X.data /= np.repeat(lengths, np.diff(X.indptr)).astype(np.float32)
    return X, y, None


def stored(name: str) -> Callable[[Path | None], tuple[Any, Array, Any]]:
    """A sparse matrix of the user's own: DIR/NAME.npz, by scipy.sparse.save_npz, and DIR/NAME-labels.npy."""

    def load(folder: Path | None) -> tuple[Any, Array, Any]:
        assert folder is not None
        return csr_array(load_npz(folder / f"{name}.npz")), np.load(folder / f"{name}-labels.npy"), None

    return load


def short(C: float) -> str:
    """C as names have it: 100, 0.1, 1e-2."""
    return f"{C:g}" if C >= 0.1 else f"{C:.0e}".replace("-0", "-")


CASES = (
    *(Case(f"cifar10-{short(C)}", f"CIFAR-10, C = {C:g}", C, cifar10, True) for C in (1, 0.1, 1e-2, 3e-4, 1e-4)),
    *(
        Case(f"fold-{rows}-{short(C)}", f"{rows} images of CIFAR-10, C = {C:g}", C, cifar10, True, rows)
        for rows in (6000, 12_000)
        for C in (1e-2, 1e-4)
    ),
    *(
        Case(
            f"minilm-{C}",
            f"embeddings of package descriptions, 12786 x 384, 20 classes, C = {C}",
            C,
            minilm,
            True,
            file=MINILM,
        )
        for C in (1, 10, 100, 1000)
    ),
    *(Case(f"digits-{C}", f"digits, 1797 x 64, 10 classes, C = {C}", C, digits) for C in (1, 100, 10_000, 1_000_000)),
    *(
        Case(f"hinge-{name}", f"squared hinge, digits{words_of}, C = 1", 1.0, make, loss="squared_hinge")
        for name, words_of, make in (
            ("digits", ", / 16", digits),
            ("standardised", ", standardised", standardised_digits),
            ("raw", ", raw", raw_digits),
        )
    ),
    Case("iris", "iris, 150 x 4, 3 classes, C = 1", 1.0, iris),
    Case("probe", "embeddings, 100000 x 768, 100 classes, C = 3, which validation chooses", 3.0, embeddings),
    Case("separable", "separable, 5000 x 100, 10 classes, C = 100", 100.0, separable),
    Case("unscaled", "columns of very different sizes, 20000 x 50, 5 classes, C = 1", 1.0, unscaled),
    *(
        Case(f"unscaled-{short(C)}", f"columns of very different sizes, 20000 x 50, 5 classes, C = {C:g}", C, unscaled)
        for C in (1e-4, 100)
    ),
    *(
        Case(
            f"rare-{short(C)}",
            f"classes of 0.4, 0.08 and 0.02% of the rows, 25000 x 300, 5 classes, C = {C:g}",
            C,
            rare,
        )
        for C in (1e-3, 1e-2)
    ),
    Case("wide", "fewer rows than features, 500 x 5000, 10 classes, C = 0.01", 0.01, wide),
    Case("words", "sparse rows like text, 20000 x 75000, 78 entries a row, 20 classes, C = 10", 10.0, words),
    *(
        Case(f"{name}-{C:g}", f"{words_of}, C = {C:g}", C, stored(name), True, file=f"{name}.npz")
        for name, words_of, Cs in (
            ("text", "tf-idf of package descriptions, 20237 x 74837, 78 entries a row, 20 classes", (1, 10)),
            ("onehot", "packages' relations, one-hot, 37622 x 18790, 7 entries a row, 20 classes", (1,)),
            ("counts", "words of package descriptions, 40473 x 21770, 42 entries a row, 20 classes", (0.1,)),
        )
        for C in Cs
    ),
)
