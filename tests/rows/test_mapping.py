"""Mapped files that can no longer be read: an error, where the system would end the process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import open_rows
from gpusoftmax.rows import file_rows
from gpusoftmax.rows.flat_file import FlatFile
from gpusoftmax.rows.mapping import MappedFile, why_not_mapped
from tests.support.processes import run_script

pytestmark = pytest.mark.skipif(bool(why_not_mapped()), reason=why_not_mapped())

TRUNCATED = """
import faulthandler, os, sys, threading
import numpy as np
from gpusoftmax import BadFileError, SoftmaxClassifier, open_rows
from gpusoftmax.rows import file_rows

if {faulthandler}:
    faulthandler.enable()
path, n, d = sys.argv[1], 40_000, 64
rng = np.random.default_rng(0)
np.save(path, rng.standard_normal((n, d)).astype(np.float32))
rows = open_rows(path)
assert rows.is_mapped
passes = []

def truncate(record):
    passes.append(record)
    if len(passes) == 2:
        os.truncate(path, 1000 * 4 * d)

model = SoftmaxClassifier(callbacks=[truncate], n_threads=2)
try:
    model.fit(rows, rng.integers(0, 3, n))
except BadFileError as error:
    print(error)
assert not hasattr(model, "coef_")
"""


@pytest.mark.parametrize("faulthandler", [False, True], ids=["alone", "after faulthandler"])
def test_a_mapped_file_that_is_truncated_in_mid_fit_is_an_error(tmp_path, faulthandler: bool) -> None:
    done = run_script(TRUNCATED.format(faulthandler=faulthandler), str(tmp_path / "X.npy"))
    assert done.returncode == 0, done.stderr
    assert "X.npy, row 1" in done.stdout
    assert "truncated from" in done.stdout


ELSEWHERE = """
import mmap, os, sys
import numpy as np
from gpusoftmax import open_rows

path = sys.argv[1]
np.save(path, np.zeros((10_000, 10)))
next(open_rows(path).blocks(8))  # installs the handler
with open(path + ".other", "wb") as file:
    file.write(bytes(1 << 16))
with open(path + ".other", "r+b") as file:
    other = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    os.truncate(path + ".other", 0)
    print(other[5000])
"""


def test_a_bus_error_in_any_other_memory_ends_the_process_as_before(tmp_path) -> None:
    done = run_script(ELSEWHERE, str(tmp_path / "X.npy"))
    assert done.returncode == -7, (done.returncode, done.stderr)


FREED = """
import gc, sys
import numpy as np
from gpusoftmax import open_rows
from gpusoftmax.cpu.bus_errors import _handler

for i in range(3):
    np.save(sys.argv[1], np.zeros((1000, 10)))
    next(open_rows(sys.argv[1]).blocks(8))
    gc.collect()
    print(np.count_nonzero(_handler.table[:, 1]))
"""


def test_a_mapping_that_is_freed_is_no_longer_watched(tmp_path) -> None:
    done = run_script(FREED, str(tmp_path / "X.npy"))
    assert done.stdout.split() == ["0", "0", "0"], done.stderr


def test_threads_that_map_the_same_files_at_once_read_the_same_rows(tmp_path: Path) -> None:
    X = np.arange(12.0).reshape(6, 2)
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", X[i : i + 1])
    rows = open_rows([tmp_path / f"{i}.npy" for i in range(6)])
    other: list[list[Any]] = []

    def mapped(file: FlatFile) -> MappedFile:
        if file is rows.files[2] and not other:  # another thread reads while the third file is mapped
            other.append([])
            thread = threading.Thread(target=lambda: other[0].extend(rows.blocks(1)))
            thread.start()
            thread.join()
        return MappedFile(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_rows, "MappedFile", mapped)
        blocks = list(rows.blocks(1))
    for found in (blocks, other[0]):
        assert np.array_equal(np.concatenate([block for _, block in found]), X)
