"""Workers that compute on GPUs, on a GPU or on the stand-in: the bits of one GPU, and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, get_backend, open_rows, sweep
from gpusoftmax.cluster import sums, tasks
from gpusoftmax.cluster.placing import cluster_backend
from gpusoftmax.cluster.rows import ClusterRows
from gpusoftmax.cluster.sources import RowFiles
from gpusoftmax.cuda import chunks, memory
from gpusoftmax.cuda.probe import Probe
from gpusoftmax.exceptions import ClusterError
from tests.support.blocks import InBlocks
from tests.support.cases import DTYPES, Problem, blobs, random_problem, sha256
from tests.support.in_process import InProcess, on_cluster

LEAF, D = 256, 7
N = 5 * LEAF + 145  # the last leaf has a chunk and a part of one
pytestmark = [pytest.mark.usefixtures("small_chunks"), pytest.mark.filterwarnings("error")]
on_gpus = partial(on_cluster, backend="cuda")


@pytest.fixture
def small_chunks(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 128 rows, and leaves of 256."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "LEAF_ROWS", LEAF)


@pytest.fixture
def data() -> Any:
    X, y = blobs(0, n=N, d=D, c=4)
    return X.astype(np.float32), y


def problem_with(dtype: str = "float32", K: int = 1) -> Problem:
    return random_problem(0, dtype=dtype, n=N, d=D, c=5, K=K, weighted=True)


def bits(results: Any) -> str:
    return sha256(*map(get_backend("cuda").to_numpy, results))


def of_model(model: Any) -> str:
    return sha256(model.coef_, model.intercept_)


def results_of(problem: Problem, ops: Any, X: Any, asarray: Any) -> dict[str, str]:
    """The digests of every operation that goes through all rows; `asarray` takes arguments to where `ops` are."""
    rng = np.random.default_rng(0)
    labels, W, b, s = map(asarray, problem.arguments[1:5])
    Q, P, w = map(asarray, (rng.standard_normal((N, 3)), rng.random((N, 5)), rng.random(5)))
    doubles = asarray(rng.random(N))
    found = {
        "gradient": ops.linear_gradient(X, labels, W, b, s, problem.loss),
        "losses": ops.linear_losses(X, labels, W, b, s, problem.loss),
        "scores": (ops.linear_scores(X, W, b),),
        "probabilities": (ops.linear_probabilities(X, W, b),),
        "best": (ops.linear_best(X, W, b),),
        "moments": ops.column_moments(X, doubles, None, 300),
        "label sums": ops.label_sums(X, labels, doubles, w, P),
        "products": (ops.column_products(X, Q),),
        "squares": (ops.column_products(X, Q, squared=True),),
    }
    return {name: bits(result) for name, result in found.items()}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("dtype", "K"), [*((dtype, 1) for dtype in DTYPES), ("float32", 3)])
def test_every_operation_gives_the_bits_of_one_gpu(dtype: str, K: int, workers: int) -> None:
    problem, backend = problem_with(dtype, K), get_backend("cuda")
    X = on_gpus(problem.X, workers)
    found = results_of(problem, cluster_backend("cuda", X.executor).ops, X, np.asarray)
    assert found == results_of(problem, backend.ops, backend.asarray(problem.X), backend.asarray)


@pytest.mark.parametrize("way", ["no room", "in blocks"])
def test_rows_that_are_copied_in_each_pass_give_the_same_bits(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, backend = problem_with(), get_backend("cuda")
    expected = results_of(problem, backend.ops, backend.asarray(problem.X), backend.asarray)
    monkeypatch.setattr(memory, "FRACTION_ON_GPU", 0.0)
    X = on_gpus(problem.X, wrap=HostBlocks) if way == "in blocks" else on_gpus(problem.X)
    assert results_of(problem, cluster_backend("cuda", X.executor).ops, X, np.asarray) == expected


class HostBlocks(InBlocks):
    """Rows in blocks whose size is known."""

    @property
    def nbytes(self) -> int:
        return self.X.nbytes


@pytest.mark.parametrize("room", [True, False])
def test_rows_and_columns_that_a_worker_keeps_are_uploaded_once_if_there_is_room(
    room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, uploads = problem_with(), []
    executor = InProcess(["a", "b"], keeps=True)
    X = on_gpus(problem.X, executor=executor)
    ops = cluster_backend("cuda", executor).ops
    monkeypatch.setattr(memory, "FRACTION_ON_GPU", 0.8 if room else 0.0)
    for name in ("upload_rows", "upload"):
        original = getattr(sums, name)
        monkeypatch.setattr(sums, name, lambda x, original=original: uploads.append(len(x)) or original(x))
    for _ in range(3):
        ops.linear_gradient(X, *problem.arguments[1:])
    partitions, tasks_of_all = len(X.partitions(1)), sum(map(len, executor.runs))
    rows = partitions if room else 0
    W_and_b = 2 * partitions * len(executor.runs)
    assert len(uploads) == rows + 2 * partitions + W_and_b
    assert tasks_of_all == 6


def test_what_was_uploaded_is_freed_with_what_the_worker_kept() -> None:
    problem, before = problem_with(), len(sums._on_gpu.found)
    executor = InProcess(["a"], keeps=True)
    X = on_gpus(problem.X, executor=executor)
    cluster_backend("cuda", executor).ops.linear_gradient(X, *problem.arguments[1:])
    assert len(sums._on_gpu.found) > before
    del X, problem
    executor.runs.clear()
    assert len(sums._on_gpu.found) == before


FITS: dict[str, Any] = {
    "default": SoftmaxClassifier(backend="cuda"),
    "standardised": SoftmaxClassifier(backend="cuda", scaling="standard", class_weight="balanced"),
    "hinge": LinearSVMClassifier(backend="cuda"),
}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_is_the_same_to_the_bit_for_any_number_of_workers(name: str, data: Any) -> None:
    X, y = data
    model = FITS[name]
    found = set()
    for workers in (1, 2, 3):
        found.add(of_model(model.fit(on_gpus(X, workers), y)))
        assert model.fit_report_.note == ""
    assert len(found) == 1


@pytest.mark.parametrize("name", FITS)
def test_a_fit_ends_where_that_on_one_gpu_does(name: str, data: Any) -> None:
    """The solver, which runs on the client's CPU, rounds otherwise there."""
    X, y = data
    one, several = (clone(FITS[name]).fit(rows, y).fit_report_ for rows in (X, on_gpus(X)))
    # both objectives are above the optimum, by at most their bounds; rounding adds some units of float32
    assert abs(one.objective - several.objective) <= max(one.bound, several.bound) + 1e-6
    assert max(one.bound, several.bound) < 1e-4


