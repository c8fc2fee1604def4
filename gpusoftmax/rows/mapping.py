"""Files that are mapped to memory, without the risk that a change of the file ends the process."""

from __future__ import annotations

import functools
import mmap
import weakref

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.rows.flat_file import FlatFile


@functools.cache
def why_not_mapped() -> str:
    """Why files are not mapped on this system, or ""."""
    try:
        from gpusoftmax.cpu.bus_errors import is_supported  # imports Numba: 0.3 s
    except ImportError as error:
        return f"without Numba, a file that is truncated while it is mapped would end the process ({error})"
    return "" if is_supported() else "a file that is truncated while it is mapped would end the process here"


class MappedFile:
    """The rows of a file, mapped to memory.

    Raises
    ------
    BadFileError
        The file is no longer the one that was opened.
    OSError
        It cannot be mapped.

    Attributes
    ----------
    rows : ndarray, (n, d)
        In the type of the file; read-only.
    """

    def __init__(self, file: FlatFile) -> None:
        from gpusoftmax.cpu.bus_errors import Watched

        self.file = file
        with file.opened() as descriptor:
            mapped = np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), np.uint8)
        self.start = mapped.ctypes.data
        self.watched = Watched(self.start, self.start + len(mapped))
        weakref.finalize(mapped, self.watched.forget)  # views of the rows keep it
        self.rows: Array = file.view(mapped)

    def first_bad_row(self) -> int | None:
        """Return a row that could not be read so far, or None."""
        address = self.watched.first_bad()
        if address is None:
            return None
        place = address - self.start - self.file.offset
        return max(place // self.file.row_stride, 0) if self.file.column_stride == self.file.stored.itemsize else 0
