"""Random mutations of every kind of file that is read here: each is refused with BadFileError, or gives what a file of
that kind may hold; and a model never becomes another one.

    python -m tests.tools.fuzzing --runs 250000 --seed 0        every target, so many mutations each
    python -m tests.tools.fuzzing --target model --guided       by coverage, with atheris, until Ctrl-C

A failure is printed with its seed, and the mutated file is left beside it.
tests/tools/test_fuzzing.py runs a few hundred of them.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import lzma
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.pipeline import Pipeline

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, load_model, make_table_classifier, save_model
from gpusoftmax.checkpoints.file import CHECKPOINT
from gpusoftmax.checks.sparse import check_sparse
from gpusoftmax.datasets import pickled
from gpusoftmax.datasets.cifar10 import read_file
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.atomic import previous_of
from gpusoftmax.files.load import read_parts
from gpusoftmax.files.npy import read_npy, read_npz
from gpusoftmax.files.sparse import read_svmlight
from gpusoftmax.files.table import Columns
from gpusoftmax.files.tensors import pieces
from gpusoftmax.models.encoders import encode_encoder
from gpusoftmax.tables.columns import RawColumns
from tests.support.cifar10 import PYTHON2, PYTHON3, ROWS
from tests.support.tables import read_both_ways

INTERESTING = [0, 1, 2, 9, 10, 16, 32, 39, 40, 44, 46, 48, 57, 91, 92, 123, 125, 127, 128, 255]
NUMBERS = [0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**61, 2**63 - 1, 2**64 - 1]


@dataclass(frozen=True)
class Target:
    """What is mutated, how it is read, and what may come of it.

    Attributes
    ----------
    seeds : list of bytes
        Good files.
    check : callable
        Reads a path; raises AssertionError if what came is not what such a file may hold.
    words : list of bytes
        Pieces that such files consist of, to be put in.
    """

    seeds: list[bytes]
    check: Callable[[Path], Any]
    words: list[bytes]


def mutated(rng: np.random.Generator, target: Target) -> bytes:
    """A good file with one to four random changes: bits, bytes, numbers, pieces moved, doubled, left out or put in."""
    data = bytearray(target.seeds[rng.integers(len(target.seeds))])
    for _ in range(rng.integers(1, 5)):
        size = len(data)
        at = int(rng.integers(size + 1))
        length = int(min(rng.geometric(0.1), size - at))
        match rng.integers(9):
            case 0 if at < size:
                data[at] ^= 1 << rng.integers(8)
            case 1 if at < size:
                data[at] = INTERESTING[rng.integers(len(INTERESTING))]
            case 2 if at < size:
                data[at] = rng.integers(256)
            case 3:
                width = (1, 2, 4, 8)[rng.integers(4)]
                number = NUMBERS[rng.integers(len(NUMBERS))] & ((1 << 8 * width) - 1)
                data[at : at + width] = number.to_bytes(width, ("little", "big")[rng.integers(2)])
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = data[at : at + length]
            case 6:
                other = int(rng.integers(size + 1))
                data[at:at] = data[other : other + length]
            case 7:
                word = target.words[rng.integers(len(target.words))]
                data[at : at + (length if rng.integers(2) else 0)] = word
            case _:
                del data[at:]
    return bytes(data)


def saved(save: Callable[[Any], Any]) -> bytes:
    """What a function that takes a path or file writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.npz"
        save(path)
        return path.read_bytes()


def facts(model: Any) -> str:
    """All that a model consists of."""
    if isinstance(model, Pipeline):
        encoder, classifier = model["encoder"], model["classifier"]
        described, tensors = encode_encoder(encoder)
        learned = [(name, tensor.tobytes()) for name, tensor in tensors.items()]
        return repr((described, learned)) + facts(classifier)
    arrays = {name: getattr(model, name) for name in ("classes_", "coef_", "intercept_")}
    own = {name: value for name, value in vars(model).items() if name not in arrays and name != "callbacks"}
    return repr([(name, array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()]) + repr(own)


def model_target() -> Target:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3)).astype(np.float32)
    models: list[Any] = [
        SoftmaxClassifier(C=0.5, scaling="standard").fit(X, np.array(["ash", "birch", "cedar"])[np.arange(40) % 3]),
        LinearSVMClassifier(loss="squared_hinge", scaling=(X.mean(0), X.std(0))).fit(X, np.arange(40) % 2),
    ]
    table = {
        "word": ["ash", "birch", "ash", None] * 10,
        "size": [*X[:39, 0].tolist(), None],
        "text": ["rain and snow"] * 40,
    }
    models.append(make_table_classifier(n_hashes=64, kinds={"text": "text"}).fit(table, np.arange(40) % 2))
    files = [saved(lambda path, model=model: save_model(model, path)) for model in models]
    with tempfile.TemporaryDirectory() as folder:
        for i, content in enumerate(files):
            (Path(folder) / str(i)).write_bytes(content)
        known = [facts(load_model(Path(folder) / str(i))) for i in range(len(files))]

    def check(path: Path) -> None:
        assert facts(load_model(path)) in known, "silently another model"

    words = [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"null",
        b"1e999",
        b"NaN",
        b"-1",
        b"coef",
        b"shape",
        b"F64",
    ]
    return Target(files, check, words)


