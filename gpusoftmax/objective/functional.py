"""The objective and the softmax loss as plain functions of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend, get_backend_for, gpu_of
from gpusoftmax.checks.arrays import check_coefficients, check_per_model, check_sample_weight, check_shift_and_scale
from gpusoftmax.checks.labels import check_class_indices, check_index_array, check_index_range
from gpusoftmax.checks.scalars import check_flag, check_loss
from gpusoftmax.dtypes import computation_dtype, from_bits, weights_in_type
from gpusoftmax.features.read import read_features, read_matrix, rows_with_weight
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import Objective
from gpusoftmax.penalties import L2


def loss_and_gradient(
    X: Any,
    y: Any,
    W: Any,
    b: Any,
    *,
    l2: Any = 0.0,
    loss: str = "softmax",
    sample_weight: Any = None,
    shift: Any = None,
    scale: Any = None,
    penalize_intercept: bool = False,
    backend: str | Backend = "auto",
    n_threads: int | None = None,
) -> tuple[Any, Array, Array]:
    """Regularised mean loss of a linear classifier and its gradient, in one pass over the data.

    With x' = (x - shift) / scale and scores z_i = x'_i W + b,

        f(W, b) = (1 / S) sum_i s_i loss(z_i, y_i) + (l2 / 2) ||W||^2,    S = sum_i s_i

    where the loss of a row with scores z (c,) and label y is

        softmax        logsumexp(z) - z_y
        hinge          sum_{j != y} max(0, z_j - z_y + 1)          (Weston and Watkins, 1999)
        squared_hinge  sum_{j != y} max(0, z_j - z_y + 1)^2

    Any number K of models is evaluated in the same pass.

    Parameters
    ----------
    X : array-like of shape (n, d)
        float64, float32, float16, bfloat16 and uint8 are used in place. NaN or infinity in a row makes the loss
        non-finite, unless the row's weight is 0 for every model.
    y : array-like of int, shape (n,)
        Class indices in [0, c).
    W : array-like of shape (d, c) or (d, K, c)
        Weights of the scaled features. The computation is in float32, unless X is float64 or is converted to it, as
        integers of more than 16 bits and Python objects are; then it is in float64.
    b : array-like of shape (c,) or (K, c)
        Intercepts.
    l2 : float or array-like of shape (K,)
        Strength of the penalty, not negative.
    loss : {"softmax", "hinge", "squared_hinge"}
        Loss of a row, see above.
    sample_weight : array-like of shape (n,) or (n, K), optional
        s, finite and not negative, with a positive sum for every model. Default: all ones.
    shift, scale : float or array-like of shape (d,), optional
        Shift and scale of the features, folded into the weights; a scale of 0 counts as 1.
    penalize_intercept : bool
        Add (l2 / 2) ||b||^2.
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"} or Backend
        What computes; see `get_backend`. With "auto", arrays on a GPU are used there.
    n_threads : int, optional
        CPU threads; the result has the same bits for any number. Default: see `get_backend`.

    Returns
    -------
    loss : float, or ndarray of float64, (K,)
        f, in nats for softmax. It is a float if W is (d, c).
    dW, db : ndarray
        Gradients, with the shapes of W and b, in the type of the computation: NumPy arrays, or CuPy arrays on the GPU
        that holds X.

    Raises
    ------
    ValueError
        An argument has the wrong shape, or a value out of range; the message names the argument and the fix.
    TypeError
        An argument has the wrong type, or arrays are on different devices.
    MemoryError
        X does not fit on the GPU.
    BackendUnavailableError
        The requested GPU is not available.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.eye(3, dtype=np.float32), np.array([0, 1, 2])
    >>> loss, dW, db = loss_and_gradient(X, y, np.zeros((3, 3)), np.zeros(3))
    >>> round(loss, 6)  # ln 3
    1.098612
    """
    backend = get_backend_for(backend, n_threads, X=X, y=y, W=W, b=b, sample_weight=sample_weight)
    on_gpu = gpu_of(X) is not None  # then the results stay on it, too
    with backend.active():
        features = read_features(X, backend)
        n, d, dtype = features.n, features.d, features.dtype
        weights, bias, single = check_coefficients(W, b, d, backend.asarray if on_gpu else np.asarray)
        weights, bias = (backend.xp.array(backend.asarray(array), dtype=dtype, order="C") for array in (weights, bias))
        _, K, c = weights.shape
        y, sample_weight = map(backend.on_host, (y, sample_weight))
        s, _ = weights_in_type(check_sample_weight(sample_weight, n, K, np.float64), dtype)
        shift_and_scale = check_shift_and_scale(shift, scale, d)
        strengths = backend.asarray(check_per_model("l2", l2, K))
        objective = Objective(
            features=features.with_scaling(*shift_and_scale).select(rows_with_weight(s)),
            labels=backend.asarray(check_class_indices(y, n, c)),
            n_classes=c,
            weights=None if s is None else backend.asarray(s),
            penalty=L2(strengths, on_intercept=check_flag("penalize_intercept", penalize_intercept)),
            loss=check_loss(loss),
        )
        result = objective.value_and_gradient(weights, bias)
        value = backend.to_numpy(result.value)
        dW, db = (result.dW, result.db) if on_gpu else (backend.to_numpy(result.dW), backend.to_numpy(result.db))
        return (float(value[0]), dW[:, 0], db[0]) if single else (value, dW, db)


def softmax_cross_entropy(logits: Any, labels: Any, *, sample_weight: Any = None) -> tuple[float, Array]:
    """Mean softmax cross-entropy of given logits, and its gradient with respect to them.

        loss = (1 / S) sum_i s_i (logsumexp(z_i) - z_{i, y_i}),    gradient_ij = (s_i / S) (softmax(z_i)_j - [j = y_i])

    The gradient at the target is minus the sum of the other probabilities, not p_y - 1, so that it keeps its precision
    in confident rows.

    Parameters
    ----------
    logits : array-like of shape (n, c)
        Scores z. The computation is in float32, unless they are float64 or are converted to it, as integers of more
        than 16 bits and Python objects are; then it is in float64. -inf means probability 0; at the target it makes the
        loss infinite or NaN. So do NaN and +inf anywhere, unless the row's weight is 0.
    labels : array-like of int, shape (n,)
        Class indices in [0, c).
    sample_weight : array-like of shape (n,), optional
        s, finite and not negative, with a positive sum. Default: all ones.

    Returns
    -------
    loss : float
        In nats.
    gradient : ndarray of shape (n, c)
        In the type of the computation: a NumPy array, or a CuPy array on the GPU that holds `logits`.

    Raises
    ------
    ValueError
        An argument has the wrong shape, or a value out of range; the message names the argument.
    TypeError
        An argument has the wrong type, or arrays are on different devices.
    MemoryError
        The gradient does not fit on the GPU.
    BackendUnavailableError
        The logits are on a GPU that cannot be used.

    Examples
    --------
    >>> loss, gradient = softmax_cross_entropy([[0.0, 0.0]], [1])
    >>> round(loss, 6), gradient.tolist()
    (0.693147, [[0.5, -0.5]])
    """
    on_gpu = gpu_of(logits) is not None
    backend = get_backend_for("auto" if on_gpu else "cpu", None, logits=logits, labels=labels)
    with backend.active():
        scores = from_bits(read_matrix(logits, backend, "logits"))
        n, c = scores.shape
        if c < 2:
            raise ValueError(f"logits has shape {scores.shape}, with one class only; pass at least two columns")
        dtype = computation_dtype(scores.dtype)
        gradient = backend.xp.array(scores, dtype=dtype, order="C")
        weights = check_sample_weight(backend.on_host(sample_weight), n, 1, np.float64, other="logits")
        weights, _ = weights_in_type(weights, dtype)
        if weights is not None and not weights.all():  # rows of weight 0 may hold NaN, and 0 * NaN is NaN
            gradient = backend.xp.where(backend.asarray(weights > 0), gradient, dtype(0))
        if on_gpu:
            targets = backend.asarray(labels)
            check_index_array(targets, n, c, "labels", "logits")
            check_index_range(targets, c, "labels")
            targets = targets.astype(np.int32)
        else:
            targets = check_class_indices(labels, n, c, "labels", "logits")
        s = None if weights is None else backend.asarray(weights)
        losses, _ = backend.ops.row_loss(gradient.reshape(n, 1, c), targets, s, LOSSES["softmax"].code)
        total = float(n) if weights is None else float(weights.sum(dtype=np.float64))
        gradient /= dtype(total)
        return float(backend.to_numpy(losses)[0] / total), gradient
