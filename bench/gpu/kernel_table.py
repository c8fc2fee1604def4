"""What does the compiler make of every CUDA kernel, on every architecture, and how fast can that be? Needs no GPU.

Registers, spills and widths of loads; and from the control codes of the instructions (machine_code.py) the bytes that a
thread has on their way, the instructions an element, and the share of a copy's bandwidth that is predicted from them
(model.py). Fails if a variant spills, or lacks the wide loads and stores that it is made for; and if it has fewer bytes
in flight or a smaller share than it must have, unless KNOWN_SHORT lists it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.common.harness import command_line
from bench.common.machine import ROOT
from bench.gpu.compiler import cubin, listing, missing, nvrtc_version
from bench.gpu.machine_code import Costs, Work, costs, kernels
from bench.gpu.model import DEVICES, Prediction, predict
from bench.gpu.occupancy import Occupancy, occupancy
from gpusoftmax.cuda.buckets import (
    BFLOAT16,
    FLAT,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    ITEM_SIZE,
    STREAMED,
    UINT8,
    choose,
)  # fmt: skip
from gpusoftmax.cuda.compile import CLUSTERS_SINCE, source
from gpusoftmax.cuda.few_classes import choose as few_classes_variant
from gpusoftmax.cuda.sparse import ONES, SEGMENT
from gpusoftmax.losses import LOSSES

ARCHITECTURES = (75, 80, 90, 100, 120)
README = ROOT / "kernels" / "README.md"
EXAMPLES = (
    "                 compiles everything, writes the tables into kernels/README.md",
    "--check sm_90    compiles for one architecture, compares with what stands there",
)
BEGIN, END = "<!-- python -m bench kernels writes from here -->\n", "<!-- to here -->\n"
NAMES = {
    FLOAT32: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16", FLOAT64: "float64", UINT8: "uint8", ONES: "ones",
}  # fmt: skip
SCORE_KINDS = (FLOAT32, FLOAT16, BFLOAT16, FLOAT64)
# Bytes that go to the stack around calls of slow paths: divisions of 64 bits, numbers that are not normal. A row that
# does not stay in registers would be hundreds, as some are of rows of doubles that a thread has alone (FLAT).
MOST_SPILLED, MOST_SPILLED_OF_DOUBLES = 48, 400
# few_classes.cu for bfloat16: addresses and numbers that the loop over tiles uses now and then, if at all
MOST_SPILLED_OF_THREE_TERMS = 88
HOLDS = ("flat", "registers", "streamed")
MOST_SHARED = 227 << 10  # bytes that a block can have on sm_90 and sm_100
# of rows that begin at 16 bytes, where they can, and of some that do not
CLASSES = (2, 10, 31, 32, 64, 100, 101, 128, 256, 397, 512, 1000, 1001, 1500, 2048, 4096, 10_000, 32_768, 131_072)

# ---- what variants must reach

LEAST_IN_FLIGHT = 32 << 10  # bytes of a multiprocessor, with ENOUGH_CLASSES and more, from sm_80 on
ENOUGH_CLASSES = 64
LEAST_SHARE = 0.85  # predicted, of a copy's bandwidth
SHARE_FROM = {FLOAT32: 10, BFLOAT16: 64}  # classes; other types are not held to it
DEVICE_OF = {80: "A100", 90: "H200", 100: "B200", 120: "RTX 5090"}
REFERENCE = 90
# Scores and classes of the variants of row_loss.cu that do not reach this, for some loss or architecture: the 189
# segments of 1500 classes fill three of each of 64 threads, which compute little for what a row takes beside; and with
# 32,768, and 131,072 in a cluster, twice as many bytes of bias as of scores take registers on their way.
KNOWN_SHORT = frozenset(("bfloat16", classes) for classes in ("1500", "32768", "131072"))

# ---- what is compiled: a kernel file more is an entry more in TABLES


@dataclass(frozen=True)
class Task:
    """What a block of threads does at some size.

    Attributes
    ----------
    classes : int
        The classes of its rows; 0 if it has no rows.
    work : Work
        What it loads at a time.
    moved : int
        Bytes that it must read and write.
    elements : int
        That it computes.
    shared : int
        Bytes of dynamic shared memory.
    useful : float
        The part of the bytes that it reads and writes which it must.
    """

    classes: int
    work: Work
    moved: int
    elements: int
    shared: int = 0
    useful: float = 1.0


@dataclass(frozen=True)
class Variant:
    """One compilation.

    Attributes
    ----------
    row : tuple of str
        The first cells of its row in the file's table. Variants of one row stand in its other cells, in order.
    load, store : int
        The widest access, in bytes, that the code must have.
    threads : int
        Threads of a block.
    tasks : tuple of Task
        What it is looked at with, from small to large.
    """

    file: str
    row: tuple[str, ...]
    macros: tuple[tuple[str, int], ...]
    what: str = ""
    load: int = 0
    store: int = 0
    threads: int = 256
    tasks: tuple[Task, ...] = ()

    @property
    def text(self) -> str:
        return source(self.file, dict(self.macros))

    def __str__(self) -> str:
        return " ".join(part for part in (self.file.removesuffix(".cu"), *self.row, self.what) if part)


@dataclass(frozen=True)
class Table:
    """The variants of a file.

    Attributes
    ----------
    looked_at : int
        How many of the variants of a row are looked at beyond their registers.
    """

    caption: str
    header: tuple[str, ...]
    variants: list[Variant]
    looked_at: int = 1


def row_variants(kind: int) -> list[tuple[int, Any]]:
    """Variants of row_loss.cu, with a number of classes that each is for: where they differ in more than that number.

    Where there are clusters for it, so that another variant is chosen on older devices, there are both.
    """
    found = [(c, choose(kind, c, 0, MOST_SHARED, clusters)) for c in CLASSES for clusters in (False, True)]
    return list({v if v.hold != FLAT else c: (c, v) for c, v in reversed(found)}.values())[::-1]


def _row_loss() -> list[Variant]:
    return [
        Variant(
            "row_loss.cu",
            (
                NAMES[kind], str(c), HOLDS[v.hold], _times(v.spread, v.group), _times(v.spread, v.threads),
                str(v.rows), str(v.items or "-"),
            ),
            tuple({"SCORE": kind, "LOSS": loss, "MODE": 0, "BEST": 1, "BIAS": 1, **v.macros()}.items()),
            name,
            *((0, 16) if v.hold == FLAT else (16, 16)),
            v.threads,
            (_turned(kind, c, v),),
        )
        for kind in SCORE_KINDS
        for c, v in row_variants(kind)
        for loss, name in enumerate(LOSSES)
    ]  # fmt: skip


def _times(blocks: int, number: int) -> str:
    return f"{blocks} x {number}" if blocks > 1 else str(number)


def _turned(kind: int, c: int, v: Any) -> Task:
    """Return the task of a block that turns rows of c scores into gradients."""
    elements = v.rows * c // v.spread
    scores, more = elements * ITEM_SIZE[kind], v.rows * 12  # and labels, losses, best columns
    moved, again = 2 * scores + more, scores if v.hold == STREAMED else 0
    work = Work(scores, v.threads)
    return Task(c, work, moved, elements, v.shared_bytes(kind, True), moved / (moved + again))


def _gather() -> list[Variant]:
    return [
        Variant(
            "gather.cu",
            (NAMES[kind], NAMES[target]),
            (("SOURCE", kind), ("TARGET", target), ("WIDTH", width)),
            f"WIDTH={width}",
            *((min(16, 4 * ITEM_SIZE[kind]), min(16, 4 * ITEM_SIZE[target])) if width == 4 else (0, 0)),
            tasks=(_copied(256 * width, ITEM_SIZE[kind], ITEM_SIZE[target]),),
        )
        for kind in (*SCORE_KINDS, UINT8)
        for target in SCORE_KINDS
        if kind != FLOAT64 or target in (FLOAT32, FLOAT64)  # double to half would round twice
        for width in (1, 4)
    ]


def _copied(elements: int, source_size: int, target_size: int) -> Task:
    return Task(0, Work(elements * source_size, 256), elements * (source_size + target_size), elements)


def _sparse() -> list[Variant]:
    return [
        Variant(
            "sparse.cu",
            (NAMES[value], NAMES[score], f"{lanes} x {columns}"),
            (
                ("VALUE", value), ("SCORE", score), ("SQUARED", 0), ("LANES", lanes), ("COLUMNS", columns),
                ("SEGMENT", SEGMENT),
            ),
        )
        for value in (FLOAT32, FLOAT64, UINT8, ONES)
        for score in (FLOAT32, FLOAT64)
        if value != FLOAT64 or score == FLOAT64
        for lanes, columns in ((1, 1), (4, 1), (32, 1), (32, 2), (32, 4))
    ]  # fmt: skip


def _split() -> list[Variant]:
    return [
        Variant(
            "split.cu",
            (NAMES[target], str(terms)),
            (("TARGET", target), ("TERMS", terms), ("WIDTH", width)),
            f"WIDTH={width}",
        )
        for target, terms in ((FLOAT16, 2), (BFLOAT16, 3))
        for width in (1, 4)
    ]


def _sgd_steps() -> list[Variant]:
    flags = {"SHIFTED": 1, "SCALED": 1, "NESTEROV": 0, "FIT_INTERCEPT": 1, "PENALIZE_INTERCEPT": 0}
    return [
        Variant(
            "sgd_steps.cu",
            (NAMES[kind], str(c)),
            tuple({"SOURCE": kind, "LOSS": 0, "CLASSES": c, "COLUMNS": c, "WIDTH": width, **flags}.items()),
            f"WIDTH={width}",
        )
        for kind in (FLOAT32, FLOAT16, BFLOAT16, UINT8)
        for c in (2, 10, 32)
        for width in (1, 16 // ITEM_SIZE[kind])
    ]


def _few_classes() -> list[Variant]:
    shapes = [(FLOAT32, 3072, 1, c, 90, 0) for c in range(2, 17)]
    shapes += [(FLOAT32, 3072, 1, 10, 90, loss) for loss in (1, 2)]
    shapes += [(FLOAT32, 3072, 1, c, 80, 0) for c in (2, 10, 16)]
    shapes += [(FLOAT32, 784, 1, 10, 90, 0), (FLOAT32, 784, 8, 2, 90, 0), (FLOAT32, 784, 3, 5, 90, 0)]
    shapes += [(kind, 3072, 1, c, 90, 0) for kind in (FLOAT16, BFLOAT16, UINT8) for c in (2, 8, 10, 16)]
    shapes += [(UINT8, 3072, 1, 10, 80, 0), (BFLOAT16, 3072, 1, 16, 80, 0)]
    variants = []
    for kind, d, models, c, capability, loss in shapes:
        v = few_classes_variant(kind, d, models, c, capability)
        shared = ("alone", "cluster", "flags")[v.exchange]
        row = (
            NAMES[kind], f"{models} x {c}", list(LOSSES)[loss], f"{v.slices}, {shared}", f"{v.threads} x {v.features}",
            f"{v.rows} x {v.stages}", str(v.shared),
        )  # fmt: skip
        variants.append(Variant("few_classes.cu", row, tuple(v.macros(loss).items()), threads=v.threads))
    return variants


TABLES = {
    "row_loss.cu": Table(
        "softmax·hinge·squared hinge; gradients, with BEST and BIAS; +n: bytes spilled",
        ("scores", "classes", "held", "threads a row", "threads a block", "rows a block", "segments a thread"),
        _row_loss(),
    ),
    "split.cu": Table("largest·split, WIDTH 1 and 4", ("terms of", "terms"), _split()),
    "sgd_steps.cu": Table(
        "score_parts·row_gradients·update·add_totals, WIDTH 1 and 16 bytes", ("features", "columns"), _sgd_steps()
    ),
    "reduce.cu": Table(
        "sum_rows·add_partials",
        ("losses",),
        [Variant("reduce.cu", (NAMES[kind],), (("SCORE", kind),)) for kind in (FLOAT32, FLOAT64)],
    ),
    "gather.cu": Table("WIDTH 1·4", ("source", "target"), _gather(), looked_at=2),
    "sparse.cu": Table(
        "multiply_rows·sum_columns·add_segments·fill_columns",
        ("values", "sums", "lanes x columns"),
        _sparse(),
    ),
    "few_classes.cu": Table(
        "few_classes·add_leaves",
        ("X", "models x classes", "loss", "slices", "threads x features", "rows x stages", "shared bytes"),
        _few_classes(),
    ),
    "probe.cu": Table("", ("kernel",), [Variant("probe.cu", ("probe",), (("SCORE", FLOAT32),))]),
}
VARIANTS = [variant for table in TABLES.values() for variant in table.variants]

# ---- compiling

KERNEL = re.compile(r'extern "C" __global__ void\s*(?:__launch_bounds__\([^)]*\))?\s*(\w+)\s*\(')


@dataclass(frozen=True)
class Facts:
    """What became of one kernel.

    Attributes
    ----------
    spilled : int
        Bytes: stores and loads.
    shared : int
        Bytes of static shared memory.
    loads, stores : Counter
        Accesses to global memory: how many by their bytes.
    costs : tuple of Costs
        What a warp takes for each task of the variant; if it has none, for a way through the kernel with each loop
        once.
    """

    registers: int
    spilled: int
    stack: int
    shared: int
    loads: Counter[int] = field(default_factory=Counter)
    stores: Counter[int] = field(default_factory=Counter)
    costs: tuple[Costs, ...] = ()

    def __str__(self) -> str:
        return f"{self.registers}+{self.spilled}" if self.spilled else str(self.registers)


def compiled(variant: Variant, arch: int) -> dict[str, Facts]:
    """Facts about each kernel of a variant, in the order of the text."""
    code, log = cubin(variant.text, arch)
    found = kernels(listing(code))
    logs = {part.split("'")[1]: part for part in log.split("Compiling entry function ")[1:]}
    facts = {}
    for name in KERNEL.findall(variant.text):
        machine_code, part = found[name], logs[name]
        facts[name] = Facts(
            registers=_number(r"Used (\d+) registers", part),
            spilled=_number(r"(\d+) bytes spill stores", part) + _number(r"(\d+) bytes spill loads", part),
            stack=_number(r"(\d+) bytes stack frame", part),
            shared=_number(r"(\d+) bytes smem", part),
            loads=machine_code.widths("LDG"),
            stores=machine_code.widths("STG"),
            costs=tuple(costs(machine_code.trace(work)) for work in ([task.work for task in variant.tasks] or [None])),
        )
    return facts


def _number(pattern: str, log: str) -> int:
    found = re.search(pattern, log)
    return int(found.group(1)) if found else 0


def _most_spilled(variant: Variant) -> int:
    if variant.file == "few_classes.cu":  # whose weights and sums have to stay in registers
        return MOST_SPILLED_OF_THREE_TERMS if variant.row[0] == "bfloat16" else 0
    return MOST_SPILLED_OF_DOUBLES if variant.row[0] == "float64" else MOST_SPILLED


def faults(variant: Variant, arch: int, facts: dict[str, Facts]) -> list[str]:
    """What a variant must not have, or lacks."""
    where = f"{variant} for sm_{arch}"
    found = []
    for name, fact in facts.items():
        if max(fact.spilled, fact.stack) > _most_spilled(variant):
            found.append(f"{where}: {name} spills {fact.spilled} bytes, and has a stack of {fact.stack}")
        if fact.registers * variant.threads > 65536:
            found.append(f"{where}: {name} cannot be launched, {fact.registers} registers x {variant.threads} threads")
        for what, counts, width in (("loads", fact.loads, variant.load), ("stores", fact.stores, variant.store)):
            if width and not any(size >= width for size in counts):
                found.append(f"{where}: {name} has no {width}-byte {what}, but {dict(counts)}")
    return found


# ---- how fast that can be


@dataclass(frozen=True)
class Figures:
    """What follows from the machine code of a variant at one size.

    Attributes
    ----------
    in_flight : int
        Bytes that a multiprocessor has on their way.
    an_element : float
        Instructions.
    prediction : Prediction or None
        For the architecture's device, if there is one in DEVICE_OF.
    """

    occupancy: Occupancy
    in_flight: int
    an_element: float
    prediction: Prediction | None


def figures(variant: Variant, arch: int, fact: Facts, number: int) -> Figures:
    """Return what follows for a variant's task of that number."""
    task, cost = variant.tasks[number], fact.costs[number]
    held = occupancy(arch, variant.threads, fact.registers, fact.shared + task.shared)
    device = DEVICES[DEVICE_OF[arch]] if arch in DEVICE_OF else None
    return Figures(
        held,
        held.blocks * min(variant.threads * cost.in_flight, task.work.tile),
        cost.instructions * variant.threads / task.elements,
        device and predict(device, cost, held.blocks, variant.threads, task.moved, task.useful),
    )


