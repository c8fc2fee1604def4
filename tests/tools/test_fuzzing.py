"""A few hundred of the mutations that `python -m tests.tools.fuzzing` makes by the million."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.fuzzing import TARGETS, attempt, mutated, run


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_mutated_file_is_refused_or_holds_what_it_may(name: str, tmp_path: Path) -> None:
    taken = run(name, 400, seed=1, folder=tmp_path)
    assert taken < 400  # some are refused, so that mutations do something


@pytest.mark.parametrize("name", TARGETS)
def test_the_files_that_are_mutated_are_good(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]()
    assert all(attempt(target, content, tmp_path / "file.npz") for content in target.seeds)


def test_mutations_are_those_of_their_seed() -> None:
    import numpy as np

    target = TARGETS["csv"]()
    first, again, other = (mutated(np.random.default_rng([0, i]), target) for i in (3, 3, 4))
    assert first == again != other
