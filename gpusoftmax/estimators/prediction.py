"""Predictions of linear classifiers from their coefficients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted, validate_data

from gpusoftmax._typing import Array
from gpusoftmax.array import get_backend, get_backend_for, gpu_of
from gpusoftmax.checks.arrays import by_rows, check_n_features, check_sample_weight
from gpusoftmax.checks.labels import check_labels
from gpusoftmax.checks.messages import shown, warn_user
from gpusoftmax.checks.parameters import check_names
from gpusoftmax.checks.scalars import check_path
from gpusoftmax.checks.sparse import is_sparse_on_gpu
from gpusoftmax.cluster.placing import computed, frame_or_array, is_dask
from gpusoftmax.cluster.predicting import by_chunks
from gpusoftmax.features.base import Features
from gpusoftmax.features.read import read_features
from gpusoftmax.files.atomic import write_atomically
from gpusoftmax.files.npy import header_of
from gpusoftmax.rows.file_rows import Rows

if TYPE_CHECKING:
    # scikit-learn has no types. With a base that is Any, mypy would accept any keyword in a dataclass's constructor.
    class BaseEstimator:
        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Self: ...
        def __getstate__(self) -> dict[str, Any]: ...
        def __setstate__(self, state: dict[str, Any]) -> None: ...
        # fitted attributes
        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    class ClassifierMixin: ...
else:
    from sklearn.base import BaseEstimator, ClassifierMixin

WRITTEN_BYTES = 32 << 20  # of outputs that are computed before they are written

Output = Literal["scores", "probabilities", "best"]


class LinearPredictor(ClassifierMixin, BaseEstimator):
    """Methods of a linear classifier that has classes_, coef_ and intercept_, and the parameters backend and
    n_threads."""

    def __sklearn_tags__(self) -> Any:
        """Say that X may be sparse."""
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.sparse = True
        return tags

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the constructor.

        Parameters
        ----------
        **params
            Their names and values.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            There is no such parameter; the message says what to use instead.
        """
        check_names(self, params)
        super().set_params(**params)
        return self

    def sparsify(self) -> Self:
        """Convert coef_ to a `scipy.sparse.csr_array`, in place.

        It saves memory if most weights are zero, as those of hashed features that never occurred are. Predictions are
        the same; each one makes a dense copy for its time.

        Returns
        -------
        self

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        """
        from scipy.sparse import csr_array

        self.coef_ = csr_array(weights_of(self)[1])
        return self

    def densify(self) -> Self:
        """Convert coef_ back to an ndarray, in place, after `sparsify`.

        Returns
        -------
        self

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        """
        self.coef_ = weights_of(self)[1]
        return self

    def decision_function(self, X: Any, out: str | os.PathLike[str] | None = None) -> Array:
        """Compute the scores X coef_' + intercept_.

        Like all predictions, they are stored where X is: in a CuPy array if X is one, otherwise in a NumPy array. For
        a dask array or data frame they are a dask array, whose chunks are computed by the workers when it is.

        Parameters
        ----------
        X : array-like or sparse matrix, (n, d)
            As for `fit`; a data frame must have the columns of the training data.
        out : path, optional
            A .npy file to write the result to, part by part, for X that is larger than memory; see `open_rows`. It
            must not be one of the files of X.

        Returns
        -------
        ndarray, (n, c), or (n,) for two classes, where positive means classes_[1]
            float64 if X is float64, otherwise float32.
            With `out`, the file's array, mapped to memory and read-only.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        ValueError, TypeError
            X cannot be used, or has another number of features than the training data.
        OSError
            `out` cannot be written.
        """
        if is_dask(X):
            return lazily(self, "decision_function", X, out)
        return _returned_or_written(self, X, "scores", lambda z: z[:, 1] - z[:, 0] if z.shape[1] == 2 else z, out)

    def predict(self, X: Any) -> Array:
        """Predict for each row the label with the largest score; if several are equal, the first in classes_.

        Parameters
        ----------
        X : array-like or sparse matrix, (n, d)
            As for `fit`; a data frame must have the columns of the training data.

        Returns
        -------
        ndarray, (n,)
            With the dtype of classes_.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        ValueError, TypeError
            X cannot be used, or has another number of features than the training data.
        """
        if is_dask(X):
            return lazily(self, "predict", X)
        labels = self._labels(X)
        return labels if labels.dtype.kind in "OU" else _to_gpu_of(X, labels)  # strings cannot be on a GPU

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the accuracy: the weighted fraction of rows whose label is predicted correctly.

        Parameters
        ----------
        X : array-like or sparse matrix, (n, d)
        y : array-like, (n,)
            Labels; those that are not among the model's classes count as wrongly predicted.
        sample_weight : array-like, (n,), optional
            Not negative.

        Returns
        -------
        float
            In [0, 1].

        Raises
        ------
        ValueError, TypeError
            The data cannot be used; the message names the argument and the fix.
        """
        from sklearn.metrics import accuracy_score

        predicted = lazily(self, "predict", X).compute() if is_dask(X) else self._labels(X)
        y, sample_weight = computed(y), computed(sample_weight)
        labels = check_labels(on_host(y), "y", len(predicted))
        weights = check_sample_weight(on_host(sample_weight), len(labels), 1, np.float64)
        try:
            return float(accuracy_score(labels, predicted, sample_weight=None if weights is None else weights[:, 0]))
        except (TypeError, ValueError):  # scikit-learn's message lists every label
            raise ValueError(
                f"y[0] is {shown(labels.tolist()[0])}, which is not like the classes "
                f"{shown(np.asarray(self.classes_).tolist())}; pass labels of the same type"
            ) from None

    def _labels(self, X: Any) -> Array:
        """The predicted labels (n,), on the host."""
        best = best_classes(lambda output: outputs_for(self, X, output))
        return np.asarray(np.asarray(self.classes_)[best])


class Probabilities(LinearPredictor):
    """Methods of a classifier whose scores are log-probabilities, up to a shift of each row."""

    def predict_log_proba(self, X: Any, out: str | os.PathLike[str] | None = None) -> Array:
        """Compute the logarithms of predict_proba, which are exact even where the probability underflows.

        Parameters
        ----------
        X : array-like or sparse matrix, (n, d)
            As for `fit`; a data frame must have the columns of the training data.
        out : path, optional
            A .npy file to write the result to, part by part, for X that is larger than memory; see `open_rows`. It
            must not be one of the files of X.

        Returns
        -------
        ndarray of shape (n, c)
            In nats; columns in the order of classes_.
            With `out`, the file's array, mapped to memory and read-only.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        ValueError, TypeError
            X cannot be used, or has another number of features than the training data.
        OSError
            `out` cannot be written.
        """
        if is_dask(X):
            return lazily(self, "predict_log_proba", X, out)
        return _returned_or_written(self, X, "scores", _log_softmax, out)

    def predict_proba(self, X: Any, out: str | os.PathLike[str] | None = None) -> Array:
        """Compute the probabilities p_ij = exp(z_ij) / sum_k exp(z_ik) from the scores z.

        Parameters
        ----------
        X : array-like or sparse matrix, (n, d)
            As for `fit`; a data frame must have the columns of the training data.
        out : path, optional
            A .npy file to write the result to, part by part, for X that is larger than memory; see `open_rows`. It
            must not be one of the files of X.

        Returns
        -------
        ndarray of shape (n, c)
            In [0, 1]; columns in the order of classes_.
            With `out`, the file's array, mapped to memory and read-only.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        ValueError, TypeError
            X cannot be used, or has another number of features than the training data.
        OSError
            `out` cannot be written.
        """
        if is_dask(X):
            return lazily(self, "predict_proba", X, out)
        return _returned_or_written(self, X, "probabilities", lambda p: p, out)


def record_columns(estimator: Any, X: Any, features: Features, first: bool = True) -> None:
    """Write n_features_in_ and, for a data frame, feature_names_in_; with first=False compare X with them instead."""
    if first and not has_columns(X):
        vars(estimator).pop("feature_names_in_", None)
        estimator.n_features_in_ = features.d
    else:
        validate_data(estimator, by_rows(X) if has_columns(X) else features, reset=first, skip_check_array=True)


def check_columns(model: Any, X: Any, names_expected: bool = True) -> None:
    """Compare the columns of a data frame with those of the training data, by name and order.

    An array has no column names: if the model has some and `names_expected`, this gives a warning.
    """
    if not has_columns(X):
        if names_expected and hasattr(model, "feature_names_in_"):
            warn_user(
                f"X does not have valid feature names, but {type(model).__name__} was fitted with feature names",
                UserWarning,
            )
    else:
        try:
            validate_data(model, by_rows(X), reset=False, skip_check_array=True)
        except ValueError as error:
            raise ValueError(f"{error}\nPass the columns feature_names_in_ of the model, in that order.") from None


def weights_of(model: Any) -> tuple[Array, Array, Array]:
    """classes_ (c,), coef_ (c, d) or (1, d) for two classes, and intercept_ (c,) or (1,) of a linear classifier.

    A sparse coef_ is returned as an ndarray. Users may set them by hand, as arrays or lists, so the shapes are checked.
    """
    kind, names = type(model).__name__, ("classes_", "coef_", "intercept_")
    for name in names:
        if not hasattr(model, name):
            raise NotFittedError(f"this {kind} has no {name}: call fit, or set {', '.join(names)}")
    values = (getattr(model, name) for name in names)
    classes, coef, intercept = (np.asarray(one.toarray() if hasattr(one, "toarray") else one) for one in values)
    if classes.ndim != 1 or len(classes) < 2:
        raise ValueError(f"classes_ of this {kind} has shape {classes.shape}; set at least two labels, shape (c,)")
    rows = 1 if len(classes) == 2 else len(classes)
    if coef.ndim != 2 or len(coef) != rows or intercept.shape != (rows,):
        raise ValueError(
            f"coef_ of this {kind} has shape {coef.shape} and intercept_ {intercept.shape}; for the {len(classes)} "
            f"classes of classes_ set coef_ with shape ({rows}, d) and intercept_ with ({rows},)"
        )
    for name, array in (("coef_", coef), ("intercept_", intercept)):
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name} of this {kind} has dtype {array.dtype}; set real numbers")
    return classes, coef, intercept


def with_all_classes(coef: Array, intercept: Array) -> tuple[Array, Array]:
    """Weights (c, d) and intercepts (c,) from those of `weights_of`: with two classes, those of the first are zero."""
    if len(coef) > 1:
        return coef, intercept
    return np.vstack([0 * coef, coef]), np.append(0 * intercept, intercept)


def lazily(model: Any, method: str, X: Any, out: Any = None) -> Any:
    """Predict for a dask array or data frame: a dask array with the same chunks, which is computed when needed."""
    if out is not None:
        raise ValueError(
            f"out={shown(out)} is not for X of Dask, whose predictions are a dask array; leave it out, and write that "
            "array chunk by chunk, as dask.array.to_npy_stack does"
        )
    classes, coef, _ = weights_of(model)
    check_columns(model, frame_or_array(X))
    check_n_features(X, coef.shape[1], owner=type(model).__name__)
    single = method == "predict" or (method == "decision_function" and len(classes) == 2)
    return by_chunks(model, method, X, None if single else len(classes))


def outputs_for(model: Any, X: Any, output: Output, names_expected: bool = True) -> Array:
    """Check X as a user passes it, and compute `outputs` for it."""
    features = _features_for(model, X, names_expected)
    with features.backend.active():
        return outputs(model, features, output)


def _features_for(model: Any, X: Any, names_expected: bool = True) -> Features:
    """Check a model, and X as a user passes it, and make features of X."""
    if not hasattr(model, "coef_"):
        check_is_fitted(model)
    weights = weights_of(model)
    kind, shape = type(model).__name__, weights[1].shape
    d = getattr(model, "n_features_in_", shape[1])
    if shape[1] != d:
        raise ValueError(f"coef_ of this {kind} has shape {shape}, but n_features_in_ is {d}; they must match")
    check_columns(model, X, names_expected)
    backend = get_backend_for(model.backend, model.n_threads, X=X)
    with backend.active():
        features = read_features(X, backend)
        check_n_features(features, d, owner=kind)
    return features


def _returned_or_written(model: Any, X: Any, output: Output, finish: Callable[[Array], Array], out: Any) -> Any:
    """Return `finish` of the outputs for X, where X is, or write them to the file `out`."""
    if out is None:
        return _to_gpu_of(X, finish(outputs_for(model, X, output)))
    path = check_path("out", out)
    if path.suffix != ".npy":
        raise ValueError(f"out={str(path)!r} is not a .npy file; pass a name that ends with .npy")
    if isinstance(X, Rows) and X.are_in(path):
        raise ValueError(f"out={str(path)!r} is one of the files that X is read from; write to another")
    features = _features_for(model, X)
    with features.backend.active():
        most = max(64, WRITTEN_BYTES // (8 * len(model.classes_)) // 64 * 64)

        def parts() -> Iterator[bytes | memoryview]:
            for i, part in enumerate(features.in_parts(most)):
                found = np.ascontiguousarray(finish(outputs(model, part, output, features)))
                if i == 0:
                    yield header_of(found.dtype, (features.n, *found.shape[1:]))
                yield memoryview(found.reshape(-1).view(np.uint8).data)

        write_atomically(path, parts)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def outputs(model: Any, features: Features, output: Output, whole: Features | None = None) -> Array:
    """Compute a model's scores, probabilities or best classes for features, see `Features`, and copy them to the host.

    Two classes have two columns here, too; the weights of the first are zero. If the rows are part of a `whole`, errors
    give their numbers in that.
    """
    backend, kind = features.backend, type(model).__name__
    classes, coef, intercept = weights_of(model)
    single = len(classes) == 2 and output == "best"  # the sign of one column is enough: half the work
    if not single:
        coef, intercept = with_all_classes(coef, intercept)
    W = backend.asarray(np.ascontiguousarray(coef.T, dtype=features.dtype)[:, None, :])
    b = backend.asarray(np.ascontiguousarray(intercept, dtype=features.dtype)[None, :])
    compute = {"scores": features.scores, "probabilities": features.probabilities, "best": features.best}
    found = backend.to_numpy(compute["scores" if single else output](W, b))[:, 0]
    if single:
        found = np.where(np.isfinite(found[:, 0]), found[:, 0] > 0, -1)
    if not np.isfinite(found).all() or (output == "best" and (found < 0).any()):
        (whole or features).check_finite()
        for name, array in (("coef_", coef), ("intercept_", intercept)):
            if not np.isfinite(array).all():
                raise ValueError(f"{name} of this {kind} holds NaN or infinity; fit it again")
    return found


def best_classes(outputs_of: Callable[[Output], Array]) -> Array:
    """The index of the class with the largest score for each row; `outputs_of` computes a kind of `outputs`."""
    best = outputs_of("best")
    if (best < 0).any():  # some scores overflow to infinity, but one of them is the largest
        best = outputs_of("scores").argmax(axis=1)
    return best


def _log_softmax(scores: Array) -> Array:
    """Log-probabilities (n, c) from scores (n, c)."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probabilities: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities


def _to_gpu_of(X: Any, result: Array) -> Any:
    """Copy a host array to the GPU that holds X, if one does."""
    gpu = gpu_of(X)
    if gpu is None:
        return result
    backend = get_backend(f"cuda:{gpu}")
    with backend.active():
        return backend.asarray(result)


def on_host(X: Any) -> Any:
    """X itself, or a copy on the host if a GPU holds it."""
    if is_sparse_on_gpu(X):
        return X.get()
    gpu = gpu_of(X)
    if gpu is None:
        return X
    backend = get_backend(f"cuda:{gpu}")
    with backend.active():
        return backend.to_numpy(X)


def has_columns(X: Any) -> bool:
    """Whether X is a data frame or table whose column names scikit-learn records; not one that is still to be read."""
    return hasattr(X, "shape") and (hasattr(X, "columns") or hasattr(X, "__dataframe__"))