def cifar_target() -> Target:
    def check(path: Path) -> None:
        X, y = pickled.read_batch(read_file(path), path, ROWS)
        assert (X.dtype, X.shape, y.dtype, y.shape) == (np.uint8, (ROWS, 3072), np.int64, (ROWS,))
        assert 0 <= y.min() <= y.max() <= 9

    words = [bytes([code]) for code in b"}])(NtesubaRq\x85\x86\x87\x88\x89.cKMJTUXhrj\x80\x8c\x93\x94"]
    return Target([PYTHON2, PYTHON3], check, words)


def array_is_sound(array: Any, path: Path) -> None:
    assert isinstance(array, np.ndarray)
    assert array.dtype.kind in "biufU"
    assert array.nbytes <= 1100 * path.stat().st_size
    array.tolist()  # every element can be looked at


ARRAYS = {
    "X": np.arange(12, dtype=np.float32).reshape(3, 4), "y": np.array(["ash", "birch", "cedar"]),
    "F": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}  # fmt: skip
HEADER_WORDS = [
    b"'descr'",
    b"'<f4'",
    b"'|O'",
    b"(3, 4)",
    b"(-1,)",
    b"True",
    b"\x93NUMPY",
    b"{",
    b"}",
    b"(",
    b"9999999999",
]


def npy_target() -> Target:
    def save(array: Any) -> bytes:
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    return Target([save(array) for array in ARRAYS.values()], lambda p: array_is_sound(read_npy(p), p), HEADER_WORDS)


def npz_target() -> Target:
    def check(path: Path) -> None:
        for array in read_npz(path).values():
            array_is_sound(array, path)

    seeds = [saved(lambda path, save=save: save(path, **ARRAYS)) for save in (np.savez, np.savez_compressed)]
    return Target(seeds, check, [*HEADER_WORDS, b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b".npy"])


def table_is_sound(table: Any) -> None:
    """A table of text has as many labels and lines as rows, and finite numbers, gaps or words."""
    n, d = table.values.shape
    assert n > 0
    assert d > 0
    if isinstance(table.values, RawColumns):
        for column in table.values.columns.values():
            assert column.shape == (n,)
            if column.dtype == np.float64:
                assert not np.isinf(column).any()
            else:
                assert column.dtype == object
                assert all(word is None or (isinstance(word, str) and word.strip()) for word in column.tolist())
    else:
        assert (table.values.dtype, np.isfinite(table.values).all()) == (np.float64, True)
    assert table.y is None or (table.y.shape == (n,) and all(table.y.tolist()))
    assert table.feature_names is None or len(table.feature_names) == d
    assert table.lines.shape == (n,)
    assert (np.diff(table.lines) > 0).all()


def csv_target() -> Target:
    def check(path: Path) -> None:
        try:
            table_is_sound(read_both_ways(path, Columns(-1)))
        except BadFileError:
            table_is_sound(read_both_ways(path, Columns(-1, raw=True)))

    seeds = [b'a,b,label\n1,2.5,ash\n-3e2,4,"birch, old"\n0,.5,x\n', b"1;2;3\n4;5;6\n", b"\xef\xbb\xbfx\ty\r\n1\t7\r\n"]
    seeds += [b"sep=;\n2019;2020;y\n1;True;a\n2;False;b\n3;0;a\n", b'"a,\nb",,label\n1,7,NA\n']
    seeds += [b"# by hand\na|b|kind\n1|2|x\n# again\n3|4|y\n", b" a  b kind\n1   2\tx\n 3 4  y \n5 6 z\n"]
    seeds += [
        b"a;b;kind\n1,5;2;x\n1.234,5;4;y\n7;8;x\n",
        b'a,b,kind\n1,"1,234.5",x\n2.5,"6,000",y\n',
        b"a,b,kind\n1,2,x,\n3,4,y,\n",
    ]
    seeds += ["größe;kind\n1;süß\n2;ß\n".encode("utf-16"), "a,kind\n1,caf\xe9\n2,x\n".encode("latin-1")]
    seeds += [
        b"hue,a,kind\nred,NA,x\n,2,y\nred,3.5,x\nblue,?,y\n",
        b"red,long,x\nred,round,y\nblue,long,x\n",
        b"1,x\n2,y\n" * 6,
    ]
    seeds += [b"0.5,0.7,0.8,1.2,1.3,kind\n" + b"1,1,2,1,1,a\n1,2,1,1,1,b\n" * 6, b"# a,b,kind\n1,2,x\n3,4,y\n"]
    words = [
        b",",
        b";",
        b"\t",
        b"|",
        b" ",
        b"#",
        b"\n",
        b"\r",
        b"\r\n",
        b'"',
        b'""',
        b"nan",
        b"inf",
        b"1e999",
        b"\0",
        b"\xff",
    ]
    words += [
        b"-",
        b"label",
        b"0x1",
        b"_1",
        b"\xd9\xa1",
        b"sep=,\n",
        b"True",
        b"0,1,2,3\n",
        b"1,234",
        b"2,5",
        b"1.234",
        b"NA",
    ]
    words += [
        b"%",
        b"\xe9",
        b"\xc3\xa9",
        b"\xff\xfe",
        b"a title\n",
        b"9007199254740993",
        b"2.2250738585072014e-308",
        b"1 1:2\n",
    ]
    return Target(seeds, check, words)


