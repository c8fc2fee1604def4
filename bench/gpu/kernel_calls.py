"""Calls every variant of every CUDA kernel, as the library does, and compares the results with NumPy's.

    python -m bench.gpu.kernel_calls [--quick] [--stand-in] [--no-pool]

It is small, so that compute-sanitizer, which slows a GPU down a hundred times, gets through it. A kernel more is a
function more in CALLS: its name, and what yields a description and whether the result is right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from bench.gpu.device import device, why_not
from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, get_backend, loss_and_gradient, reference
from gpusoftmax.losses import LOSSES
from gpusoftmax.operations import SparseRows

Checks = Iterator[tuple[str, bool]]

ROWS, FEATURES = 67, 20  # not a multiple of what blocks and vectors have
LENGTHS = (2, 3, 7, 10, 16, 31, 33, 101, 128, 250, 512, 1000, 1025, 2048, 4099, 8192, 16_384, 20_000, 70_000, 140_000)
QUICK_LENGTHS = (3, 33)
TOLERANCE = {"float32": 2e-5, "float64": 1e-12, "float16": 3e-3, "bfloat16": 2e-2}


def row_kernels(quick: bool) -> Checks:
    """row_loss.cu for each length of rows and type of scores; probabilities, and losses alone, in float32."""
    rng = np.random.default_rng(0)
    for dtype in ("float32",) if quick else ("float32", "float16", "bfloat16", "float64"):
        for c in QUICK_LENGTHS if quick else LENGTHS:
            m = 9 if c < 5000 else 3
            scores, labels = 3 * rng.standard_normal((m, c)), rng.integers(0, c, m).astype(np.int32)
            for what, right in _rows(_stored(scores, dtype), labels, dtype):
                yield f"{what}, {dtype}, {c} classes", right


def _rows(stored: Any, labels: Any, dtype: str) -> Checks:
    """One launch for each mode of row_loss.cu."""
    import cupy

    from gpusoftmax.cuda.row_losses import GRADIENT, LOSSES, PROBABILITIES, SOFTMAX, no_bad_row, row_loss

    (m, c), t = stored.shape, cupy.asarray(labels)
    losses, G = reference.row_loss(_read(stored), labels, "softmax")

    def launch(mode: int, labels: Any, best: bool) -> tuple[Any, Any]:
        Z = cupy.asarray(stored.reshape(m, 1, c))
        found, _ = row_loss(Z, None, labels, None, SOFTMAX, mode, no_bad_row(), best=best)
        return found.get(), _read(Z.get()).reshape(m, c)

    found, changed = launch(GRADIENT, t, True)
    yield "gradient", _near(found, losses, dtype) and _near(changed, G, dtype)
    if dtype == "float32":
        yield "losses", _near(launch(LOSSES, t, True)[0], losses, dtype)
        probabilities = G + (np.arange(c) == labels[:, None])
        yield "probabilities", _near(launch(PROBABILITIES, None, False)[1], probabilities, dtype)


def gradients(quick: bool) -> Checks:
    """row_loss.cu with a bias and each loss, reduce.cu, and gather.cu where X is converted."""
    rng = np.random.default_rng(1)
    for dtype in ("uint8",) if quick else ("float32", "float64", "float16", "uint8"):
        for loss in ("softmax",) if quick else LOSSES:
            for c in (3,) if quick else (2, 3, 10, 40):
                X, y = (8 * rng.random((ROWS, FEATURES))).astype(dtype), rng.integers(0, c, ROWS)
                W, b = 0.1 * rng.standard_normal((FEATURES, c)), rng.standard_normal(c)
                options = {"loss": loss, "l2": 0.3}
                found = loss_and_gradient(X, y, W, b, **options, backend="cuda")
                expected = reference.loss_and_gradient(X, y, W[:, None], b[None], **options)
                computed = "float64" if dtype == "float64" else "float32"
                # at a margin of zero a hinge's gradient jumps, so that only its loss is compared
                compared = zip(found, expected, strict=True) if loss != "hinge" else [(found[0], expected[0])]
                right = all(_near(np.ravel(f), np.ravel(e), computed) for f, e in compared)
                yield f"loss and gradient, {loss}, {dtype}, {c} classes", right


def few_classes(quick: bool) -> Checks:
    """few_classes.cu for each type, loss and way to share the features, for one model and several."""
    rng, n, backend = np.random.default_rng(5), 300, get_backend("cuda")  # more rows than a leaf has
    for dtype in ("float32", "uint8") if quick else ("float32", "float16", "bfloat16", "uint8"):
        for d in (256,) if quick else (256, 3072):
            for K, c in ((1, 3),) if quick else ((1, 2), (1, 10), (1, 16), (3, 5)):
                X, y = _stored(8 * rng.random((n, d)), dtype), rng.integers(0, c, n)
                W, b = 0.1 * rng.standard_normal((d, K, c)) / d**0.5, rng.standard_normal((K, c))
                given = [
                    backend.asarray(x) for x in (X, y.astype(np.int32), W.astype(np.float32), b.astype(np.float32))
                ]
                for loss in ("softmax", "squared_hinge"):
                    with backend.active():
                        losses, _, *gradient = backend.ops.linear_gradient(*given, None, LOSSES[loss].code)
                    found = [backend.to_numpy(x) / n for x in (losses, *gradient)]
                    expected = reference.loss_and_gradient(_read(X), y, W, b, loss=loss)
                    right = all(
                        _near(np.ravel(f), np.ravel(e), "float32") for f, e in zip(found, expected, strict=True)
                    )
                    yield f"loss and gradient in one read, {loss}, {dtype}, {d} features, {K} x {c} columns", right


def picked_rows(quick: bool) -> Checks:
    """gather.cu by row numbers, for rows of a multiple of 4 features and others: minibatches."""
    rng = np.random.default_rng(2)
    for dtype in ("float32",) if quick else ("float32", "float64", "float16", "uint8"):
        for d in (FEATURES,) if quick else (FEATURES, FEATURES + 1):
            X, y = (8 * rng.random((ROWS, d))).astype(dtype), rng.integers(0, 3, ROWS)
            settings: dict[str, Any] = {"solver": "sgd", "batch_size": 16, "max_iter": 2, "schedule": "constant",
                                        "learning_rate": 0.01, "tol": 0.0, "random_state": 0}  # fmt: skip
            found, expected = (SoftmaxClassifier(backend=name, **settings).fit(X, y) for name in ("cuda", "numpy"))
            yield f"minibatches, {dtype}, {d} features", _near(found.coef_, expected.coef_, "float32")


def exact_fits(quick: bool) -> Checks:
    """All that a fit to the optimum calls: passes, moments, samples of rows, preconditioners; and predictions."""
    rng = np.random.default_rng(3)
    cases: list[tuple[Any, str, int]] = [(SoftmaxClassifier, "uint8", 3)]
    if not quick:
        cases += [(SoftmaxClassifier, "float32", 40), (SoftmaxClassifier, "float64", 3),
                  (LinearSVMClassifier, "float32", 4)]  # fmt: skip
    for cls, dtype, c in cases:
        X, y = (8 * rng.random((4 * ROWS, FEATURES))).astype(dtype), np.arange(4 * ROWS) % c
        found, expected = (cls(C=0.01, backend=name, scaling="standard").fit(X, y) for name in ("cuda", "numpy"))
        values = [model.fit_report_.objective for model in (found, expected)]
        same = (found.predict(X) == expected.predict(X)).mean() > 0.98  # rows between two classes may fall either way
        yield f"{cls.__name__}, {dtype}, {c} classes", bool(np.isclose(*values, rtol=1e-4)) and bool(same)


def sparse_operations(quick: bool) -> Checks:
    """sparse.cu for each kind of values, number of columns and type of sums, with rows longer than a segment."""
    rng = np.random.default_rng(4)
    backends = get_backend("cuda"), get_backend("numpy")
    n, width = 9, 3000
    for values in ("float32",) if quick else ("float32", "float64", "uint8", None):
        dense = (rng.random((n, width)) < 0.6) * rng.integers(1, 9, (n, width))
        A = csr_array(dense.astype(values or "float32"))

        def both(work: Callable[[Any, SparseRows], Any], A: Any = A, values: str | None = values) -> Any:
            found = []
            for backend in backends:
                data = None if values is None else backend.asarray(A.data)
                places = [backend.asarray(x.astype(t)) for x, t in ((A.indptr, np.int64), (A.indices, np.int32))]
                with backend.active():
                    found.append(backend.to_numpy(work(backend, SparseRows(*places, data, width))))
            return found

        for dtype in ("float32",) if quick or values == "float32" else ("float32", "float64"):
            for q in (3,) if quick else (1, 3, 10, 40, 100, 200):
                M = rng.standard_normal((width, q)).astype(dtype)
                if values != "float64" or dtype == "float64":
                    found = both(lambda backend, rows, M=M: backend.ops.sparse_product(rows, backend.asarray(M)))
                    yield f"products of {values or 'ones'}, {dtype}, {q} columns", _near(*found, dtype)
        weights, centre = rng.random(width), rng.standard_normal(n)
        found = both(
            lambda backend, rows, w=weights, z=centre: backend.ops.sparse_column_sums(
                rows, backend.asarray(w), backend.asarray(z)
            )
        )
        yield f"sums of {values or 'ones'}", _near(*found, "float64")
        columns = rng.permutation(width)[:20]
        found = both(lambda backend, rows, w=weights[:n], j=columns: backend.ops.sparse_gram(rows, w, j, 0.0))
        yield f"a Gram matrix of {values or 'ones'}", _near(*map(np.tril, found), "float64")


def sparse_fits(quick: bool) -> Checks:
    """All that a fit of sparse X calls: column sums, Gram matrices, products with rows and columns."""
    if quick:
        return
    rng = np.random.default_rng(5)
    for dtype in ("float32", "float64", "uint8"):
        dense = (rng.random((300, 60)) < 0.1) * rng.integers(1, 9, (300, 60))
        X, y = csr_array(dense.astype(dtype)), np.arange(300) % 5
        found, expected = (SoftmaxClassifier(C=0.1, backend=name).fit(X, y) for name in ("cuda", "numpy"))
        values = [model.fit_report_.objective for model in (found, expected)]
        yield f"a fit of sparse features, {dtype}", bool(np.isclose(*values, rtol=1e-4))


CALLS: dict[str, Callable[[bool], Checks]] = {
    "rows": row_kernels,
    "gradients": gradients,
    "few classes": few_classes,
    "picked rows": picked_rows,
    "exact fits": exact_fits,
    "sparse operations": sparse_operations,
    "sparse fits": sparse_fits,
}


def _stored(scores: Any, dtype: str) -> Any:
    """Scores in a type; bfloat16 as its bits."""
    if dtype == "bfloat16":
        return (scores.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return scores.astype(dtype)


def _read(stored: Any) -> Any:
    """The numbers that are stored, in float64."""
    bits = stored.dtype == np.uint16
    return ((stored.astype(np.uint32) << 16).view(np.float32) if bits else stored).astype(np.float64)


def _near(found: Any, expected: Any, dtype: str) -> bool:
    """Whether numbers agree, relative to the largest of them."""
    expected = np.asarray(expected, np.float64)
    error = np.abs(np.asarray(found, np.float64).reshape(expected.shape) - expected).max()
    return bool(error <= TOLERANCE[dtype] * max(np.abs(expected).max(), 1.0))


def main(arguments: list[str]) -> int:
    """Call all, print a line for each check that fails, and their number; the exit code is 1 if there are such."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.kernel_calls", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few variants")
    parser.add_argument("--stand-in", action="store_true", help="on the stand-in for CuPy, without a GPU")
    parser.add_argument("--no-pool", action="store_true", help="each array allocated by itself, for memcheck")
    options = parser.parse_args(arguments)
    if reason := why_not(options.stand_in):
        print(f"no GPU: {reason}", file=sys.stderr)
        return 2
    with device(options.stand_in):
        if options.no_pool:
            import cupy

            cupy.cuda.set_allocator(None)
        wrong = sum(_wrong(name, call, options.quick) for name, call in CALLS.items())
    print(f"{wrong} wrong")
    return int(wrong > 0)


def _wrong(name: str, call: Callable[[bool], Checks], quick: bool) -> int:
    """The number of checks that fail; each is told."""
    done = wrong = 0
    try:
        for description, right in call(quick):
            done, wrong = done + 1, wrong + (not right)
            if not right:
                print(f"WRONG: {name}: {description}", flush=True)
    except Exception as error:  # the others are still worth having
        print(f"WRONG: {name}, after {done} checks: {type(error).__name__}: {error}", flush=True)
        wrong += 1
    print(f"{name}: {done} checks", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