def shortfalls(variant: Variant, arch: int, facts: dict[str, Facts]) -> list[str]:
    """Where a variant does not reach what it must; the share is looked at on the reference alone."""
    macros = dict(variant.macros)
    lacks_clusters = macros.get("SPREAD", 1) > 1 and arch < CLUSTERS_SINCE
    if variant.file != "row_loss.cu" or arch not in DEVICE_OF or lacks_clusters:
        return []
    found, (fact,) = [], facts.values()
    share_from = SHARE_FROM.get(macros["SCORE"])
    for number, task in enumerate(variant.tasks):
        found_here, where = figures(variant, arch, fact, number), f"{variant}, {task.classes} classes, for sm_{arch}"
        if not found_here.occupancy.blocks:  # too little shared memory for the bias: another variant is chosen there
            continue
        if task.classes >= ENOUGH_CLASSES and found_here.in_flight < LEAST_IN_FLIGHT:
            found.append(f"{where}: {found_here.in_flight} bytes in flight")
        prediction, is_held = found_here.prediction, share_from and task.classes >= share_from and arch == REFERENCE
        if is_held and prediction and prediction.share < LEAST_SHARE:
            found.append(f"{where}: {prediction.share:.0%} of a copy, for {prediction.limit}")
    return found


def unexpected(results: dict[tuple[Variant, int], dict[str, Facts]]) -> list[str]:
    """Variants that fall short and are not in KNOWN_SHORT, and entries of that in which nothing falls short.

    An entry is looked at if all that it stands for was compiled.
    """
    short: dict[tuple[str, str], list[str]] = {}
    for (variant, arch), facts in results.items():
        short.setdefault(variant.row[:2], []).extend(shortfalls(variant, arch, facts))
    found = [line for row, lines in short.items() if row not in KNOWN_SHORT for line in lines]
    jobs = {(v.row[:2], v, arch) for v in VARIANTS if v.file == "row_loss.cu" for arch in ARCHITECTURES}
    whole = {row for row in KNOWN_SHORT if all((v, arch) in results for r, v, arch in jobs if r == row)}
    return found + [
        f"{' '.join(row)} does not fall short: take it out of KNOWN_SHORT" for row in whole if not short.get(row)
    ]


