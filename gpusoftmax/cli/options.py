"""What the commands share: the application, options, output, and loading data."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from gpusoftmax.array import Backend
    from gpusoftmax.files.dataset import Dataset


class _Commands(TyperGroup):
    """The group of commands; prints "interrupted" if Ctrl-C ends one."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Train and use linear softmax classifiers and SVMs, on the CPU or an NVIDIA GPU.

    `gpusoftmax train digits` trains on a data set that is included. `gpusoftmax train flowers.csv --label species
    --save flowers.safetensors` trains on your own, and `gpusoftmax predict flowers.safetensors new.csv` classifies new
    rows.

    Exit codes: 0 success, 1 failure (the reason is on standard error), 2 an unknown or invalid option, 130
    interrupted, 143 terminated. NO_COLOR=1 turns colours off. `--install-completion` lets the shell complete commands
    and options.""",
)


class Loss(StrEnum):
    """The values of --loss."""

    softmax = "softmax"
    hinge = "hinge"
    squared_hinge = "squared_hinge"


class SolverName(StrEnum):
    """The values of --solver."""

    auto = "auto"
    lbfgs = "lbfgs"
    sgd = "sgd"


class Scoring(StrEnum):
    """The values of --scoring."""

    accuracy = "accuracy"
    log_loss = "log_loss"
    loss = "loss"


class Rule(StrEnum):
    """The values of --rule."""

    best = "best"
    one_standard_error = "1se"


class Recipe(StrEnum):
    """The values of --recipe."""

    cs231n = "cs231n"


KNOWN = ("digits", "cifar10")  # a test compares this with gpusoftmax.datasets, which is slow to import


def _complete_dataset(incomplete: str) -> list[str]:
    """Completions for the shell, which offers files if this returns none."""
    return [name for name in KNOWN if name.startswith(incomplete)]


DatasetName = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, cifar10, or a file: text (.csv, .tsv, .txt, .data, .arff, .svm (sparse), also with .gz or .xz), "
        ".parquet, .npz, or a pair X.npy,y.npy (sparse: X.npz,y.npy)",
        autocompletion=_complete_dataset,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="for cifar10: the folder that holds its batches (cifar-10-batches-py or -bin) or its .tar.gz",
        show_default="GPUSOFTMAX_DATA, or ~/gpusoftmax_data",
    ),
]
Download = Annotated[bool, typer.Option("--download", help="for cifar10: download it (163 MB) if it is missing")]
Label = Annotated[
    str | None,
    typer.Option(
        "--label",
        metavar="COLUMN",
        help="for a file: the column of labels, by name or position (0, or -1 for the last), or the array in a .npz",
        show_default="the one called label, class, target or y",
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(
        "--drop", metavar="NAME", help="for a file: a column to leave out; can be repeated", show_default=False
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="for a table in a text file: whether the first line has the column names",
        show_default="detected",
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        "--delimiter",
        metavar="CHARACTER",
        help="for a table in a text file: what separates its fields, such as ';', tab, or blank (any number of them)",
        show_default="detected",
    ),
]
Decimal = Annotated[
    str | None,
    typer.Option(
        "--decimal",
        metavar="SIGN",
        help="for a table in a text file: the sign of decimals, . or ,; the other one may part groups of three digits",
        show_default="detected",
    ),
]
Category = Annotated[
    list[str] | None,
    typer.Option(
        "--category", metavar="NAME",
        help="for a table: a column of categories, also if they are written as numbers; can be repeated",
        show_default=False,
    ),
]  # fmt: skip
Text = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="NAME", help="for a table: a column of text, whose words become features; can be repeated",
        show_default="columns of three words or more",
    ),
]  # fmt: skip
Validation = Annotated[
    str,
    typer.Option(
        "--validation", metavar="FILE|FRACTION", help="for a file: validation rows, or the fraction of rows to hold out"
    ),
]
Test = Annotated[
    str,
    typer.Option("--test", metavar="FILE|FRACTION", help="for a file: test rows, or the fraction of rows to hold out"),
]
FRACTION = "0.2"  # of the rows of a file, by default
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="seed of everything that is random")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; results are the same for any number", show_default="all")
]
BackendName = Annotated[str, typer.Option("--backend", help="auto, cpu, numpy, cuda or cuda:N")]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        metavar="SIZE",
        help="leave features in their files, which may be larger than memory, and take this much, such as 2GB "
        "(X.npy,y.npy, X.safetensors,y.npy, or .parquet, of which a decoded copy is kept beside it)",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object, and nothing else, on standard output")]
Version = Annotated[bool, typer.Option("--version", help="print the version and exit")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="keep the state of the training in this file; if it is there, continue from it, with the same result",
        show_default=False,
    ),
]
CheckpointEvery = Annotated[
    float | None,
    typer.Option("--checkpoint-every", metavar="SECONDS", min=0, help="how often to write it", show_default="60"),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        help="write a page that shows it all to this file: plots, confusions, mistakes, weights; needs "
        "gpusoftmax[report]",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="show no progress")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="a model file, written by train --save")]


@app.callback(invoke_without_command=True)
def _print_version(version: Version = False) -> None:
    if version:
        import gpusoftmax

        print(gpusoftmax.__version__)
        raise typer.Exit


def print_json(result: dict[str, Any]) -> None:
    """Print one JSON object on standard output; NaN and infinity, which JSON does not have, become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    print(json.dumps(plain(result), allow_nan=False))


