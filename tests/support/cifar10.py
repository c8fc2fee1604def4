"""Small files in CIFAR-10's formats: six batches of three images, as folders and archives."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import numpy as np

ROWS = 3
LABELS = [1, 9, 0]
PIXELS = np.random.default_rng(0).integers(0, 256, (ROWS, 3072), dtype=np.uint8)
FILE_NAMES = [b"camion_s_000148.png", b"alauda_s_000001.png", b"leptodactylus_s_000004.png"]
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


def counted(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


def python2_batch(X=PIXELS, labels=LABELS, names=FILE_NAMES) -> bytes:
    """Assemble what Python 2's cPickle.dumps(batch, 2) wrote, opcode by opcode, as the official files have it."""
    rows = len(labels)
    return b"".join(
        [
            b"\x80\x02}q\x01(",
            counted(b"batch_label") + b"q\x02" + counted(b"training batch 1 of 5") + b"q\x03",
            counted(b"labels") + b"q\x04]q\x05(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
            counted(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08",
            b"K\x00\x85" + counted(b"b") + b"\x87Rq\x09",
            b"(K\x01K"
            + bytes([rows])
            + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0a"
            + counted(b"u1")
            + b"K\x00K\x01\x87Rq\x0b",
            b"(K\x03" + counted(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + X.size.to_bytes(4, "little") + X.tobytes() + b"tb",
            counted(b"filenames") + b"q\x0c]q\x0d(",
            b"".join(counted(name) + b"r" + (14 + i).to_bytes(4, "little") for i, name in enumerate(names)) + b"e",
            b"u.",
        ]
    )


def python3_batch(X=PIXELS, labels=LABELS, names=FILE_NAMES, protocol=2) -> bytes:
    """Pickle a batch with the NumPy that runs the tests."""
    batch = {b"batch_label": b"training batch 1 of 5", b"labels": labels, b"data": X, b"filenames": names}
    return pickle.dumps(batch, protocol=protocol)


PYTHON2, PYTHON3 = python2_batch(), python3_batch()


def write_binary(folder: Path, X, y) -> Path:
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir()
    for i, name in enumerate(BATCHES):
        part = slice(i * ROWS, (i + 1) * ROWS)
        np.hstack([y[part, None].astype(np.uint8), X[part]]).tofile(folder / f"{name}.bin")
    return folder


def write_pickled(folder: Path, X, y, batch=python3_batch) -> Path:
    folder = folder / "cifar-10-batches-py"
    folder.mkdir()
    for i, name in enumerate(BATCHES):
        part = slice(i * ROWS, (i + 1) * ROWS)
        (folder / name).write_bytes(batch(X[part], y[part].tolist()))
    return folder


def write_python2(folder: Path, X, y) -> Path:
    return write_pickled(folder, X, y, python2_batch)


def pack(folder: Path, suffix: str = "", add=None) -> Path:
    """The archive of a folder, as the official ones are; `add` puts more into it."""
    kind = "binary" if folder.name.endswith("bin") else "python"
    path = folder.parent / f"cifar-10-{kind}.tar.gz{suffix}"
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        archive.add(folder, folder.name)
        if add is not None:
            add(archive)
    return path
