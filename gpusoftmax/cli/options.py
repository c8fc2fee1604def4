"""What the commands have in common: the application, options, how they speak and where data come from."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from gpusoftmax.array import Backend
    from gpusoftmax.files.dataset import Dataset


class _Commands(TyperGroup):
    """The commands; one that Ctrl-C ends says so."""

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
    help="""Linear softmax classifiers and SVMs: one read of the data per step.

    `gpusoftmax train digits` trains on a data set that is already there; `gpusoftmax train flowers.csv --label species
    --save flowers.safetensors` on your own, and `gpusoftmax predict flowers.safetensors new.csv` names new rows.

    Exit codes: 0 done, 1 failed (the reason is on the standard error), 2 an option that is unknown or cannot be read,
    130 interrupted. NO_COLOR=1 turns colours off. `--install-completion` makes the shell complete commands and
    options.""",
)


class Loss(StrEnum):
    """What --loss takes."""

    softmax = "softmax"
    hinge = "hinge"
    squared_hinge = "squared_hinge"


class SolverName(StrEnum):
    """What --solver takes."""

    auto = "auto"
    lbfgs = "lbfgs"
    sgd = "sgd"


class Scoring(StrEnum):
    """What --scoring takes."""

    accuracy = "accuracy"
    log_loss = "log_loss"
    loss = "loss"


class Rule(StrEnum):
    """What --rule takes."""

    best = "best"
    one_standard_error = "1se"


class Recipe(StrEnum):
    """What --recipe takes."""

    cs231n = "cs231n"


KNOWN = ("digits", "cifar10")  # a test holds it equal to that of gpusoftmax.datasets, which takes time to import


def _complete_dataset(incomplete: str) -> list[str]:
    """Names for the shell; where none begins so, it offers files."""
    return [name for name in KNOWN if name.startswith(incomplete)]


DatasetName = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, cifar10, or a file: .csv, .tsv, .parquet, .npz, or a pair X.npy,y.npy",
        autocompletion=_complete_dataset,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="for cifar10: the folder of its batches (cifar-10-batches-py or -bin) or .tar.gz",
        show_default="GPUSOFTMAX_DATA, or ~/gpusoftmax_data",
    ),
]
Download = Annotated[bool, typer.Option("--download", help="for cifar10: fetch it (163 MB) if it is not there")]
Label = Annotated[
    str | None,
    typer.Option(
        "--label",
        metavar="COLUMN",
        help="of a file: the labels' column, by name or position (0, or -1 for the last), or array of a .npz",
        show_default="the one called label, class, target or y",
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(
        "--drop", metavar="NAME", help="of a file: a column to leave out; give it again for another", show_default=False
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="of a table in text: whether its first line has the columns' names",
        show_default="as it looks",
    ),
]
Validation = Annotated[
    str,
    typer.Option("--validation", metavar="FILE|SHARE", help="of a file: rows to choose by, or the share to hold out"),
]
Test = Annotated[
    str, typer.Option("--test", metavar="FILE|SHARE", help="of a file: rows to test on, or the share to hold out")
]
SHARE = "0.2"
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="of everything that is random")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; results do not depend on them", show_default="all")
]
BackendName = Annotated[str, typer.Option("--backend", help="auto, cpu, numpy, cuda or cuda:N")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on the standard output, nothing else there")]
Version = Annotated[bool, typer.Option("--version", help="print the version, and no more")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="a file that train --save wrote")]


@app.callback(invoke_without_command=True)
def _print_version(version: Version = False) -> None:
    if version:
        import gpusoftmax

        print(gpusoftmax.__version__)
        raise typer.Exit


def print_json(result: dict[str, Any]) -> None:
    """One object on the standard output; JSON knows no NaN and no infinity, which are null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    print(json.dumps(plain(result), allow_nan=False))


