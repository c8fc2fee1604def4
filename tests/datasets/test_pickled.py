"""CIFAR-10's pickled files: a file is read or refused, and nothing in it is ever executed."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpusoftmax.datasets import cifar10, pickled
from gpusoftmax.exceptions import BadFileError
from tests.support.cifar10 import (
    FILE_NAMES,
    LABELS,
    PIXELS,
    PYTHON2,
    PYTHON3,
    ROWS,
    counted,
    python3_batch,
)
from tests.support.hostile import assert_refused, audited, forbidden

both_generations = pytest.mark.parametrize("good", [PYTHON2, PYTHON3], ids=["python2", "python3"])


@pytest.fixture(scope="module")
def read():
    """A function that reads bytes as a batch."""
    return lambda data, rows=ROWS: pickled.read_batch(data, Path("data_batch_1"), rows)


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """A function that writes bytes to a file, which has to be refused as a batch, at no great cost; the error."""
    path = tmp_path_factory.mktemp("pickled") / "data_batch_1"

    def write_and_read(data: bytes, match: str = "", rows: int = ROWS) -> BadFileError:
        path.write_bytes(data)
        return assert_refused(lambda path: pickled.read_batch(cifar10.read_file(path), path, rows), path, match)

    return write_and_read


def replaced(good: bytes, old: bytes, new: bytes) -> bytes:
    assert good.count(old) == 1
    return good.replace(old, new)


# good pickled files


@both_generations
def test_a_pickled_batch_gives_the_images_that_were_put_in(read, good):
    X, _ = read(good)
    assert X.dtype == np.uint8
    np.testing.assert_array_equal(X, PIXELS)


@both_generations
def test_a_pickled_batch_gives_the_labels_that_were_put_in(read, good):
    _, y = read(good)
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, LABELS)


def test_the_hand_made_python2_batch_is_what_an_unpickler_takes_it_for():
    batch = pickle.loads(PYTHON2, encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], PIXELS)
    assert batch[b"labels"] == LABELS
    assert batch[b"filenames"] == FILE_NAMES


def test_the_name_that_numpy_2_gives_to_reconstruct_is_known(read):
    X, _ = read(replaced(PYTHON2, b"cnumpy.core.", b"cnumpy._core."))
    np.testing.assert_array_equal(X, PIXELS)


def test_a_list_of_one_written_with_append_is_read(read):
    X, y = read(python3_batch(PIXELS[:1], LABELS[:1], FILE_NAMES[:1]), rows=1)
    np.testing.assert_array_equal(X, PIXELS[:1])
    np.testing.assert_array_equal(y, LABELS[:1])


def test_empty_bytes_of_python3_are_read(read):
    X, _ = read(python3_batch(names=[b"", b"a", b"b"]))
    np.testing.assert_array_equal(X, PIXELS)


def test_class_names_of_a_python2_meta_file_are_read():
    names = b"".join(counted(name.encode()) for name in cifar10.CLASS_NAMES)
    meta = b"\x80\x02}q\x01(" + counted(b"num_cases_per_batch") + b"M\x10'" + counted(b"label_names")
    meta += b"](" + names + b"e" + counted(b"num_vis") + b"M\x00\x0cu."
    assert pickled.read_class_names(meta, Path("batches.meta")) == cifar10.CLASS_NAMES


# nothing is executed


@both_generations
def test_no_unpickler_is_called(read, good, monkeypatch):
    import _pickle

    def fail(*_, **__):
        raise AssertionError("an unpickler was called")

    for module in (pickle, _pickle):
        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(module, name, fail)
    for name in ("_load", "_loads", "_Unpickler"):
        monkeypatch.setattr(pickle, name, fail)
    X, _ = read(good)
    np.testing.assert_array_equal(X, PIXELS)


def test_a_good_file_is_read_without_a_second_look_elsewhere(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(PYTHON2)
    with audited() as events:
        pickled.read_batch(cifar10.read_file(path), path, ROWS)
    assert forbidden(events, path) == []
    assert [name for name, _ in events if name.startswith("open")] != []  # it does listen


def test_a_command_is_not_executed(refused, tmp_path):
    refused(b"\x80\x02cos\nsystem\n" + counted(f"touch {tmp_path}/executed".encode()[:255]) + b"\x85R.")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "posix system",
        "builtins eval",
        "__builtin__ eval",
        "builtins getattr",
        "subprocess Popen",
        "numpy load",
        "numpy.core.multiarray scalar",
        "numpy.core.multiarray fromfile",
        "numpy memmap",
        "copy_reg _reconstructor",
        "_codecs decode",
        "numpy.ndarray tofile",
        "numpy ndarray.tofile",
    ],
)
def test_a_foreign_global_is_refused_by_name_and_place(refused, name):
    hostile = replaced(PYTHON2, b"cnumpy\nndarray\n", b"c" + name.replace(" ", "\n").encode() + b"\n")
    caught = refused(hostile, "unexpected global")
    assert repr(name) in caught.reason
    assert caught.place == f"byte {PYTHON2.index(b'cnumpy' + bytes([10]) + b'ndarray')}"


def test_a_global_whose_name_makes_genops_warn_is_refused_under_w_error(refused):
    refused(b"\x80\x02cos\\q\nsystem\n.", "byte 2: invalid escape sequence")


# the argument that makes each unexpected opcode well-formed
FOREIGN = {
    "INT": b"1\n",
    "LONG": b"1L\n",
    "LONG1": b"\x01\x01",
    "LONG4": b"\x01\0\0\0\x01",
    "STRING": b"'a'\n",
    "BINBYTES": b"\x01\0\0\0a",
    "SHORT_BINBYTES": b"\x01a",
    "BINBYTES8": b"\x01\0\0\0\0\0\0\0a",
    "BYTEARRAY8": b"\x01\0\0\0\0\0\0\0a",
    "NEXT_BUFFER": b"",
    "READONLY_BUFFER": b"",
    "UNICODE": b"a\n",
    "SHORT_BINUNICODE": b"\x01a",
    "BINUNICODE8": b"\x01\0\0\0\0\0\0\0a",
    "FLOAT": b"1.5\n",
    "BINFLOAT": b"\0" * 8,
    "LIST": b"",
    "DICT": b"",
    "EMPTY_SET": b"",
    "ADDITEMS": b"",
    "FROZENSET": b"",
    "POP": b"",
    "DUP": b"",
    "POP_MARK": b"",
    "GET": b"1\n",
    "PUT": b"1\n",
    "MEMOIZE": b"",
    "EXT1": b"\x01",
    "EXT2": b"\x01\0",
    "EXT4": b"\x01\0\0\0",
    "STACK_GLOBAL": b"",
    "INST": b"os\nsystem\n",
    "OBJ": b"",
    "NEWOBJ": b"",
    "NEWOBJ_EX": b"",
    "FRAME": b"\x01\0\0\0\0\0\0\0",
    "PERSID": b"a\n",
    "BINPERSID": b"",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_opcode_is_refused_by_name_and_place(refused, name):
    code = next(op.code for op in pickletools.opcodes if op.name == name).encode("latin-1")
    caught = refused(PYTHON2[:-1] + code + FOREIGN[name] + b".")
    assert caught.reason == f"unexpected opcode {name}"
    assert caught.place == f"byte {len(PYTHON2) - 1}"


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_another_protocol_is_refused(refused, protocol):
    refused(python3_batch(protocol=protocol))


@pytest.mark.parametrize(
    "pickle_",
    [
        b"c_codecs\nencode\nU\x01aU\x05utf-8\x86R.",
        b"c_codecs\nencode\nU\x01a\x85R.",
        b"c_codecs\nencode\n]U\x06latin1\x86R.",
        b"c__builtin__\nbytes\nM\xff\xff\x85R.",
        b"cnumpy\ndtype\nU\x02u1K\x01K\x01\x87R.",
        b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.",
        b"cnumpy\nndarray\nK\x05\x85R.",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nM\xff\xff\x85U\x01b\x87R.",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R.",
        b"cnumpy\nndarray\n}b.",
        b"}}b.",
        b"U\x01a)R.",
        b"NNR.",
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_call_or_state_that_no_official_file_has_is_refused(refused, pickle_):
    refused(b"\x80\x02" + pickle_, r"unexpected (call|state) of")


def test_an_array_cannot_be_given_a_second_state(refused):
    again = b"(K\x01K\x03M\x00\x0c\x86h\x0b\x89U\x00tb"
    refused(
        replaced(PYTHON2, b"tbU\x09filenames", b"tb" + again + b"U\x09filenames"), "unexpected state of array of shape"
    )


# bounded work


def doubled(times: int) -> bytes:
    """A tuple of the same tuple twice, and so on: 2**times leaves in a few bytes."""
    return b")q\x00" + b"h\x00\x86q\x00" * times


@pytest.mark.slow
@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(doubled(5000) + b".", id="as the value"),
        pytest.param(b"}" + doubled(5000) + b"Ns.", id="as a key"),
        pytest.param(b"cnumpy\ndtype\n" + doubled(5000) + b"R.", id="as arguments"),
        pytest.param(b"N" + doubled(5000) + b"b.", id="as a state"),
        pytest.param(doubled(5000) + b")R.", id="as a function"),
        pytest.param(b")" + b"\x85" * 190_000 + b".", id="deep tuples"),
        pytest.param(b"]" + b"]" * 90_000 + b"a" * 90_000 + b".", id="deep lists"),
        pytest.param(b"]q\x00h\x00a.", id="a list that holds itself"),
        pytest.param(b"(" * 190_000 + b".", id="marks"),
        pytest.param(b"N" * 190_000 + b".", id="a high stack"),
    ],
)
def test_a_bomb_is_refused(refused, bomb):
    refused(b"\x80\x02" + bomb)


@pytest.mark.slow
def test_more_opcodes_than_any_genuine_file_has_are_refused(refused):
    refused(b"\x80\x02" + b"N" * pickled.MAX_OPCODES + b".", "more than 200000 opcodes")


def test_a_doubled_tuple_among_the_labels_is_refused(refused):
    refused(replaced(PYTHON2, b"(K\x01K\x09K\x00e", b"(K\x01K\x09" + doubled(60) + b"e"), "labels")


@pytest.mark.parametrize(
    "opcode",
    [
        b"T\xff\xff\xff\x7f",
        b"X\xff\xff\xff\xff",
        b"Nr\xff\xff\xff\xff",
        b"B\xff\xff\xff\xff",
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        b"\x8b\xff\xff\xff\x7f",
    ],
)
def test_a_huge_count_allocates_nothing(refused, opcode):
    refused(b"\x80\x02" + opcode)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "data_batch_1"
    with path.open("wb") as file:
        file.truncate(cifar10.MOST_BYTES + 1)
    assert_refused(cifar10.read_file, path, "at most 50331648 bytes")


# broken pickled files


@pytest.mark.slow
@both_generations
def test_a_pickled_file_cut_off_anywhere_is_refused(refused, good):
    for length in np.linspace(0, len(good) - 1, 200, dtype=int):
        refused(good[:length])


def test_bytes_after_the_end_are_refused(refused):
    refused(PYTHON2 + b"\n", "left over")


def pixels_of(X) -> bytes:
    return b"T" + X.size.to_bytes(4, "little") + X.tobytes()


STATE = b"(K\x01K\x03M\x00\x0c\x86"
THREE = b"(K\x01K\x09K\x00e"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(counted(b"u1"), counted(b"i1"), "unexpected call of DTYPE", id="dtype"),
        pytest.param(counted(b"|"), counted(b"<"), "unexpected state of UINT8", id="byte order"),
        pytest.param(b"\x89T", b"\x88T", "unexpected state of array", id="Fortran order"),
        pytest.param(
            STATE, b"(K\x02K\x03M\x00\x0c\x86", "unexpected state of array", id="version of the array's state"
        ),
        pytest.param(STATE, b"(K\x01K\x04M\x00\x0c\x86", r"array of shape \(4, 3072\)", id="rows"),
        pytest.param(STATE, b"(K\x01K\x03M\x01\x0c\x86", r"array of shape \(3, 3073\)", id="columns"),
        pytest.param(STATE, b"(K\x01M\x00\x0cK\x03\x86", r"array of shape \(3072, 3\)", id="transposed"),
        pytest.param(STATE, b"(K\x01M\x00\x24\x85", "unexpected state of array", id="one dimension"),
        pytest.param(
            STATE, b"(K\x01J\xfd\xff\xff\xffJ\x00\xf4\xff\xff\x86", r"shape \(-3, -3072\)", id="negative shape"
        ),
        pytest.param(pixels_of(PIXELS), pixels_of(PIXELS.ravel()[1:]), "with 9215 bytes", id="a pixel too few"),
        pytest.param(THREE, b"(K\x01K\x09K\x0ae", "item 2: 10", id="label 10"),
        pytest.param(THREE, b"(K\x01K\x09J\xff\xff\xff\xffe", "item 2: -1", id="label -1"),
        pytest.param(THREE, b"(K\x01\x88K\x00e", "item 1: True", id="label True"),
        pytest.param(THREE, b"(K\x01NK\x00e", "item 1: NoneType", id="label None"),
        pytest.param(THREE, b"(K\x01U\x019K\x00e", "item 1: str", id="label a string"),
        pytest.param(THREE, b"(K\x01K\x09e", "list of length 2", id="too few labels"),
        pytest.param(THREE, b"(K\x01K\x09K\x00K\x00e", "list of length 4", id="too many labels"),
        pytest.param(b"]q\x05" + THREE, b"K\x01K\x09K\x00\x87", "tuple of length 3", id="labels no list"),
        pytest.param(counted(b"labels"), counted(b"Labels"), "keys 'Labels', 'labels'", id="key renamed"),
        pytest.param(b"eu.", b"eU\x01aNu.", "keys 'a'", id="key too many"),
        pytest.param(b"eu.", b"eK\x00Nu.", "a key that is not a string", id="key no string"),
        pytest.param(b"eu.", b"eNu.", "9 keys and values", id="key without value"),
        pytest.param(b"eu.", b"eu0.", "unexpected opcode POP", id="value popped"),
        pytest.param(b"eu.", b"e.", "left over", id="dict unfinished"),
        pytest.param(b"eu.", b"eu].", "left over", id="two values"),
        pytest.param(b"\x80\x02}", b"\x80\x02]", "put into list", id="list for dict"),
        pytest.param(b"\x80\x02}", b"\x80\x02(}", "left over", id="mark left over"),
        pytest.param(b"\x80\x02}", b"\x80\x03}", "protocol 3", id="protocol"),
        pytest.param(b"r\x0e\0\0\0", b"j\x77\0\0\0", "memo entry 119", id="memo entry that does not exist"),
        pytest.param(
            counted(b"training batch 1 of 5"), b"N", "key 'batch_label': holds NoneType", id="batch_label no string"
        ),
        pytest.param(counted(FILE_NAMES[0]), b"K\x00", "key 'filenames': holds int", id="file name no string"),
    ],
)
def test_a_pickled_file_with_one_defect_is_refused_for_it(refused, old, new, message):
    refused(replaced(PYTHON2, old, new), message)


@pytest.mark.parametrize(
    "array",
    [PIXELS.astype(np.int8), PIXELS.astype(np.float32), np.asfortranarray(PIXELS), PIXELS.reshape(-1), PIXELS[:, 1:]],
    ids=["int8", "float32", "Fortran", "flat", "narrow"],
)
def test_an_array_of_another_kind_is_refused(refused, array):
    refused(python3_batch(array))


def test_pixels_that_are_no_bytes_are_refused(refused):
    X = np.zeros((1, 3072), np.uint8)
    text = b"X" + (3072).to_bytes(4, "little") + bytes(3072)
    wide = b"X" + (3073).to_bytes(4, "little") + "\u0100".encode() + bytes(3071)
    bad = replaced(python3_batch(X, [0], [b"a"]), text, wide)
    refused(bad, "pixel 0: not a byte", rows=1)


@pytest.mark.parametrize(
    "start", [b"e", b"u", b"t", b"a", b"s", b"b", b"R", b"q\x00", b"h\x00", b"\x85", b"N\x87", b"."]
)
def test_an_opcode_without_its_operands_is_refused(refused, start):
    refused(b"\x80\x02" + start + b".")


def outside_the_pixels(good: bytes, pixels: bytes) -> list[int]:
    """Return the positions in a file where a mutation does more than change a pixel, and a few where it does not."""
    start = good.index(pixels)
    return [*range(start + 3), *range(start + len(pixels) - 3, len(good))]


MUTABLE = {
    PYTHON2: outside_the_pixels(PYTHON2, PIXELS.tobytes()),
    PYTHON3: outside_the_pixels(PYTHON3, PIXELS.tobytes().decode("latin-1").encode()),
}


def assert_refused_or_valid(read, data: bytes) -> None:
    try:
        X, y = read(data)
    except BadFileError:
        return
    assert X.dtype == np.uint8
    assert X.shape == (ROWS, 3072)
    assert y.dtype == np.int64
    assert y.shape == (ROWS,)
    assert 0 <= y.min() <= y.max() <= 9


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_mutated_file_is_refused_or_gives_a_valid_batch(read, data):
    good = data.draw(st.sampled_from([PYTHON2, PYTHON3]), "generation")
    byte = st.one_of(st.integers(0, 255), st.sampled_from([ord(op.code) for op in pickletools.opcodes]))
    mutations = data.draw(st.lists(st.tuples(st.sampled_from(MUTABLE[good]), byte), min_size=1, max_size=4))
    mutated = bytearray(good)
    for place, value in mutations:
        mutated[place] = value
    assert_refused_or_valid(read, bytes(mutated))


PIECES = [
    *(bytes([code]) for code in b"}])(NtesubaR.\x85\x86\x87\x88\x89"),
    *(b"K" + bytes([i]) for i in (0, 1, 3)),
    *(b"q" + bytes([i]) for i in range(3)),
    *(b"h" + bytes([i]) for i in range(3)),
    *(b"c" + name.replace(" ", "\n").encode() + b"\n" for name in pickled._GLOBALS),
    *map(counted, (b"u1", b"b", b"|", b"latin1", b"labels", b"data", b"filenames", b"batch_label")),
    b"J\xff\xff\xff\xff",
    b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
    b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R",
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
]


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_a_jumble_of_the_official_opcodes_is_refused_or_gives_a_valid_batch(read, pieces):
    assert_refused_or_valid(read, b"\x80\x02" + b"".join(pieces) + b".")