def compile_all(jobs: Iterable[tuple[Variant, int]]) -> dict[tuple[Variant, int], dict[str, Facts]]:
    jobs = list(jobs)
    with ThreadPoolExecutor() as pool:  # NVRTC compiles on several threads
        return dict(zip(jobs, pool.map(lambda job: compiled(*job), jobs), strict=True))


# ---- the tables


def _cell(facts: dict[str, Facts]) -> str:
    return "·".join(str(fact) for fact in facts.values())


def _least_wide(results: list[dict[str, Facts]], what: str) -> str:
    """The fewest 16-byte loads or stores of any kernel that was made for them."""
    counts = [getattr(fact, f"{what}s") for facts in results for fact in facts.values()]
    return str(min(sum(n for size, n in c.items() if size >= 16) for c in counts)) if counts else "-"


IN_FLIGHT = ("bytes in flight: a thread", "kB a multiprocessor", "blocks a multiprocessor")
PREDICTED = ("instructions an element", "predicted % of a copy")


def _columns(table: Table) -> tuple[str, ...]:
    """Headers of what is said of the reference architecture beyond registers."""
    return IN_FLIGHT + (PREDICTED if table.variants[0].tasks else ())


def _rows_of(table: Table) -> list[list[Variant]]:
    """Variants by row."""
    rows: dict[tuple[str, ...], list[Variant]] = {}
    for variant in table.variants:
        rows.setdefault(variant.row, []).append(variant)
    return list(rows.values())


