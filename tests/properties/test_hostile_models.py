"""Hostile and damaged model files: each is refused within a second and 64 MB, or loads as the original."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gpusoftmax import BadFileError, load_model, save_model
from gpusoftmax.files import tensors as tensor_files
from gpusoftmax.files.tensors import MOST_HEADER, MOST_ITEMS
from gpusoftmax.models.format import KEYS
from tests.support.hostile import assert_refused
from tests.support.model_files import differences, equal, fitted, header, signed

ROOT = Path(__file__).resolve().parents[2]


def assemble(text: str | bytes, data: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    encoded = text.encode() if isinstance(text, str) else text
    return len(encoded).to_bytes(8, "little") + encoded + data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file is to be written."""
    return tmp_path / "model.safetensors"


class Saved:
    """A model with a bit of everything, and the parts of its file, without times and in the same order in every run."""

    def __init__(self, path: Path) -> None:
        model = fitted(
            C=math.inf, scaling=(np.arange(3.0), np.array([1.0, 0.5, 2.0])), class_weight={"ant": 2.0}, random_state=1
        )
        model.feature_names_in_ = np.array(["height", "width", "depth"], dtype=object)
        model.history_ = [replace(record, seconds=0.25, rows_per_second=160.0) for record in model.history_]
        model.fit_report_ = replace(model.fit_report_, seconds=1.5)
        save_model(model, path)
        content = path.read_bytes()
        self.model = model
        self.header: dict[str, Any] = json.loads(json.dumps(header(path), sort_keys=True))  # safetensors shuffles them
        self.metadata: dict[str, str] = self.header["__metadata__"]
        self.tensors = safetensors.numpy.load(content)
        self.data = content[8 + int.from_bytes(content[:8], "little") :]
        text = json.dumps(self.header)
        self.content = assemble(text + " " * (-len(text) % 8), self.data)

    def with_header(self, **changes: Any) -> bytes:
        """The file with other entries in its header, None for none, and the same tensors."""
        changed = {**self.header, **changes}
        return assemble(json.dumps({key: value for key, value in changed.items() if value is not None}), self.data)

    def with_metadata(self, **changes: str | None) -> bytes:
        """The file with other texts, and a digest that fits."""
        changed = {**self.metadata, **changes}
        return signed({key: text for key, text in changed.items() if text is not None}, self.tensors)

    def with_tensors(self, **changes: Any) -> bytes:
        """The file with other tensors, and a digest that fits."""
        changed = {**self.tensors, **changes}
        return signed(self.metadata, {name: tensor for name, tensor in changed.items() if tensor is not None})

    def part(self, key: str, **changes: Any) -> str:
        """One of the texts that are JSON, with other values."""
        return json.dumps({**json.loads(self.metadata[key]), **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The original."""
    return Saved(tmp_path_factory.mktemp("saved") / "model.safetensors")


def outcome(model: Any, path: Path) -> str:
    """What loading comes to: "refused", "equal", or what is wrong."""
    try:
        loaded = load_model(path)
    except BadFileError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    changed = differences(model, loaded)
    return f"silently different: {', '.join(changed)}" if changed else "equal"


@pytest.mark.parametrize("how", ["content", "with_header", "with_metadata", "with_tensors"])
def test_what_the_tests_write_is_loaded_where_nothing_is_changed(how: str, saved: Saved, path: Path) -> None:
    write = getattr(saved, how)
    path.write_bytes(write() if callable(write) else write)
    assert outcome(saved.model, path) == "equal"


@pytest.mark.slow
def test_a_load_opens_its_file_once_and_executes_and_imports_nothing(saved: Saved, path: Path) -> None:
    path.write_bytes(saved.content)
    program = """
import sys
from pathlib import Path
import sklearn.utils.estimator_checks  # whatever scikit-learn itself imports late
from gpusoftmax import load_model
from tests.support.hostile import audited, forbidden
path = Path(sys.argv[1])
with audited() as events:
    load_model(path)
print([name for name, _ in events if name == "open"] != [], forbidden(events, path))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    assert done.stdout == "True []\n"


# cut, lengthened, flipped


@pytest.mark.slow
def test_a_file_cut_at_any_byte_is_refused(saved: Saved, path: Path) -> None:
    border = len(saved.content) - len(saved.data)
    path.write_bytes(saved.content)
    for length in reversed(range(len(saved.content))):
        os.truncate(path, length)
        assert_refused(load_model, path, "header length" if length < border else "bytes of tensors, not")


def zipped() -> bytes:
    """A ZIP archive, which is found from its end: with a model in front it is still one."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("payload.py", "import os")
    return archive.getvalue()


@pytest.mark.parametrize("extra", [b"\0", b"\n", zipped(), pickle.dumps([1])], ids=["zero", "line", "zip", "pickle"])
def test_a_file_with_something_behind_it_is_refused(extra: bytes, saved: Saved, path: Path) -> None:
    path.write_bytes(saved.content + extra)
    assert_refused(load_model, path, "bytes of tensors, not")


@pytest.mark.slow
def test_a_flipped_bit_never_goes_unnoticed(saved: Saved, path: Path) -> None:
    path.write_bytes(saved.content)
    outcomes = []
    with open(path, "r+b", buffering=0) as file:  # written in place: a new file each time takes ten times as long
        for place, bit in itertools.product(range(len(saved.content)), range(8)):
            file.seek(place)
            file.write(bytes([saved.content[place] ^ 1 << bit]))
            outcomes.append(outcome(saved.model, path))
            if bit == 7:
                file.seek(place)
                file.write(saved.content[place : place + 1])
    assert {bit: what for bit, what in enumerate(outcomes) if what not in ("refused", "equal")} == {}
    assert outcome(saved.model, path) == "equal"  # each time it was that bit alone


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    saved: Saved, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_tensors = tensor_files._read_tensors

    def shrink_and_read(file: Any, table: Any) -> Any:
        os.truncate(path, len(saved.content) - 1)
        return read_tensors(file, table)

    large = np.zeros((3, 10_000))  # more than is read ahead
    path.write_bytes(saved.with_tensors(coef=large))
    monkeypatch.setattr(tensor_files, "_read_tensors", shrink_and_read)
    with pytest.raises(BadFileError, match="was the file changed while it was read"):
        load_model(path)


# what is no file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_is_refused_without_waiting(path: Path) -> None:
    os.mkfifo(path)
    assert_refused(load_model, path, "is a pipe")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero here")
def test_a_device_is_refused() -> None:
    assert_refused(load_model, Path("/dev/zero"), "is a device")


@pytest.mark.parametrize("what", ["nothing", "a folder"])
def test_what_cannot_be_opened_is_an_oserror(what: str, path: Path) -> None:
    if what == "a folder":
        path.mkdir()
    with pytest.raises(OSError, match=path.name):
        load_model(path)


# the header


LENGTHS = {
    "0": 0,
    "1": 1,
    "one more than there is": -1,
    "2^63": 2**63,
    "2^64 - 1": 2**64 - 1,
    "100 MB": 100 << 20,
}


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS.keys())
def test_a_wrong_length_of_the_header_is_refused(length: int, saved: Saved, path: Path) -> None:
    there = len(saved.content) - 8
    path.write_bytes((there + 1 if length < 0 else length).to_bytes(8, "little") + saved.content[8:])
    assert_refused(load_model, path, "header length")


def test_a_header_of_100_mb_is_refused(saved: Saved, path: Path) -> None:
    path.write_bytes((100 << 20).to_bytes(8, "little") + saved.content[8:])
    os.truncate(path, 101 << 20)
    assert_refused(load_model, path, "header of 104857600 bytes, more than 8388608")


NOT_MODELS = {
    "empty": b"",
    "text": b"This is a README, and a rather short one at that.\n",
    "a pickle": pickle.dumps({"coef": [1.0]}),
    "a ZIP": zipped(),
    "JSON": b'{"format": "gpusoftmax-model"}',
    "zeros": bytes(1000),
    "a header that is no object": assemble("[]"),
    "a header that is null": assemble("null"),
    "a header without metadata": assemble("{}"),
    "metadata that are a list": assemble('{"__metadata__": []}'),
    "metadata of numbers": assemble('{"__metadata__": {"format": 1}}'),
    "a header that is no UTF-8": assemble(b'{"\xff\xff": 1}'),
    "a header in UTF-16": assemble("{}".encode("utf-16")),
    "a byte order mark": assemble(b"\xef\xbb\xbf{}"),
    "two headers": assemble("{}{}"),
    "somebody else's tensors": safetensors.numpy.save({"weight": np.zeros((2, 2))}, {"format": "pt"}),
}


@pytest.mark.parametrize("content", NOT_MODELS.values(), ids=NOT_MODELS.keys())
def test_a_file_of_another_kind_is_refused_by_its_name(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    error = assert_refused(load_model, path, "expected a model that save_model wrote")
    assert (error.path, error.place) == (path, "header")
    assert str(path) in str(error)


PLACES_OF_KEYS = {
    "a tensor": ('"coef": {', '"coef": {}, "coef": {'),
    "the metadata": ('"__metadata__": {', '"__metadata__": {}, "__metadata__": {'),
    "a text": ('"format": "', '"format": "onnx", "format": "'),
    "the digest": ('"sha256": "', '"sha256": "00", "sha256": "'),
    "a type": ('"dtype": "F', '"dtype": "I8", "dtype": "F'),
    "a shape": ('"shape": [', '"shape": [9], "shape": ['),
    "offsets": ('"data_offsets": [', '"data_offsets": [0, 9], "data_offsets": ['),
}


@pytest.mark.parametrize("change", PLACES_OF_KEYS.values(), ids=PLACES_OF_KEYS.keys())
def test_a_key_that_stands_twice_is_refused(change: tuple[str, str], saved: Saved, path: Path) -> None:
    path.write_bytes(assemble(json.dumps(saved.header).replace(*change, 1), saved.data))
    assert_refused(load_model, path, "a key occurs twice")


@pytest.mark.parametrize("key", ["classes", "parameters", "fitted"])
def test_a_key_that_stands_twice_in_a_text_is_refused(key: str, saved: Saved, path: Path) -> None:
    text = saved.metadata[key]
    first = text[1 : text.index(":")]
    path.write_bytes(saved.with_metadata(**{key: f"{{{first}: 0, {text[1:]}"}))
    assert_refused(load_model, path, f"{key} is not JSON that save_model writes .a key occurs twice")


ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "overlapping": ({"coef": {"data_offsets": [0, 72]}, "intercept": {"data_offsets": [48, 72]}}, "at bytes"),
    "a gap": ({"shift": {"data_offsets": [104, 128]}}, "at bytes"),
    "a gap at the start": ({"coef": {"data_offsets": [8, 80]}}, "at bytes"),
    "offsets from right to left": ({"coef": {"data_offsets": [72, 0]}}, "at bytes"),
    "negative offsets": ({"coef": {"data_offsets": [-72, 0]}}, "has shape"),
    "offsets beyond the file": ({"coef": {"data_offsets": [0, 2**40], "shape": [3, 2**36]}}, "at bytes|bytes of tens"),
    "offsets of 2^64": ({"coef": {"data_offsets": [0, 2**64 - 1]}}, "at bytes"),
    "offsets as floats": ({"coef": {"data_offsets": [0.0, 72.0]}}, "has shape"),
    "offsets as text": ({"coef": {"data_offsets": ["0", "72"]}}, "has shape"),
    "offsets as booleans": ({"coef": {"data_offsets": [False, 72]}}, "has shape"),
    "offsets that are a number": ({"coef": {"data_offsets": 72}}, "coef: data_offsets is a int"),
    "one offset": ({"coef": {"data_offsets": [0]}}, "at bytes"),
    "three offsets": ({"coef": {"data_offsets": [0, 72, 72]}}, "at bytes"),
    "a shape that overflows 2^64": ({"coef": {"shape": [2**32, 2**32]}}, "at bytes"),
    "a shape that overflows to the right size": ({"coef": {"shape": [2**61 + 9, 1]}}, "at bytes"),
    "a shape of 2^63": ({"coef": {"shape": [2**63, 1]}}, "at bytes"),
    "a shape of 2^64": ({"coef": {"shape": [2**64, 0]}}, "at bytes"),
    "a negative shape": ({"coef": {"shape": [-3, -3]}}, "has shape"),
    "a shape of floats": ({"coef": {"shape": [3.0, 3.0]}}, "has shape"),
    "a shape of booleans": ({"coef": {"shape": [True, 9]}}, "has shape"),
    "a shape of NaN": ({"coef": {"shape": [math.nan, 3]}}, "has shape"),
    "a shape of lists": ({"coef": {"shape": [[3], [3]]}}, "has shape"),
    "a shape that is a number": ({"coef": {"shape": 9}}, "coef: shape is a int"),
    "a shape of three": ({"coef": {"shape": [3, 3, 1]}}, "has type"),
    "a shape of a million": ({"coef": {"shape": [1] * 100_000}}, "has type"),
    "a shape that does not fit the bytes": ({"coef": {"shape": [3, 4]}}, "at bytes"),
    "a row less": ({"coef": {"shape": [2, 3]}}, "at bytes"),
    "an unknown type": ({"coef": {"dtype": "F63"}}, "has type 'F63'"),
    "a type of no name": ({"coef": {"dtype": ""}}, "has type"),
    "a type that is a list": ({"coef": {"dtype": ["F64"]}}, "coef: dtype is a list"),
    "a pickled type": ({"coef": {"dtype": "O"}}, "has type"),
    "half precision": ({"coef": {"dtype": "F16", "shape": [3, 12]}}, "has type 'F16'"),
    "integers": ({"coef": {"dtype": "I64"}}, "has type 'I64'"),
    "a shift in single precision": ({"shift": {"dtype": "F32", "shape": [6]}}, "shift has type 'F32'"),
    "a key more": ({"coef": {"file": "/etc/passwd"}}, "coef: .'file'. missing or unknown"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENTRIES.values(), ids=ENTRIES.keys())
def test_an_entry_of_a_tensor_that_lies_is_refused(case: Any, saved: Saved, path: Path) -> None:
    changes, words = case
    path.write_bytes(saved.with_header(**{name: {**saved.header[name], **changes[name]} for name in changes}))
    assert_refused(load_model, path, words)


TABLES: dict[str, tuple[dict[str, Any], str]] = {
    "no tensors": (dict.fromkeys(("coef", "intercept", "shift", "scale")), "missing or unknown"),
    "one more": ({"velocity": {"dtype": "F64", "shape": [0], "data_offsets": [144, 144]}}, "'velocity'"),
    "one more that is metadata": ({"__metadata__": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}}, "not a gp"),
    "no coef": ({"coef": None}, "'coef'"),
    "a tensor that is null": ({"coef": []}, "coef is a list"),
    "a key less": ({"coef": {"dtype": "F64", "shape": [3, 3]}}, "'data_offsets'"),
}


@pytest.mark.parametrize("case", TABLES.values(), ids=TABLES.keys())
def test_a_table_of_tensors_that_is_not_ours_is_refused(case: Any, saved: Saved, path: Path) -> None:
    changes, words = case
    path.write_bytes(saved.with_header(**changes))
    assert_refused(load_model, path, words)


@pytest.mark.parametrize("text", ["ä", "\ud800", "\U0001f600"], ids=["umlaut", "surrogate", "emoji"])
@pytest.mark.parametrize("key", ["objective", "versions", "classes", "sha256"])
def test_letters_beyond_ascii_are_refused(key: str, text: str, saved: Saved, path: Path) -> None:
    path.write_bytes(saved.with_header(__metadata__={**saved.metadata, key: text}))
    assert_refused(load_model, path, "characters beyond ASCII")


# bombs


def many(item: str, weight: int, around: str = "[]") -> str:
    """Items, each with so many commas, colons and brackets, and as many of them as there may be."""
    return around[0] + ",".join(item % i for i in range((MOST_ITEMS - 1000) // weight)) + around[1]


LONG = MOST_HEADER - 20_000
BOMBS = {
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 50_000 + "0" + "}" * 50_000,
    "as deep as Python goes": "[" * 900 + "]" * 900,
    "more lists than are looked at": f"[{'[],' * (LONG // 3)}[]]",
    "more objects than are looked at": f"[{'{},' * (LONG // 3)}{{}}]",
    "a text": f'"{"a" * LONG}"',
    "a wide text": f'"\\ud83d\\ude00{"a" * LONG}"',
    "a wide key": f'{{"\\ud83d\\ude00{"a" * LONG}":0}}',
    "a hundred thousand digits": "1" * 100_000,
    "millions of digits": "1" * LONG,
    "a negative number of millions of digits": f"-{'1' * LONG}",
    "a number beyond all floats": "1e400",
    "not a number": "NaN",
    "objects": many('{"a%d":{}}', 4),
    "keys": many('"k%07d":0.5', 2, "{}"),
    "texts": many('"%08d"', 1),
    "wide texts": many('"\\ud83d\\ude00%08d"', 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_in_the_header_is_refused(bomb: str, saved: Saved, path: Path) -> None:
    text = json.dumps({**saved.header, "bomb": "HERE"}).replace('"HERE"', bomb)
    assert len(text) <= MOST_HEADER
    path.write_bytes(assemble(text, saved.data))
    assert_refused(load_model, path)


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("classes", '{"dtype": "str", "values": HERE}'),
        ("parameters", '{"tol": HERE}'),
        ("fitted", '{"n_iter": HERE}'),
    ],
    ids=["classes", "parameters", "fitted"],
)
def test_a_bomb_in_a_text_is_refused(key: str, text: str, bomb: str, saved: Saved, path: Path) -> None:
    content = saved.with_metadata(**{key: text.replace("HERE", bomb)})
    assert int.from_bytes(content[:8], "little") <= MOST_HEADER
    path.write_bytes(content)
    assert_refused(load_model, path)


@pytest.mark.slow
def test_a_name_as_long_as_a_header_is_not_repeated_for_each_class(saved: Saved, path: Path) -> None:
    names = [*(f"{i:06d}" for i in range(100_000)), "z" * 5_000_000]
    path.write_bytes(saved.with_metadata(classes=json.dumps({"dtype": "str", "values": names}, separators=(",", ":"))))
    assert_refused(load_model, path, "100001 classes with names of up to 5000000 characters")


CODE = {
    "code": "__import__('os').system('touch owned')",
    "a pickle": "cos\nsystem\n(S'touch owned'\ntR.",
    "a path": "../../../../etc/passwd",
    "an address": "http://localhost/model.safetensors",
    "a number": "9" * 5000,
    "nothing": "",
}


@pytest.mark.parametrize("text", CODE.values(), ids=CODE.keys())
@pytest.mark.parametrize("key", sorted(KEYS - {"objective", "versions", "sha256"}))
def test_a_text_of_something_else_is_refused(key: str, text: str, saved: Saved, path: Path) -> None:
    path.write_bytes(saved.with_metadata(**{key: text}))
    assert_refused(load_model, path)


@pytest.mark.parametrize("text", CODE.values(), ids=CODE.keys())
def test_a_digest_of_something_else_is_refused(text: str, saved: Saved, path: Path) -> None:
    path.write_bytes(saved.with_header(__metadata__={**saved.metadata, "sha256": text}))
    assert_refused(load_model, path, "does not match its SHA-256")


@pytest.mark.parametrize("text", CODE.values(), ids=CODE.keys())
@pytest.mark.parametrize("key", ["objective", "versions"])
def test_a_text_for_people_is_not_read(key: str, text: str, saved: Saved, path: Path) -> None:
    path.write_bytes(saved.with_metadata(**{key: text}))
    assert outcome(saved.model, path) == "equal"


# what a text says


METADATA: dict[str, tuple[dict[str, str | None], str]] = {
    "another format": ({"format": "onnx"}, "not a gpusoftmax model"),
    "no format": ({"format": None}, "not a gpusoftmax model"),
    "a newer version": (
        {"format_version": "3"},
        "format_version is '3', not '1' or '2': a newer gpusoftmax may read it",
    ),
    "no version": ({"format_version": None}, "format_version is None"),
    "a key less": ({"objective": None}, "'objective'. missing"),
    "a key more": ({"code": "import os"}, "'code'. missing or unknown"),
    "an unknown estimator": ({"estimator": "Pipeline"}, "estimator 'Pipeline' is none of"),
    "an estimator of another library": ({"estimator": "sklearn.svm.SVC"}, "estimator 'sklearn.svm.SVC' is none of"),
    "the other estimator": ({"estimator": "LinearSVMClassifier"}, "loss='softmax'"),
    "classes that are no JSON": ({"classes": "{"}, "classes is not JSON"),
    "classes with something behind": ({"classes": '{"dtype": "bool", "values": []}[]'}, "classes is not JSON"),
    "parameters that are no JSON": ({"parameters": "{'C': 1}"}, "parameters is not JSON"),
    "fitted that is no JSON": ({"fitted": ""}, "fitted is not JSON"),
    "classes that are null": ({"classes": "null"}, "classes is a NoneType, not an object"),
    "parameters in a list": ({"parameters": "[1]"}, "parameters is a list, not an object"),
    "fitted that is a number": ({"fitted": "1"}, "fitted is a int, not an object"),
    "nothing fitted": ({"fitted": "{}"}, "fitted: .*missing"),
    "no parameters, but shift and scale": ({"parameters": "{}"}, "scaling=None with the tensors"),
}


@pytest.mark.parametrize("case", METADATA.values(), ids=METADATA.keys())
def test_forged_metadata_are_refused(case: Any, saved: Saved, path: Path) -> None:
    changes, words = case
    path.write_bytes(saved.with_metadata(**changes))
    assert_refused(load_model, path, words)


NAMES = ["ant", "bee", "cat"]
CLASSES: dict[str, tuple[dict[str, Any], str]] = {
    "out of order": ({"values": ["bee", "ant", "cat"]}, "not sorted"),
    "one twice": ({"values": ["ant", "ant", "cat"]}, "distinct"),
    "one": ({"values": ["ant"]}, "at least two labels"),
    "none": ({"values": []}, "at least two labels"),
    "fewer than weights": ({"values": ["ant", "bee"]}, "for 2 classes"),
    "more than weights": ({"values": [*NAMES, "dog"]}, "for 4 classes"),
    "objects": ({"dtype": "object"}, "classes of dtype 'object'"),
    "a structure": ({"dtype": "i4,f8"}, "classes of dtype"),
    "times": ({"dtype": "datetime64[s]"}, "classes of dtype"),
    "text of a size that overflows": ({"dtype": "U1000000000"}, "classes of dtype"),
    "numbers as text": ({"dtype": "int64"}, "labels of type int64"),
    "text that is numbers": ({"values": [1, 2, 3]}, "labels of type str"),
    "text that is null": ({"values": ["ant", "bee", None]}, "labels of type str"),
    "text that is a list": ({"values": ["ant", "bee", ["cat"]]}, "labels of type str"),
    "a text": ({"values": "abc"}, "values is a str"),
    "floats as integers": ({"dtype": "int64", "values": [1.5, 2.5, 3.5]}, "labels of type int64"),
    "booleans as integers": ({"dtype": "int64", "values": [False, 1, 2]}, "labels of type int64"),
    "integers as booleans": ({"dtype": "bool", "values": [0, 1]}, "labels of type bool"),
    "integers as floats": ({"dtype": "float64", "values": [1, 2, 3]}, "labels of type float64"),
    "integers beyond their type": ({"dtype": "int8", "values": [1, 2, 300]}, "300"),
    "negative as unsigned": ({"dtype": "uint8", "values": [-1, 2, 3]}, "-1"),
    "integers beyond 64 bits": ({"dtype": "int64", "values": [1, 2, 10**19]}, "too large|too big"),
    "floats beyond their type": ({"dtype": "float16", "values": [1.0, 2.0, 1e10]}, "labels of type float16"),
    "floats between those of their type": ({"dtype": "float16", "values": [0.1, 0.2, 0.3]}, "labels of type float16"),
    "not a number": ({"dtype": "float64", "values": [0.0, 1.0, math.nan]}, "labels of type float64"),
    "zero twice": ({"dtype": "float64", "values": [-0.0, 0.0, 1.0]}, "not sorted"),
    "a table": ({"dtype": "int64", "values": [[1], [2], [3]]}, "labels of type int64"),
    "text with zeros that NumPy drops": ({"values": ["ant", "bee", "cat\0"]}, "labels of type str"),
    "no values": ({"values": None}, "values is a NoneType"),
    "a key more": ({"code": "import os"}, "'code'. missing or unknown"),
}


@pytest.mark.parametrize("case", CLASSES.values(), ids=CLASSES.keys())
def test_forged_classes_are_refused(case: Any, saved: Saved, path: Path) -> None:
    changes, words = case
    path.write_bytes(saved.with_metadata(classes=saved.part("classes", **changes)))
    assert_refused(load_model, path, words)


PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"gamma": 1}, "'gamma'. missing or unknown"),
    "callbacks": ({"callbacks": []}, "'callbacks'. missing or unknown"),
    "of objects": ({"tol": {"eval": "1"}}, "tol is a dict"),
    "of lists": ({"tol": [1e-4]}, "tol is a list"),
    "another loss": ({"loss": "hinge"}, "loss='hinge'"),
    "max_iter of 0": ({"max_iter": 0}, "max_iter=0"),
    "max_iter of a float": ({"max_iter": 4.0}, "max_iter=4.0"),
    "a flag that is a number": ({"nesterov": 1}, "nesterov=1"),
    "C that is not infinite": ({"C": {"infinite": False}}, "C="),
    "C that is something else": ({"C": {"eval": "1"}}, "C="),
    "C that is NaN": ({"C": math.nan}, "C=nan"),
    "C and l2": ({"l2": 1.0}, "say the same thing twice"),
    "l2 that is infinite": ({"C": None, "l2": math.inf}, "l2=inf"),
    "momentum of 1": ({"momentum": 1}, "momentum=1"),
    "a seed of text": ({"random_state": "0"}, "random_state='0'"),
    "a seed that is true": ({"random_state": True}, "random_state=True"),
    "a negative seed": ({"random_state": -1}, "random_state=-1"),
    "a seed beyond 63 bits": ({"random_state": 2**63}, "random_state="),
    "a backend that is a path": ({"backend": "../../evil.so"}, "backend='../../evil.so'"),
    "a backend that is null": ({"backend": None}, "backend=None"),
    "no threads": ({"n_threads": 0}, "n_threads=0"),
    "threads of text": ({"n_threads": "2"}, "n_threads='2'"),
    "verbose text": ({"verbose": "1"}, "verbose='1'"),
    "a learning rate of NaN": ({"learning_rate": math.nan}, "learning_rate=nan"),
    "a schedule of another": ({"schedule": "one-cycle"}, "schedule='one-cycle'"),
    "a very long word": ({"solver": "s" * 101}, "101 characters"),
    "scaling by a path": ({"scaling": "/etc/passwd"}, "with the tensors"),
    "scaling by standard deviations, with shift and scale": ({"scaling": "standard"}, "with the tensors"),
    "scaling without scale": ({"scaling": {"tensors": [True, False]}}, "with the tensors"),
    "scaling by one tensor": ({"scaling": {"tensors": [True]}}, "with the tensors"),
    "scaling by three tensors": ({"scaling": {"tensors": [True, True, True]}}, "with the tensors"),
    "scaling by words": ({"scaling": {"tensors": ["shift", "scale"]}}, "with the tensors"),
    "scaling by a list": ({"scaling": {"files": ["/etc/passwd"]}}, "missing or unknown"),
    "class weights by a word": ({"class_weight": "heavy"}, "class_weight='heavy'"),
    "class weights by a number": ({"class_weight": 2}, "class_weight=2"),
    "class weights, not in pairs": ({"class_weight": {"ant": 2.0}}, "missing or unknown"),
    "class weights in threes": ({"class_weight": {"pairs": [["ant", 2.0, 1.0]]}}, "unpack"),
    "class weights of nothing": ({"class_weight": {"pairs": [1]}}, "unpack"),
    "class weights of a list": ({"class_weight": {"pairs": [[["ant"], 2.0]]}}, "unhashable"),
    "class weights of null": ({"class_weight": {"pairs": [[None, 2.0]]}}, "list of distinct labels"),
    "class weights, one twice": ({"class_weight": {"pairs": [["ant", 2.0], ["ant", 1.0]]}}, "list of distinct labels"),
    "class weights of text": ({"class_weight": {"pairs": [["ant", "2.0"]]}}, "class_weight='2.0'"),
    "negative class weights": ({"class_weight": {"pairs": [["ant", -2.0]]}}, "class_weight=-2.0"),
    "infinite class weights": ({"class_weight": {"pairs": [["ant", math.inf]]}}, "class_weight=inf"),
}  # fmt: skip


@pytest.mark.parametrize("case", PARAMETERS.values(), ids=PARAMETERS.keys())
def test_forged_parameters_are_refused(case: Any, saved: Saved, path: Path) -> None:
    changes, words = case
    path.write_bytes(saved.with_metadata(parameters=saved.part("parameters", **changes)))
    assert_refused(load_model, path, words)


FITTED: dict[str, tuple[dict[str, Any], str]] = {
    "n_iter of text": ({"n_iter": "4"}, "n_iter is a str"),
    "n_iter of a float": ({"n_iter": 4.0}, "n_iter is a float"),
    "n_iter that is true": ({"n_iter": True}, "n_iter is a bool"),
    "n_iter beyond all floats": ({"n_iter": math.inf}, "n_iter is a float"),
    "n_iter of 30 digits": ({"n_iter": 10**30}, "31 digits"),
    "a negative n_iter": ({"n_iter": -1}, "n_iter=-1"),
    "a stop reason of null": ({"stop_reason": None}, "stop_reason is a NoneType"),
    "a backend in a list": ({"backend": ["cpu"]}, "backend is a list"),
    "names of fewer features": ({"feature_names": ["height"]}, "feature_names .*for 3 features"),
    "names of numbers": ({"feature_names": [1, 2, 3]}, "feature_names .*for 3 features"),
    "names in a text": ({"feature_names": "abc"}, "feature_names is a str"),
    "no history": ({"history": None}, "history is a NoneType"),
    "history of numbers": ({"history": [1]}, "history is a int, not an object"),
    "history of an object": ({"history": {}}, "history is a dict"),
    "a report of a text": ({"fit_report": "converged"}, "fit_report is a str"),
    "a report of nothing": ({"fit_report": {}}, "fit_report: .* missing"),
    "a report of null": ({"fit_report": None}, "fit_report is a NoneType"),
    "a weight sum of zero": ({"weight_sum": 0}, "weight_sum=0"),
    "a weight sum that is true": ({"weight_sum": True}, "weight_sum is a bool"),
    "an infinite weight sum": ({"weight_sum": math.inf}, "weight_sum=inf"),
    "a weight sum of text": ({"weight_sum": "40"}, "weight_sum is a str"),
    "a key more": ({"code": "import os"}, "'code'. missing or unknown"),
}


@pytest.mark.parametrize("case", FITTED.values(), ids=FITTED.keys())
def test_forged_attributes_are_refused(case: Any, saved: Saved, path: Path) -> None:
    changes, words = case
    path.write_bytes(saved.with_metadata(fitted=saved.part("fitted", **changes)))
    assert_refused(load_model, path, words)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("passes", "1", "passes is a str"),
        ("step", 1.0, "step is a float"),
        ("objective", None, "float"),
        ("objective", [1.0], "objective is a list"),
        ("loss", "1.0", "loss is a str"),
        ("accuracy", True, "accuracy is a bool"),
        ("validation_loss", {}, "validation_loss is a dict"),
        ("learning_rate", "import os", "learning_rate is a str"),
        ("__class__", "str", "'__class__'. missing or unknown"),
        ("__dict__", {}, "'__dict__'. missing or unknown"),
    ],
)
def test_a_forged_record_of_history_is_refused(key: str, value: Any, words: str, saved: Saved, path: Path) -> None:
    history = json.loads(saved.metadata["fitted"])["history"]
    history[-1][key] = value
    path.write_bytes(saved.with_metadata(fitted=saved.part("fitted", history=history)))
    assert_refused(load_model, path, words)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("solver", 1, "solver is a int"),
        ("n_iter", 4.5, "n_iter is a float"),
        ("seconds", "1", "seconds is a str"),
        ("objective", None, "objective is a NoneType"),
        ("bound", True, "bound is a bool"),
        ("why_no_bound", None, "why_no_bound is a NoneType"),
        ("kept", "2", "kept is a str"),
        ("as_dict", "import os", "'as_dict'. missing or unknown"),
    ],
)
def test_a_forged_report_is_refused(key: str, value: Any, words: str, saved: Saved, path: Path) -> None:
    report = {**json.loads(saved.metadata["fitted"])["fit_report"], key: value}
    path.write_bytes(saved.with_metadata(fitted=saved.part("fitted", fit_report=report)))
    assert_refused(load_model, path, words)


# tensors


TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "no coef": ({"coef": None}, "'coef'"),
    "no intercept": ({"intercept": None}, "'intercept'"),
    "no shift": ({"shift": None}, "scaling"),
    "one more": ({"velocity": np.zeros(3)}, "'velocity'"),
    "coef of float16": ({"coef": np.zeros((3, 3), np.float16)}, "'F16'"),
    "coef of integers": ({"coef": np.zeros((3, 3), np.int64)}, "'I64'"),
    "coef of booleans": ({"coef": np.zeros((3, 3), bool)}, "'BOOL'"),
    "another type of intercept": ({"intercept": np.zeros(3, np.float32)}, "float32"),
    "a row less": ({"coef": np.zeros((2, 3))}, r"\(2, 3\)"),
    "a row more": ({"coef": np.zeros((4, 3))}, r"\(4, 3\)"),
    "a column less": ({"coef": np.zeros((3, 2))}, r"shift has shape \(3,\)"),
    "no features": ({"coef": np.zeros((3, 0))}, r"\(3, 0\)"),
    "no classes": ({"coef": np.zeros((0, 3)), "intercept": np.zeros(0)}, r"\(0, 3\)"),
    "coef 0-D": ({"coef": np.array(0.0)}, r"\(\)"),
    "coef 1-D": ({"coef": np.zeros(9)}, r"\(9,\)"),
    "coef 3-D": ({"coef": np.zeros((3, 3, 1))}, r"\[3, 3, 1\]"),
    "a longer intercept": ({"intercept": np.zeros(4)}, r"\(4,\)"),
    "intercept 2-D": ({"intercept": np.zeros((3, 1))}, r"\(3, 1\)"),
    "a longer shift": ({"shift": np.zeros(5)}, "shift has shape"),
    "shift 2-D": ({"shift": np.zeros((1, 3))}, "shift has shape"),
    "no scale at all": ({"scale": np.zeros(0)}, "scale has shape"),
    **{
        f"{number} in {name}": ({name: np.full((3, 3) if name == "coef" else 3, number)}, name)
        for name in ("coef", "intercept", "shift", "scale")
        for number in (math.nan, math.inf, -math.inf)
    },
    "a signalling NaN in coef": ({"coef": np.full((3, 3), 0x7FF4 << 48, np.uint64).view(np.float64)}, "coef"),
    "a negative scale": ({"scale": np.array([1.0, -1.0, 1.0])}, "scale"),
}


@pytest.mark.parametrize("case", TENSORS.values(), ids=TENSORS.keys())
def test_forged_tensors_are_refused(case: Any, saved: Saved, path: Path) -> None:
    changes, words = case
    path.write_bytes(saved.with_tensors(**changes))
    assert_refused(load_model, path, words)


# anything


ODD = st.sampled_from([
    None, True, False, 0, 1, -1, 2**63, 2**64, 10**25, 0.0, -0.0, 0.5, 1e308, math.inf, math.nan, "", "auto",
    "standard", "balanced", "\0", "\ud800", "é", [], {}, [None], [[]], {"tensors": [True, False]}, {"infinite": True},
    {"pairs": []}, {"": None}, "F32", [0], [3, 3],
])  # fmt: skip
VALUES = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=4),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=4), values, max_size=3),
    max_leaves=6,
)


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value within a structure of JSON, itself included."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(place for key, each in inside for place in places(each, (*above, key)))]


def changed(value: Any, place: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A structure with another value at a place."""
    if not place:
        return change(value)
    copy = value.copy()
    copy[place[0]] = changed(copy[place[0]], place[1:], change)
    return copy


def extended(value: Any, new: Any) -> Any:
    """A list or an object with a value more; anything else is replaced."""
    return [*value, new] if isinstance(value, list) else {**value, "new": new} if isinstance(value, dict) else new


def without(value: Any, key: Any) -> Any:
    """A list or an object without one of its values."""
    copy = value.copy()
    del copy[key]
    return copy


@st.composite
def mutations(draw: st.DrawFn, value: Any) -> Any:
    """A structure with one to three values replaced, added, or taken away."""
    for _ in range(draw(st.integers(1, 3))):
        place, new = draw(st.sampled_from(places(value))), draw(VALUES)
        action = draw(st.sampled_from(["replace", "extend", "take away"]))
        if action == "take away" and place:
            value = changed(value, place[:-1], lambda outer, key=place[-1]: without(outer, key))
        elif action == "extend":
            value = changed(value, place, lambda inner, new=new: extended(inner, new))
        else:
            value = changed(value, place, lambda inner, new=new: new)
    return value


def restricted(value: Any, other: Any) -> Any:
    """`value` with those keys alone that `other` has."""
    both = isinstance(value, dict) and isinstance(other, dict)
    return {key: restricted(value[key], other[key]) for key in other} if both else value


anything = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["classes", "parameters", "fitted"])
@given(data=st.data())
@anything
def test_a_forged_text_is_refused_or_is_what_the_loaded_model_says(
    key: str, data: st.DataObject, saved: Saved, path: Path
) -> None:
    said = data.draw(mutations(json.loads(saved.metadata[key])))
    path.write_bytes(saved.with_metadata(**{key: json.dumps(said)}))
    try:
        loaded = load_model(path)
    except BadFileError:
        return
    save_model(loaded, path)
    assert equal(restricted(json.loads(header(path)["__metadata__"][key]), said), said)


@pytest.mark.slow
@given(data=st.data())
@anything
def test_a_forged_table_of_tensors_is_refused_or_the_same(data: st.DataObject, saved: Saved, path: Path) -> None:
    table = {key: entry for key, entry in saved.header.items() if key != "__metadata__"}
    forged = data.draw(mutations(table))
    assume(isinstance(forged, dict))
    path.write_bytes(assemble(json.dumps({"__metadata__": saved.metadata, **forged}), saved.data))
    assert outcome(saved.model, path) in ("refused", "equal")
