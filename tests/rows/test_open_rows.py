"""Opening features in files: every format gives the rows that were written, and what is wrong is said at once."""

from __future__ import annotations

import errno
import gc
import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.model_selection import train_test_split

from gpusoftmax import BadFileError, FileRows, open_rows
from gpusoftmax.files.atomic import write_atomically
from gpusoftmax.rows import cache, file_rows
from tests.support.cifar10 import python3_batch

TYPES = ["float64", "float32", "float16", "uint8", "bool", "int8", "uint16", "int32", "int64", ">f4", ">i2"]


def matrix(dtype: str, n: int = 50, d: int = 7) -> Any:
    numbers = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, (n, d))
    return numbers.astype(dtype)


def read(rows: FileRows, step: int = 8) -> Any:
    """All rows, through blocks; each is copied, since it is overwritten."""
    return np.concatenate([block.copy() for _, block in rows.blocks(step)])


@pytest.fixture(params=["mapped", "ring"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files are mapped, or read through buffers of some hundred bytes."""
    if request.param == "ring":
        monkeypatch.setattr(file_rows, "why_not_mapped", lambda: "a test")
        monkeypatch.setattr(file_rows, "BUFFER_BYTES", 800)
    return str(request.param)


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_npy_file_gives_its_numbers_in_a_type_that_is_computed_with(tmp_path: Path, dtype: str, layout: str) -> None:
    X = matrix(dtype)
    np.save(tmp_path / "X.npy", np.asarray(X, order=layout))
    rows = open_rows(tmp_path / "X.npy")
    assert rows.shape == X.shape
    assert rows.dtype in (np.float64, np.float32, np.float16, np.uint8)
    assert (read(rows) == X).all()
    assert (rows[[3, 1, 1, -1]] == X[[3, 1, 1, -1]]).all()
    assert (rows[4] == X[4]).all()
    assert (rows[10:20:3] == X[10:20:3]).all()
    assert (rows[X[:, 0] > 0] == X[X[:, 0] > 0]).all()


@pytest.mark.usefixtures("how")
def test_files_one_after_the_other_are_one_matrix(tmp_path: Path) -> None:
    X, cuts = matrix("float32", 103), [0, 1, 2, 40, 41, 103]
    paths = [tmp_path / f"{i}.npy" for i in range(len(cuts) - 1)]
    for path, first, stop in zip(paths, cuts[:-1], cuts[1:], strict=True):
        np.save(path, X[first:stop])
    rows = open_rows(paths)
    assert rows.shape == X.shape
    for step in (1, 7, 16, 200):
        assert (read(rows, step) == X).all()
    assert (rows[[40, 0, 102, 41, 39]] == X[[40, 0, 102, 41, 39]]).all()


@pytest.mark.usefixtures("how")
def test_images_are_rows(tmp_path: Path) -> None:
    X = matrix("uint8", 20, 12).reshape(20, 3, 2, 2)
    np.save(tmp_path / "X.npy", X)
    assert (read(open_rows(tmp_path / "X.npy")) == X.reshape(20, 12)).all()


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "int32", "bool"])
def test_a_tensor_of_a_safetensors_file_is_read_by_its_name(tmp_path: Path, dtype: str) -> None:
    X, path = matrix(dtype), tmp_path / "X.safetensors"
    save_file({"bias": np.ones(3, np.float32), "features": X, "other": matrix("float32", 4)}, path)
    assert (read(open_rows(path, name="features")) == X).all()


def test_the_only_matrix_of_a_safetensors_file_needs_no_name(tmp_path: Path) -> None:
    X, path = matrix("float16"), tmp_path / "X.safetensors"
    save_file({"bias": np.ones(3, np.float32), "features": X}, path)
    assert (read(open_rows(path)) == X).all()


@pytest.mark.usefixtures("how")
def test_bfloat16_stays_as_it_is(tmp_path: Path) -> None:
    X, path = matrix("float32"), tmp_path / "X.safetensors"
    bits = (X.view(np.uint32) >> 16).astype("<u2")  # exact for small whole numbers
    header = json.dumps({"x": {"dtype": "BF16", "shape": bits.shape, "data_offsets": [0, bits.nbytes]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    rows = open_rows(path)
    assert rows.dtype == np.uint16
    assert (read(rows) == bits).all()


@pytest.mark.usefixtures("how")
def test_columns_of_a_parquet_file_are_decoded_once(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    X, path = matrix("float32", 40, 3), tmp_path / "X.parquet"
    table = pyarrow.table({"e": list(X), "a": X[:, 0], "y": ["cat"] * 40})
    parquet.write_table(table, path, row_group_size=7)
    rows = open_rows(path, name=["e", "a"])
    assert (read(rows) == np.hstack([X, X[:, :1]])).all()
    (copy,) = tmp_path.glob(".X.parquet.*.npy")
    before = copy.stat().st_ino
    assert open_rows(path, name=["e", "a"]).files[0].path == copy
    assert copy.stat().st_ino == before
    parquet.write_table(pyarrow.table({"e": list(X + 1), "a": X[:, 0]}), path)
    assert (read(open_rows(path, name="e")) == X + 1).all()


def test_decoded_copies_go_to_the_folder_that_is_named(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": [1.0, 2.0]}), tmp_path / "X.parquet")
    (tmp_path / "cache").mkdir()
    rows = open_rows(tmp_path / "X.parquet", cache=tmp_path / "cache")
    assert rows.files[0].path.parent == tmp_path / "cache"
    assert read(rows).tolist() == [[1.0], [2.0]]


def test_a_parquet_file_with_lists_of_different_lengths_is_refused_and_leaves_no_copy(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"e": [[1.0, 2.0], [3.0]]}), tmp_path / "X.parquet", row_group_size=1)
    with pytest.raises(BadFileError, match="different lengths"):
        open_rows(tmp_path / "X.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["X.parquet"]


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("kind", ["binary", "pickled"])
def test_batches_of_cifar10_are_rows(tmp_path: Path, kind: str) -> None:
    X, y = matrix("uint8", 10_000, 3072), np.arange(10_000) % 10
    if kind == "binary":
        paths = [tmp_path / f"data_batch_{i}.bin" for i in range(1, 6)]
        content = np.hstack([y[:, None].astype(np.uint8), X]).tobytes()
    else:
        paths = [tmp_path / f"data_batch_{i}" for i in range(1, 6)]
        content = python3_batch(X, y.tolist(), [f"{i}.png" for i in range(10_000)])
    for path in paths:
        path.write_bytes(content)
    assert (open_rows(paths[0])[:100] == X[:100]).all()
    folder = open_rows(tmp_path)
    assert folder.shape == (50_000, 3072)
    assert (folder[[9_999, 10_000, 49_999]] == X[[9_999, 0, 9_999]]).all()


def test_rows_can_be_pickled_and_read_elsewhere(tmp_path: Path) -> None:
    X = matrix("float32")
    np.save(tmp_path / "X.npy", X)
    rows = open_rows(tmp_path / "X.npy")
    read(rows)
    assert (read(pickle.loads(pickle.dumps(rows))) == X).all()


NOT_ROWS = {
    "no file": ("X.npy", None, FileNotFoundError, "X.npy"),
    "another format": ("X.csv", b"1,2\n", BadFileError, "rows cannot be read from .csv files; expected .npy"),
    "one axis": ("X.npy", np.arange(3.0), BadFileError, "an array of shape"),
    "no rows": ("X.npy", np.empty((0, 3)), BadFileError, "an array of shape"),
    "text": ("X.npy", np.array([["a"]]), BadFileError, "type"),
    "not numbers": ("X.npy", b"something else", BadFileError, "does not begin like a .npy file"),
    "a short batch": ("data_batch_1.bin", b"x" * 3000, BadFileError, "3000 bytes"),
    "not safetensors": ("X.safetensors", b"\xff" * 100, BadFileError, "a header of"),
    "not JSON": ("X.safetensors", (4).to_bytes(8, "little") + b"{{{{", BadFileError, "its header is not that of"),
}


@pytest.mark.parametrize("name", NOT_ROWS)
def test_a_file_without_rows_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    file, content, error, words = NOT_ROWS[name]
    if isinstance(content, bytes):
        (tmp_path / file).write_bytes(content)
    elif content is not None:
        np.save(tmp_path / file, content)
    with pytest.raises(error, match=words) as caught:
        open_rows(tmp_path / file)
    assert file in str(caught.value)


FORGED = {
    "beyond the file": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 999]},
    "another size": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 16]},
    "backwards": {"dtype": "F32", "shape": [2, 2], "data_offsets": [16, 0]},
    "negative": {"dtype": "F32", "shape": [-2, 2], "data_offsets": [0, 16]},
    "huge": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 16]},
    "an unknown type": {"dtype": "F8_E4M3", "shape": [4, 4], "data_offsets": [0, 16]},
    "no offsets": {"dtype": "F32", "shape": [2, 2]},
    "a list": [1, 2],
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_headers_of_safetensors_are_refused(tmp_path: Path, name: str) -> None:
    header = json.dumps({"x": FORGED[name]}).encode()
    (tmp_path / "X.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(BadFileError):
        open_rows(tmp_path / "X.safetensors")


def test_several_matrices_need_a_name(tmp_path: Path) -> None:
    save_file({"a": matrix("float32"), "b": matrix("float32")}, tmp_path / "X.safetensors")
    with pytest.raises(BadFileError, match="name="):
        open_rows(tmp_path / "X.safetensors")
    with pytest.raises(BadFileError, match="has no tensor 'c'"):
        open_rows(tmp_path / "X.safetensors", name="c")


def test_files_that_differ_in_features_or_type_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", matrix("float32"))
    np.save(tmp_path / "b.npy", matrix("float32", d=8))
    np.save(tmp_path / "c.npy", matrix("float16"))
    for other in ("b.npy", "c.npy"):
        with pytest.raises(BadFileError, match=f"{other}.*as in .*a.npy"):
            open_rows([tmp_path / "a.npy", tmp_path / other])


def test_paths_without_an_order_of_their_own_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", matrix("float32"))
    with pytest.raises(TypeError, match=r"which has no order of its own; pass sorted\(\.\.\.\)"):
        open_rows(tmp_path.glob("*.npy"))  # type: ignore[arg-type]


def test_a_folder_is_refused_with_how_to_pass_its_files(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=r"is a folder; expected its files, as in open_rows\(sorted\("):
        open_rows(tmp_path)


def test_an_index_of_rows_and_columns_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", matrix("float32"))
    rows = open_rows(tmp_path / "X.npy")
    with pytest.raises(IndexError, match=r"2 indices .* by rows\.select\(numbers\)"):
        rows[0, 1]


@pytest.mark.parametrize("limit", ["12 parrots", "-1GB", "1kB", 0, float("nan"), True, [1]])
def test_a_memory_limit_that_is_none_is_refused(tmp_path: Path, limit: Any) -> None:
    np.save(tmp_path / "X.npy", matrix("float32"))
    with pytest.raises((ValueError, TypeError), match="memory_limit="):
        open_rows(tmp_path / "X.npy", memory_limit=limit)


@pytest.mark.parametrize(
    ("limit", "size"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 3 << 29), (1 << 30, 1 << 30), (np.int64(1 << 30), 1 << 30), ("64mb", 64 * 10**6)],
)
def test_memory_limits_are_written_as_users_write_them(tmp_path: Path, limit: Any, size: int) -> None:
    np.save(tmp_path / "X.npy", matrix("float32"))
    assert open_rows(tmp_path / "X.npy", memory_limit=limit).memory_limit == size


def test_files_larger_than_the_limit_are_not_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.zeros((17, 1 << 20), np.uint8))
    assert not open_rows(tmp_path / "X.npy", memory_limit="16MiB").is_mapped


CHANGES = {
    "truncated": (lambda path: os.truncate(path, 400), "truncated"),
    "written": (lambda path: _append(path), "changed"),
    "replaced": (lambda path: os.replace(_copy(path), path), "replaced"),
    "removed": (lambda path: path.unlink(), "removed"),
}


def _append(path: Path) -> None:
    with path.open("ab") as file:  # writing it anew would empty it first, which the reading thread may see
        file.write(b"x")


def _copy(path: Path) -> Path:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    return other


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_an_error_with_its_name_and_a_row(
    tmp_path: Path, how: str, change: str
) -> None:
    path = tmp_path / "X.npy"
    np.save(path, matrix("float32", 1000))
    rows = open_rows(path)
    blocks = rows.blocks(8)
    next(blocks)
    CHANGES[change][0](path)
    with pytest.raises(BadFileError, match=rf"X\.npy, row \d+: the file was .*{CHANGES[change][1]}"):
        list(blocks)
    with pytest.raises(BadFileError, match=r"X\.npy, row \d+"):
        rows[:10]


def test_a_file_that_changed_between_opening_and_reading_is_an_error(tmp_path: Path, how: str) -> None:
    np.save(tmp_path / "X.npy", matrix("float32"))
    rows = open_rows(tmp_path / "X.npy")
    np.save(tmp_path / "X.npy", matrix("float32", 51))
    with pytest.raises(BadFileError, match="row 0"):
        read(rows)


@pytest.mark.usefixtures("how")
def test_more_files_than_a_process_may_keep_open_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_rows, "MOST_OPEN", 2)
    X, paths = matrix("float32", 90), [tmp_path / f"{i}.npy" for i in range(9)]
    for i, path in enumerate(paths):
        np.save(path, X[10 * i : 10 * (i + 1)])
    gc.collect()  # rows of other tests, which errors refer to, have open files
    before = len(os.listdir("/proc/self/fd"))
    rows = open_rows(paths)
    assert (read(rows) == X).all()
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_that_the_cache_cannot_hold_are_dropped_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = list[Any]()
    monkeypatch.setattr(file_rows, "why_not_mapped", lambda: "a test")
    monkeypatch.setattr(file_rows, "BUFFER_BYTES", 800)
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *place: dropped.append(place), raising=False)
    X = matrix("float32")
    np.save(tmp_path / "X.npy", X)
    read(open_rows(tmp_path / "X.npy"))
    assert dropped == []
    monkeypatch.setattr(file_rows, "available_memory", lambda: X.nbytes)
    assert (read(open_rows(tmp_path / "X.npy", memory_limit=1 << 30)) == X).all()
    assert sum(size for _, size, _ in dropped) == X.nbytes


def test_a_disk_that_cannot_be_read_is_an_error_with_the_file_and_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_rows, "why_not_mapped", lambda: "a test")
    monkeypatch.setattr(file_rows, "BUFFER_BYTES", 800)
    np.save(tmp_path / "X.npy", matrix("float32"))
    rows, preadv, calls = open_rows(tmp_path / "X.npy"), os.preadv, list[int]()

    def failing(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OSError, match=r"row \d+ of the features cannot be read: Input/output error: '.*X\.npy'"):
        read(rows)


def test_reads_that_are_cut_short_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_rows, "why_not_mapped", lambda: "a test")
    X, preadv = matrix("float32"), os.preadv
    np.save(tmp_path / "X.npy", X)
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: preadv(fd, [views[0][:7]], offset))
    assert (read(open_rows(tmp_path / "X.npy")) == X).all()


@pytest.mark.parametrize("kind", ["mapped", "buffers"])
def test_row_numbers_may_be_of_any_type_of_integers(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.arange(900.0).reshape(300, 3)
    np.save(tmp_path / "X.npy", X)
    if kind == "buffers":
        monkeypatch.setattr(file_rows, "why_not_mapped", lambda: "a test")
    rows = open_rows(tmp_path / "X.npy")
    for numbers in (np.array([7, 3, 5], np.uint8), np.array([-1, 0], np.int8), np.array([2, 1], np.uint64), []):
        assert np.array_equal(rows[numbers], X[np.asarray(numbers, np.int64)])


@pytest.mark.parametrize(
    "index", [1.5, np.array([1.0]), np.array([True, False]), np.array([[1, 2]]), None, "a", (slice(2), 1)]
)
def test_what_is_no_row_number_is_refused(tmp_path: Path, index: Any) -> None:
    np.save(tmp_path / "X.npy", np.zeros((3, 2)))
    with pytest.raises(IndexError, match="rows in files"):
        open_rows(tmp_path / "X.npy")[index]


def test_scikit_learns_cross_validation_is_refused_with_what_to_call_instead(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.zeros((30, 2)))
    with pytest.raises(IndexError, match=r"call sweep\(..., cv=5\) or SoftmaxClassifierCV"):
        train_test_split(open_rows(tmp_path / "X.npy"))


@pytest.mark.parametrize("paths", [None, 3])
def test_what_is_neither_a_path_nor_a_list_is_refused(paths: Any) -> None:
    with pytest.raises(TypeError, match=r"paths=.* pass a path, or a list of paths"):
        open_rows(paths)


@pytest.mark.parametrize("name", [3, [], [3], ()])
def test_a_name_that_names_nothing_is_refused(tmp_path: Path, name: Any) -> None:
    np.save(tmp_path / "X.npy", matrix("float32"))
    with pytest.raises(TypeError, match=r"name=.* pass a string"):
        open_rows(tmp_path / "X.npy", name=name)


def test_columns_of_several_parquet_files_are_put_together_by_their_names(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for file, names in (("a", "xy"), ("b", "yx"), ("c", "xz")):
        parquet.write_table(pyarrow.table({name: [float(ord(name))] for name in names}), tmp_path / f"{file}.parquet")
    rows = open_rows([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert rows[:].tolist() == [[ord("x"), ord("y")]] * 2
    with pytest.raises(BadFileError, match=r"c\.parquet: has the columns \['x', 'z'\]"):
        open_rows([tmp_path / "a.parquet", tmp_path / "c.parquet"])


def test_a_damaged_copy_of_a_parquet_file_is_made_again(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"x": [1.0, 2.0]}), tmp_path / "a.parquet")
    copy = open_rows(tmp_path / "a.parquet").path
    os.truncate(copy, 130)
    assert open_rows(tmp_path / "a.parquet")[:].tolist() == [[1.0], [2.0]]


def test_threads_that_open_the_same_parquet_file_decode_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"x": [1.0, 2.0]}), tmp_path / "a.parquet")
    written, both = list[Path](), threading.Barrier(2)

    def write(path: Path, content: Any) -> None:
        written.append(path)
        write_atomically(path, content)

    def read_it() -> list[list[float]]:
        both.wait()
        rows = open_rows(tmp_path / "a.parquet")
        both.wait()
        return rows[:].tolist()

    monkeypatch.setattr(cache, "write_atomically", write)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(read_it) for _ in range(2)]
    assert [one.result() for one in found] == [[[1.0], [2.0]]] * 2
    assert len(written) == 1
