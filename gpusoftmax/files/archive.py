"""Reading the members of a .tar.gz one after another, without writing anything to disk.

`tarfile` follows links and reads extended headers of any size, and its extraction has been exploited again and again
(CVE-2007-4559, CVE-2024-12718, CVE-2025-4517). The archives that this library reads hold only a few plain files. So
each header is read by itself here, and everything but a plain file is refused.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.open import open_regular

BLOCK = tarfile.BLOCKSIZE
MOST_MEMBERS = 32
# pax headers hold more precise times and the like for the next member; all of it, even names and sizes, is ignored
EXTENDED, MOST_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE), 1 << 16
MOST_PADDING = 1 << 20  # bytes of zeros after the last member; tar pads to a multiple of 10,240


def read_members(path: Path, most: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name, such as "folder/name", and the content of each plain file in a .tar.gz.

    Parameters
    ----------
    path : pathlib.Path
        The archive.
    most : int
        Members of more bytes than this are refused without being read.

    Yields
    ------
    str, bytes

    Raises
    ------
    BadFileError
        The archive is damaged; or it holds links, devices, a name twice, an absolute name or one with "..", more than
        32 members, or one that is too large.
    OSError
        It cannot be read.
    """
    seen: set[str] = set()
    with open_regular(path) as file, gzip.GzipFile(fileobj=file) as stream:
        try:
            while header := _read_header(stream, path):
                name = str(PurePosixPath(header.name))
                place = f"member {header.name[:80]!r}"
                if header.isdir():
                    continue
                if header.type in EXTENDED and 0 <= header.size <= MOST_EXTENDED:
                    stream.read(header.size + -header.size % BLOCK)
                    continue
                if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):  # isreg() would accept sparse files
                    kind = "a link" if header.islnk() or header.issym() else f"of type {header.type!r}"
                    raise BadFileError(path, place=place, reason=f"is {kind}", expected="only plain files")
                if name.startswith("/") or ".." in PurePosixPath(name).parts:
                    raise BadFileError(
                        path, place=place, reason="leads outside the archive", expected="names without .."
                    )
                if name in seen or len(seen) == MOST_MEMBERS:
                    reason = "occurs twice" if name in seen else f"is beyond the first {MOST_MEMBERS}"
                    raise BadFileError(path, place=place, reason=reason, expected="few members, each once")
                if not 0 <= header.size <= most:
                    reason, expected = f"{header.size} bytes", f"at most {most} bytes"
                    raise BadFileError(path, place=place, reason=reason, expected=expected)
                seen.add(name)
                content = stream.read(header.size)
                padding = stream.read(-header.size % BLOCK)
                if len(content) < header.size or len(padding) < -header.size % BLOCK:
                    raise BadFileError(path, place=place, reason="the archive ends within it", expected="all of it")
                yield name, content
            if len(stream.read(MOST_PADDING)) == MOST_PADDING:
                raise BadFileError(path, reason="continues after its last member", expected="the end of the archive")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BadFileError(path, reason=str(error), expected="an undamaged .tar.gz") from error


def _read_header(stream: gzip.GzipFile, path: Path) -> tarfile.TarInfo | None:
    """Return the header of the next member, or None at the end of the archive."""
    try:
        return tarfile.TarInfo.frombuf(stream.read(BLOCK), "utf-8", "replace")
    except tarfile.HeaderError as error:
        if str(error) == "end of file header":
            return None
        raise BadFileError(path, reason=f"not a tar archive ({error})", expected="an undamaged .tar.gz") from error
