"""The last table of a run: what was aimed at on an H200 beside what was measured, and ours beside the others.

It is made from the results alone, which also have what a prediction needs to be held against them: shapes, types, the
ceilings of the same run, and every round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.common.harness import Result, by_case
from bench.gpu.cases import STEPS

Table = dict[str, dict[str, Result]]

MANY_CLASSES = 1000  # from here on a row fills a warp several times
OTHERS = ("two-products", "cupy", "torch", "torch-compile", "jax", "sklearn", "cuml")
COMPARED = {
    "cifar-f32": "CIFAR-10, float32, a pass", "cifar-u8": "CIFAR-10, uint8, a pass", "minibatch": "CIFAR-10, an epoch",
    "cifar-fit": "CIFAR-10, exact fit", "cifar-sweep": "CIFAR-10, 20 values of C",
    "imagenet-pass": "ImageNet's shape, a pass", "imagenet-fit": "ImageNet's shape, exact fit",
    "rows-10-compared": "rows of 10 scores", "rows-1000-compared": "rows of 1000 scores",
    "rows-32768-compared": "rows of 32768 scores",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What is aimed at.

    Attributes
    ----------
    measured : callable
        From the results by case and contender to the figure, or None where there is none.
    limit : float
        What the figure should reach: at most, or at least if `least`.
    shown : str
        The format of figures.
    """

    words: str
    measured: Callable[[Table], float | None]
    limit: float
    shown: str
    least: bool = False

    def met(self, figure: float) -> bool:
        """Whether a figure reaches it."""
        return figure >= self.limit if self.least else figure <= self.limit


def milliseconds(table: Table, case: str, contender: str = "gpusoftmax") -> float | None:
    """The time of a contender, or None."""
    found: float | None = table.get(case, {}).get(contender, {}).get("milliseconds")
    return found


def _speed(table: Table, case: str, contender: str) -> float | None:
    found: float | None = table[case].get(contender, {}).get("gigabytes_per_second")
    return found


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def slowest_rows(table: Table, chosen: Callable[[int], bool]) -> float | None:
    """The lowest fraction of a copy's speed among rows of some lengths."""
    fractions = [
        fraction
        for case in table
        if case.startswith("rows-") and chosen(int(case.split("-")[1]))
        if (fraction := _ratio(_speed(table, case, "gpusoftmax"), _speed(table, case, "copy"))) is not None
    ]
    return min(fractions) if fractions else None


def in_reads(table: Table, found: Result, case: str) -> float | None:
    """The time of a pass, in those of one read of X at the speed of a copy."""
    facts = found["cases"].get(case, {})
    copy = table.get("ceilings", {}).get("device", {}).get("copy")
    if not facts or not copy:
        return None
    read = 1e3 * facts["n"] * facts["d"] * facts["itemsize"] / copy
    return _ratio(milliseconds(table, case), read)


def steps_of_the_recipe(table: Table) -> float | None:
    """Milliseconds of the recipe's steps."""
    found = table.get("minibatch", {}).get("gpusoftmax", {}).get("milliseconds_a_step")
    return None if found is None else STEPS * found


def targets(found: Result) -> tuple[Target, ...]:
    """All targets; those of a result file."""

    def many(table: Table) -> float | None:
        return slowest_rows(table, lambda c: c >= MANY_CLASSES)

    def few(table: Table) -> float | None:
        return slowest_rows(table, lambda c: c < MANY_CLASSES)

    def faster(table: Table) -> float | None:
        return _ratio(milliseconds(table, "cifar-u8", "two-products"), milliseconds(table, "cifar-u8"))

    return (
        Target("rows of >= 1000 scores, of a copy", many, 0.9, ".0%", least=True),
        Target("rows of < 1000 scores, of a copy", few, 0.8, ".0%", least=True),
        Target("pass over CIFAR-10 in float32, in reads of X", lambda t: in_reads(t, found, "cifar-f32"), 1.5, ".2f"),
        Target("pass over uint8, times faster than two products", faster, 5.0, ".1f", least=True),
        Target("exact fit of CIFAR-10, ms", lambda t: milliseconds(t, "cifar-fit"), 50.0, ".1f"),
        Target(f"{STEPS} minibatch steps, ms", steps_of_the_recipe, 30.0, ".1f"),
    )


def judged(found: Result) -> list[dict[str, Any]]:
    """For each target what was measured and whether it is met; None where nothing was measured."""
    table = by_case(found)
    rows = []
    for target in targets(found):
        figure = target.measured(table)
        sign = ">=" if target.least else "<="
        rows.append(
            {
                "target": target.words, "aim": f"{sign} {target.limit:{target.shown}}", "measured": figure,
                "shown": "-" if figure is None else f"{figure:{target.shown}}",
                "met": None if figure is None else target.met(figure),
            }
        )  # fmt: skip
    return rows


def in_words(found: Result) -> str:
    """The table."""
    return "\n".join([*_machine(found), *_targets(found), "", *_comparison(found), *_faults(found)])


def _machine(found: Result) -> Iterator[str]:
    gpu, ceilings = found["gpu"], by_case(found).get("ceilings", {}).get("device", {})
    origins = {facts["data"] for facts in found["cases"].values() if "data" in facts}
    if gpu["stand_in"]:
        yield "On the stand-in for a GPU: the times below mean nothing."
    yield f"{gpu['name']}, driver {gpu.get('driver_version', gpu['driver_cuda'])}, CuPy {gpu['cupy']}"
    if "copy" in ceilings:
        rates = ", ".join(f"{name} {1e-12 * ceilings[name]:.1f}" for name in ("float32", "tf32", "bfloat16"))
        yield f"copy {1e-9 * ceilings['copy']:.0f} GB/s; products, TFLOP/s: {rates}"
    if origins:
        yield f"data of the fits: {'; '.join(sorted(origins))}"


def _targets(found: Result) -> Iterator[str]:
    words = {True: "met", False: "missed", None: "not measured"}
    yield f"{'target':50s} {'aim':>9s} {'measured':>9s}"
    for row in judged(found):
        yield f"{row['target']:50s} {row['aim']:>9s} {row['shown']:>9s}  {words[row['met']]}"


def _comparison(found: Result) -> Iterator[str]:
    table = by_case(found)
    present = [name for name in OTHERS if any(name in table.get(case, {}) for case in COMPARED)]
    yield f"{'milliseconds':28s} {'ours':>9s} " + " ".join(f"{name:>13s}" for name in present)
    for case, words in COMPARED.items():
        if case in table:
            cells = (_cell(milliseconds(table, case, name)) for name in present)
            yield f"{words:28s} {_cell(milliseconds(table, case)):>9s} " + " ".join(f"{cell:>13s}" for cell in cells)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _faults(found: Result) -> Iterator[str]:
    for result in found["results"]:
        if "fault" in result:
            word = "WRONG" if result["ours"] else "fault"
            yield f"{word}: {result['case']}, {result['contender']}: {result['fault']}"