def text_target() -> Target:
    """Text of every kind, told by its content: compressed, ARFF, svmlight, tables."""

    def check(path: Path) -> None:
        [table] = read_parts(path.rename(path.with_suffix(".data")), Columns(need_label=False, raw=True)).values()
        if scipy.sparse.issparse(table.values):
            matrix_is_sound(table.values)
        else:
            table_is_sound(table)

    table = b"a,b,label\n" + b"1,2.5,ash\n-3,4,birch\n" * 3
    arff = b"% Trees\n@relation r\n@attribute a real\n@attribute 'b c' {x,'y z'}\n@attribute class {p, q}\n@data\n"
    arff += b"1,x,p\n?,'y z',q\n"
    seeds = [
        gzip.compress(table, mtime=0),
        lzma.compress(table),
        gzip.compress(table, 0, mtime=0),
        table.decode().encode("utf-16"),
    ]
    seeds += [
        lzma.compress(table, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]),
        arff,
        arff.replace(b"?,'y z'", b'?,"y z"'),
    ]
    seeds += [
        arff.replace(b",'y z'}", b"}").replace(b"'y z'", b"x"),
        b"1 1:2.5 3:1\n-1 2:1\n",
        gzip.compress(arff, mtime=0),
    ]
    words = [
        b"@data\n",
        b"@attribute",
        b"{",
        b"}",
        b"'",
        b'"',
        b"%",
        b"real",
        b"numeric",
        b"date",
        b"string",
        b"relational",
    ]
    words += [b",", b"?", b"\n", b"\x1f\x8b", b"\xfd7zXZ\0", b"\xff\xfe", b"1 1:1\n", b"@relation r\n", b"\0", b"\\"]
    return Target(seeds, check, words)


def matrix_is_sound(X: Any) -> None:
    assert isinstance(X, scipy.sparse.csr_array)
    assert check_sparse(X) is X, "not canonical"  # raises if an index is out of range
    X @ np.ones((X.shape[1], 1)) if X.shape[1] < 10_000 else X.sum()


def svmlight_target() -> Target:
    def check(path: Path) -> None:
        table = read_svmlight(path, Columns())
        matrix_is_sound(table.values)
        assert np.isfinite(table.values.data).all()
        assert table.y.shape == table.lines.shape == table.values.shape[:1]
        assert (np.diff(table.lines) > 0).all()
        assert table.y.dtype == np.int64 or not (table.y == np.floor(table.y)).all() or not np.isfinite(table.y).all()

    seeds = [
        b"1 1:2.5 3:-4e2\n-1 2:1 # a comment\n\n+1\n",
        b"# Column indices are zero-based\n#\n3 qid:1 0:7 9:.5\r\n0 4:1",
    ]
    words = [
        b" ",
        b":",
        b"#",
        b"\n",
        b"\r",
        b"\0",
        b"\xff",
        b",",
        b"-",
        b"+",
        b"_",
        b".",
        b"e9",
        b"nan",
        b"inf",
        b"qid:1 ",
    ]
    return Target(seeds, check, [*words, b"2147483647", b"2147483648", b"9" * 20, b"# Column indices are one-based\n"])


