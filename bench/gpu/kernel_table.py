"""Which registers, spills and widths of loads does every CUDA kernel get, on every architecture? Needs no GPU.

The compiler is NVRTC from PyPI, called as CuPy calls it (through ctypes: CuPy's own wrapper cuts a byte off the cubin).
Fails if a variant spills, or lacks the wide loads and stores that it is made for.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.common.harness import command_line
from bench.common.machine import ROOT
from gpusoftmax.cuda.buckets import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, ITEM_SIZE, UINT8, buckets
from gpusoftmax.cuda.compile import OPTIONS, source
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
# Two registers, stored and loaded once: what some variants with 512 and more threads a block, and so at most 64
# registers a thread, do. A row that does not stay in registers would be hundreds.
MOST_SPILLED = 16

# ---- what is compiled: a kernel file more is an entry more in TABLES


@dataclass(frozen=True)
class Variant:
    """One compilation.

    Attributes
    ----------
    row : tuple of str
        The first cells of its row in the file's table. Variants of one row stand in its other cells, in order.
    load, store : int
        The widest access, in bytes, that the code must have.
    """

    file: str
    row: tuple[str, ...]
    macros: tuple[tuple[str, int], ...]
    what: str = ""
    load: int = 0
    store: int = 0

    @property
    def text(self) -> str:
        return source(self.file, dict(self.macros))

    def __str__(self) -> str:
        return " ".join(part for part in (self.file.removesuffix(".cu"), *self.row, self.what) if part)


@dataclass(frozen=True)
class Table:
    caption: str
    header: tuple[str, ...]
    variants: list[Variant]


def _row_loss() -> list[Variant]:
    return [
        Variant(
            "row_loss.cu",
            (NAMES[kind], str(b.most or "any"), str(b.group), str(b.threads), f"{b.items or 'all'} x {b.width}"),
            tuple({"SCORE": kind, "LOSS": loss, "MODE": 0, "BEST": 1, **b.macros()}.items()),
            name,
            *((16, 16) if b.width > 1 else (0, 0)),
        )
        for kind in SCORE_KINDS
        for b in buckets(kind)
        for loss, name in enumerate(LOSSES)
    ]


def _gather() -> list[Variant]:
    return [
        Variant(
            "gather.cu",
            (NAMES[kind], NAMES[target]),
            (("SOURCE", kind), ("TARGET", target), ("WIDTH", width)),
            f"WIDTH={width}",
            *((min(16, 4 * ITEM_SIZE[kind]), min(16, 4 * ITEM_SIZE[target])) if width == 4 else (0, 0)),
        )
        for kind in (*SCORE_KINDS, UINT8)
        for target in SCORE_KINDS
        if kind != FLOAT64 or target in (FLOAT32, FLOAT64)  # double to half would round twice
        for width in (1, 4)
    ]


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


TABLES = {
    "row_loss.cu": Table(
        "softmax·hinge·squared hinge; gradients, with BEST; +n: bytes spilled",
        ("scores", "most classes", "threads a row", "threads a block", "loads x elements"),
        _row_loss(),
    ),
    "reduce.cu": Table(
        "sum_rows·add_partials",
        ("losses",),
        [Variant("reduce.cu", (NAMES[kind],), (("SCORE", kind),)) for kind in (FLOAT32, FLOAT64)],
    ),
    "gather.cu": Table("WIDTH 1·4", ("source", "target"), _gather()),
    "sparse.cu": Table(
        "multiply_rows·sum_columns·add_segments·fill_columns",
        ("values", "sums", "lanes x columns"),
        _sparse(),
    ),
    "probe.cu": Table("", ("kernel",), [Variant("probe.cu", ("probe",), (("SCORE", FLOAT32),))]),
}
VARIANTS = [variant for table in TABLES.values() for variant in table.variants]

# ---- compiling

KERNEL = re.compile(r'extern "C" __global__ void\s*(?:__launch_bounds__\([^)]*\))?\s*(\w+)\s*\(')
NVRTC, NVDISASM = r"/libnvrtc\.so\.\d+$", r"/nvdisasm$"


@dataclass(frozen=True)
class Facts:
    """What became of one kernel."""

    registers: int
    spilled: int  # bytes: stores and loads
    stack: int
    loads: Counter[int] = field(default_factory=Counter)  # bytes: how many; not looked at where no width is asked for
    stores: Counter[int] = field(default_factory=Counter)

    def __str__(self) -> str:
        return f"{self.registers}+{self.spilled}" if self.spilled else str(self.registers)


def missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    for package, pattern in (("nvidia-cuda-nvrtc", NVRTC), ("nvidia-cuda-nvdisasm", NVDISASM)):
        try:
            _file_of(package, pattern)
        except FileNotFoundError as error:
            return str(error)
    return None


@cache
def _file_of(package: str, pattern: str) -> Path:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if re.search(pattern, str(file)):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{package} from PyPI is not installed: pip install {package}")


def nvrtc_version() -> str:
    return metadata.version("nvidia-cuda-nvrtc")


@cache
def _nvrtc() -> Any:
    return ctypes.CDLL(str(_file_of("nvidia-cuda-nvrtc", NVRTC)))


def cubin(text: str, arch: int) -> tuple[bytes, str]:
    """Machine code and the compiler's log; raises RuntimeError with the log."""
    nvrtc = _nvrtc()
    # -ftz: CuPy always adds it
    options = [*OPTIONS, f"-arch=sm_{arch}", "-ftz=true", "--ptxas-options=-v"]
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    try:
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), array)
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        if failed:
            raise RuntimeError(log.value.decode())
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, code)
        return code.raw, log.value.decode()
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def compiled(variant: Variant, arch: int) -> dict[str, Facts]:
    """Facts about each kernel of a variant, in the order of the text."""
    code, log = cubin(variant.text, arch)
    listing = _listing(code) if variant.load or variant.store else ""  # which takes longer than the compilation
    sections = dict(re.findall(r"\.section\s+\.text\.(\w+),(.*?)(?=\.section\s+\.text\.|\Z)", listing, re.S))
    logs = {part.split("'")[1]: part for part in log.split("Compiling entry function ")[1:]}
    facts = {}
    for name in KERNEL.findall(variant.text):
        instructions, part = sections.get(name, ""), logs[name]
        stack, stored, loaded = re.search(  # type: ignore[union-attr]
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        ).groups()
        registers = re.search(r"Used (\d+) registers", part).group(1)  # type: ignore[union-attr]
        facts[name] = Facts(
            int(registers),
            int(stored) + int(loaded),
            int(stack),
            Counter(map(_width, re.findall(r"\bLDG\.[\w.]+", instructions))),
            Counter(map(_width, re.findall(r"\bSTG\.[\w.]+", instructions))),
        )
    return facts


