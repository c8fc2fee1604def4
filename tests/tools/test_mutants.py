"""Every mutant applies to the present text, and three are caught. `python -m tests.tools.mutants` tries them all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.emulation import build
from tests.tools import mutants
from tests.tools.mutants import MUTANTS, ROOT, Mutant

REPRESENTATIVE = (
    "reduce without the barrier after scratch was read",
    "c and K swapped",
    "labels not sliced by chunk",
)


def test_the_mutants_are_many_and_have_their_own_names() -> None:
    assert len(MUTANTS) >= 100
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_applied_once_and_makes_a_difference(mutant: Mutant, tmp_path: Path) -> None:
    target = tmp_path / mutant.file
    target.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / mutant.file, target)
    mutant.mutate(tmp_path)
    assert target.read_bytes() != (ROOT / mutant.file).read_bytes()


@pytest.mark.parametrize("old", ["not in there", "__syncthreads();"], ids=["nowhere", "twice"])
def test_a_stale_mutant_is_an_error(old: str, tmp_path: Path) -> None:
    target = tmp_path / mutants.COMMON
    target.parent.mkdir()
    shutil.copyfile(ROOT / mutants.COMMON, target)
    with pytest.raises(LookupError, match="mend the table"):
        Mutant("stale", mutants.COMMON, old, "").mutate(tmp_path)


@pytest.mark.slow
@pytest.mark.emulated
@pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_representative_mutant_is_caught(name: str) -> None:
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == name]
    outcome = mutants.attempt(mutant)
    assert outcome.caught, outcome.by