def test_files_that_workers_upload_have_the_bits_of_rows_that_they_were_sent(data: Any, tmp_path: Path) -> None:
    X, y = data
    np.save(tmp_path / "X.npy", X)
    executor = InProcess(["a", "b"])
    stored = RowFiles(open_rows(tmp_path / "X.npy"), executor)
    model = SoftmaxClassifier(backend="cuda")
    expected = of_model(model.fit(on_gpus(X), y))
    assert of_model(model.fit(ClusterRows(executor, stored, "cuda"), y)) == expected


def test_a_sweep_finds_what_it_finds_on_one_gpu(data: Any) -> None:
    X, y = data
    X, grid = X.astype(np.float64), {"C": [0.1, 1.0]}
    estimator = SoftmaxClassifier(backend="cuda", tol=1e-9)
    expected = sweep(estimator, grid, X, y, cv=3, refit=False)
    found = sweep(estimator, grid, on_gpus(X), y, cv=3, refit=False)
    np.testing.assert_allclose(found.trials.loss, expected.trials.loss, rtol=1e-6)
    np.testing.assert_array_equal(found.trials.accuracy, expected.trials.accuracy)


def test_the_client_needs_no_gpu(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = data
    monkeypatch.setattr("gpusoftmax.array.probe", lambda index: Probe(False, "this is the client"))
    model = SoftmaxClassifier(backend="cuda").fit(on_gpus(X), y)
    assert model.backend_ == "cpu: for the solver; sums over rows on the GPUs of 2 workers"


def test_auto_means_the_cpus_of_the_workers(data: Any) -> None:
    X, y = data
    expected = of_model(SoftmaxClassifier(backend="cpu").fit(X, y))
    assert of_model(SoftmaxClassifier(backend="auto").fit(on_cluster(X), y)) == expected


# what is refused or warned of


def test_a_worker_without_a_gpu_is_named(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = data
    monkeypatch.setattr(sums, "probe", lambda: Probe(False, "there is no driver"))
    monkeypatch.setattr(sums, "this_process", lambda: "on node7 (process 12)")
    with pytest.raises(ClusterError, match=r"^the worker on node7 \(process 12\) has no GPU: there is no driver"):
        SoftmaxClassifier(backend="cuda").fit(on_gpus(X), y)


def test_a_checkpoint_of_cpus_is_not_continued_on_gpus(data: Any, tmp_path: Path) -> None:
    X, y = data
    SoftmaxClassifier(backend="cpu").fit(on_cluster(X), y, checkpoint=tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match="device"):
        SoftmaxClassifier(backend="cuda").fit(on_gpus(X), y, checkpoint=tmp_path / "run.ckpt")


def test_workers_that_share_a_gpu_are_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, X = problem_with(), on_gpus(problem_with().X)
    ops = cluster_backend("cuda", X.executor).ops
    names = iter(f"on node{i % 2}" for i in range(100))
    monkeypatch.setattr(tasks, "this_process", lambda: next(names))
    with pytest.warns(UserWarning, match="the workers on node0, on node1 share the GPU 0000:00:00.0 on"):
        ops.linear_losses(X, *problem.arguments[1:])
    ops.linear_losses(X, *problem.arguments[1:])


def test_gpus_of_different_kinds_are_noted_and_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, X = problem_with(), on_gpus(problem_with().X)
    ops: Any = cluster_backend("cuda", X.executor).ops
    kinds = iter(["A100", "H200"])
    facts = tasks.fingerprint("cuda")
    assert {"GPU", "compute capability", "CuPy", "CUDA of the driver"} <= set(facts)
    monkeypatch.setattr(tasks, "fingerprint", lambda backend: facts | {"GPU": next(kinds)})
    with pytest.warns(UserWarning, match="workers differ from each other .*GPU H200 instead of A100"):
        ops.linear_losses(X, *problem.arguments[1:])
    assert "may depend on which worker" in ops.note()


def test_cpus_and_gpus_are_not_mixed(data: Any) -> None:
    X, y = data
    for rows, backend in ((on_gpus(X), "cpu"), (on_gpus(X), "auto"), (on_cluster(X), "cuda")):
        with pytest.raises(ValueError, match="sums of CPUs and GPUs cannot be mixed"):
            SoftmaxClassifier(backend=backend).fit(rows, y)


def test_another_gpu_of_a_worker_and_another_precision_are_refused(data: Any) -> None:
    X, y = data
    with pytest.raises(ValueError, match=r"backend='cuda:1' is a GPU of one machine.*pass backend='cuda'"):
        SoftmaxClassifier(backend="cuda:1").fit(on_gpus(X), y)
    with pytest.raises(ValueError, match="precision='high' is not for clusters yet; pass backend='cuda'"):
        SoftmaxClassifier(backend=get_backend("cuda", precision="high")).fit(on_gpus(X), y)