def print_data(text: str) -> None:
    """Text for a file or a program in UTF-8, whatever the locale; for a terminal as it can show it."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")
    print(text, end="")


def show(text: str, as_json: bool) -> None:
    """Words for a person: on the standard error where the standard output belongs to JSON."""
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def load(
    dataset: str,
    data: Path | None,
    download: bool,
    label: str | None,
    drop: list[str] | None,
    header: bool | None,
    validation: str,
    test: str,
    seed: int,
    quiet: bool,
) -> Dataset:
    """The data that a command's arguments name."""
    from gpusoftmax.datasets import load_dataset
    from gpusoftmax.files.load import load_data

    with reading(dataset, quiet):
        if not is_file(dataset):
            refuse_for_known(
                dataset, label, drop, header, **{"--validation": validation != SHARE, "--test": test != SHARE}
            )
            return load_dataset(dataset, data, download=download)
        check_no_folder(dataset, data, download)
        return load_data(
            source(dataset),
            label=label,
            drop=drop or (),
            header=header,
            validation=_share_or_source(validation),
            test=_share_or_source(test),
            seed=seed,
        )


def refuse_for_known(
    dataset: str, label: str | None, drop: list[str] | None, header: bool | None, **others: bool
) -> None:
    """Options of files are refused with data sets that are known by name."""
    given = {"--label": label is not None, "--drop": bool(drop), "--header": header is not None, **others}
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise ValueError(f"{', '.join(wrong)} is for files of your own; {dataset} has its own: leave it out")


def check_output(option: str, path: Path | None, *inputs: str | Path | None) -> None:
    """What is written is a file in a folder that exists and may be written to, and none of those that are read."""
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(f"{option} {path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{option} {path} is no regular file and is not replaced; name another")
    folder = (path.resolve() if path.is_symlink() else path.absolute()).parent  # a link's target is what is replaced
    if not folder.is_dir():
        raise FileNotFoundError(f"{option} {path}: the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{option} {path}: the folder {folder} may not be written to; name another")
    read = [Path(one) for name in inputs for one in (str(name), *str(name).split(",")) if one]
    if path.is_file() and any(one.is_file() and path.samefile(one) for one in read):
        raise ValueError(f"{option} {path} is one of the files that are read; write to another")


def is_file(dataset: str) -> bool:
    """Whether an argument names a user's own file rather than a data set."""
    from gpusoftmax.files.load import SUFFIXES

    return dataset not in KNOWN and (dataset.lower().endswith(SUFFIXES) or Path(dataset).exists())


def check_no_folder(dataset: str, data: Path | None, download: bool) -> None:
    """Options of data sets that are known by name are refused with files."""
    if data is not None or download:
        name = "--download" if data is None else f"--data {data}"
        raise ValueError(f"{name} is for cifar10; {dataset} is read as it is: leave it out")


def source(text: str) -> Any:
    """A file, or a pair of .npy files with a comma between them."""
    first, comma, second = text.partition(",")
    return (first, second) if comma and not Path(text).exists() else text


def _share_or_source(text: str) -> Any:
    from gpusoftmax.checks.scalars import is_plain

    try:
        return float(text) if is_plain(text) else source(text)
    except ValueError:
        return source(text)


def reading(what: str, quiet: bool) -> AbstractContextManager[None]:
    """A sign of life on a terminal, as long as data are read."""
    from gpusoftmax.progress import waiting

    return waiting(f"reading {what}", quiet)


def indented(text: str) -> str:
    """Text whose further lines stand below the words of the first, behind a heading of eight characters."""
    return text.replace("\n", "\n        ")


def compile_first(backend: Backend, X: Any, n_classes: int, as_json: bool, quiet: bool) -> float:
    """Compile the kernels for such data before the work, so that their time is seen; the seconds that it took.

    It takes seconds once; later runs load what was compiled.
    """
    from gpusoftmax.features.dense import compile_kernels
    from gpusoftmax.progress import waiting

    what = "CPU kernels" if backend.gpu is None else "GPU kernels"
    with waiting(f"compiling {what}", quiet):
        seconds = compile_kernels(X, backend, n_classes)
    if seconds >= 1:  # less is what loading them takes
        show(f"compiled {what}, once for later runs as well: {seconds:.0f} s", as_json)
    return seconds
