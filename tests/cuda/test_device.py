"""A real GPU, where there is one: it is chosen, and computes what the CPU does."""

from __future__ import annotations

import numpy as np
import pytest

from gpusoftmax import SoftmaxClassifier, load_digits
from gpusoftmax.array import get_backend

pytestmark = pytest.mark.usefixtures("real_gpu")


def test_it_is_what_auto_chooses() -> None:
    assert get_backend("auto").name == "cuda:0"


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8], ids=lambda dtype: dtype.__name__)
def test_a_fit_has_the_cpus_loss_and_predictions(dtype: type) -> None:
    digits = load_digits()
    X = digits.X_train.astype(dtype)
    on_gpu, on_cpu = (SoftmaxClassifier(C=0.1, backend=name).fit(X, digits.y_train) for name in ("cuda", "cpu"))
    assert on_gpu.fit_report_.objective == pytest.approx(on_cpu.fit_report_.objective, rel=1e-5)
    # both are within tol of one optimum; rows at a border may fall on either side
    assert (on_gpu.predict(digits.X_test) == on_cpu.predict(digits.X_test)).mean() > 0.99
