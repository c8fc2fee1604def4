"""Predictions for Dask's collections: lazy, chunk by chunk."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from gpusoftmax.checks.arrays import check_features
from gpusoftmax.dtypes import computation_dtype

LEFT_OUT = ("feature_names_in_", "history_", "loss_curve_", "_stream")  # of a model, when it is sent to workers


def by_chunks(model: Any, method: str, X: Any, columns: int | None) -> Any:
    """Apply a method of a fitted model to each chunk of a dask array or data frame, when the result is computed.

    Parameters
    ----------
    model : fitted classifier
    method : str
        A method that returns an array (rows, columns), or (rows,) if `columns` is None.
    X : dask array or data frame, (n, d)
    columns : int or None

    Returns
    -------
    dask array, (n, columns) or (n,)
        With the chunks of X, and the type of the method's result.
    """
    array = X.to_dask_array() if hasattr(X, "to_dask_array") else X
    if array.ndim != 2:
        raise ValueError(f"X has shape {array.shape}. Expected 2D array, got {array.ndim}D array instead")
    if len(array.chunks[1]) > 1:
        array = array.rechunk({1: -1})
    sent = copy.copy(model)
    for name in LEFT_OUT:
        vars(sent).pop(name, None)
    sent.callbacks = ()
    example = check_features(np.zeros((1, array.shape[1]), array.dtype))
    dtype = sent.classes_.dtype if method == "predict" else computation_dtype(example.dtype)
    meta = np.empty((0,) if columns is None else (0, columns), dtype)
    if columns is None:
        return array.map_blocks(_predict_chunk, model=sent, method=method, meta=meta, drop_axis=1)
    chunks = array.chunks[0], (columns,)
    return array.map_blocks(_predict_chunk, model=sent, method=method, meta=meta, chunks=chunks)


def _predict_chunk(chunk: Any, model: Any, method: str) -> Any:
    """Predict for one chunk, which may have no rows."""
    if len(chunk):
        return getattr(model, method)(chunk)
    return getattr(model, method)(np.zeros((1, chunk.shape[1]), chunk.dtype))[:0]
