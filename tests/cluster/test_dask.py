"""Fits on real Dask clusters, in processes of their own; see `tests/support/dask_cluster.py`.

Starting clusters takes most of the time, so each test looks at all that one run of the program has found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")
pytest.importorskip("dask.array")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SAME_ROWS = ("dask array", "persisted", "labels in a dask array", "futures", "empty chunk", "data frame", "files")
MESSAGES = {
    "no client": "there is no client; create one, distributed.Client(LocalCluster())",
    "output file": "ValueError: out='probabilities.npy' is not for X of Dask",
    "closed client": "client is closed; create one",
    "sparse": "X has chunks of scipy.sparse._csr.csr_array, which clusters do not compute with yet",
    "unknown": "call X.compute_chunk_sizes() first",
    "in-memory X": "X is a ndarray, and client=... needs a dask array",
    "masked": "X has masked chunks, and the numbers under the masks would be used; fill them",
    "text": "'label'",
    "no arrays": "X[0] is not a future of a NumPy array",
    "other rows": "but X says (",
    "poisoned": "of X (chunks 0 to 2 of the dask array) cannot be loaded on the cluster: OSError: no such bucket",
    "deadly": "ClusterError: ",  # that names rows, or says that all workers were lost: it depends on when they end
}


def found_by(name: str) -> dict[str, Any]:
    """What a function of the program finds."""
    command = [sys.executable, "-m", "tests.support.dask_cluster", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout[done.stdout.index("{") :])[name])


def test_rows_labels_predictions_and_errors() -> None:
    found = found_by("inputs")
    # every kind of rows and labels gives the bits of a fit in memory, and so do labels that only one worker has
    assert {kind: found[kind] for kind in SAME_ROWS} == dict.fromkeys(SAME_ROWS, found["in memory"])
    assert found["sorted labels"] == found["sorted in memory"]
    assert found["names"] == ["f0", "f1"]  # of a data frame
    assert set(found["lazy"].values()) == {True}
    assert found["frame predicts"]
    assert found["score"][0] == found["score"][1]
    assert found["large arguments"] == []  # of which Dask would warn
    assert {name: found[name] for name, part in MESSAGES.items() if part not in found[name]} == {}


def test_workers_that_come_go_and_are_killed() -> None:
    found = found_by("workers")
    cases = ("1", "2", "killed", "all killed", "moved")
    assert {case: found[case] for case in cases} == dict.fromkeys(cases, found["in memory"])
    assert found["tasks a pass"] <= 3
    assert "no running worker for 2 s: start workers" in found["all lost"]