def print_data(text: str) -> None:
    """Print text on standard output: in UTF-8 to a file or a pipe, in the terminal's encoding to a terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")
    print(text, end="")


def show(text: str, as_json: bool) -> None:
    """Print a message for the user: on standard error if standard output is for JSON."""
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


@dataclass(frozen=True)
class FileOptions:
    """The options that say how to read a file of the user's own."""

    label: str | None
    drop: list[str] | None
    header: bool | None
    delimiter: str | None
    decimal: str | None
    category: list[str] | None = None
    text: list[str] | None = None

    @property
    def separator(self) -> str | None:
        """The character that --delimiter stands for; some are easier to write as words."""
        words = {"tab": "\t", "\\t": "\t", "blank": " ", "comma": ",", "semicolon": ";", "pipe": "|"}
        return None if self.delimiter is None else words.get(self.delimiter, self.delimiter)

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of columns that --category and --text name."""
        category, text = self.category or [], self.text or []
        if both := set(category) & set(text):
            raise ValueError(f"{min(both)!r} is given to --category and to --text; choose one")
        return dict.fromkeys(category, "category") | dict.fromkeys(text, "text")

    def refuse(self, dataset: str, **others: bool) -> None:
        """Raise if an option is given, or one of `others`, because the data set is known by name."""
        given = {f"--{field.name}": getattr(self, field.name) not in (None, []) for field in fields(self)} | others
        if wrong := [name for name, is_given in given.items() if is_given]:
            raise ValueError(f"{', '.join(wrong)} is for files of your own; {dataset} has its own: leave it out")

    def refuse_for_rows(self) -> None:
        """Raise if an option is given that says how to read a text, because the features stay in their files."""
        for_text = ("header", "delimiter", "decimal", "category", "text")
        if wrong := [f"--{name}" for name in for_text if getattr(self, name) not in (None, [])]:
            raise ValueError(f"{', '.join(wrong)} is not for --memory-limit, which reads no text; leave one out")


def load(
    dataset: str,
    data: Path | None,
    download: bool,
    options: FileOptions,
    validation: str,
    test: str,
    seed: int,
    quiet: bool,
    memory_limit: str | None = None,
) -> Dataset:
    """Load the data that a command's arguments name."""
    from gpusoftmax.datasets import load_dataset
    from gpusoftmax.files.load import load_data
    from gpusoftmax.rows.load import load_rows

    with reading(dataset, quiet):
        if not is_file(dataset):
            others = {
                "--validation": validation != FRACTION, "--test": test != FRACTION,
                "--memory-limit": memory_limit is not None,
            }  # fmt: skip
            options.refuse(dataset, **others)
            return load_dataset(dataset, data, download=download)
        check_no_folder(dataset, data, download)
        if memory_limit is not None:
            options.refuse_for_rows()
            return load_rows(
                source(dataset), memory_limit, label=options.label, drop=options.drop or (),
                validation=_fraction_or_source(validation), test=_fraction_or_source(test), seed=seed,
            )  # fmt: skip
        return load_data(
            source(dataset),
            label=options.label,
            drop=options.drop or (),
            header=options.header,
            delimiter=options.separator,
            decimal=options.decimal,
            kinds=options.kinds,
            validation=_fraction_or_source(validation),
            test=_fraction_or_source(test),
            seed=seed,
        )


def checkpoint_arguments(
    checkpoint: Path | None, every: float | None, *files: str | Path | None, as_json: bool
) -> dict[str, Any]:
    """Check --checkpoint and --checkpoint-every; return the arguments for `fit` or `sweep`. `files` are in use."""
    if checkpoint is None:
        if every is not None:
            raise ValueError(f"--checkpoint-every {every:g} needs --checkpoint FILE, the file to write")
        return {}
    check_output("--checkpoint", checkpoint, *files)
    _check_distinct("--checkpoint", checkpoint, *files)
    if checkpoint.exists():
        show(f"resume  {checkpoint}", as_json)
    return {"checkpoint": checkpoint} | ({} if every is None else {"checkpoint_every": every})