def _reference_cells(variant: Variant, facts: dict[str, Facts]) -> list[str]:
    """What is said of one variant on the reference architecture, under `_columns`."""
    if not variant.tasks:
        held = [occupancy(REFERENCE, variant.threads, fact.registers, fact.shared) for fact in facts.values()]
        asked = [fact.costs[0].in_flight for fact in facts.values()]
        kilobytes = [f"{n.blocks * variant.threads * a / 1024:.0f}" for n, a in zip(held, asked, strict=True)]
        return ["·".join(map(str, asked)), "·".join(kilobytes), "·".join(str(one.blocks) for one in held)]
    (fact,) = facts.values()
    at = [figures(variant, REFERENCE, fact, number) for number in range(len(variant.tasks))]
    predictions = [one.prediction for one in at if one.prediction]
    return [
        _range(str(cost.in_flight) for cost in fact.costs),
        _range(f"{one.in_flight / 1024:.0f}" for one in at),
        _range(f"{one.occupancy.blocks}, {one.occupancy.limit}" for one in at),
        _range(f"{one.an_element:.0f}" for one in at),
        _range(f"{100 * one.share:.0f}, {one.limit}" for one in predictions),
    ]


def _range(values: Iterable[str]) -> str:
    """What stands for the smallest and the largest task."""
    first, *_, last = [*values] * 2
    return first if first == last else f"{first} .. {last}"


