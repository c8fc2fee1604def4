"""Sums over blocks of rows, and over parts of the rows, have the bits of the sums over a matrix in memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.cpu import gradients, threads
from gpusoftmax.cpu.column_sums import moment_sums, moments_from, product_sums
from gpusoftmax.cpu.gradients import GradientSums, gradient_leaf
from gpusoftmax.cpu.threads import leaf_rows
from gpusoftmax.dtypes import widen
from gpusoftmax.tree import TreeSum
from tests.support.blocks import InBlocks, operations_over_rows
from tests.support.cases import DTYPES, Problem, random_problem, sha256

N, D = 5 * 64 + 17, 7
WAYS = {"tiles": 5, "products": 300, "columns": 301}  # to compute a gradient, each with another number of classes


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)  # 64 rows
    monkeypatch.setattr(gradients, "LARGE_GRADIENT", 4 * D * 300)
    monkeypatch.setattr(gradients, "BLAS_LEAF", 1)
    monkeypatch.setattr(gradients, "LARGE_LEAF", 128)
    monkeypatch.setattr(gradients, "SCORE_BYTES", 1)  # 64 rows at a time


def problem_with(way: str, dtype: str = "float32") -> Problem:
    return random_problem(0, dtype=dtype, n=N, d=D, c=WAYS[way], weighted=True)


@pytest.mark.parametrize("leaves", [1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_every_operation_gives_the_same_bits_for_rows_in_blocks(cpu_backend: Backend, way: str, leaves: int) -> None:
    problem = problem_with(way)
    for name, operation in operations_over_rows(problem).items():
        expected = sha256(*operation(cpu_backend.ops, problem.X))
        for n_threads in (1, 3):
            ops = get_backend(cpu_backend.name, n_threads).ops
            assert sha256(*operation(ops, InBlocks(problem.X, leaves))) == expected, (name, n_threads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_every_type_give_the_same_gradient(cpu_backend: Backend, dtype: str) -> None:
    problem = problem_with("tiles", dtype)
    found = cpu_backend.ops.linear_gradient(InBlocks(problem.X, 2), *problem.arguments[1:])
    assert sha256(*found) == sha256(*cpu_backend.ops.linear_gradient(*problem.arguments))


@pytest.mark.parametrize("way", WAYS)
def test_gradients_over_parts_of_the_rows_add_up_to_the_same_bits(cpu_backend: Backend, way: str) -> None:
    problem, ops = problem_with(way), cpu_backend.ops
    sums = GradientSums(ops.kernels, 2, problem.W, problem.b, problem.loss, True)
    step = gradient_leaf(ops.kernels, problem.W)
    parts = []
    for first in range(0, N, 2 * step):
        own = slice(first, first + 2 * step)
        X: Any = problem.X[own] if first else InBlocks(problem.X[own])
        parts.append(sums.over(X, problem.labels[own], problem.weights[own], first_row=first).parts())
    losses, correct, dW, db = added(reversed(parts), step)
    expected = ops.linear_gradient(*problem.arguments)
    assert sha256(losses, correct, dW.reshape(problem.W.shape), db.reshape(problem.b.shape)) == sha256(*expected)


@pytest.mark.parametrize("c", [5, 130, 256])
def test_processors_that_use_tiles_or_not_divide_rows_into_the_same_leaves(
    cpu_backend: Backend, c: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, kernels = random_problem(0, dtype="float32", n=N, d=D, c=c, weighted=True), cpu_backend.ops.kernels
    places = []
    for tiled in {False, kernels.COMPILED}:
        monkeypatch.setattr(gradients, "is_tiled", lambda *_, tiled=tiled: tiled)
        sums = GradientSums(kernels, 2, problem.W, problem.b, problem.loss, True)
        first = 2 * gradient_leaf(kernels, problem.W)
        places.append(set(sums.over(problem.X, problem.labels, problem.weights, first_row=first).parts()))
    assert all(one == places[0] for one in places)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])  # products by tiles, and by BLAS
def test_moments_and_products_over_parts_of_the_rows_add_up_to_the_same_bits(cpu_backend: Backend, dtype: type) -> None:
    problem, ops, step = problem_with("tiles"), cpu_backend.ops, leaf_rows(D)
    X, s, centre = problem.X, problem.weights[:, 0], widen(problem.X[0])
    Q = np.random.default_rng(0).standard_normal((N, 3)).astype(dtype)
    moments, products = [], []
    for first in range(0, N, 3 * step):
        own = slice(first, first + 3 * step)
        moments.append(moment_sums(ops.kernels, X[own], s[own], centre, None, 2, first).parts())
        coefficients = partial(np.ndarray.__getitem__, Q[own])
        sums = product_sums(ops.kernels, X[own], coefficients, slice(0, 3), Q.dtype, False, None, 2, first)
        products.append(sums.parts())
    assert sha256(*moments_from(added(moments, step), centre)) == sha256(*ops.column_moments(X, s))
    assert sha256(added(products, step)[0]) == sha256(ops.column_products(X, Q))


def added(parts: Any, step: int) -> Any:
    tree = TreeSum()
    for nodes in parts:
        for place, node in nodes.items():
            tree.add(*place, node)
    return tree.total(-(-N // step))
