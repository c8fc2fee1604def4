"""Text files: encodings, compression, and lines of limited length."""

from __future__ import annotations

import gzip
import io
import lzma
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files import text
from gpusoftmax.files.text import Lines, TextReader, text_blocks

PATH = Path("a.txt")
WORDS = "name,größe\nČeský,€5\n"


def decoded(content: bytes) -> str:
    return b"".join(text_blocks(PATH, io.BytesIO(content))).decode()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_is_told_by_its_mark_or_else_is_utf_8(encoding: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    assert decoded(mark + WORDS.encode(encoding)) == WORDS


@pytest.mark.parametrize("block", [1, 2, 3, 5])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_characters_may_lie_across_blocks(encoding: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK", block)
    assert decoded("a€😀\n".encode(encoding)) == "a€😀\n"


def test_latin_1_is_guessed_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    content = "name\ncafé\n“5 €”\n".encode("cp1252")
    assert decoded(content) == "name\ncafé\n“5 €”\n"
    assert "a.txt: byte 0xe9 in line 2 is not UTF-8, so the text is read as Latin-1" in caplog.text
    assert caplog.text.count("Latin-1") == 1


def test_latin_1_may_begin_in_any_block(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(text, "BLOCK", 4)
    assert decoded(b"1,x\n" * 5 + b"1,\xe9\n1,\xe8\n") == "1,x\n" * 5 + "1,é\n1,è\n"
    assert "byte 0xe9 in line 6" in caplog.text


def test_text_that_ends_within_a_character_is_latin_1() -> None:
    assert decoded(b"caf\xc3") == "cafÃ"


BAD = {
    "UTF-8 and then Latin-1": ("1\né\n".encode() + b"2,\xe9\n", "line 3: byte 0xe9 is not UTF-8; expected text in UTF"),
    "UTF-8 and then Latin-1, in a line": ("é,".encode() + b"\xe9\n", "line 1: byte 0xe9 is not UTF-8"),
    "UTF-8 by its mark": (b"\xef\xbb\xbfa\n\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
    "neither UTF-8 nor Latin-1": (b"a\n\xe9\n\x81\n", "line 3: byte 0x81 is neither UTF-8 nor Latin-1"),
    "a control character among Latin-1": (b"\xe9\n\x01\n", "line 2: byte 0x01; expected text"),
    "a zero byte": (b"a\nb\0\n", "line 2: a zero byte; expected text"),
    "UTF-16 without a mark": ("a\n".encode("utf-16-le"), "line 1: a zero byte; .* byte order mark"),
    "UTF-32": ("a\n".encode("utf-32"), "line 1: a zero byte"),
    "half of a surrogate": (b"\xff\xfe\x00\xd8\x0a\x00", "is not UTF-16-LE"),
    "UTF-16 cut off": (b"\xff\xfea\0b", "is not UTF-16-LE"),
    "bzip2": (b"BZh91AY", "is compressed by bzip2; expected text, or text compressed by gzip or xz"),
    "zip": (b"PK\3\4", "is compressed by zip"),
    "gzip of nothing": (b"\x1f\x8b\x08\x00\x00", "ends before its last line"),
    "gzip cut off": (gzip.compress(b"1\n" * 1000)[:-3], "ends before its last line"),
    "gzip damaged": (gzip.compress(b"1\n" * 1000)[:-5] + b"damag", "Error -3 while decompressing"),
    "gzip and something else": (gzip.compress(b"1\n") + b"1\n", "Error -3 while decompressing"),
    "xz cut off": (lzma.compress(b"1\n" * 1000)[:-3], "ends before its last line"),
    "xz damaged": (lzma.compress(b"1\n" * 1000)[:-9] + b"damaged!!", "expected an undamaged compressed file"),
    "an xz with a large dictionary": (
        lzma.compress(b"1\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20}]), "Memory usage limit",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_text_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(BadFileError, match=message):
        decoded(content)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_compressed_text_is_decompressed(pack: Any) -> None:
    content = "".join(f"{i},ä\n" for i in range(100_000))
    assert decoded(pack(content.encode())) == content
    assert decoded(pack("é\n".encode("latin-1"))) == "é\n"
    assert decoded(pack(b"1\n") + pack(b"") + bytes(512) + pack(b"2\n") + bytes(8)) == "1\n2\n"
    assert decoded(pack(b"")) == ""


@pytest.mark.parametrize(
    "pack",
    [
        lambda text: zlib.compress(text, wbits=31),
        lzma.compress,
        lambda text: gzip.compress(b"") * 100 + gzip.compress(text),
    ],
    ids=["gzip", "xz", "gzip in parts"],
)
def test_a_bomb_is_refused_before_it_takes_memory(pack: Any) -> None:
    bomb = pack(b"1,2\n" * (64 << 18))
    tracemalloc.start()
    try:
        with pytest.raises(BadFileError, match=r"holds more than 200 times its size; .*decompress it first"):
            for _ in text_blocks(PATH, io.BytesIO(bomb)):
                pass
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_dense_table_of_zeros_and_ones_is_no_bomb(rng: Any) -> None:
    content = b"".join(b",".join(row) + b"\n" for row in rng.choice([b"0", b"1"], (2000, 500), p=[0.98, 0.02]).tolist())
    assert decoded(gzip.compress(content)).encode() == content


def test_more_compressed_parts_than_any_file_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MOST_PARTS", 3)
    assert decoded(gzip.compress(b"1\n") * 3) == "1\n" * 3
    with pytest.raises(BadFileError, match="is more than 3 compressed files"):
        decoded(gzip.compress(b"1\n") * 4)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 18])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(ending: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK", block)
    content = ["a", "", "bcé", "\u2028\x0b\x0c\x1c", "d"]
    lines = Lines(PATH, io.BytesIO(ending.join(content).encode()))
    found = list(lines)
    assert [line.rstrip("\r\n") for line in found] == content
    assert found[:-1] == [line + ending for line in content[:-1]]
    assert lines.number == 5


def test_lines_are_looked_at_without_reading_them() -> None:
    lines = Lines(PATH, io.BytesIO(b"a\nbb\nccc\nd\n"))
    next(lines)
    assert lines.peek(2, 1 << 16) == ["bb\n", "ccc\n"]
    assert lines.peek(9, 1) == ["bb\n", "ccc\n"]
    assert (list(lines), lines.number) == (["bb\n", "ccc\n", "d\n"], 4)


def test_blank_lines_are_skipped_and_counted() -> None:
    lines = Lines(PATH, io.BytesIO(b"\n \r\n\r\t\n  a\n\n"))
    assert (lines.skip_blank(), lines.number, next(lines), lines.skip_blank(), lines.number) == (
        True,
        4,
        "  a\n",
        False,
        6,
    )


@pytest.mark.parametrize("content", [b"1," * 100, b"1,2\n" + b"1," * 100 + b"\n", b"\n" * 5 + b"1" * 101])
def test_a_line_without_an_end_is_refused(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MOST_LINE", 100)
    with pytest.raises(BadFileError, match="more than 100 bytes"):
        list(Lines(PATH, io.BytesIO(content)))


def test_text_can_be_read_as_a_file_in_utf_8() -> None:
    file = io.BufferedReader(TextReader(PATH, io.BytesIO("ä\nb\n".encode("utf-16"))))
    assert file.readlines() == ["ä\n".encode(), b"b\n"]


def test_what_is_no_text_is_not_said_to_be_latin_1(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BadFileError, match="line 1: byte 0x01; expected text"):
        decoded(b"\xe9\x01\n")
    assert caplog.text == ""