def _listing(code: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [str(_file_of("nvidia-cuda-nvdisasm", NVDISASM)), "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _width(instruction: str) -> int:
    """Bytes that LDG.E.128.CONSTANT, say, moves for a thread."""
    bits = re.search(r"\.[US]?(8|16|64|128|256)\b", instruction)
    return int(bits.group(1)) // 8 if bits else 4


def faults(variant: Variant, arch: int, facts: dict[str, Facts]) -> list[str]:
    """What a variant must not have, or lacks."""
    where = f"{variant} for sm_{arch}"
    threads = dict(variant.macros).get("THREADS", 256)
    found = []
    for name, fact in facts.items():
        if max(fact.spilled, fact.stack) > (MOST_SPILLED if threads >= 512 else 0):
            found.append(f"{where}: {name} spills {fact.spilled} bytes, and has a stack of {fact.stack}")
        if fact.registers * threads > 65536:
            found.append(f"{where}: {name} cannot be launched, {fact.registers} registers x {threads} threads")
        for what, counts, width in (("loads", fact.loads, variant.load), ("stores", fact.stores, variant.store)):
            if width and not any(size >= width for size in counts):
                found.append(f"{where}: {name} has no {width}-byte {what}, but {dict(counts)}")
    return found


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


def render(results: dict[tuple[Variant, int], dict[str, Facts]]) -> str:
    """Markdown of all tables."""
    lines = [f"NVRTC {nvrtc_version()}.", ""]
    for file, table in TABLES.items():
        widest = "16-byte loads, stores"
        lines += [f"**{file}**: registers a thread{', ' + table.caption if table.caption else ''}.", ""]
        header = [*table.header, widest, *(f"sm_{arch}" for arch in ARCHITECTURES)]
        lines += [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        for row in dict.fromkeys(variant.row for variant in table.variants):
            variants = [variant for variant in table.variants if variant.row == row]
            wide = [
                _least_wide(
                    [results[v, arch] for v in variants for arch in ARCHITECTURES if getattr(v, what) == 16], what
                )
                for what in ("load", "store")
            ]
            cells = ["·".join(_cell(results[variant, arch]) for variant in variants) for arch in ARCHITECTURES]
            lines.append(f"| {' | '.join([*row, ', '.join(wide), *cells])} |")
        lines.append("")
    return "\n".join(lines)


def write(tables: str, readme: Path = README) -> None:
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def differences(results: dict[tuple[Variant, int], dict[str, Facts]], readme: Path = README) -> list[str]:
    """Where the stored tables say something else; another NVRTC's registers are not compared."""
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
        cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
        numbers = cells[len(table.header) + 1 + ARCHITECTURES.index(arch)].split("·")
        first = [v for v in table.variants if v.row == variant.row].index(variant) * len(facts)
        stored = "·".join(numbers[first : first + len(facts)])
        if same_compiler and stored != _cell(facts):
            found.append(f"{variant} for sm_{arch}: {_cell(facts)}, and {stored} in the table")
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
    if check:
        found += differences(results)
    else:
        write(render(results))
    print(f"{len(results)} variants compiled", *found, sep="\n")
    return 1 if found else 0
