"""Downloading official files, with a check of their SHA-256. Nothing is downloaded unless the user asks for it."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from gpusoftmax.exceptions import BadFileError

VARIABLE = "GPUSOFTMAX_DATA"
SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class OfficialFile:
    """A file to download: its address, checksum and size.

    Attributes
    ----------
    url : str
    sha256 : str
        The checksum in hexadecimal.
    size : int
        The size in bytes.
    """

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The name of the file, which is the last part of its address."""
        return self.url.rpartition("/")[2]


def data_home() -> Path:
    """Return the folder of data sets: the environment variable GPUSOFTMAX_DATA, else ~/gpusoftmax_data."""
    return Path(os.environ.get(VARIABLE) or Path.home() / "gpusoftmax_data")


def fetch(file: OfficialFile, folder: Path) -> Path:
    """Download a file into a folder, with a progress bar on standard error, and check its SHA-256.

    Parameters
    ----------
    file : OfficialFile
        The file to download.
    folder : pathlib.Path
        Where to put it; created if it does not exist.

    Returns
    -------
    pathlib.Path
        The path of the file, which only gets its name when it is complete and checked.

    Raises
    ------
    ImportError
        pooch is not installed.
    ConnectionError
        The download failed.
    BadFileError
        The downloaded file has another checksum; it is deleted.
    OSError
        The file cannot be written.
    """
    by_hand = f"download {file.url} ({file.size >> 20} MB) by other means to {folder / file.name}"
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ImportError(f"a download needs pooch: pip install 'gpusoftmax[download]'; or {by_hand}") from error
    progress = _Progress(file.name, file.size)
    log = pooch.get_logger()
    was, log.disabled = log.disabled, True  # it would write messages between updates of the bar
    try:
        pooch.retrieve(
            file.url, f"sha256:{file.sha256}", file.name, folder, downloader=pooch.HTTPDownloader(progressbar=progress)
        )
    except requests.RequestException as error:
        raise ConnectionError(f"{file.url} cannot be downloaded ({type(error).__name__}); {by_hand}") from error
    except ValueError as error:  # the hash differs
        raise BadFileError(folder / file.name, reason=f"{file.url} sent another file", expected=by_hand) from error
    finally:
        log.disabled = was
        progress.close()
    return folder / file.name


class _Progress:
    """What pooch updates: a bar with rate and time left on a terminal, in a pipe a line every few seconds."""

    def __init__(self, name: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self.name, self.total, self.done, self.printed = name, total, 0, time.monotonic()
        columns = TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self.task = self.bar.add_task(name, total=total)

    def update(self, n: int) -> None:
        self.bar.start()
        self.bar.advance(self.task, n)
        self.done += n
        if self.bar.disable and time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            print(f"{self.name}: {self.done >> 20} of {self.total >> 20} MB", file=sys.stderr, flush=True)

    def reset(self) -> None:
        self.done = 0
        self.bar.reset(self.task)

    def close(self) -> None:
        self.bar.stop()
