"""CIFAR-10 read from its official files, in folders and archives."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gpusoftmax.datasets import cifar10, load_cifar10, load_dataset
from gpusoftmax.exceptions import BadFileError
from tests.support.cases import assert_aligned
from tests.support.cifar10 import ROWS, pack, write_binary, write_pickled, write_python2
from tests.support.hostile import assert_refused


@pytest.fixture
def small_cifar10(monkeypatch):
    """Six batches of three rows, the last four of the training rows being for validation."""
    monkeypatch.setattr(cifar10, "_BATCH_ROWS", ROWS)
    monkeypatch.setattr(cifar10, "_VALIDATION_ROWS", 4)
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (18, 3072), dtype=np.uint8), rng.integers(0, 10, 18)


every_layout = pytest.mark.parametrize("write", [write_binary, write_pickled, write_python2])


@every_layout
def test_training_validation_and_test_rows_are_those_of_the_files_in_order(tmp_path, small_cifar10, write):
    X, y = small_cifar10
    data = load_cifar10(write(tmp_path, X, y))
    np.testing.assert_array_equal(np.vstack([data.X_train, data.X_validation, data.X_test]), X)
    np.testing.assert_array_equal(np.hstack([data.y_train, data.y_validation, data.y_test]), y)
    assert (len(data.X_train), len(data.X_validation), len(data.X_test)) == (11, 4, 3)


@every_layout
def test_the_parent_of_a_folder_of_batches_will_do(tmp_path, small_cifar10, write):
    X, y = small_cifar10
    folder = write(tmp_path, X, y)
    np.testing.assert_array_equal(load_cifar10(folder.parent).X_train, load_cifar10(str(folder)).X_train)


def test_of_both_layouts_the_binary_one_is_read(tmp_path, small_cifar10):
    X, y = small_cifar10
    write_pickled(tmp_path, np.zeros_like(X), y)
    write_binary(tmp_path, X, y)
    np.testing.assert_array_equal(load_cifar10(tmp_path).X_test, X[15:])


def test_an_incomplete_binary_layout_gives_way_to_a_complete_pickled_one(tmp_path, small_cifar10):
    X, y = small_cifar10
    write_pickled(tmp_path, X, y)
    (write_binary(tmp_path, np.zeros_like(X), y) / "test_batch.bin").unlink()
    np.testing.assert_array_equal(load_cifar10(tmp_path).X_test, X[15:])


def test_missing_files_are_named_with_their_folders(tmp_path, small_cifar10):
    folder = write_binary(tmp_path, *small_cifar10)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(str(folder))} lacks data_batch_3.bin\n"):
        load_cifar10(tmp_path)


def test_where_nothing_is_there_the_message_says_what_to_put_where(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_cifar10(tmp_path)
    assert "lacks" not in str(caught.value)
    for words in (cifar10.OFFICIAL.url, f"into {tmp_path} without unpacking it", "--download", "162 MB"):
        assert words in str(caught.value)


def test_a_folder_that_is_no_path_is_refused():
    with pytest.raises(TypeError, match="folder=3 is a int; pass a path"):
        load_cifar10(3)


def test_cifar10_is_found_by_name(tmp_path, small_cifar10):
    write_binary(tmp_path, *small_cifar10)
    assert load_dataset("cifar10", tmp_path).name == "cifar10"


@pytest.mark.parametrize("variable", [True, False])
def test_without_a_folder_it_is_looked_for_at_home(tmp_path, small_cifar10, monkeypatch, variable):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    home = tmp_path / ("elsewhere" if variable else "gpusoftmax_data")
    home.mkdir()
    monkeypatch.setenv("GPUSOFTMAX_DATA", str(home) if variable else "")
    write_binary(home, *small_cifar10)
    np.testing.assert_array_equal(load_cifar10().X_test, small_cifar10[0][15:])


# archives


@every_layout
@pytest.mark.parametrize("named", ["archive", "its folder"])
def test_an_archive_is_read_as_its_folder_is(tmp_path, small_cifar10, write, named):
    folder = write(tmp_path, *small_cifar10)
    expected = load_cifar10(folder)
    archive = pack(folder)
    shutil.rmtree(folder)
    data = load_cifar10(archive if named == "archive" else tmp_path)
    for part in ("X_train", "y_train", "X_validation", "y_validation", "X_test", "y_test"):
        np.testing.assert_array_equal(getattr(data, part), getattr(expected, part))
    assert data.class_names == expected.class_names
    assert sorted(tmp_path.iterdir()) == [archive]  # nothing was unpacked


def test_class_names_come_from_the_archive(tmp_path, small_cifar10):
    folder = write_binary(tmp_path, *small_cifar10)
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    assert load_cifar10(pack(folder)).class_names == tuple("abcdefghij")


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_an_archive_of_any_format_is_read(tmp_path, small_cifar10, format):
    folder = write_binary(tmp_path, *small_cifar10)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz", format=format) as archive:
        archive.add(folder, folder.name)
    np.testing.assert_array_equal(load_cifar10(tmp_path / "cifar-10-binary.tar.gz").X_test, small_cifar10[0][15:])


def test_an_archive_without_a_batch_says_which(tmp_path, small_cifar10):
    folder = write_binary(tmp_path, *small_cifar10)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(BadFileError, match=r"lacks data_batch_3\.bin; expected all six"):
        load_cifar10(pack(folder))


def member(name, content=b"", kind=tarfile.REGTYPE, size=None, linkname=""):
    """A function that adds such a member to an archive."""

    def add(archive):
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, len(content) if size is None else size, linkname
        archive.addfile(info)
        archive.fileobj.write(content + bytes(-len(content) % 512))
        archive.offset += len(content) + -len(content) % 512

    return add


PLACE = "cifar-10-batches-bin"
HOSTILE_MEMBERS = {
    "dots": (member("../outside", b"x"), "'../outside': leads outside the archive"),
    "dots within": (member(f"{PLACE}/../../outside", b"x"), "leads outside the archive"),
    "an absolute name": (member("/tmp/outside", b"x"), "leads outside the archive"),
    "a symbolic link": (member(f"{PLACE}/link", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
    "a hard link": (member(f"{PLACE}/link", kind=tarfile.LNKTYPE, linkname="/etc/passwd"), "is a link"),
    "a device": (member(f"{PLACE}/null", kind=tarfile.CHRTYPE), "is of type b'3'"),
    "a block device": (member(f"{PLACE}/disk", kind=tarfile.BLKTYPE), "is of type b'4'"),
    "a pipe": (member(f"{PLACE}/pipe", kind=tarfile.FIFOTYPE), "is of type b'6'"),
    "a sparse file": (member(f"{PLACE}/sparse", kind=tarfile.GNUTYPE_SPARSE), "is of type b'S'"),
    "a long name": (member("././@LongLink", b"../outside\0", kind=tarfile.GNUTYPE_LONGNAME), "is of type b'L'"),
    "a batch twice": (member(f"{PLACE}/test_batch.bin", bytes(9219)), "'.*test_batch.bin': occurs twice"),
    "a batch twice by another name": (member(f"./{PLACE}//test_batch.bin", bytes(9219)), "occurs twice"),
    "a huge member": (member(f"{PLACE}/huge", size=1 << 40), "1099511627776 bytes; expected at most"),
    "a negative size": (member(f"{PLACE}/huge", size=-(1 << 40)), "-1099511627776 bytes"),
    "a huge extended header": (member("././@PaxHeader", kind=tarfile.XHDTYPE, size=1 << 30), "is of type b'x'"),
    "many members": (
        lambda archive: [member(f"{PLACE}/m{i}")(archive) for i in range(10_000)], "is beyond the first 32"
    ),
    "no headers": (lambda archive: archive.fileobj.write(b"x" * 512), "not a tar archive"),
}  # fmt: skip


@pytest.mark.parametrize(("add", "message"), HOSTILE_MEMBERS.values(), ids=HOSTILE_MEMBERS.keys())
def test_a_hostile_member_of_an_archive_is_refused(tmp_path, small_cifar10, add, message):
    archive = pack(write_binary(tmp_path, *small_cifar10), add=add)
    assert_refused(load_cifar10, archive, message)


@pytest.mark.slow
def test_a_gzip_bomb_is_refused(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(1024):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 2 << 20
    assert_refused(load_cifar10, path, r"lacks .*data_batch_1\.bin|continues after its last member")


@pytest.mark.slow
def test_a_bomb_in_a_member_is_refused(tmp_path, small_cifar10):
    huge = member(f"{PLACE}/data_batch_1.bin", bytes(40 << 20))
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        huge(archive)
    assert_refused(
        load_cifar10, tmp_path / "cifar-10-binary.tar.gz", r"data_batch_1\.bin: 41943040 bytes; expected 9219"
    )


@pytest.mark.slow
def test_zeros_without_end_behind_an_archive_are_refused(tmp_path, small_cifar10):
    archive = pack(write_binary(tmp_path, *small_cifar10))
    with gzip.open(archive, "ab") as file:
        file.write(bytes(200 << 20))
    assert_refused(load_cifar10, archive, "continues after its last member")


@pytest.mark.slow
@every_layout
def test_an_archive_cut_off_anywhere_is_refused(tmp_path, small_cifar10, write):
    archive = pack(write(tmp_path, *small_cifar10))
    whole = archive.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 200, dtype=int):
        archive.write_bytes(whole[:length])
        assert_refused(load_cifar10, archive)


@pytest.mark.slow
def test_a_flipped_bit_in_an_archive_is_found_by_its_checksum(tmp_path, small_cifar10):
    archive = pack(write_binary(tmp_path, *small_cifar10))
    whole = archive.read_bytes()
    for place in np.linspace(10 + len(archive.name), len(whole) - 1, 200, dtype=int):  # behind the name and the date
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        archive.write_bytes(flipped)
        assert_refused(load_cifar10, archive)


@pytest.mark.parametrize("change", [-1, 1, -3073, 3073])
def test_a_binary_file_of_the_wrong_size_is_refused(tmp_path, small_cifar10, change):
    folder = write_binary(tmp_path, *small_cifar10)
    os.truncate(folder / "data_batch_2.bin", 3 * 3073 + change)
    with pytest.raises(BadFileError, match=f"{3 * 3073 + change} bytes; expected 9219 bytes") as caught:
        load_cifar10(folder)
    assert caught.value.path == folder / "data_batch_2.bin"


def test_a_binary_label_above_nine_is_refused_with_its_place(tmp_path, small_cifar10):
    X, y = small_cifar10
    y[4] = 10
    with pytest.raises(BadFileError, match=r"data_batch_2\.bin, byte 3073: label 10"):
        load_cifar10(write_binary(tmp_path, X, y))


def test_class_names_are_the_official_ones_where_no_file_names_them(tmp_path, small_cifar10):
    data = load_cifar10(write_binary(tmp_path, *small_cifar10))
    assert data.class_names == cifar10.CLASS_NAMES


def test_class_names_come_from_the_text_file(tmp_path, small_cifar10):
    folder = write_binary(tmp_path, *small_cifar10)
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert load_cifar10(folder).class_names == tuple("abcdefghij")


def write_meta(folder: Path, names) -> None:
    meta = {b"num_cases_per_batch": 10000, b"label_names": names, b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def test_class_names_come_from_the_pickled_file(tmp_path, small_cifar10):
    folder = write_pickled(tmp_path, *small_cifar10)
    write_meta(folder, [name.encode() for name in "abcdefghij"])
    assert load_cifar10(folder).class_names == tuple("abcdefghij")


@pytest.mark.parametrize(
    "text",
    [b"", b"a\n" * 9, b"a\n" * 11, b"a\n" * 9 + b"\xff\n", b"a\n" * 9 + b"\x1b[2J\n", b"a\n" * 9 + b"a" * 5000],
    ids=["none", "nine", "eleven", "not ASCII", "escape sequence", "endless"],
)
def test_bad_class_names_in_the_text_file_are_refused(tmp_path, small_cifar10, text):
    folder = write_binary(tmp_path, *small_cifar10)
    (folder / "batches.meta.txt").write_bytes(text)
    with pytest.raises(BadFileError):
        load_cifar10(folder)


@pytest.mark.parametrize(
    "names",
    [[b"a"] * 9, [b"a"] * 11, [b"a"] * 9 + [1], (b"a",) * 10, [b"a"] * 9 + [b"\x1b[2J"]],
    ids=["nine", "eleven", "not a string", "not a list", "escape sequence"],
)
def test_bad_class_names_in_the_pickled_file_are_refused(tmp_path, small_cifar10, names):
    folder = write_pickled(tmp_path, *small_cifar10)
    write_meta(folder, names)
    with pytest.raises(BadFileError):
        load_cifar10(folder)


# the real CIFAR-10


def test_both_layouts_of_the_real_cifar10_are_equal(cifar10_folder):
    binary = load_cifar10(Path(cifar10_folder) / "cifar-10-batches-bin")
    pickle_ = load_cifar10(Path(cifar10_folder) / "cifar-10-batches-py")
    for part in ("X_train", "y_train", "X_validation", "y_validation", "X_test", "y_test"):
        assert np.array_equal(getattr(binary, part), getattr(pickle_, part))
    assert binary.class_names == pickle_.class_names == cifar10.CLASS_NAMES


def test_the_real_cifar10_has_the_official_shapes_and_classes(cifar10_folder):
    data = load_cifar10(cifar10_folder)
    for X, y, rows in (
        (data.X_train, data.y_train, 49_000),
        (data.X_validation, data.y_validation, 1_000),
        (data.X_test, data.y_test, 10_000),
    ):
        assert (X.shape, X.dtype) == ((rows, 3072), np.uint8)
        assert (y.shape, y.dtype) == ((rows,), np.int64)
        assert_aligned(X)
    assert data.X_train.base is data.X_validation.base
    np.testing.assert_array_equal(np.bincount(np.hstack([data.y_train, data.y_validation])), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(data.y_test), [1000] * 10)
    assert data.feature_shape == (3, 32, 32)
