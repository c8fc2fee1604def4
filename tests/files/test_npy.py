"""Arrays in .npy and .npz files, read without numpy.load."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.npy import read_npy, read_npz

ARRAYS = {
    **{f"{kind}": np.arange(12).reshape(3, 4).astype(kind) for kind in ("f2", "f4", "f8", "u1", "i2", "i8", "u4")},
    "big-endian": np.arange(6, dtype=">f4").reshape(2, 3),
    "booleans": np.array([[True, False]]),
    "text": np.array(["ash", "é", ""]),
    "Fortran order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "three dimensions": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "one dimension": np.arange(5),
    "no dimension": np.array(3.5),
    "no rows": np.empty((0, 4)),
    "a strided view": np.arange(20.0).reshape(4, 5)[::2, ::2],
}


def assert_same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_is_read_as_it_was_saved(array: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    assert_same(read_npy(tmp_path / "a.npy"), array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_is_read(version: tuple[int, int], tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, np.arange(6.0), version=version)
    assert_same(read_npy(tmp_path / "a.npy"), np.arange(6.0))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_all_arrays_of_an_archive_are_read(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert_same(found[name], array)


def test_an_archive_of_other_names_in_an_old_code_page_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "größe.npy")
    assert list(read_npz(tmp_path / "a.npz")) == ["größe"]


def test_zeros_that_deflate_well_are_read_if_they_are_few(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", X=np.zeros((1000, 1000)))
    assert_same(read_npz(tmp_path / "a.npz")["X"], np.zeros((1000, 1000)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1, "a", None], object), "an array of objects.*save numbers or text"),
        (np.zeros(3, [("a", "f4"), ("b", "i4")]), "a structured type.*one array of numbers"),
        (np.array(["2020-01-01"], "datetime64[D]"), "type '<M8"),
        (np.array([1j]), "type '<c16'"),
        (np.array([b"ab"]), "type '.S2'"),
        (np.zeros(2, np.longdouble), "type '<f16', which differs between machines"),
    ],
    ids=["objects", "structured", "dates", "complex", "bytes", "long double"],
)
def test_an_array_that_is_neither_numbers_nor_text_is_refused(array: Any, message: str, tmp_path: Path) -> None:
    if array.dtype == np.float64:
        pytest.skip("a long double is a double here")
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(BadFileError, match=message):
        read_npy(tmp_path / "a.npy")


def test_two_arrays_in_one_file_are_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        np.save(file, np.arange(3.0))
        np.save(file, np.arange(3.0))
    with pytest.raises(BadFileError, match=r"176 bytes follow a header that says shape \(3,\).*expected 24 bytes"):
        read_npy(tmp_path / "a.npy")


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        read_npy(tmp_path / "none.npy")
