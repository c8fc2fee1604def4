"""Hostile array and table files: each is refused within a second and 64 MB.

Nothing is imported, executed or opened but the file itself.
"""

from __future__ import annotations

import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.arff
import scipy.sparse
import sklearn.datasets  # noqa: F401 - the readers of ARFF and svmlight import these; here, because no load may import

from gpusoftmax import load_model
from gpusoftmax.cpu import text_kernels  # noqa: F401 - for the same reason
from gpusoftmax.datasets.cifar10 import read_file
from gpusoftmax.files.csv_file import read_csv
from gpusoftmax.files.load import load_data, read_parts
from gpusoftmax.files.npy import read_npy, read_npz
from gpusoftmax.files.sparse import read_svmlight
from gpusoftmax.files.table import Columns
from tests.support.hostile import assert_refused, audited, forbidden


def npy(header: str | bytes, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """A .npy file with this header."""
    text = header if isinstance(header, bytes) else header.encode()
    size = (len(text) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def described(descr: str = "'<f8'", shape: str = "(3,)", order: str = "False", data: bytes = bytes(24)) -> bytes:
    """A .npy file with these fields, each as it stands in the header."""
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n", data)


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


class Evil:
    """Unpickling one runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


NPY = {
    "pickled objects": saved(np.array([Evil()], object)),
    "objects by name": described("'|O'"),
    "objects within": described("[('a', '<f8'), ('b', '|O')]"),
    "a shape that asks for 32 GiB": described(shape="(65536, 65536)", data=b""),
    "a shape beyond 64 bits": described(shape=f"({2**32}, {2**32})"),
    "a shape beyond 64 bits that wraps to what is there": described(shape=f"({2**61}, {2**3}, 3)"),
    "a shape of huge numbers": described(shape=f"({'9' * 4000},)"),
    "a negative shape": described(shape="(-3,)"),
    "two negative shapes": described(shape="(-3, -1)"),
    "a shape of floats": described(shape="(3.0,)"),
    "a shape of booleans": described(shape="(True, 3)"),
    "a shape of text": described(shape="'abc'"),
    "a shape in a list": described(shape="[3]"),
    "a shape of 100 dimensions": described(shape="(" + "1," * 100 + ")"),
    "a structured type": described("[('a', '<f8')]"),
    "a structured type in words": described("'f8,f8'"),
    "a sub-array": described("'(3,)f8'"),
    "a huge sub-array": described("'(99999999,)f8'"),
    "a type of no size": described("'<U0'", data=b""),
    "a void type": described("'|V8'"),
    "a huge type": described("'<U500000000'"),
    "an unknown type": described("'<q9'"),
    "a type that is a path": described("'numpy.load'"),
    "a type with metadata": described("{'names': ['a'], 'formats': ['O']}"),
    "a type with a comma at its end": described("'f8,'"),
    "text beyond Unicode": described("'<U1'", data=b"\xff\xff\xff\xff" * 3),
    "half a surrogate pair": described("'<U1'", data=b"\0\xd8\0\0" * 3),
    "text of the other byte order": described("'>U1'", data=b"a\0\0\0" * 3),
    "dates": described("'<M8[s]'"),
    "an order that is no truth": described(order="1"),
    "another key": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), 'evil': 1}", bytes(24)),
    "a missing key": npy("{'descr': '<f8', 'shape': (3,)}", bytes(24)),
    "no dict": npy("[1, 2, 3]", bytes(24)),
    "a call": npy("__import__('os').system('touch executed')", bytes(24)),
    "deep nesting": npy("(" * 4000 + ")" * 4000, bytes(24)),
    "deep signs": npy("-" * 9000 + "1", bytes(24)),
    "an unclosed text": npy("{'descr': '<f8", bytes(24)),
    "a zero byte in the header": npy("{'descr': '\0'}", bytes(24)),
    "a header that is no UTF-8": npy(b"\xff\xfe{}", bytes(24), version=3),
    "a header longer than the file": npy("{}", length=60_000),
    "a header of 4 GB": npy("{}", version=2, length=2**32 - 1),
    "a header of no length": npy("", bytes(24)),
    "an unknown version": npy("{}", version=9),
    "another magic": b"\x93NUMPX" + npy("{}")[6:],
    "one byte too few": saved(np.arange(9.0))[:-1],
    "one byte too many": saved(np.arange(9.0)) + b"\0",
    "no byte": b"",
}  # fmt: skip


@pytest.mark.parametrize("content", NPY.values(), ids=NPY.keys())
def test_a_hostile_npy_is_refused(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    assert_refused(read_npy, path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", NPY.values(), ids=NPY.keys())
def test_a_hostile_npy_within_an_npz_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", content)
    assert_refused(read_npz, tmp_path / "a.npz")
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_an_npy_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole, path = saved(np.arange(40.0).reshape(5, 8)), tmp_path / "a.npy"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert_refused(read_npy, path)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


GOOD = saved(np.arange(6.0))
ARCHIVE = zipped({"X.npy": GOOD})
STORED = zipped({"X.npy": GOOD}, zipfile.ZIP_STORED)
DIRECTORY = ARCHIVE.index(b"PK\x01\x02")


def patched(content: bytes, at: int, kind: str, value: int) -> bytes:
    """`content` with a number put at a place."""
    return content[:at] + struct.pack(kind, value) + content[at + struct.calcsize(kind) :]


def sizes_of(content: bytes, packed: int | None = None, whole: int | None = None) -> bytes:
    """An archive of one member, whose directory lies about the member's sizes."""
    start = content.index(b"PK\x01\x02")
    for place, value in ((20, packed), (24, whole)):
        if value is not None:
            content = patched(content, start + place, "<I", value)
    return content


def twice() -> bytes:
    one = zipped({"X.npy": GOOD, "Y.npy": GOOD})
    return one.replace(b"Y.npy", b"X.npy")


def bomb(size: int) -> bytes:
    """A member whose header and directory tell the truth: many zeros."""
    header = described("'|u1'", f"({size},)", data=b"")
    return zipped({"X.npy": header + bytes(size)})


def directory_bomb() -> bytes:
    """An archive of 200,000 members, all of them the same bytes."""
    entry = ARCHIVE[DIRECTORY : ARCHIVE.index(b"PK\x05\x06")]
    count = 200_000
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, len(entry) * count, DIRECTORY, 0)
    return ARCHIVE[:DIRECTORY] + entry * count + end


# made as they are needed: all of them take seconds
NPZ: dict[str, Callable[[], bytes]] = {
    "a bomb": lambda: bomb(200 << 20),
    "a bomb of several members": lambda: zipped({f"X{i}.npy": described(data=bytes(33 << 20)) for i in range(3)}),
    "small bombs that add up": lambda: zipped(
        {f"X{i}.npy": described("'|u1'", f"({20 << 20},)", data=bytes(20 << 20)) for i in range(2)}
    ),
    "a name twice": twice,
    "a member that is no array": lambda: zipped({"X.npy": GOOD, "run.sh": b"touch executed"}),
    "a name that leads elsewhere": lambda: zipped({"../../X.txt": GOOD}),
    "an archive within": lambda: zipped({"X.npz": ARCHIVE}),
    "a huge directory": directory_bomb,
    "a size that is too large": lambda: sizes_of(ARCHIVE, whole=len(GOOD) + 1000),
    "a size of 4 GB": lambda: sizes_of(ARCHIVE, whole=2**32 - 2),
    "a size that is too small": lambda: sizes_of(ARCHIVE, whole=len(GOOD) - 8),
    "a size of nothing": lambda: sizes_of(ARCHIVE, whole=0),
    "a packed size beyond the archive": lambda: sizes_of(ARCHIVE, packed=2**31),
    "a packed size of nothing": lambda: sizes_of(ARCHIVE, packed=0),
    "both sizes beyond the archive": lambda: sizes_of(STORED, packed=2**31, whole=2**31),
    "a wrong checksum": lambda: patched(ARCHIVE, DIRECTORY + 16, "<I", zlib.crc32(GOOD) ^ 1),
    "an encrypted member": lambda: patched(patched(ARCHIVE, DIRECTORY + 8, "<H", 1), 6, "<H", 1),
    "another method": lambda: patched(
        patched(ARCHIVE, DIRECTORY + 10, "<H", zipfile.ZIP_BZIP2), 8, "<H", zipfile.ZIP_BZIP2
    ),
    "an unknown method": lambda: patched(patched(ARCHIVE, DIRECTORY + 10, "<H", 99), 8, "<H", 99),
    "a member beyond the archive": lambda: patched(ARCHIVE, DIRECTORY + 42, "<I", 2**31),
    "a directory beyond the archive": lambda: patched(ARCHIVE, len(ARCHIVE) - 6, "<I", 2**31),
    "a directory before the archive": lambda: patched(ARCHIVE, len(ARCHIVE) - 10, "<I", 2**31),
    "data that do not inflate": lambda: ARCHIVE[:40] + bytes(20) + ARCHIVE[60:],
    "no archive": lambda: b"PK\x03\x04 but not really",
    "no byte": lambda: b"",
    "a pickle": lambda: b"\x80\x04cos\nsystem\n.",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("content", NPZ.values(), ids=NPZ.keys())
def test_a_hostile_npz_is_refused(
    content: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npz"
    path.write_bytes(content())
    assert_refused(read_npz, path)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [ARCHIVE, STORED], ids=["deflated", "stored"])
def test_an_npz_cut_off_anywhere_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert_refused(read_npz, path)


CSV: dict[str, Callable[[], bytes]] = {
    "one endless line": lambda: b"1," * (8 << 20),
    "one endless field": lambda: b"1" * (16 << 20),
    "an unclosed quote": lambda: b'a,label\n1,"' + b"x,y\n" * (4 << 20),
    "a quote of many lines": lambda: b'a,label\n1,"' + b"\n" * (1 << 20) + b'"\n',
    "millions of columns": lambda: b",".join([b"1"] * (2 << 20)) + b"\n",
    "many columns with long names": lambda: (
        b",".join([b"x" * 30 + str(i).encode() for i in range(100_000)]) + b",label\n1\n"
    ),
    "a long label among short ones": lambda: b"a,label\n" + b"1,x\n" * 5000 + b"1," + b"x" * 130_000 + b"\n",
    "many columns, the last of one name": lambda: (
        b",".join(b"c%d" % (i % 99_999) for i in range(100_000)) + b",label\n1\n"
    ),
    "zero bytes": lambda: bytes(16 << 20),
    "a gzip bomb": lambda: zlib.compress(bytes(64 << 20), wbits=31),
    "UTF-16 without a mark": lambda: "a,label\n1,x\n".encode("utf-16-le"),
    "a gzip bomb of rows": lambda: zlib.compress(b"a,label\n" + b"1,x\n" * (32 << 20), wbits=31),
    "an xz bomb of rows": lambda: lzma.compress(b"a,label\n" + b"1,x\n" * (16 << 20), preset=1),
    "an xz bomb in UTF-16": lambda: lzma.compress(("a,label\n" + "1,x\n" * (8 << 20)).encode("utf-16"), preset=1),
    "an xz with a large dictionary": lambda: lzma.compress(
        b"a,label\n1,x\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20}]
    ),
    "many gzip files of nothing": lambda: zlib.compress(b"", wbits=31) * (512 << 10),
    "a gzip in a gzip": lambda: zlib.compress(zlib.compress(b"a,label\n1,x\n", wbits=31), wbits=31),
    "bzip2": lambda: b"BZh91AY&SY",
    "blank lines": lambda: b"\n" * (16 << 20),
    "lines of blanks": lambda: b" \t \r\n" * (4 << 20),
    "comments": lambda: b"# a\n" * (4 << 20),
    "carriage returns": lambda: b"\r" * (8 << 20),
    "ends of lines of every kind": lambda: b"a,label\n1,x\r" + b"\r\n\r\n\n" * (1 << 20) + b"1\n",
    "blanks": lambda: b"1 " * (4 << 20),
    "two long lines of blanks": lambda: (b"1 " * 99_999 + b"1\n" + b"2 " * 99_998 + b"1\n") * 2,
    "a title above many columns": lambda: b"a title\n" + (b"1," * 99_999 + b"1\n") * 3,
    "commas, semicolons, tabs and pipes": lambda: b"1,2;3\t4|5" * 20_000 + b"\n" + b"6|7\t8;9,0" * 20_000 + b"\n",
    "quotes and nothing else": lambda: b'"' * (4 << 20) + b"\n",
    "quotes in quotes": lambda: b'"' + b'""' * (1 << 20) + b'"\n' + b'"",' * 50_000 + b"\n",
    "digits and commas": lambda: b"a;label\n" + b"1,234," * 200_000 + b";x\n",
    "groups of three digits": lambda: b"a;label\n1" + b",234" * 500_000 + b".5.5;x\n",
    "numbers with blanks": lambda: b"a,label\n" + b"1 2 " * 500_000 + b"x,x\n",
    "Latin-1 and control characters": lambda: b"a,label\n" + b"\xe9,x\n" * 100_000 + b"\x01\n",
    "ARFF with endless declarations": lambda: b"@relation r\n" + b"@attribute a real\n" * (1 << 20),
    "ARFF with an endless name": lambda: b"@relation r\n@attribute '" + b"x" * (900 << 10) + b"\n@data\n1\n",
    "ARFF with many words": lambda: b"@relation r\n@attribute a {" + b"x," * (400 << 10) + b"\n@data\n1\n",
    "ARFF with many columns": lambda: b"@relation r\n" + b"@attribute a real\n" * 50_000 + b"@data\n1\n",
    "ARFF with braces": lambda: b"@relation r\n@attribute a " + b"{" * (900 << 10) + b"\n@data\n1\n",
    "ARFF with blanks": lambda: b"@relation r\n@attribute a " + b" " * (900 << 10) + b"x\n@data\n1\n",
    "svmlight and a table": lambda: b"1 1:1\n" * 4 + b"a,label\n1,x\n",
    "UTF-32": lambda: "a,label\n1,x\n".encode("utf-32"),
    "a formula": lambda: b"a,label\n\"=cmd|' /C calc'!A0\",x\n",
    "a number of a million digits": lambda: b"a,label\n" + b"9" * (1 << 20) + b",x\n",
    "NaN with a payload": lambda: b"a,label\nnan(0x1234),x\n",
    "infinity in words": lambda: b"a,label\nInfinity,x\n",
}


SLOW_TO_REFUSE = {"an unclosed quote", "a quote of many lines", "many columns with long names"}  # seconds


@pytest.mark.parametrize(
    "content",
    [pytest.param(CSV[name], id=name, marks=pytest.mark.slow if name in SLOW_TO_REFUSE else ()) for name in CSV],
)
def test_a_hostile_csv_is_refused(content: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content())
    assert_refused(lambda path: read_parts(path, Columns()), path)


SVMLIGHT: dict[str, Callable[[], bytes]] = {
    "one endless line": lambda: b"1 " + b"".join(b"%d:1 " % i for i in range(1 << 20)),
    "one endless word": lambda: b"1" * (16 << 20),
    "one endless comment": lambda: b"1 1:1 #" + b"x" * (16 << 20),
    "as many words as a line may have": lambda: b"ab " * (600 << 10),
    "a comment of zero bytes": lambda: bytes(16 << 20),
    "a column beyond 32 bits": lambda: b"1 1:1 2147483648:1\n",
    "a column beyond 64 bits": lambda: b"1 1:1 99999999999999999999:1\n",
    "a column of thousands of digits": lambda: b"1 " + b"9" * 5000 + b":1\n",
    "the last column and column 0": lambda: b"1 0:1 2147483647:1\n",
    "a negative column": lambda: b"1 -2147483648:1\n",
    "a number of a million digits": lambda: b"1 1:" + b"9" * (1 << 20) + b"\n",
    "a label of a million digits": lambda: b"9" * (1 << 20) + b" 1:1\n",
    "NaN with a payload": lambda: b"1 1:nan(0x1234)\n",
    "infinity in words": lambda: b"1 1:Infinity\n",
    "digits of another script": lambda: "1 \u0661:1\n".encode(),
    "a zero byte in a value": lambda: b"1 1:1\0\n",
    "a zero byte before a comment": lambda: b"1 qid:\0 #1:1\n",
    "lines that end in carriage returns": lambda: b"1 1:1\r0 1:1\r",
    "UTF-16 without a mark": lambda: "1 1:1\n".encode("utf-16-le"),
    "a gzip bomb": lambda: zlib.compress(bytes(64 << 20), wbits=31),
    "a pickle": lambda: b"\x80\x04cos\nsystem\n.",
    "no byte": lambda: b"",
}


@pytest.mark.parametrize("content", SVMLIGHT.values(), ids=SVMLIGHT.keys())
def test_a_hostile_svmlight_file_is_refused(content: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.svm"
    path.write_bytes(content())
    assert_refused(load_data, path)


SPARSE: dict[str, dict[str, Any]] = {
    "a format that is pickled": {"format": np.array(Evil(), object)},
    "a format that is an attribute of SciPy": {"format": b"load"},
    "columns beyond the matrix": {"indices": [0, 2**31 - 1]},
    "columns before the matrix": {"indices": [-(2**31), 1]},
    "pointers beyond the entries": {"indptr": [0, 2**30, 2**31 - 1]},
    "pointers before the entries": {"indptr": [0, -(2**31), 2]},
    "more rows than pointers": {"shape": [2**62, 3]},
    "rows of CSC by the billion": {"format": b"csc", "shape": [2**40, 2]},
    "rows of COO by the billion": {"format": b"coo", "shape": [2**40, 3], "row": [0, 1], "col": [0, 2]},
    "a shape beyond 64 bits": {"shape": np.array([2**64 - 1, 2**64 - 1], np.uint64)},
    "a shape of another number of dimensions": {"shape": [2] * 33},
}


@pytest.mark.parametrize("members", SPARSE.values(), ids=SPARSE.keys())
def test_a_hostile_sparse_matrix_is_refused(
    members: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = {"format": b"csr", "shape": [2, 3], "data": [1.0, 2.0], "indices": [0, 2], "indptr": [0, 1, 2]}
    np.savez(tmp_path / "a.npz", **{**good, "y": [0, 1], **members})
    assert_refused(load_data, tmp_path / "a.npz")
    assert not (tmp_path / "executed").exists()


LOADERS: dict[str, Any] = {
    "npy": read_npy,
    "npz": read_npz,
    "csv": lambda path: read_csv(path, Columns()),
    "svmlight": lambda path: read_svmlight(path, Columns()),
    "a batch of CIFAR-10": read_file,
    "a model": load_model,
}
every_loader = pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS.keys())


@every_loader
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_a_pipe_is_refused_without_waiting_for_a_writer(load: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert_refused(load, tmp_path / "pipe", "is a pipe; expected a file")


@every_loader
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero here")
def test_a_device_without_an_end_is_refused(load: Any) -> None:
    assert_refused(load, Path("/dev/zero"), "is a device; expected a file")


@pytest.mark.parametrize("name", ["a.npz", "b.csv", "c.svm", "d.npz"])
def test_a_good_file_is_opened_once_and_nothing_else_is(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.npz":
        np.savez(path, X=np.arange(20.0).reshape(10, 2), y=np.arange(10) % 2)
    elif name == "c.svm":
        path.write_text("0 1:1\n1 2:2\n" * 5)
    elif name == "d.npz":
        X = scipy.sparse.csr_array(np.eye(10))
        members = {"shape": X.shape, "data": X.data, "indices": X.indices, "indptr": X.indptr}
        np.savez(path, format=b"csr", y=np.arange(10) % 2, **members)
    else:
        path.write_text("a,label\n" + "1,x\n2,y\n" * 5)
    with audited() as events:
        load_data(path)
    assert forbidden(events, path) == []
