"""Downloads of official files: checked, announced, and a message that helps where there is no network."""

from __future__ import annotations

import hashlib
import http.server
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpusoftmax.datasets import cifar10, download, load_cifar10
from gpusoftmax.datasets.download import OfficialFile, data_home, fetch
from gpusoftmax.exceptions import BadFileError
from tests.support.cifar10 import pack, write_pickled

pytest.importorskip("pooch")
CONTENT = b"an official file" * 1000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server on this machine: its address, and the folder that it serves."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def official(address: str, content: bytes = CONTENT, name: str = "official.bin") -> OfficialFile:
    return OfficialFile(f"{address}/{name}", hashlib.sha256(content).hexdigest(), len(content))


def test_a_file_is_fetched_into_a_folder_that_is_made(site: tuple[str, Path], tmp_path: Path) -> None:
    (site[1] / "official.bin").write_bytes(CONTENT)
    path = fetch(official(site[0]), tmp_path / "new" / "folder")
    assert (path, path.read_bytes()) == (tmp_path / "new" / "folder" / "official.bin", CONTENT)


def test_another_file_than_the_official_one_is_refused_and_gone(site: tuple[str, Path], tmp_path: Path) -> None:
    (site[1] / "official.bin").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(
        BadFileError, match=r"official\.bin: .* sent another file; expected download http.* by other means"
    ):
        fetch(official(site[0]), tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_file_that_is_not_there_says_what_to_put_where(site: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"cannot be downloaded \(HTTPError\); download http.*to .*official\.bin"):
        fetch(official(site[0]), tmp_path)


def test_without_a_network_the_message_says_what_to_put_where(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        with pytest.raises(ConnectionError, match=r"cannot be downloaded \(\w+\); download http.*to .*official\.bin"):
            fetch(official(f"http://127.0.0.1:{unused.getsockname()[1]}"), tmp_path)


def test_without_pooch_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(
        ImportError, match=r"pip install 'gpusoftmax\[download\]'; or download http.* by other means to"
    ):
        fetch(official("http://127.0.0.1"), tmp_path)


def test_nothing_is_printed_where_nobody_looks(
    site: tuple[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (site[1] / "official.bin").write_bytes(CONTENT)
    fetch(official(site[0]), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_pipe_gets_a_line_every_few_seconds(
    site: tuple[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SECONDS_BETWEEN_LINES", 0.0)
    content = bytes(3 << 20)
    (site[1] / "official.bin").write_bytes(content)
    fetch(official(site[0], content), tmp_path)
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1] == "official.bin: 3 of 3 MB"
    assert all(line.startswith("official.bin: ") for line in lines)


def test_cifar10_is_fetched_once_and_read_from_its_archive(
    site: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(cifar10, "_BATCH_ROWS", 3)
    monkeypatch.setattr(cifar10, "_VALIDATION_ROWS", 4)
    X, y = rng.integers(0, 256, (18, 3072), dtype=np.uint8), rng.integers(0, 10, 18)
    archive = pack(write_pickled(site[1], X, y))
    monkeypatch.setattr(cifar10, "OFFICIAL", official(site[0], archive.read_bytes(), archive.name))
    np.testing.assert_array_equal(load_cifar10(tmp_path / "data", download=True).X_test, X[15:])
    archive.unlink()
    np.testing.assert_array_equal(load_cifar10(tmp_path / "data", download=True).X_test, X[15:])


def test_nothing_is_fetched_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Path:
        raise AssertionError("fetched")

    monkeypatch.setattr(cifar10, "fetch", fail)
    with pytest.raises(FileNotFoundError):
        load_cifar10(tmp_path)


def test_the_official_file_is_that_of_the_official_page() -> None:
    # as https://www.cs.toronto.edu/~kriz/cifar.html and Keras's loader have it
    assert cifar10.OFFICIAL == OfficialFile(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        170_498_071,
    )
    assert cifar10.OFFICIAL.name == cifar10._LAYOUTS[-1].archive


def test_data_are_looked_for_at_home_or_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPUSOFTMAX_DATA", raising=False)
    assert data_home() == Path.home() / "gpusoftmax_data"
    monkeypatch.setenv("GPUSOFTMAX_DATA", str(tmp_path))
    assert data_home() == tmp_path
