"""Members of a .tar.gz, read one after the other; nothing is ever written.

`tarfile` follows links, and headers that extend others without a limit; its extraction has been led astray again and
again (CVE-2007-4559, CVE-2024-12718, CVE-2025-4517). The archives that this library reads hold a few plain files: here
each header is taken by itself, and whatever else it may say is refused.
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
# pax headers: finer times and the like of the next member, of no use here; a name or size in them is not heard
EXTENDED, MOST_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE), 1 << 16
MOST_PADDING = 1 << 20  # bytes of zeros after the last member; tar pads to 10,240


def read_members(path: Path, most: int) -> Iterator[tuple[str, bytes]]:
    """Each plain file of a .tar.gz: its name, as "folder/name", and content.

    Parameters
    ----------
    path : pathlib.Path
        The archive.
    most : int
        The size in bytes above which a member is refused, unread.

    Yields
    ------
    str, bytes

    Raises
    ------
    BadFileError
        Damaged; or with links, devices, a name twice, absolute or with "..", more than 32 members, or one too large.
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
                if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):  # isreg() would take sparse files for such
                    kind = "a link" if header.islnk() or header.issym() else f"of type {header.type!r}"
                    raise BadFileError(path, place=place, reason=f"is {kind}", expected="plain files alone")
                if name.startswith("/") or ".." in PurePosixPath(name).parts:
                    raise BadFileError(path, place=place, reason="leads elsewhere", expected="names below the archive")
                if name in seen or len(seen) == MOST_MEMBERS:
                    reason = "stands twice" if name in seen else f"is beyond the first {MOST_MEMBERS}"
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
                raise BadFileError(path, reason="goes on after its last member", expected="the end of the archive")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BadFileError(path, reason=str(error), expected="an undamaged .tar.gz") from error


def _read_header(stream: gzip.GzipFile, path: Path) -> tarfile.TarInfo | None:
    """The next member's header; None at the end."""
    try:
        return tarfile.TarInfo.frombuf(stream.read(BLOCK), "utf-8", "replace")
    except tarfile.HeaderError as error:
        if str(error) == "end of file header":
            return None
        raise BadFileError(path, reason=f"not a tar archive ({error})", expected="an undamaged .tar.gz") from error
