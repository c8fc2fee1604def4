"""Official files, fetched once and checked, where the user asks for it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from gpusoftmax.exceptions import BadFileError

VARIABLE = "GPUSOFTMAX_DATA"


@dataclass(frozen=True)
class OfficialFile:
    """Where a file comes from, and what it is.

    Attributes
    ----------
    url : str
    sha256 : str
        Hexadecimal.
    size : int
        Bytes.
    """

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


def data_home() -> Path:
    """Where data sets are looked for: the environment's GPUSOFTMAX_DATA, else gpusoftmax_data in the home."""
    return Path(os.environ.get(VARIABLE) or Path.home() / "gpusoftmax_data")


def fetch(file: OfficialFile, folder: Path) -> Path:
    """Download a file into a folder, with a progress bar on the standard error, and check it.

    Parameters
    ----------
    file : OfficialFile
    folder : pathlib.Path
        Made if it is not there.

    Returns
    -------
    pathlib.Path
        Where the file is. It appears under its name once it is whole and checked.

    Raises
    ------
    ImportError
        pooch is not installed.
    ConnectionError
        It cannot be fetched.
    BadFileError
        What came is another file; it is gone again.
    OSError
        It cannot be written.
    """
    by_hand = f"get {file.url} ({file.size >> 20} MB) by other means and put it at {folder / file.name}"
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ImportError(f"a download needs pooch: pip install 'gpusoftmax[download]'; or {by_hand}") from error
    progress = _Progress(file.name, file.size)
    log = pooch.get_logger()
    was, log.disabled = log.disabled, True  # it would tell of the download beside the bar
    try:
        pooch.retrieve(
            file.url, f"sha256:{file.sha256}", file.name, folder, downloader=pooch.HTTPDownloader(progressbar=progress)
        )
    except requests.RequestException as error:
        raise ConnectionError(f"{file.url} cannot be fetched ({type(error).__name__}); {by_hand}") from error
    except ValueError as error:  # the hash differs
        raise BadFileError(folder / file.name, reason=f"{file.url} sent another file", expected=by_hand) from error
    finally:
        log.disabled = was
        progress.close()
    return folder / file.name


class _Progress:
    """The bar that pooch fills: a standing line on a terminal, nothing in a pipe."""

    def __init__(self, name: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self.total = total
        columns = TextColumn(name), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self.task = self.bar.add_task(name, total=total)

    def update(self, n: int) -> None:
        self.bar.start()
        self.bar.advance(self.task, n)

    def reset(self) -> None:
        self.bar.reset(self.task)

    def close(self) -> None:
        self.bar.stop()
