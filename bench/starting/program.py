"""What a new process does: it imports a library and fits a small model, twice. Prints seconds as JSON.

A program of its own, so that nothing is imported before the clock starts but NumPy (and SciPy, where X is sparse).
"""

import hashlib
import json
import sys
import time
import warnings

import numpy as np

ROWS, FEATURES, CLASSES = 2000, 64, 10


def data(kind):
    """Rows of clusters whose features are whole numbers from 0 to 16, stored in the type `kind`, and labels."""
    rng = np.random.default_rng(0)
    y = np.arange(ROWS) % CLASSES
    X = rng.integers(0, 9, (CLASSES, FEATURES))[y] + rng.integers(0, 9, (ROWS, FEATURES))
    if kind != "sparse":
        return X.astype(kind), y
    from scipy.sparse import csr_array

    return csr_array(np.where(X > 10, X, 0).astype(np.float32)), y


def ours(solver):
    """Import everything that a fit needs; returns how to make a model."""
    from gpusoftmax import SoftmaxClassifier, get_backend

    get_backend("cpu")  # imports Numba
    return lambda: SoftmaxClassifier(solver=solver, backend="cpu")


def sklearn(solver):
    """Import scikit-learn; returns how to make a model."""
    from sklearn.linear_model import LogisticRegression

    return lambda: LogisticRegression(max_iter=1000)


def main(library, kind, solver):
    """Import, fit, and fit again."""
    warnings.simplefilter("ignore")
    X, y = data(kind)
    clocks = [(time.perf_counter(), time.process_time())]
    make = {"ours": ours, "sklearn": sklearn}[library](solver)
    clocks.append((time.perf_counter(), time.process_time()))
    model = make().fit(X, y)
    clocks.append((time.perf_counter(), time.process_time()))
    make().fit(X, y)
    clocks.append((time.perf_counter(), time.process_time()))
    found = {"bits": hashlib.sha256(model.coef_.tobytes() + model.intercept_.tobytes()).hexdigest()}
    for step, before, after in zip(("import", "first fit", "second fit"), clocks, clocks[1:], strict=False):
        found |= {step: after[0] - before[0], f"{step} cpu": after[1] - before[1]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
