"""Reading text files: any of the usual encodings, plain or compressed, in lines of limited length."""

from __future__ import annotations

import codecs
import encodings.cp1252
import encodings.utf_16_be
import encodings.utf_16_le  # noqa: F401 - the codecs of tables: reading a file should not import modules
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from gpusoftmax._log import log
from gpusoftmax.exceptions import BadFileError

BLOCK = 1 << 18  # bytes of text that are decoded at a time
MOST_LINE = 4 << 20  # bytes: 100,000 columns of 40 each; an endless line must not fill the memory

GZIP, XZ = b"\x1f\x8b", b"\xfd7zXZ\0"
OTHERS = {b"BZh": "bzip2", b"PK\3\4": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z"}
COMPRESSED = 1 << 11  # bytes that are decompressed at a time, so that a bomb is known by the first megabyte of text
# A gigabyte of zeros takes a megabyte in gzip and 150 KB in xz. Tables take a third to a fiftieth of their text.
MOST_RATIO, LEAST_TEXT = 200, 1 << 20
MOST_DICTIONARY = 70 << 20  # bytes of memory for xz; its level 9 needs 65 MiB
MOST_PARTS = 1 << 16  # gzip and xz files may be several, one after another

UTF8, UTF16 = codecs.BOM_UTF8, {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
END = re.compile(rb"\r\n?|\n")
SIGNS_OF_BLANK = " \t\v\f\r\n"
BLANK_LINES = {signs: re.compile(rf"[{signs}]*+".encode()) for signs in ("\r\n", " \r\n", SIGNS_OF_BLANK)}


def text_blocks(path: Path, file: BinaryIO, decoder: Decoder | None = None) -> Iterator[bytes]:
    """Yield the text of a file from its start, in blocks of UTF-8 without a byte order mark.

    The file may be compressed by gzip or xz. Its text may be UTF-8 or, after a byte order mark, UTF-16. Anything else
    is read as Latin-1, in the form that Windows writes (code page 1252), with a warning.

    Parameters
    ----------
    path : pathlib.Path
        The file, for messages.
    file : binary file
        The open file; it is read from its start.
    decoder : Decoder or None
        Tells the encoding; it may know it from an earlier reading.

    Raises
    ------
    BadFileError
        It is not text, or is damaged, or is far larger than its compressed form.
    OSError
        It cannot be read.
    """
    file.seek(0)
    start = file.read(len(XZ))
    file.seek(0)
    if other := next((name for magic, name in OTHERS.items() if start.startswith(magic)), None):
        raise BadFileError(path, reason=f"is compressed by {other}", expected="text, or text compressed by gzip or xz")
    if start.startswith(GZIP):
        blocks = _ahead(_decompressed(path, file, _Gzip))
    elif start == XZ:
        blocks = _ahead(_decompressed(path, file, _xz))
    else:
        blocks = iter(lambda: file.read(BLOCK), b"")
    return (decoder or Decoder(path)).blocks(blocks)


class _Gzip:
    """A decompressor with the interface of lzma's."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, most)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_DICTIONARY)


def _decompressed(path: Path, file: BinaryIO, start: Any) -> Iterator[bytes]:
    """Yield the decompressed content of a file, which may consist of several parts; `start` makes a decompressor."""
    made = 0
    for _ in range(MOST_PARTS):
        stream = start()
        while not stream.eof:
            data = file.read(COMPRESSED) if stream.needs_input else b""
            try:
                block = stream.decompress(data, BLOCK)
            except (zlib.error, lzma.LZMAError) as error:
                raise BadFileError(path, reason=str(error), expected="an undamaged compressed file") from error
            if not (block or data or stream.eof):
                raise BadFileError(path, reason="ends before its last line", expected="the whole compressed file")
            made += len(block)
            if made > max(LEAST_TEXT, MOST_RATIO * file.tell()):
                reason = f"holds more than {MOST_RATIO} times its size"
                raise BadFileError(path, reason=reason, expected="a table; decompress it first, if it is one")
            yield block
        file.seek(-len(stream.unused_data), io.SEEK_CUR)
        while (padding := file.read(COMPRESSED)) and not padding.strip(b"\0"):
            pass
        if not padding:
            return
        file.seek(-len(padding.lstrip(b"\0")), io.SEEK_CUR)
    raise BadFileError(path, reason=f"is more than {MOST_PARTS} compressed files", expected="a single one")


def _ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield blocks once the first of them have been made, so that a bomb is refused before its rows are read."""
    first, size = list[bytes](), 0
    for block in blocks:
        first.append(block)
        size += len(block)
        if size > LEAST_TEXT:
            break
    yield b"".join(first)
    first.clear()
    yield from blocks


class Decoder:
    """Turns blocks of a text file into UTF-8, and counts their lines for messages.

    Attributes
    ----------
    encoding : str
        "ascii", "utf-8" or "latin-1", as far as the bytes tell.
    """

    def __init__(self, path: Path, encoding: str = "ascii") -> None:
        self.path, self.encoding, self.lines = path, encoding, 0
        self.rest = b""  # the beginning of a character whose other bytes are in the next block

    def blocks(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        first = next(blocks, b"")
        while len(first) < len(UTF8) and (more := next(blocks, b"")):
            first += more
        mark = next((mark for mark in (UTF8, *UTF16) if first.startswith(mark)), b"")
        blocks = chain([first.removeprefix(mark)], blocks)
        if mark:
            self.encoding = "utf-8"
        if mark in UTF16:
            blocks = self._from_utf16(blocks, UTF16[mark])
        for block in blocks:
            yield self._as_utf8(block)
        if self.rest:
            yield self._as_utf8(b"", final=True)

    def _from_utf16(self, blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(name)()
        for block in chain(blocks, [b""]):
            try:
                yield decoder.decode(block, final=not block).encode()
            except UnicodeDecodeError as error:
                raise self._bad(b"", f"is not {name.upper()} ({error.reason})", "undamaged text") from None

    def _as_utf8(self, block: bytes, final: bool = False) -> bytes:
        """Return a block in UTF-8, checked."""
        block = self.rest + block
        self.rest = b""
        if self.encoding != "latin-1" and not block.isascii():
            try:
                valid = codecs.utf_8_decode(block, "strict", final)[1]
                block, self.rest = block[:valid], block[valid:]
                self.encoding = self.encoding if block.isascii() else "utf-8"
            except UnicodeDecodeError as error:
                before, byte = block[: error.start], f"byte {block[error.start]:#04x}"
                if self.encoding == "utf-8" or not before.isascii():
                    raise self._bad(before, f"{byte} is not UTF-8", "text in UTF-8 (Excel: CSV UTF-8)") from None
                self.encoding = "latin-1"
                block = self._from_latin_1(block)
                log.warning(
                    "%s: %s in line %d is not UTF-8, so the text is read as Latin-1 (code page 1252); if names or "
                    "labels come out wrong, save it as UTF-8", self.path, byte, self.lines + _lines_in(before) + 1,
                )  # fmt: skip
        elif self.encoding == "latin-1":
            block = self._from_latin_1(block)
        if (zero := block.find(b"\0")) >= 0:
            raise self._bad(block[:zero], "a zero byte", "text, in UTF-8 or with a byte order mark")
        self.lines += _lines_in(block)
        return block

    def _from_latin_1(self, block: bytes) -> bytes:
        """Return a block of Latin-1 in UTF-8."""
        if odd := CONTROL.search(block):
            raise self._bad(block[: odd.start()], f"byte {block[odd.start()]:#04x}", "text")
        try:
            return block.decode("cp1252").encode()
        except UnicodeDecodeError as error:
            reason = f"byte {block[error.start]:#04x} is neither UTF-8 nor Latin-1"
            raise self._bad(block[: error.start], reason, "text in UTF-8") from None

    def _bad(self, before: bytes, reason: str, expected: str) -> BadFileError:
        """Make an error about what follows `before` in a block."""
        place = f"line {self.lines + _lines_in(before) + 1}"
        return BadFileError(self.path, place=place, reason=reason, expected=expected)


def _lines_in(block: bytes) -> int:
    return block.count(b"\n") or block.count(b"\r")


class Lines:
    """The lines of a text file, each of limited length, with their ends.

    Attributes
    ----------
    number : int
        The number of the last line that was read, counted from 1.
    block, at : bytes and int
        Whole lines, and where among them the next line begins. At the end of the file the block is empty.
    size, read : int
        Bytes of the file, and bytes of text before the block.
    """

    def __init__(self, path: Path, file: BinaryIO, encoding: str = "ascii") -> None:
        self.path, self._decoder = path, Decoder(path, encoding)
        self.size = file.seek(0, io.SEEK_END)
        self.number = self.at = self.read = 0
        self._begin(b"")
        self._rest = b""
        self._blocks = text_blocks(path, file, self._decoder)

    def again(self, file: BinaryIO) -> Lines:
        """Return all lines of the file, from its start."""
        known = self._decoder.encoding  # if it was guessed, that was said
        return Lines(self.path, file, "latin-1" if known == "latin-1" else "ascii")

    def skip(self, count: int) -> None:
        """Read some lines."""
        for _ in range(count):
            next(self)

    def fill(self) -> bool:
        """Make sure that a line can be read from the block; False at the end of the file."""
        if self.at < len(self.block):
            return True
        self.read += len(self.block)
        self._begin(self._next())
        return bool(self.block)

    def _begin(self, block: bytes) -> None:
        self.block, self.at = block, 0
        self._has_returns = b"\r" in block

    def _next(self) -> bytes:
        """Return the next whole lines. The last line gets an end if it has none."""
        text = self._rest
        for block in self._blocks:
            text += block
            # a \r at the end of a block may be the first half of an \r\n
            end = text.rfind(b"\n") + 1 or text.rfind(b"\r", 0, -1) + 1
            if not end and len(text) > MOST_LINE:
                raise self.bad(f"more than {MOST_LINE} bytes", "one row per line", self.number + 1)
            if end:
                self._rest = text[end:]
                return text[:end]
        self._rest = b""
        return text + b"\n" if text and text[-1] not in b"\r\n" else text

    def skip_blank(self, signs: str = SIGNS_OF_BLANK) -> bool:
        """Read lines as long as they hold nothing but these signs; False at the end of the file."""
        while self.fill():
            found = BLANK_LINES[signs].match(self.block, self.at)
            assert found is not None, "even nothing matches"
            end = max(self.block.rfind(b"\n", self.at, found.end()), self.block.rfind(b"\r", self.at, found.end())) + 1
            if end > self.at:
                lines = self.block[self.at : end]
                self.number += lines.count(b"\n") + lines.count(b"\r") - lines.count(b"\r\n")
                self.at = end
            if found.end() < len(self.block):
                return True
        return False

    def peek(self, count: int, size: int) -> list[str]:
        """Return the next lines without reading them: `count`, or at least two with `size` bytes together."""
        before = self.block[self.at :]
        found = before.splitlines(keepends=True)
        while len(found) < 2 or (len(found) < count and len(before) < size):
            more = self._next()
            if not more:
                break
            before += more
            found = before.splitlines(keepends=True)
        self.read += self.at
        self._begin(before)
        total, lines = 0, list[str]()
        for line in found[:count]:
            if total >= size and len(lines) > 1:
                break
            lines.append(line.decode())
            total += len(line)
        return lines

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self.fill():
            raise StopIteration
        if self._has_returns:
            found = END.search(self.block, self.at)
            assert found is not None, "a block ends with the end of a line"
            end = found.end()
        else:
            end = self.block.index(b"\n", self.at) + 1
        line, self.at = self.block[self.at : end], end
        self.number += 1
        if len(line) > MOST_LINE:
            raise self.bad(f"more than {MOST_LINE} bytes", "one row per line")
        return line.decode()

    def bad(self, reason: str, expected: str, number: int | None = None) -> BadFileError:
        """Make an error about the last line that was read, or about another one."""
        place = f"line {self.number if number is None else number}"
        return BadFileError(self.path, place=place, reason=reason, expected=expected)


class TextReader(io.RawIOBase):
    """The text of a file as a binary file in UTF-8, for readers that want one."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._blocks, self._rest = text_blocks(path, file), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)
