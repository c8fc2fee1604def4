"""Which cases became slower from one result file to another?

A case is worse only if it is slower by more than a relative limit AND by more than an absolute one: the first alone
would judge the noise of microseconds, the second alone a percent of a long case. A contender that had a time and is
now wrong, absent or missing is worse, too. Only ours are judged; where the others moved as well, the machine did.

Compared are the time of a case; of solvers the time to 1e-4 above the optimum; of many classes that of the fit.

Exit code: 0; 1 if one of ours is worse; 2 if the files cannot be compared.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.harness import Result, command_line, load

RELATIVE, ABSOLUTE = 0.10, 0.05  # a tenth, and milliseconds
SAME_CASE = ("n", "d", "c", "K", "dtype", "work", "batch", "threads", "C", "rows", "size", "classes")


@dataclass(frozen=True)
class Verdict:
    """One line: milliseconds before and after (None: there is no time), and what to say."""

    case: str
    contender: str
    ours: bool
    before: float | None
    after: float | None
    word: str

    @property
    def worse(self) -> bool:
        """Whether it counts."""
        return self.ours and self.word not in ("same", "faster", "new")


def milliseconds(result: Result) -> float | None:
    """The time that is compared."""
    if "seconds" in result:
        return 1e3 * float(result["seconds"])
    if "warm" in result:
        reached = result["warm"]["0.0001"]
        return reached and 1e3 * float(reached[0])
    return 1e3 * float(result["fit"]) if "fit" in result else result.get("milliseconds")


def judge(before: Result, after: Result, relative: float = RELATIVE, absolute: float = ABSOLUTE) -> list[Verdict]:
    """A verdict for each case and contender of either file, for the cases that both have.

    Raises
    ------
    ValueError
        A case of the same name is another one, or no case is in both.
    """
    shared = [name for name in before["cases"] if name in after["cases"]]
    if not shared:
        raise ValueError("the files have no case in common")
    for name in shared:
        old, new = ([found["cases"][name].get(key) for key in SAME_CASE] for found in (before, after))
        if old != new:
            raise ValueError(f"{name} is not the same case in both: {old} and {new}; was one of them --quick?")
    tables = [{(r["case"], r["contender"]): r for r in found["results"]} for found in (before, after)]
    keys = dict.fromkeys(key for table in tables for key in table if key[0] in shared)
    verdicts = []
    for key in sorted(keys, key=lambda key: shared.index(key[0])):
        old, new = (table.get(key, {}) for table in tables)
        times = milliseconds(old), milliseconds(new)
        ours = bool(new.get("ours", old.get("ours")))
        verdicts.append(Verdict(*key, ours, *times, _word(*times, new, relative, absolute)))
    return verdicts


def _word(before: float | None, after: float | None, new: dict[str, Any], relative: float, absolute: float) -> str:
    if new.get("fault"):
        return str(new["fault"])
    if before is None:
        return "new" if after is not None else "same"
    if after is None:
        return "no time any more"
    if after - before > absolute and after > before * (1 + relative):
        return "slower"
    if before - after > absolute and before > after * (1 + relative):
        return "faster"
    return "same"


def in_words(verdict: Verdict) -> str:
    """A line of the table."""

    def time(value: float | None) -> str:
        return f"{'-':>10s}" if value is None else f"{value:10.3f}"

    change = f"{verdict.after / verdict.before - 1:+7.0%}" if verdict.before and verdict.after else f"{'':7s}"
    mark = "  <-- worse" if verdict.worse else "" if verdict.ours else "  (not ours)"
    return (
        f"{verdict.case:26s} {verdict.contender:14s} {time(verdict.before)} {time(verdict.after)} {change}  "
        f"{verdict.word}{mark}"
    )


def elsewhere(before: dict[str, Any], after: dict[str, Any]) -> str:
    """A warning if the machines differ, or an empty string."""
    names = ("processor", "cores", "vectors", "environment")
    differing = [name for name in names if before["machine"].get(name) != after["machine"].get(name)]
    return f"warning: measured under different {', '.join(differing)}" if differing else ""


def main(arguments: list[str]) -> int:
    """Compares two files; the exit code."""
    parser = command_line("compare", __doc__, ["before.json after.json --changes"])
    parser.add_argument("before", type=Path, help="JSON of a benchmark")
    parser.add_argument("after", type=Path)
    parser.add_argument("--relative", type=float, default=RELATIVE, help="fraction; default %(default)s")
    parser.add_argument("--absolute", type=float, default=ABSOLUTE, help="milliseconds; default %(default)s")
    parser.add_argument("--changes", action="store_true", help="leave out what is the same")
    options = parser.parse_args(arguments)
    try:
        before, after = load(options.before), load(options.after)
        verdicts = judge(before, after, options.relative, options.absolute)
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot compare: {error}", file=sys.stderr)
        return 2
    if warning := elsewhere(before, after):
        print(warning, file=sys.stderr)
    print(f"{'case':26s} {'contender':14s} {'before ms':>10s} {'after ms':>10s} {'change':>7s}")
    for verdict in verdicts:
        if not options.changes or verdict.word != "same":
            print(in_words(verdict))
    worse = sum(verdict.worse for verdict in verdicts)
    print(f"{worse} of {sum(verdict.ours for verdict in verdicts)} of ours worse")
    return int(worse > 0)