def render(results: dict[tuple[Variant, int], dict[str, Facts]]) -> str:
    """Markdown of all tables."""
    lines = [f"NVRTC {nvrtc_version()}. Beside registers, all is for sm_{REFERENCE} ({DEVICE_OF[REFERENCE]}).", ""]
    for file, table in TABLES.items():
        widest = "16-byte loads, stores"
        lines += [f"**{file}**: registers a thread{', ' + table.caption if table.caption else ''}.", ""]
        header = [*table.header, widest, *(f"sm_{arch}" for arch in ARCHITECTURES), *_columns(table)]
        lines += [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        for variants in _rows_of(table):
            wide = [
                _least_wide(
                    [results[v, arch] for v in variants for arch in ARCHITECTURES if getattr(v, what) == 16], what
                )
                for what in ("load", "store")
            ]
            cells = ["·".join(_cell(results[variant, arch]) for variant in variants) for arch in ARCHITECTURES]
            looked_at = [_reference_cells(v, results[v, REFERENCE]) for v in variants[: table.looked_at]]
            cells += ["·".join(parts) for parts in zip(*looked_at, strict=True)]
            lines.append(f"| {' | '.join([*variants[0].row, ', '.join(wide), *cells])} |")
        lines.append("")
    return "\n".join(lines)


def write(tables: str, readme: Path = README) -> None:
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def differences(results: dict[tuple[Variant, int], dict[str, Facts]], readme: Path = README) -> list[str]:
    """Where the stored tables say something else; what another NVRTC makes is not compared."""
    text = readme.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    parts = dict(re.findall(r"\*\*([\w.]+)\*\*:.*?\n(.*?)(?=\n\*\*|\Z)", text, re.S))
    same_compiler = f"NVRTC {nvrtc_version()}." in text
    found = []
    for (variant, arch), facts in results.items():
        table = TABLES[variant.file]
        start = f"| {' | '.join(variant.row)} |"
        rows = [line for line in parts.get(variant.file, "").splitlines() if line.startswith(start)]
        if len(rows) != 1:
            found.append(f"{variant}: there are {len(rows)} rows in the table")
            continue
        if not same_compiler:
            continue
        cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
        at = len(table.header) + 1
        position = [v for v in table.variants if v.row == variant.row].index(variant)

        def stored(cell: str, position: int = position, count: int = len(facts)) -> str:
            return "·".join(cell.split("·")[position * count : (position + 1) * count])

        pairs = [(_cell(facts), stored(cells[at + ARCHITECTURES.index(arch)]))]
        if arch == REFERENCE and position < table.looked_at:
            reference = _reference_cells(variant, facts)
            pairs += zip(reference, map(stored, cells[at + len(ARCHITECTURES) :]), strict=True)
        found += [f"{variant} for sm_{arch}: {now}, and {then} in the table" for now, then in pairs if now != then]
    return found


def main(arguments: list[str]) -> int:
    """The command; the exit code is 1 if a variant is at fault or the tables are stale."""
    parser = command_line("kernels", __doc__, EXAMPLES)
    parser.add_argument("--check", metavar="ARCH", choices=[f"sm_{arch}" for arch in ARCHITECTURES])
    check = parser.parse_args(arguments).check
    if (reason := missing()) is not None:
        print(reason, file=sys.stderr)
        return 2
    chosen = [int(check[3:])] if check else ARCHITECTURES
    results = compile_all((variant, arch) for variant in VARIANTS for arch in chosen)
    found = [fault for (variant, arch), facts in results.items() for fault in faults(variant, arch, facts)]
    found += unexpected(results)
    if check:
        found += differences(results)
    else:
        write(render(results))
    print(f"{len(results)} variants compiled", *found, sep="\n")
    return 1 if found else 0