def sparse_target() -> Target:
    """Numbers that become the arrays of a sparse matrix once they are mutated, so that most mutations hit indices."""
    kinds = {"csr": ("indptr", "indices"), "csc": ("indptr", "indices"), "coo": ("row", "col")}

    def packed(kind: int, shape: tuple[int, int], first: list[int], second: list[int]) -> bytes:
        return np.array([kind, *shape, len(first), *first, *second, *range(len(second))], np.int64).tobytes()

    def check(path: Path) -> None:
        content = path.read_bytes()
        numbers = np.frombuffer(content[: len(content) // 8 * 8], np.int64)
        if len(numbers) < 4:
            raise BadFileError(path, reason="too short", expected="a shape")
        kind, (first, second) = list(kinds.items())[numbers[0] % 3]
        pointers, rest = np.split(numbers[4:], [numbers[3] % 16])
        columns, values = np.array_split(rest, 2)
        np.savez(path, format=kind.encode(), shape=numbers[1:3], data=values, **{first: pointers, second: columns})
        matrix_is_sound(read_parts(path, Columns(need_label=False))["rows"].values)

    seeds = [packed(0, (3, 4), [0, 2, 2, 4], [1, 3, 0, 2]), packed(1, (4, 3), [0, 2, 2, 4], [1, 3, 0, 2])]
    words = [
        number.to_bytes(8, "little", signed=True) for number in (-1, 0, 1, 2, 3, 4, 2**22, 2**31 - 1, 2**31, 2**62)
    ]
    return Target([*seeds, packed(2, (3, 4), [0, 2, 0], [3, 0, 3])], check, words)


def checkpoint_target() -> Target:
    """The values of checkpoints, signed anew after each change, as an attacker would; the fit continues from them."""
    X, y = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32), np.arange(40) % 3
    models = [
        SoftmaxClassifier(C=1e3, tol=0.0, max_iter=12),
        SoftmaxClassifier(solver="sgd", batch_size=8, max_iter=6, tol=0.0),
    ]
    kept: list[tuple[Any, dict[str, str], dict[str, Any]]] = []
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.ckpt"
            model.fit(X, y, checkpoint=path, checkpoint_every=0.0)  # the one before the last is of a fit under way
            kept += [(model, *CHECKPOINT.read(path)), (model, *CHECKPOINT.read(previous_of(path)))]

    def check(path: Path) -> None:
        which, values = path.read_bytes()[:1], path.read_bytes()[1:]
        if which not in (b"0", b"1", b"2", b"3") or not values.isascii():
            raise BadFileError(path, reason="no values", expected="some")
        model, texts, tensors = kept[int(which)]
        forged = path.with_name("run.ckpt")
        content = pieces(texts | {"values": values.decode()}, tensors)
        forged.write_bytes(b"".join(bytes(piece) for piece in content))
        model.fit(X, y, checkpoint=forged, checkpoint_every=1e9)
        for one in (forged, previous_of(forged)):
            one.unlink(missing_ok=True)

    seeds = [f"{i}{texts['values']}".encode() for i, (_, texts, _) in enumerate(kept)]
    words = [b"running/", b"finished/0/", b"solver/", b"null", b"true", b"[]", b"{}", b"-1", b"1e999", b"NaN", b'""']
    return Target(seeds, check, words)


TARGETS = {
    "model": model_target, "checkpoint": checkpoint_target, "cifar": cifar_target, "npy": npy_target,
    "npz": npz_target, "csv": csv_target, "text": text_target, "svmlight": svmlight_target, "sparse": sparse_target,
}  # fmt: skip


def attempt(target: Target, content: bytes, path: Path) -> bool:
    """Whether a file was taken; anything but BadFileError goes up."""
    path.write_bytes(content)
    try:
        target.check(path)
    except BadFileError:
        return False
    return True


def run(name: str, runs: int, seed: int, folder: Path) -> int:
    """So many mutations of one kind of file; how many of them were taken. A failure is told, and raised."""
    target, path, taken = TARGETS[name](), folder / f"{name}.npz", 0
    for i in range(runs):
        content = mutated(np.random.default_rng([seed, i]), target)
        try:
            taken += attempt(target, content, path)
        except BaseException:
            found = Path(f"fuzzing-{name}-{seed}-{i}")
            found.write_bytes(content)
            print(f"{name}: mutation {i} of seed {seed} failed; it is in {found}", file=sys.stderr)
            raise
    return taken


def guided(name: str, folder: Path) -> None:
    """Mutations by coverage, without an end."""
    import atheris

    target = TARGETS[name]()
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, content in enumerate(target.seeds):
        (corpus / str(i)).write_bytes(content)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], str(corpus)], lambda content: attempt(target, content, folder / "file.npz"))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, help="one of them; default: each in turn")
    parser.add_argument("--runs", type=int, default=250_000, help="mutations of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="by coverage (needs atheris)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        if options.guided:
            guided(options.target or "model", Path(folder))
        for name in [options.target] if options.target else TARGETS:
            started = time.perf_counter()
            taken = run(name, options.runs, options.seed, Path(folder))
            seconds = round(time.perf_counter() - started, 1)
            print(
                json.dumps({"target": name, "mutations": options.runs, "taken": taken, "seconds": seconds}), flush=True
            )


if __name__ == "__main__":
    main()
