"""Benchmarks of gpusoftmax. `python -m bench NAME --help` explains each command."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "throughput": (
        "bench.throughput.run",
        "rows a second of our backends and of other libraries",
    ),
    "solving": ("bench.solving.run", "seconds and passes over the data until solvers are near to the optimum"),
    "sweeping": (
        "bench.sweeping.run",
        "seconds of whole searches: folds, paths of C, cs231n's grid of SGD",
    ),
    "starting": ("bench.starting.run", "seconds until the first fit of a new process, with and without a cache"),
    "streaming": ("bench.streaming.run", "a pass over features in a file, mapped or read ahead, beside one in memory"),
    "classes": ("bench.classes", "seconds and memory by the number of classes, from fit to model file"),
    "gpu": ("bench.gpu.run", "is everything right, and how fast is it, on a machine with an NVIDIA GPU"),
    "kernels": ("bench.gpu.kernel_table", "registers, spills and loads of every CUDA kernel; needs no GPU"),
    "compare": ("bench.common.compare", "which cases became slower from one result file to another"),
    "figures": ("bench.figures", "the tables and figures of the documents, from the tracked results"),
}
USAGE = """usage: python -m bench NAME [options]

Benchmarks of gpusoftmax. Incorrect results are not timed.

"""
EXAMPLES = """
examples:
  python -m bench throughput --quick --case cifar
  python -m bench sweeping --quick
  python -m bench solving --help
"""


def main(arguments: list[str]) -> int:
    """Runs a command; the exit code."""
    name, *rest = arguments or ["--help"]
    if name in COMMANDS:
        return int(importlib.import_module(COMMANDS[name][0]).main(rest))
    listed = "".join(f"  {command:11s} {words}\n" for command, (_, words) in COMMANDS.items())
    print(USAGE + listed + EXAMPLES, end="", file=sys.stdout if name in ("--help", "-h") else sys.stderr)
    return 0 if name in ("--help", "-h") else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