def check_output(option: str, path: Path | None, *inputs: str | Path | None) -> None:
    """Check that an output file can be written: its folder exists and is writable, and it is not one of the inputs."""
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(f"{option} {path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{option} {path} is not a regular file and is not replaced; name another")
    folder = (path.resolve() if path.is_symlink() else path.absolute()).parent  # a symbolic link's target is replaced
    if not folder.is_dir():
        raise FileNotFoundError(f"{option} {path}: the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{option} {path}: the folder {folder} may not be written to; name another")
    read = [Path(one) for name in inputs for one in (str(name), *str(name).split(",")) if one]
    if path.is_file() and any(one.is_file() and path.samefile(one) for one in read):
        raise ValueError(f"{option} {path} is one of the files that are read; write to another")


def _check_distinct(option: str, path: Path, *outputs: str | Path | None) -> None:
    """Check that an output file is none of the others that are written."""
    if any(other is not None and path.resolve() == Path(other).resolve() for other in outputs):
        raise ValueError(f"{option} {path} is another output file, too; write to another")


def check_report(path: Path | None, *inputs: str | Path | None, outputs: tuple[Path | None, ...] = ()) -> None:
    """Check that a report can be written, before the work: its place, and the packages that it needs.

    `outputs` are other files that are written.
    """
    if path is None:
        return
    _check_distinct("--report", path, *outputs)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report {path} does not end with .html, by which browsers know a page; name it so")
    check_output("--report", path, *inputs)
    from gpusoftmax.reports.html.page import require_packages

    require_packages()


def write_report(what: Any, path: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Write a report, with the command that is running."""
    from gpusoftmax.progress import waiting
    from gpusoftmax.reports.html import report

    with waiting("writing the report", quiet):
        report(what, path, command=shlex.join(["gpusoftmax", *sys.argv[1:]]), **options)
    show(f"report  {path}", as_json)


def is_file(dataset: str) -> bool:
    """Whether an argument names a user's own file rather than a data set."""
    from gpusoftmax.files.load import SUFFIXES

    name = dataset.lower().removesuffix(".gz").removesuffix(".xz")
    return dataset not in KNOWN and (name.endswith(SUFFIXES) or Path(dataset).exists())


def check_no_folder(dataset: str, data: Path | None, download: bool) -> None:
    """Refuse options that are for data sets known by name, if the data come from a file."""
    if data is not None or download:
        name = "--download" if data is None else f"--data {data}"
        raise ValueError(f"{name} is for cifar10; {dataset} is read as it is: leave it out")


def source(text: str) -> Any:
    """The file, or the pair of files with a comma between them, that an argument names."""
    first, comma, second = text.partition(",")
    return (first, second) if comma and not Path(text).exists() else text


def _fraction_or_source(text: str) -> Any:
    from gpusoftmax.checks.scalars import is_plain

    try:
        return float(text) if is_plain(text) else source(text)
    except ValueError:
        return source(text)


def reading(what: str, quiet: bool) -> AbstractContextManager[None]:
    """Show on a terminal that data are being read."""
    from gpusoftmax.progress import waiting

    return waiting(f"reading {what}", quiet)


@contextmanager
def counting_rows(n: int, quiet: bool) -> Iterator[Callable[[int], Any]]:
    """Yield a function to call with the number of rows that are done, which shows it: a bar on a terminal, or lines."""
    from gpusoftmax.progress import RowTally

    if quiet:
        yield lambda done: None
        return
    tally = RowTally(n)
    try:
        yield tally.rows_done
    finally:
        tally.close()


def indented(text: str) -> str:
    """Indent all lines but the first by eight characters, the width of a heading."""
    return text.replace("\n", "\n        ")


def compile_first(backend: Backend, X: Any, n_classes: int, as_json: bool, quiet: bool) -> float:
    """Compile the kernels that these data need, so that the time is shown separately; returns the seconds it took.

    Later runs load the compiled kernels.
    """
    from gpusoftmax.features.read import compile_kernels
    from gpusoftmax.progress import waiting

    what = "CPU kernels" if backend.gpu is None else "GPU kernels"
    with waiting(f"compiling {what}", quiet):
        seconds = compile_kernels(X, backend, n_classes)
    if seconds >= 1:  # less means that they were only loaded
        show(f"compiled {what} in {seconds:.0f} s; later runs reuse them", as_json)
    return seconds


def scaling_for(loaded: Dataset) -> str | None:
    """The scaling with which commands train: none for sparse features, and for those of an encoder.

    Standardised, a word that occurs in three texts would count as much as a frequent one: on package descriptions
    accuracy fell from 82% to 70%. An encoder scales the columns of numbers itself.
    """
    from gpusoftmax.checks.sparse import is_sparse

    return None if is_sparse(loaded.X_train) or loaded.encoder is not None else "standard"
