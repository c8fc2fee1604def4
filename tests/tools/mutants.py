"""Mutation testing of the GPU code: would its tests notice a mistake on a machine without a GPU?

    python -m tests.tools.mutants [--only NAME ...] [--jobs 2]

A mutant is applied to a copy of the repository in a temporary folder, where the tests then run on the emulation; it is
caught if one fails. Set GPUSOFTMAX_EMULATION_CACHE to a folder that keeps built kernels from one run to the next.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.emulation import build

ROOT = Path(__file__).resolve().parents[2]

COPIED = ("gpusoftmax", "kernels", "tests", "pyproject.toml")
KERNEL_TESTS = (
    *("tests/cuda/test_kernels.py", "tests/cuda/test_few_classes.py"),
    *("tests/cuda/test_races.py", "tests/cuda/test_traffic.py"),
)
HOST_TESTS = ("tests/cuda/test_host.py", "tests/cuda/test_blocks.py", "tests/cuda/test_sgd_steps.py")
# The test that repeats others under the sanitizers takes 90 s: it is left to the few mutants that need it, and then
# repeats only SANITIZED.
ALL, SANITIZED = "not sanitizers", "(ladder and float32-20000) or part_of_indptr"
LIMIT = 600  # seconds of one run: a mutant that hangs is not caught


@dataclass(frozen=True)
class Mutant:
    """One mistake in the GPU code.

    Attributes
    ----------
    name : str
        What the mistake is.
    file : str
        Below the repository's root.
    old, new : str
        The text, which occurs once, and what takes its place.
    expression : str
        pytest's -k: the tests that are tried first. If none of them fails, all are.
    sanitized : bool
        Only AddressSanitizer notices.
    """

    name: str
    file: str
    old: str
    new: str
    expression: str = ""
    sanitized: bool = False

    def mutate(self, root: Path) -> None:
        """Make the mistake in the repository at `root`.

        Raises
        ------
        LookupError
            The table is stale: the text does not occur, or more than once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if (found := text.count(self.old)) != 1:
            raise LookupError(f"{self.name}: its old text occurs {found} times in {self.file}; mend the table")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Outcome:
    """Whether a test caught a mutant and which one, or what happened instead."""

    caught: bool
    by: str
    seconds: float


COMMON, FEW, GATHER, REDUCE, ROW_LOSS, SPARSE, SPLIT = (
    f"kernels/{name}.cu{'h' if name == 'common' else ''}"
    for name in ("common", "few_classes", "gather", "reduce", "row_loss", "sparse", "split")
)
BLAS, BUCKETS, COMPILE, MEMORY, OPS, PROBE, SPARSE_HOST = (
    f"gpusoftmax/cuda/{name}.py" for name in ("blas", "buckets", "compile", "memory", "ops", "probe", "sparse")
)
CHUNKING, COLUMN_SUMS, COPYING, FEW_HOST, GRADIENTS, OPERANDS, ROW_LOSSES = (
    f"gpusoftmax/cuda/{name}.py"
    for name in ("chunks", "column_sums", "copying", "few_classes", "gradients", "operands", "row_losses")
)

# pytest's -k, so that most mutants cost a second of building and testing
SUMS = "row_losses_are_summed"
GATHERED = "gathered_by_index and float32-float32"
FLAT, REGISTERS, BLOCK, READ_TWICE = (
    f"legal_scores and {hold}-softmax" for hold in ("flat", "registers", "block", "streamed")
)
SPREAD = "legal_scores and cluster-softmax"
FLAT_HINGE, FLAT_SQUARED = "legal_scores and flat-hinge", "legal_scores and flat-squared_hinge"
MODELS = "rows_of_several_models and (flat or registers)"
DIGITS = "keeps_its_digits and flat"
BAD = "bad_label_is_reported_and_its_row and (flat or registers)"
STARTS = "wherever_it_starts"
REFERENCE = "loss_and_gradient_equal_the_reference"
BLOCKS, CHUNKS = "sums_per_model and blocks", "sums_per_model and chunks"
SCORES = "scores_and_losses"
VIEWS = "view_on_the_device"
PRECISION = "precision_asked_for"
MOMENTS = "moments_far"
LABELS = "label_sums"
FIT = "does_not_fit"
KNOWN = "known_beforehand"
TREE, STREAMED = "along_the_tree", "every_operation_gives_the_same_bits"
PRODUCTS, CHOSEN = "rows_are_multiplied", "chosen_rows_are_multiplied"
COLUMNS, FILLED = "columns_are_summed", "chosen_columns_are_filled"
SPARSE_FAR = "sparse_entries_beyond or sparse_rows_beyond or picked_rows_and or long_rows_and"
SPARSE_PRODUCTS, SPARSE_SUMS, SPARSE_GRAM = "sparse_products_equal", "sparse_column_sums", "sparse_gram"
SMALL = "sums_equal_numpys or pairs_are_added_and_multiplied or best_of_scores or label_coefficients"
DENSE_PRODUCTS = "column_products_of_dense"
NARROW, HALVES = "narrow_features", "two_halves"
STEPS = "separate_steps and (plain or momentum)"
SGD_STEPS, SGD_STEPS_HOST = "kernels/sgd_steps.cu", "gpusoftmax/cuda/sgd_steps.py"
READ_ONCE = "x_is_read_once and float32"
ONE_BLOCK, CLUSTERS, BY_FLAGS = (f"x_is_read_once and float32-1x10-{way}" for way in ("alone", "cluster", "flags"))
HINGES_OF_FEW, FEW_MODELS = ONE_BLOCK, "x_is_read_once and float32-8x2"
BY_TENSOR = "x_is_read_once and (1x10-cluster or bfloat16-1x8) and not float32"
FEW_ROWS, FEW_BAD, FEW_DIGITS = "a_few_rows", "bad_labels_are_reported", "confident_row and alone"
FEW_TREE = "leaves_are_added_along"
FEW_LAUNCHES, FEW_PLACES, FEW_NUMBERS = (
    "over_launches_and_leaves",
    "wherever_the_rows_are",
    "have_the_bits_of_their_copy",
)
FEW_PARTS, FEW_HOSTED = "parts_of_the_rows_add_up", "host_code_equals"

MUTANTS = [
    # ---- common.cuh
    Mutant(
        "reduce without the barrier before scratch is read", COMMON,
        "scratch[threadIdx.x / 32] = value;\n        __syncthreads();\n", "scratch[threadIdx.x / 32] = value;\n",
        SUMS,
    ),
    Mutant(
        "reduce without the barrier after scratch was read", COMMON,
        "        __syncthreads();  // before the next reduction overwrites scratch\n", "",
        SUMS,
    ),
    Mutant("reduce forgets the last warp", COMMON, "w < SIZE / 32;", "w < SIZE / 32 - 1;", SUMS),
    Mutant("reduce forgets half a warp", COMMON, "offset = IN_WARP / 2;", "offset = IN_WARP / 4;", SUMS),
    Mutant(
        "bfloat16 by truncation", COMMON,
        "(bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16", "bits >> 16",
        "narrowed_to_the_nearest",
    ),
    Mutant(
        "bfloat16 rounds ties up", COMMON,
        "(bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16", "(bits + 0x8000u) >> 16",
        "narrowed_to_the_nearest",
    ),
    Mutant(
        "NaN lost: bfloat16 rounds it like a number", COMMON,
        "if ((bits & 0x7fffffffu) > 0x7f800000u) y.bits = 0x7fc0;", "if (false) y.bits = 0x7fc0;",
        "nan_stays",
    ),
    # ---- few_classes.cu
    Mutant("few: partial scores are added without a barrier", FEW, "        __syncthreads();  // partial scores of the tile are there\n", "", ONE_BLOCK),
    Mutant("few: gradients are used without a barrier", FEW, "        __syncthreads();  // gradients of the tile are there\n", "", ONE_BLOCK),
    Mutant("few: starts of rows are used without a barrier", FEW, "    __syncthreads();  // for the starts of rows\n", "", ONE_BLOCK),
    Mutant("few: a flag before all is stored", FEW, "            __syncthreads();\n            if (t == 0) store_flag", "            if (t == 0) store_flag", BY_FLAGS),
    Mutant("few: only some threads wait for the flags", FEW, "__nanosleep(40);\n            __syncthreads();\n", "__nanosleep(40);\n", BY_FLAGS),
    Mutant("few: flags are not waited for", FEW, "while (load_flag(flags + 1 + (long long)leaf * SLICES + t) < tile + 1) __nanosleep(40);", ";", BY_FLAGS),
    Mutant("few: a tile too little is waited for", FEW, "+ t) < tile + 1)", "+ t) < tile)", BY_FLAGS),
    Mutant("few: a block's number is read before it is there", FEW, "atomicAdd(flags, 1u);\n        __syncthreads();\n", "atomicAdd(flags, 1u);\n", BY_FLAGS),
    Mutant("few: all tiles are exchanged in one place", FEW, "exchanged[(((long long)leaf * 2 + tile % 2) * SLICES + rank) * TILE + v] = sum;", "exchanged[((long long)leaf * 2 * SLICES + rank) * TILE + v] = sum;", BY_FLAGS),
    Mutant("few: a store before the cluster has begun", FEW, "    if constexpr (EXCHANGE == CLUSTER) cluster_wait();\n    for (int tile = 0;", "    for (int tile = 0;", CLUSTERS),
    Mutant("few: the cluster is not waited for", FEW, "        if constexpr (EXCHANGE == CLUSTER) cluster_wait();\n        if constexpr (EXCHANGE == FLAGS)", "        if constexpr (EXCHANGE == FLAGS)", CLUSTERS),
    Mutant("few: one buffer for the scores of two tiles", FEW, "store_in_cluster(&shared.slices[tile % 2][rank][v], s, sum);", "store_in_cluster(&shared.slices[0][rank][v], s, sum);", CLUSTERS),
    Mutant("few: scores go to this block alone", FEW, "store_in_cluster(&shared.slices[tile % 2][rank][v], s, sum);", "store_in_cluster(&shared.slices[tile % 2][rank][v], rank, sum);", CLUSTERS),
    Mutant("few: a slice is forgotten", FEW, "for (int s = 0; s < SLICES; s++) {\n            const", "for (int s = 1; s < SLICES; s++) {\n            const", CLUSTERS),
    Mutant("few: a tile is read before it is there", FEW, "wait_copies<STAGES - 2>();", "wait_copies<STAGES - 1>();", READ_ONCE),
    Mutant("few: the first tile is read before it is there", FEW, "wait_copies<STAGES - 1>();\n    products", "wait_copies<STAGES>();\n    products", READ_ONCE),
    Mutant("few: empty groups are not counted", FEW, "        commit_copies();  // an empty group, too: groups are counted\n", "        if (tile < tiles) commit_copies();\n", READ_ONCE),
    Mutant("few: a tile overwrites one that is in use", FEW, "        products.accumulate(shared, tile);\n", "        fetch(tile + STAGES);\n        products.accumulate(shared, tile);\n", READ_ONCE),
    Mutant("few: features beyond the last are read", FEW, "ROWS + r < count && feature[p] < d);", "ROWS + r < count);", READ_ONCE),
    Mutant("few: rows beyond the last are read", FEW, "tile * ROWS + r < count && feature[p] < d);", "feature[p] < d);", READ_ONCE),
    Mutant("few: X is read twice", FEW, "        commit_copies();  // an", "        if (tile == 0) copy_async16(&shared.ring[0], X);\n        commit_copies();  // an", READ_ONCE),
    Mutant("few: weights beyond the last feature are read", FEW, "if (feature[p] < d) four = *", "four = *", READ_ONCE),
    Mutant("few: dW beyond the last feature is written", FEW, "if (feature[p] < d) *reinterpret_cast<Vector<float>*>(to", "*reinterpret_cast<Vector<float>*>(to", READ_ONCE),
    Mutant("few: a thread has the features of another block", FEW, "((rank * PIECES + p) * THREADS + threadIdx.x)", "(p * THREADS + threadIdx.x)", CLUSTERS),
    Mutant("few: the stride is ignored", FEW, "(rows == nullptr ? at : rows[at]) * stride", "(rows == nullptr ? at : rows[at]) * d", READ_ONCE),
    Mutant("few: the numbers of rows are ignored", FEW, "(rows == nullptr ? at : rows[at]) * stride", "at * stride", "rows_by_number_may_repeat"),
    Mutant("few: offsets in 32 bits", FEW, "(rows == nullptr ? at : rows[at]) * stride : 0", "(int)((rows == nullptr ? at : rows[at]) * stride) : 0", "few_classes and rows_beyond"),
    Mutant("few: the last leaf is taken for a whole one", FEW, "(int)smaller((long long)LEAF, n - first_row)", "LEAF", FEW_ROWS),
    Mutant("few: the last part of a tile is forgotten", FEW, "tiles = (count + ROWS - 1) / ROWS;", "tiles = count / ROWS;", FEW_ROWS),
    Mutant("few: a value given away is kept", FEW, "const float given = upper ? low : high;", "const float given = upper ? high : low;", READ_ONCE),
    Mutant("few: rows of a group in another order", FEW, "return threadIdx.x % 32 * SETS / 32;", "return threadIdx.x % SETS;", READ_ONCE),
    Mutant("few: sums that are not a lane's own are stored", FEW, "if (i < kept) to[first", "to[first", READ_ONCE),
    Mutant("few: a lane's first sum is another's", FEW, "first += upper ? HALF : 0;", "first += upper ? COUNT / 2 : 0;", READ_ONCE),
    Mutant("few: the last warp is forgotten", FEW, "warp < WARPS; warp++", "warp < WARPS - 1; warp++", ONE_BLOCK),
    Mutant("few: scores without the bias", FEW, " + shared.bias[k * CLASSES + j];", ";", READ_ONCE),
    Mutant("few: the bias of the first model for all", FEW, "shared.bias[k * CLASSES + j];", "shared.bias[j];", FEW_MODELS),
    Mutant("few: the target's score is another row's", FEW, "t % 32 / LANES * LANES + (label", "(label", READ_ONCE),
    Mutant("few: the largest score is not subtracted", FEW, "exponential(z - top), e_t", "exponential(z), e_t", FEW_DIGITS),
    Mutant("few: the target among the others", FEW, "reduce<LANES>(j == label ? 0.0f : power,", "reduce<LANES>(power,", READ_ONCE),
    Mutant("few: the target's gradient as p_t - 1", FEW, "-others * factor : power * factor", "(e_t / total - 1) * weight : power * factor", FEW_DIGITS),
    Mutant("few: the loss as log of the whole sum", FEW, "value = softmax_loss(top, z_t, others, total);", "value = (top - z_t) + logarithm(total);", FEW_DIGITS),
    Mutant("few: NaN lost in a hinge", COMMON, "return m <= 0 ? (T)0 : m;", "return !(m > 0) ? (T)0 : m;", "not_finite"),
    Mutant("few: the target in a hinge", FEW, "m = j == label || j >= CLASSES ?", "m = j >= CLASSES ?", HINGES_OF_FEW),
    Mutant("few: a hinge's gradient without its weight", FEW, "(j == label ? -all : slope) * weight", "(j == label ? -all : slope)", HINGES_OF_FEW),
    Mutant("few: weights by the row alone", FEW, "weight = shared.weights[i * MODELS + k];\n            const float top", "weight = shared.weights[i];\n            const float top", FEW_MODELS),
    Mutant("few: losses without their weights", FEW, "loss += weight * shared.losses", "loss += shared.losses", READ_ONCE),
    Mutant("few: right rows without their weights", FEW, "correct += weight * shared.right", "correct += shared.right", READ_ONCE),
    Mutant("few: the last of equal scores is the best", FEW, "reduce<LANES>(place, Smallest(), (int*)nullptr)", "reduce<LANES>(place == CLASSES ? -1 : place, Largest(), (int*)nullptr)", "of_equal_scores"),
    Mutant("few: a bad label is not reported", FEW, "        if (present && bad && rank == 0) atomicMin(bad_row, (unsigned long long)(at * MODELS));\n", "", FEW_BAD),
    Mutant("few: a negative label is taken", FEW, "bad = label < 0 || label >= CLASSES", "bad = label >= CLASSES", FEW_BAD),
    Mutant("few: a bad row has a gradient", FEW, "label < 0 ? 0.0f : gradient", "gradient", FEW_BAD),
    Mutant("few: a bad row has a loss", FEW, "label < 0 ? NOT_A_NUMBER : value", "value", FEW_BAD),
    Mutant("few: every slice adds to db", FEW, "    if (rank > 0) return;\n    if (t < SCORES) to", "    if (rank > 0) return;\n    if (t < SCORES - 1) to", READ_ONCE),
    Mutant("few: all blocks of a cluster keep losses", FEW, "if (rank > 0) continue;", "if (rank == 0) continue;", CLUSTERS),
    # tensor cores
    Mutant("tensor: lanes read before others have copied", FEW, "meet() const { __syncwarp(); }", "meet() const {}", BY_TENSOR),
    Mutant("tensor: a copy overwrites what others still read", FEW, "        __syncwarp();  // all lanes have read what is overwritten\n", "", "do_is_in_order and tensor"),
    Mutant("tensor: one term of the weights", FEW, "for (int t = TERMS - 1; t >= 0; t--)", "for (int t = 0; t >= 0; t--)", BY_TENSOR),
    Mutant("tensor: bfloat16 with two terms", FEW, "TERMS = SOURCE == BFLOAT16 ? 3 : 2;", "TERMS = 2;", "every_digit_of_a_weight"),
    Mutant("tensor: a term is not taken off", FEW, "x[j + 1] -= unpacked(both, 1);", "", BY_TENSOR),
    Mutant("tensor: classes beyond the eighth are forgotten", FEW, "HALVES = SCORES > 8 ? 2 : 1;", "HALVES = 1;", BY_TENSOR),
    Mutant("tensor: halves in the places of features", FEW, "terms[t][half + j] = both;", "terms[t][2 * half + j / 2] = both;", BY_TENSOR),
    Mutant("tensor: bytes without their power of two", FEW, "BYTE_EXPONENT = SOURCE == UINT8 ? 24 : 0;", "BYTE_EXPONENT = 0;", BY_TENSOR),
    Mutant("tensor: numbers larger than float16 has", FEW, "exponent = 268 - (int)", "exponent = 272 - (int)", BY_TENSOR),
    Mutant("tensor: infinity makes zeros of the others", FEW, "== 0x7f800000u ? 0.0f : fabsf(x);", "== 0 ? 0.0f : fabsf(x);", "scale_of_their_own"),
    Mutant("tensor: the scale of one lane", FEW, "most = reduce<4>(most,", "most = reduce<2>(most,", BY_TENSOR),
    Mutant("tensor: W's scale is not undone", FEW, "row * SCORES + score] = z[i] * down;", "row * SCORES + score] = z[i];", BY_TENSOR),
    Mutant("tensor: rows of another quarter", FEW, "q() % 2 + 4 * (q() / 2)", "q() % 2 + 2 * (q() / 2)", BY_TENSOR),
    Mutant("tensor: the second eight rows are forgotten", FEW, "for (int first = 0; first < ROWS; first += 8) {\n            float z", "for (int first = 0; first < 8; first += 8) {\n            float z", BY_TENSOR),
    Mutant("tensor: a segment of another lane", FEW, "at(shared, tile, 4 * h + q(), first + g())", "at(shared, tile, h + SEGMENTS / 4 * q(), first + g())", BY_TENSOR),
    Mutant("tensor: bytes of the first half of a word", FEW, "e < 2 ? 0x5140 : 0x7362", "0x5140", BY_TENSOR),
    Mutant("tensor: odd bytes in the places of even ones", FEW, "e % 2 == 0 ? 0x4140 : 0x4342", "e % 2 == 1 ? 0x4140 : 0x4342", BY_TENSOR),
    Mutant("tensor: halves of a word change places", FEW, "e == 0 ? 0x5410 : 0x7632", "e == 1 ? 0x5410 : 0x7632", BY_TENSOR),
    Mutant("tensor: a warp has the features of another", FEW, "(rank * WARPS + threadIdx.x / 32) * 32 * FEATURES", "rank * WARPS * 32 * FEATURES", BY_TENSOR),
    Mutant("tensor: rows beyond the last are read", FEW, "tile * ROWS + row < count && feature < d);", "feature < d);", BY_TENSOR),
    Mutant("tensor: features beyond the last are read", FEW, "tile * ROWS + row < count && feature < d);", "tile * ROWS + row < count);", BY_TENSOR),
    Mutant("tensor: dW of features beyond the last", FEW, "if (feature < d && score < SCORES)\n                    *reinterpret", "if (score < SCORES)\n                    *reinterpret", BY_TENSOR),
    Mutant("tensor: dW of classes beyond the last", FEW, "if (feature < d && score < SCORES)\n                    *reinterpret", "if (feature < d)\n                    *reinterpret", BY_TENSOR),
    Mutant("few: a leaf's second half is not added", FEW, "for (int s = 1; s < NODES; s *= 2)", "for (int s = 1; s < NODES / 2; s *= 2)", FEW_TREE),
    Mutant("few: leaves are added in another order", FEW, "if (i + s < count) node[i] += node[i + s];", "if (i + s < count) node[i] += node[(i + s) % count == 1 ? 2 % count : i + s];", FEW_TREE),
    Mutant("few: the last of some nodes is not added", FEW, "(n_leaves - first + step - 1) / step", "(n_leaves - first) / step", FEW_TREE),
    Mutant("few: dW is not transposed", FEW, "at < d * SCORES ? at % d * SCORES + at / d : at", "at", FEW_TREE),
    # ---- few_classes.py
    Mutant("few: leaves of a launch are forgotten", FEW_HOST, "groups = -(-n_leaves // (step * NODES))", "groups = max(1, n_leaves // (step * NODES))", "more_leaves_than"),
    Mutant("few: the columns of add_leaves are too few", FEW_HOST, "columns = -(-((self.d + 1) * q + 2 * K) // ADD_THREADS)", "columns = -(-((self.d + 1) * q) // ADD_THREADS) - 1", FEW_HOSTED),
    Mutant("few: the grid is a block short", FEW_HOST, "n_leaves = -(-m // variant.leaf)", "n_leaves = max(1, m // variant.leaf)", FEW_HOSTED),
    Mutant("few: W is not transposed", FEW_HOST, "W.reshape(self.d, q).T", "W.reshape(q, self.d)", FEW_HOSTED),
    Mutant("few: a flag too little", FEW_HOST, "n_flags = 1 + n_leaves", "n_flags = n_leaves", FEW_HOSTED),
    Mutant("few: shared memory is not asked for", FEW_HOST, "        self.few_classes.max_dynamic_shared_size_bytes = variant.shared\n", "", FEW_HOSTED),
    Mutant("few: launches of every leaf are one leaf's", FEW_HOST, "launches.add(0, chunk.first % whole // step, node)", "launches.add(0, chunk.first // step, node)", FEW_LAUNCHES),
    Mutant("few: rows before the pass are not counted", FEW_HOST, "(first_row + begun) // whole", "begun // whole", FEW_PARTS),
    Mutant("few: a matrix at an odd address is read in place", FEW_HOST, "X.data.ptr % SEGMENT == 0 and ", "", FEW_PLACES),
    Mutant("few: columns far apart are read in place", FEW_HOST, "return aligned and X.strides[1] == X.dtype.itemsize", "return aligned", FEW_PLACES),
    Mutant("few: a copy of chosen rows is indexed again", FEW_HOST, "(chunk.array[numbers], None, numbers)", "(chunk.array[numbers], numbers, numbers)", FEW_NUMBERS),
    Mutant("few: all rows of a chunk's matrix", FEW_HOST, "chunk.array[chunk.start : chunk.start + len(chunk)]", "chunk.array", FEW_LAUNCHES),
    Mutant("few: pieces that end beyond the last feature", FEW_HOST, "d * dtype.itemsize % SEGMENT == 0 and ", "", "shapes_and_types"),
    Mutant("few: old devices, too", FEW_HOST, "capability() >= OLDEST_CAPABILITY", "capability() >= 0", "without_such_copies"),
    Mutant("few: lower precisions, too", FEW_HOST, ' or precision != "highest"', "", "lower_precisions_use"),
    Mutant("few: clusters on devices without them", FEW_HOST, "CLUSTER if arch >= CLUSTERS_SINCE else FLAGS", "CLUSTER", "holds_its_features"),
    Mutant("few: a pass without its leaves", FEW_HOST, "nodes * node + leaves * _leaf_bytes(d, q, K)", "nodes * node", "no_more_memory_than"),
    # ---- gather.cu
    Mutant("gather ignores rows", GATHER, "rows == nullptr ? first + i : rows[i]", "first + i", GATHERED),
    Mutant("gather ignores first", GATHER, "rows == nullptr ? first + i :", "rows == nullptr ? i :", GATHERED),
    Mutant("gather ignores the stride", GATHER, "X + row * stride + p", "X + row * d + p", GATHERED),
    Mutant("gather's row in 32 bits", GATHER, "const long long row =", "const int row =", "gathered_rows_beyond"),
    Mutant("gather's product in 32 bits", GATHER, "row * stride", "(unsigned)(row * stride)", "gathered_rows_beyond"),
    Mutant("gather writes beyond the last row", GATHER, "    if (i >= m) return;\n", "", GATHERED),
    Mutant("gather's packs overlap", GATHER, "at % packs * WIDTH", "at % packs", GATHERED),
    # ---- reduce.cu
    Mutant("sum_rows skips a block's last row", REDUCE, "first + ROWS_A_BLOCK)", "first + ROWS_A_BLOCK - 1)", SUMS),
    Mutant("sum_rows skips the stream's last row", REDUCE, "smaller(n, first", "smaller(n - 1, first", SUMS),
    Mutant("sum_rows counts without weights", REDUCE, "correct += weight;", "correct += 1;", SUMS),
    Mutant("sum_rows takes a label per model", REDUCE, "== labels[i])", "== labels[r])", SUMS),
    Mutant("sum_rows' first row in 32 bits", REDUCE, "(long long)blockIdx.x * ROWS_A_BLOCK", "(int)(blockIdx.x * ROWS_A_BLOCK)", "sums_of_rows_beyond"),
    Mutant("sum_rows' index in 32 bits", REDUCE, "const long long r = i * K + k;", "const int r = i * K + k;", "sums_of_rows_beyond"),
    Mutant("add_partials' index in 32 bits", REDUCE, "((long long)b * K + k) * 2", "(b * K + k) * 2", "sums_of_partials_beyond"),
    Mutant("add_partials forgets what the losses were", REDUCE, "totals[2 * k] += loss;", "totals[2 * k] = loss;", SUMS),
    Mutant("add_partials forgets what was counted", REDUCE, "[2 * k + 1] += correct;", "[2 * k + 1] = correct;", SUMS),
    Mutant("add_partials takes one block alone", REDUCE, "b < n_blocks; b +=", "b < 1; b +=", SUMS),
    # ---- row_loss.cu
    # what all rows have in common
    Mutant("labels by the wrong K", ROW_LOSS, "(long long)((unsigned)r / (unsigned)K)", "(long long)((unsigned)r / (unsigned)(K - 1))", MODELS),
    Mutant("row numbers divided in 32 bits", ROW_LOSS, "r <= 0xffffffffll ? (long long)((unsigned)r / (unsigned)K) : r / K;", "(long long)((unsigned)r / (unsigned)K);", "rows_beyond and rows"),
    Mutant("bias of the wrong model", ROW_LOSS, "bias + (r - i * K) * c;", "bias + (K - 1 - r + i * K) * c;", "several_models and flat"),
    Mutant("bias of the first model for all", ROW_LOSS, "return bias + (r - i * K) * c;", "return bias;", "several_models and flat"),
    Mutant("weights by the row of the data", ROW_LOSS, ": weights[r]; }", ": weights[example(r)]; }", MODELS),
    Mutant("a negative label is taken", ROW_LOSS, "(label < 0 || label >= c)", "(label < -1 || label >= c)", BAD),
    Mutant("the last of equal scores is the best", ROW_LOSS, "if (z > score) {\n                score", "if (z >= score) {\n                score", "equal_scores and flat"),
    Mutant("the target is the best of its equals", ROW_LOSS, "place = smaller(place, (unsigned)column);", "place = (unsigned)column;", "equal_scores"),
    Mutant("the target is never the best", ROW_LOSS, "if (z > score) place = (unsigned)column;\n        else if", "if", FLAT),
    Mutant("the target is not in the top", ROW_LOSS, "        score = maximum(score, z);\n    }\n\n    // The top", "    }\n\n    // The top", FLAT),
    Mutant("each thread's best is the row's", ROW_LOSS, "score == all.score ? place : NOWHERE", "place", "equal_scores"),
    Mutant("hinge margin's sign", COMMON, "m = z - z_t + 1;", "m = z_t - z + 1;", FLAT_HINGE),
    Mutant("hinge margin without its 1", COMMON, "m = z - z_t + 1;", "m = z - z_t;", FLAT_HINGE),
    Mutant("NaN lost in a hinge", COMMON, "return m <= 0 ? (T)0 : m;", "return m > 0 ? m : (T)0;", "not_finite and flat-hinge"),
    Mutant("squared hinge's factor 2 lost", COMMON, "(m > 0 ? (T)1 : m) : 2 * m;", "(m > 0 ? (T)1 : m) : m;", FLAT_SQUARED),
    Mutant("squared hinge not squared", COMMON, "? m : m * m; }", "? m : m; }", FLAT_SQUARED),
    Mutant("max not subtracted from the target", ROW_LOSS, "exponential(z_t - top)", "exponential(z_t)", FLAT),
    Mutant("loss as log of the whole sum", COMMON, "logarithm_1p(z_t == top ? others : total - 1)", "logarithm_1p(total - 1)", DIGITS),
    Mutant("the target's distance from the top is left out", COMMON, "(top - z_t) + logarithm_1p", "logarithm_1p", FLAT),
    Mutant("target's gradient as p_t - 1", ROW_LOSS, "found.of_target = -others * found.factor;", "found.of_target = ((total - others) / total - 1) * weight;", DIGITS),
    Mutant("target's gradient without its weight", ROW_LOSS, "{loss, weight, -slope * weight, true}", "{loss, weight, -slope, true}", "ladder and gradient-unaligned"),
    Mutant("NaN has a best column", ROW_LOSS, "undefined ? -1 :", "false ? -1 :", "without_a_largest"),
    Mutant("a bad label is not reported", ROW_LOSS, "    if (bad) atomicMin(rows.bad_row, (unsigned long long)r);\n", "", BAD),
    Mutant("any bad row is reported, not the first", ROW_LOSS, "if (bad) atomicMin(rows.bad_row, (unsigned long long)r);", "if (bad) *rows.bad_row = (unsigned long long)r;", BAD),
    # rows as segments
    Mutant("a row's place in 32 bits", ROW_LOSS, "rows.scores + r * rows.c;", "rows.scores + (unsigned)(r * rows.c);", "rows_beyond and registers"),
    Mutant("a row's last segment is not there", ROW_LOSS, "return segment * WIDTH < skip + c; }", "return segment * WIDTH < c; }", REGISTERS),
    Mutant("a streamed row lacks its last segment", ROW_LOSS, "return (skip + c + WIDTH - 1) / WIDTH; }", "return (c + WIDTH - 1) / WIDTH; }", READ_TWICE),
    Mutant("columns are counted from the segment's start", ROW_LOSS, "const int j = segment * WIDTH - skip;\n        widen", "const int j = segment * WIDTH;\n        widen", REGISTERS),
    Mutant("what is not the row's is taken", ROW_LOSS, "        if (inside || whole(segment)) return;\n", "        return;\n", REGISTERS),
    Mutant("what lies before the row is taken", ROW_LOSS, "if ((unsigned)(j + e) >= (unsigned)c) z[e] = LOWEST;", "if (j + e >= c) z[e] = LOWEST;", REGISTERS),
    Mutant("what lies behind the row is taken", ROW_LOSS, "if ((unsigned)(j + e) >= (unsigned)c) z[e] = LOWEST;", "if (j + e < 0) z[e] = LOWEST;", REGISTERS),
    Mutant("a segment that is not the row's is taken", ROW_LOSS, "return ALIGNED ? j < c :", "return ALIGNED ? true :", "ladder and float32 and gradient-aligned"),
    Mutant("a row's edge is whole", ROW_LOSS, "(unsigned)j <= (unsigned)(c - WIDTH);", "(unsigned)j < (unsigned)c;", REGISTERS),
    Mutant("bias of the first part for both", ROW_LOSS, "of_segment[p * NEXT_PART];", "of_segment[0];", "whole_bias"),
    Mutant("target in the sum of the others", ROW_LOSS, "                z_t = z[e];\n                z[e] = LOWEST;\n", "                z_t = z[e];\n", REGISTERS),
    Mutant("bias of the first segment for all", ROW_LOSS, "reinterpret_cast<const Part*>(bias) + segment - held, z);", "reinterpret_cast<const Part*>(bias), z);", MODELS),
    Mutant("a streamed row's bias is the first segment's", ROW_LOSS, "bias + (has(segment) ? j : 0)), z);", "bias), z);", "bias_that_does_not_fit"),
    Mutant("a streamed row's edges have the wrong bias", ROW_LOSS, "z[e] += bias[(unsigned)(j + e) < (unsigned)c ? j + e : 0];", "z[e] += bias[0];", "bias_that_does_not_fit"),
    Mutant("a column too many is stored", ROW_LOSS, "if ((unsigned)(j + e) < (unsigned)c) to->", "if ((unsigned)(j + e) <= (unsigned)c) to->", REGISTERS),
    Mutant("a row's first column is not stored", ROW_LOSS, "if ((unsigned)(j + e) < (unsigned)c) to->", "if ((unsigned)(j + e - 1) < (unsigned)(c - 1)) to->", REGISTERS),
    # REGISTERS
    Mutant("a tile's row number in 32 bits", ROW_LOSS, "begin = (long long)blockIdx.x * ROWS;\n    const int n", "begin = (unsigned)(blockIdx.x * ROWS);\n    const int n", "rows_beyond and rows"),
    Mutant("the target's score of another lane", ROW_LOSS, "threadIdx.x % 32 / GROUP * GROUP + owner", "owner", "legal_scores and registers-softmax or ladder and float32-33-"),
    Mutant("a row's edges are taken to be whole", ROW_LOSS, ": ITEMS - 1 - !ALIGNED;", ": ITEMS - !ALIGNED;", "ladder and float32 and gradient"),
    Mutant("a row's first segment is taken to be whole", ROW_LOSS, "(ALIGNED || s > 0);", "true;", REGISTERS),
    Mutant("a row of the data by the block's number", ROW_LOSS, "number : number / (unsigned)rows.K;", "number : number / 1u;", MODELS),
    Mutant("the model of all blocks is the first", ROW_LOSS, "model = number - of_models * rows.K;", "model = 0;", MODELS),
    Mutant("rows of a block are neighbours", ROW_LOSS, "first + threadIdx.x / GROUP * PERIOD,", "first + threadIdx.x / GROUP,", "begin_at_one_place"),
    Mutant("the staged bias is not moved to its place", ROW_LOSS, "* AT_ONCE - before;\n", "* AT_ONCE;\n", "begin_at_one_place"),
    Mutant("the staged bias is of the first model", ROW_LOSS, "rows.bias + (long long)model * rows.c;", "rows.bias;", MODELS),
    Mutant("beyond the bias there is no zero", ROW_LOSS, "            if ((unsigned)j < (unsigned)rows.c) pieces[p] =", "            pieces[p] =", "begin_at_one_place"),
    Mutant("the staged bias is read before it is there", ROW_LOSS, "= pieces[p];\n        }\n        __syncthreads();", "= pieces[p];\n        }", MODELS),
    Mutant("max not subtracted", ROW_LOSS, "exponential(z[s][e] - top.score);", "exponential(z[s][e]);", REGISTERS),
    Mutant("target's gradient not stored", ROW_LOSS, "    if (rows.labelled() && lane == owner) row.store_target(t, found.of_target);\n}", "}", REGISTERS),
    Mutant("a bad row is overwritten", ROW_LOSS, "if (MODE == LOSSES || bad) return;\n#pragma", "if (MODE == LOSSES) return;\n#pragma", BAD),
    Mutant("losses alone overwrite the scores", ROW_LOSS, "if (MODE == LOSSES || bad) return;\n#pragma", "if (bad) return;\n#pragma", "ladder and losses"),
    Mutant("threads without a row store, too", ROW_LOSS, "    if (!present) return;\n", "", REGISTERS),
    # rows of more than a warp
    Mutant("one warp's sum is the row's", ROW_LOSS, "value = reduce<LANES>(place < WARPS ? shared.of_warp[place] : (real_t)0, Sum(), (real_t*)nullptr);", "", BLOCK),
    Mutant("a warp's sum is counted again", ROW_LOSS, "place < WARPS ? shared.of_warp[place] : (real_t)0,", "shared.of_warp[place % WARPS],", BLOCK),
    Mutant("one warp's top is the row's", ROW_LOSS, "const int place = smaller((int)threadIdx.x % LANES, WARPS - 1);", "const int place = threadIdx.x % GROUP / 32;", BLOCK),
    Mutant("the barrier of a row's top", ROW_LOSS, "exchange.of_target = z_t;\n        __syncthreads();", "exchange.of_target = z_t;", BLOCK),
    Mutant("the barrier of a row's sum", ROW_LOSS, "% GROUP / 32] = value;\n        __syncthreads();", "% GROUP / 32] = value;", BLOCK),
    Mutant("rows of a block have one place for what they exchange", ROW_LOSS, "[WARPS == 1 ? 0 : threadIdx.x / GROUP];", "[0];", "ladder and (float32-641 or float32-513)"),
    # rows of more than a block
    Mutant("a cluster without room for its bias", BUCKETS, "spread <= MOST_SPREAD and _bias_bytes(kind, CLUSTER_LANES * items) <= room:", "spread <= MOST_SPREAD:", "spread_over_a_cluster"),
    Mutant("clusters on any device", BUCKETS, "if clusters and spread", "if spread", "spread_over_a_cluster"),
    Mutant("a cluster of more blocks than there may be", BUCKETS, "MOST_SPREAD = 512, 8", "MOST_SPREAD = 512, 16", "spread_over_a_cluster"),
    Mutant("a part of a row begins where the row does", ROW_LOSS, "row.held = rank * HELD;", "row.held = 0;", SPREAD),
    Mutant("the bias of a row's first part for all", ROW_LOSS, ".skip - row.held * WIDTH;", ".skip;", "ladder and 2-blocks"),
    Mutant("the staged bias of a part by the row's segments", ROW_LOSS, "bias) + segment - held, z);", "bias) + segment, z);", "several_models and cluster"),
    Mutant("the last part of a row taken to be whole", ROW_LOSS, "WHOLE = SPREAD > 1 ? 0 : ITEMS", "WHOLE = ITEMS", "ladder and 4-blocks"),
    Mutant("the target's owner by a block's threads", ROW_LOSS, "SPREAD == 1 ? segment % GROUP :", "SPREAD >= 1 ? segment % GROUP :", SPREAD),
    Mutant("a block keeps its sum to itself", ROW_LOSS, "&shared.of_block[blockIdx.x % SPREAD], threadIdx.x, value);", "&shared.of_block[blockIdx.x % SPREAD], blockIdx.x % SPREAD, value);", SPREAD),
    Mutant("the first block's sum is the row's", ROW_LOSS, "for (int b = 1; b < SPREAD; b++) value", "for (int b = 1; b < 1; b++) value", SPREAD),
    Mutant("the top of a block is the row's", ROW_LOSS, "if constexpr (SPREAD > 1) top = top_of_blocks", "if constexpr (SPREAD > 1) top_of_blocks", SPREAD),
    Mutant("the target's score goes to its own block", ROW_LOSS, "store_in_cluster(&exchange.of_target, b, z_t);", "store_in_cluster(&exchange.of_target, blockIdx.x % SPREAD, z_t);", SPREAD),
    Mutant("a store before the row's blocks have begun", ROW_LOSS, "    cluster_wait();  // all blocks have started\n", "", SPREAD),
    Mutant("a row's blocks do not meet", ROW_LOSS, "    cluster_arrive();\n    cluster_wait();\n}", "}", SPREAD),
    Mutant("blocks of a row arrive at no barrier when they begin", ROW_LOSS, "    if (SPREAD > 1) cluster_arrive();  // waited for", "    // waited for", SPREAD),
    Mutant("each block of a row is a row's", ROW_LOSS, "rank = blockIdx.x % SPREAD, number = blockIdx.x / SPREAD;", "rank = blockIdx.x % SPREAD, number = blockIdx.x;", SPREAD),
    # STREAMED
    Mutant("threads' sums not brought to one top", ROW_LOSS, "        if (mine.score != top.score) others *= exponential(mine.score - top.score);\n", "", READ_TWICE),
    Mutant("sum not rescaled to a new top", ROW_LOSS, "others *= exponential(before - mine.score);  //", "others *= 1;  //", READ_TWICE),
    Mutant("a streamed row's second segments are the first's", ROW_LOSS, "load_segment(row.at(segment));\n            }", "load_segment(row.at(first));\n            }", READ_TWICE),
    Mutant("a streamed row's target is not stored", ROW_LOSS, "lane == row.segment_of(t) % THREADS)", "false)", READ_TWICE),
    # FLAT
    Mutant("a tile is read before it is there", ROW_LOSS, "    wait_copies<0>();\n    __syncthreads();", "    wait_copies<0>();", FLAT),
    Mutant("a tile is written before it is whole", ROW_LOSS, "    if (MODE == LOSSES) return;\n\n    __syncthreads();", "    if (MODE == LOSSES) return;\n", FLAT),
    Mutant("max not subtracted by a thread", ROW_LOSS, "z[j] = exponential(z[j] - top.score);", "z[j] = exponential(z[j]);", FLAT),
    Mutant("target in a thread's sum of the others", ROW_LOSS, "            if (j == t) z[j] = LOWEST;\n", "", FLAT),
    Mutant("a thread's target without its bias", ROW_LOSS, "widen(mine[t]) + (BIAS ? bias[t] : (real_t)0);", "widen(mine[t]);", "rows_of_several_models and flat"),
    Mutant("a thread's target is not stored", ROW_LOSS, "        if (rows.labelled()) narrow(found.of_target, mine[t]);\n", "", FLAT),
    Mutant("a tile's first row in 32 bits", ROW_LOSS, "rows.scores + begin * COLUMNS;", "rows.scores + (unsigned)(begin * COLUMNS);", "rows_beyond and flat"),
    Mutant("a bad row of a thread is overwritten", ROW_LOSS, "if (MODE == LOSSES || bad) continue;", "if (MODE == LOSSES) continue;", BAD),
    # ---- sgd_steps.cu, and sgd_steps.py
    Mutant("a step's batch is the first one's", SGD_STEPS, "X + rows[(long long)*step * batch + i] * stride;", "X + rows[i] * stride;", STEPS),
    Mutant("weights are not divided by the scale", SGD_STEPS, "/ scale[p])\n", "/ 1.0)\n", STEPS),
    Mutant("the shift is not in the scores", SGD_STEPS, "(float)((double)b[threadIdx.x] - offset);", "b[threadIdx.x];", STEPS),
    Mutant("the first part of the scores is all", SGD_STEPS, "part < n_parts; part++) sum +=", "part < 1; part++) sum +=", STEPS),
    Mutant("labels by the row of the batch", SGD_STEPS, "const int t = labels[row];", "const int t = labels[begin + r / MODELS];", STEPS),
    Mutant("a step's target in the sum of the others", SGD_STEPS, "if (j != t) others += z[j]", "others += z[j]", STEPS),
    Mutant("a step's hinge counts the target", SGD_STEPS, "            if (j == t) continue;\n", "", "separate_steps and svm"),
    Mutant("rows of a step are not weighted", SGD_STEPS, "scores[j] *= (float)weight;", "scores[j] *= 1;", "separate_steps and weighted"),
    Mutant("losses of a step are not weighted", SGD_STEPS, "row_losses[2 * r] = weight *", "row_losses[2 * r] = ", "separate_steps and weighted"),
    Mutant("gradients of a block of rows at the top", SGD_STEPS, "gradients[(long long)begin * COLUMNS + e] =", "gradients[e] =", STEPS),
    Mutant("the intercepts' gradient of the first block of rows", SGD_STEPS, "block < blocks; block++) sum +=", "block < 1; block++) sum +=", STEPS),
    Mutant("the rows of a tile are counted from zero", SGD_STEPS, "(long long)*step * batch + i] * stride + p]", "(long long)*step * batch + i % TILE] * stride + p]", STEPS),
    Mutant("the tile before may still be used", SGD_STEPS, "        __syncthreads();  // the tile before has been used\n", "", STEPS),
    Mutant("one group of rows is all", SGD_STEPS, "g < GROUPS; g++) sum += shared", "g < 1; g++) sum += shared", STEPS),
    Mutant("the shift is not in the gradient", SGD_STEPS, "if (SHIFTED) gradient -=", "if (false) gradient -=", STEPS),
    Mutant("the gradient is not divided by the scale", SGD_STEPS, "if (SCALED) gradient /=", "if (false) gradient /=", STEPS),
    Mutant("a step without a penalty", SGD_STEPS, "        gradient += (float)strengths[k] * (r * *w);\n", "", "separate_steps and penalised"),
    Mutant("momentum forgotten", SGD_STEPS, "*velocity * momentum + gradient;", "gradient;", "separate_steps and momentum"),
    Mutant("Nesterov's step is the plain one", SGD_STEPS, "NESTEROV ? gradient + momentum * v : v;", "v;", "separate_steps and nesterov"),
    Mutant("the rate of the first step", SGD_STEPS, "now = rates + (long long)*step * MODELS;", "now = rates;", "separate_steps and cosine"),
    Mutant("intercepts that are not to be fitted", SGD_STEPS, "threadIdx.x < COLUMNS && FIT_INTERCEPT)", "threadIdx.x < COLUMNS)", "separate_steps and intercept"),
    Mutant("the penalty is not in the value", SGD_STEPS, "loss + 0.5 * strengths[k] * norm;", "loss;", "separate_steps and penalised"),
    Mutant("accuracy without its scale", SGD_STEPS, "m * (correct * row_scale(sums, k, n, m));", "correct;", STEPS),
    Mutant("the step is not counted", SGD_STEPS, "*step = now + 1;", "*step = now;", STEPS),
    Mutant("the last batch is left out", SGD_STEPS_HOST, "            stretch.take(rest)\n", "            pass\n", STEPS),
    Mutant("a graph a time too many", SGD_STEPS_HOST, "for _ in range(times - 1):", "for _ in range(times):", STEPS),
    Mutant("a graph does not wait for what was queued", SGD_STEPS_HOST, "        stream.wait_event(recorded(current))\n", "", STEPS),
    Mutant("nothing waits for the graphs", SGD_STEPS_HOST, "        current.wait_event(recorded(stream))\n", "", STEPS),
    Mutant("update's grid a block short", SGD_STEPS_HOST, "lambda m: (parts,), *numbered, n,", "lambda m: (parts - 1,), *numbered, n,", STEPS),
    Mutant("score_parts' grid a block short", SGD_STEPS_HOST, "(parts, -(-m // THREADS))", "(parts, max(1, m // THREADS))", "separate_steps and several_blocks"),
    Mutant("row_gradients' grid a block short", SGD_STEPS_HOST, "lambda m: (-(-m // BLOCK_ROWS),)", "lambda m: (max(1, m // BLOCK_ROWS),)", STEPS),
    Mutant("vectors of an odd number of features", SGD_STEPS_HOST, "X.strides[0] % 16 == d * item % 16 == 0", "0", "separate_steps"),
    # ---- buckets.py
    Mutant("an unaligned row in a variant too small for it", BUCKETS, "(0 if aligned else width - 1)", "0", STARTS),
    Mutant("the address is not looked at", BUCKETS, "(address % SEGMENT, c * size % SEGMENT) == (0, 0)", "c * size % SEGMENT == 0", STARTS),
    Mutant("the length is not looked at", BUCKETS, "(address % SEGMENT, c * size % SEGMENT) == (0, 0)", "address % SEGMENT == 0", STARTS),
    Mutant("packs of an unaligned tile", BUCKETS, "while aligned and 2 * pack", "while 2 * pack", STARTS),
    Mutant("packs across rows", BUCKETS, "and c % (2 * pack) == 0:", ":", STARTS),
    Mutant("shared memory that a block keeps is not counted", BUCKETS, "room = shared - SHARED_KEPT", "room = shared", "device_lacks"),
    Mutant("a row has a segment too many", BUCKETS, "items = -(-touched // lanes)", "items = touched // lanes + 1", STARTS),
    Mutant("rows of a block begin at different places", BUCKETS, "period = 1 if aligned else SEGMENT // size", "period = 1", STARTS),
    Mutant("shared memory is not asked for", ROW_LOSSES, "> SHARED_UNASKED:", "> 10 * SHARED_UNASKED:", "without_a_largest"),
    Mutant("the bias' address is not looked at", ROW_LOSSES, "Z.data.ptr | b.data.ptr", "Z.data.ptr", "unaligned_bias"),
    # ---- compile.py
    Mutant("kernels of one device are launched on another", COMPILE, "_compiled(cupy.cuda.runtime.getDevice(), ", "_compiled(0, ", "its_own_compiled"),
    # ---- blas.py
    Mutant("product without transpose", BLAS, "cublas.CUBLAS_OP_T if transpose_a else cublas.CUBLAS_OP_N", "cublas.CUBLAS_OP_N", REFERENCE),
    Mutant("product with a wrong leading dimension", BLAS, "kinds[a.dtype], a.shape[1],", "kinds[a.dtype], a.shape[0],", REFERENCE),
    Mutant("product ignores beta", BLAS, "np.array([1.0, beta]", "np.array([1.0, 0.0]", CHUNKS),
    Mutant("product's scalars of another type", BLAS, "[1.0, beta], dtype=out.dtype)", "[1.0, beta], dtype=np.float64)", REFERENCE),
    Mutant("product ignores the precision high", BLAS, 'if precision == "high" else', 'if precision == "TF32" else', PRECISION),
    Mutant("product in TF32 without being asked", BLAS, 'if precision == "high" else', 'if precision != "medium" else', REFERENCE),
    # ---- memory.py
    Mutant("a tensor that wants a gradient is exported", MEMORY, 'x.detach() if hasattr(x, "detach") else x', "x", "torch_tensors"),
    Mutant("an array that does not fit is not explained", MEMORY, "except cupy.cuda.memory.OutOfMemoryError as error:", "except ZeroDivisionError as error:", "features_that_do_not_fit"),
    Mutant("what is missing counts what is free", MEMORY, "max(needed - free, 0)", "needed", FIT),
    # ---- ops.py, and what it calls: row_losses.py, gradients.py, column_sums.py
    Mutant("row_loss' grid a block short", BUCKETS, "return -(-rows // (self.rows * together)) * together", "return max(1, rows // (self.rows * together)) * together", REFERENCE),
    Mutant("gather's grid a block short", CHUNKING, "(-(-m * d // (256 * width)),)", "(max(1, m * d // (256 * width)),)", REFERENCE),
    Mutant("sum_rows' grid a block short", ROW_LOSSES, "blocks = KINDS[losses.dtype], -(-m // ROWS_A_SUM)", "blocks = KINDS[losses.dtype], max(1, m // ROWS_A_SUM)", BLOCKS),
    Mutant("a block of sum_rows thought longer than it is", ROW_LOSSES, "ROWS_A_SUM = 4096", "ROWS_A_SUM = 8192", BLOCKS),
    Mutant("c and K swapped", ROW_LOSSES, "np.int32(c), np.int32(K)", "np.int32(K), np.int32(c)", REFERENCE),
    Mutant("stride and first swapped", CHUNKING, "np.int64(stride), indices, np.int64(first)", "np.int64(first), indices, np.int64(stride)", REFERENCE),
    Mutant("m and d swapped", CHUNKING, "np.uint32(m), np.uint32(d)", "np.uint32(d), np.uint32(m)", REFERENCE),
    Mutant("losses and best swapped", ROW_LOSSES, "losses, columns, bad_row,\n", "columns, losses, bad_row,\n", REFERENCE),
    Mutant("best and labels swapped", ROW_LOSSES, "(losses, best, labels, or_", "(losses, labels, best, or_", BLOCKS),
    Mutant("blocks and K swapped", ROW_LOSSES, "(blocks, K),", "(K, blocks),", REFERENCE),
    Mutant("a scalar too wide", ROW_LOSSES, "np.int32(c)", "np.int64(c)", REFERENCE),
    Mutant("a scalar of Python", ROW_LOSSES, "np.int64(rows)", "rows", REFERENCE),
    Mutant("best of 64 bits", ROW_LOSSES, "cupy.empty(rows, dtype=np.int32) if best", "cupy.empty(rows, dtype=np.int64) if best", REFERENCE),
    Mutant("losses of float64 always", ROW_LOSSES, "cupy.empty(rows, dtype=computed)", "cupy.empty(rows, dtype=np.float64)", REFERENCE),
    Mutant("losses a row too short", ROW_LOSSES, "cupy.empty(rows, dtype=computed)", "cupy.empty(rows - 1, dtype=computed)", REFERENCE),
    Mutant("partials of one block", ROW_LOSSES, "cupy.empty((blocks, K, 2)", "cupy.empty((1, K, 2)", BLOCKS),
    Mutant("bias left out", ROW_LOSSES, "or_nothing(b),", "NOTHING,", REFERENCE),
    Mutant("weights left out of the gradient", ROW_LOSSES, "or_nothing(labels), or_nothing(weights),\n", "or_nothing(labels), NOTHING,\n", REFERENCE),
    Mutant("weights left out of the sums", ROW_LOSSES, "(losses, best, labels, or_nothing(weights),", "(losses, best, labels, NOTHING,", REFERENCE),
    Mutant("labels not sliced by chunk", GRADIENTS, "t, s = labels[picked]", "t, s = labels", CHUNKS),
    Mutant("weights not sliced by chunk", GRADIENTS, "None if weights is None else weights[picked]", "weights", CHUNKS),
    Mutant("labels of a batch in the data's order", CHUNKING, "return part if rows is None else rows[part]", "return part", "sums_per_model and picked"),
    Mutant("the same features for every chunk", CHUNKING, "at = self.start if self.rows is None else self.first", "at = 0", CHUNKS),
    Mutant("a view taken for contiguous", CHUNKING, "target == X.dtype and X.flags.c_contiguous and", "target == X.dtype and", VIEWS),
    Mutant("ascontiguousarray dropped", CHUNKING, "X = cupy.ascontiguousarray(X[first", "(X[first", VIEWS),
    Mutant("the stride is d", CHUNKING, "stride = X.strides[0] // size", "stride = d", VIEWS),
    Mutant("rows of an odd stride in packs of 4", CHUNKING, "d % 4 == 0 and stride % 4 == 0 and", "d % 4 == 0 and", VIEWS),
    Mutant("rows from a misaligned address in packs of 4", CHUNKING, " and X.data.ptr % (4 * size) == 0", "", VIEWS),
    Mutant("odd rows in packs of 4", CHUNKING, "wide = d % 4 == 0 and", "wide =", VIEWS),
    Mutant("indices not sliced by chunk", CHUNKING, "indices = NOTHING if rows is None else rows[first : first + m]", "indices = NOTHING if rows is None else rows[:m]", CHUNKS),
    Mutant("features stay float32 at precision medium", OPERANDS, 'if precision == "medium":', 'if precision == "least":', PRECISION),
    Mutant("precision of products ignored", OPERANDS, "beta=1.0 if number else beta, precision=self.precision,", "beta=1.0 if number else beta,", PRECISION),
    Mutant("precision of predictions ignored", OPS, "operands(X.dtype, self.precision)", 'operands(X.dtype, "highest")', PRECISION),
    Mutant("gradient of the last chunk alone", GRADIENTS, "multiplied.of(Z), sums[:d], transpose=True, beta=beta)", "multiplied.of(Z), sums[:d], transpose=True)", CHUNKS),
    Mutant("the last term alone", OPERANDS, "beta=1.0 if number else beta", "beta=beta", NARROW),
    Mutant("terms without their scale", OPERANDS, "scalars=terms.scalars,", "scalars=None,", NARROW),
    Mutant("two terms of bfloat16", OPERANDS, "Operands(BFLOAT16, 3,", "Operands(BFLOAT16, 2,", NARROW),
    Mutant("one term of float16", OPERANDS, "Operands(np.dtype(np.float16), 2,", "Operands(np.dtype(np.float16), 1,", NARROW),
    Mutant("narrow features are widened", OPERANDS, "dtype in (np.float16, np.uint8):", "dtype == np.uint8:", NARROW),
    Mutant("the memory of terms is not counted", OPERANDS, "n * self.terms * self.type.itemsize", "0", KNOWN),
    Mutant("scalars are taken from the host", BLAS, "        cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_DEVICE)\n", "", NARROW),
    Mutant("scalars of all products are on the device", BLAS, "            cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_HOST)\n", "            pass\n", NARROW),
    Mutant("beta of a term is its scale", BLAS, "4 * (1 + int(beta))", "4 * int(beta)", NARROW),
    # ---- what no result shows in some order of threads, or in any
    Mutant("the step is counted while lanes read it", SGD_STEPS, "    __syncwarp();\n    if (threadIdx.x == 0) *step", "    if (threadIdx.x == 0) *step", "do_is_in_order and steps"),
    Mutant("intercepts change while their norm is taken", SGD_STEPS, "    __syncthreads();\n    if (blockIdx.x == 0 && threadIdx.x < COLUMNS && FIT_INTERCEPT)", "    if (blockIdx.x == 0 && threadIdx.x < COLUMNS && FIT_INTERCEPT)", "do_is_in_order and steps"),
    Mutant("a row's second sums where the first are still read", ROW_LOSS, "slope = sum_row(slope, exchange.second);\n        found = hinge_outcome(loss, slope, weight);\n    }\n\n    if (!present)", "slope = sum_row(slope, exchange.sum);\n        found = hinge_outcome(loss, slope, weight);\n    }\n\n    if (!present)", "use_is_in_order and registers-1x2400"),
    Mutant("a load for each feature", SGD_STEPS, "    return load_segment(reinterpret_cast<const Features*>(from));\n", "    Features each;\n    for (int e = 0; e < WIDTH; e++) each.element[e] = from[e];\n    return each;\n", "a_step_of_sgd"),
    Mutant("scores of a step in the same banks", SGD_STEPS, "#define APART (CLASSES | 1)", "#define APART CLASSES", "a_step_of_sgd"),
    Mutant("a step's dW in the same banks", SGD_STEPS, "#define PITCH (COLUMNS | 1)", "#define PITCH COLUMNS", "a_step_of_sgd"),
    Mutant("largest of numbers beside each other", SPLIT, "i = first + e * THREADS;", "i = first + threadIdx.x * 3 + e;", "splitting_reads"),
    Mutant("losses beside each other for a thread", REDUCE, "i = first + threadIdx.x; i < last; i += THREADS", "i = first + 16 * threadIdx.x; i < smaller(last, first + 16 * threadIdx.x + 16); i++", "sums_of_rows"),
    Mutant("few: a thread's segments beside each other", FEW, "feature[p] = ((rank * PIECES + p) * THREADS + threadIdx.x) * SEGMENT;", "feature[p] = ((rank * THREADS + threadIdx.x) * PIECES + p) * SEGMENT;", "few_classes_reads_x_once"),
    # ---- split.cu
    Mutant("the largest of the first lane", SPLIT, "        most = other > most ? other : most;\n    }\n", "    }\n", HALVES),
    Mutant("the largest with its sign", SPLIT, "return __float_as_uint(x) & 0x7fffffffu; }", "return __float_as_uint(x); }", HALVES),
    Mutant("a thread's last number is not looked at", SPLIT, "for (int e = 0; e < 4; e++) {\n        const long long i", "for (int e = 0; e < 3; e++) {\n        const long long i", HALVES),
    Mutant("numbers are scaled to twice as much", SPLIT, "- (AT_MOST - 1);\n    const float scale", "- AT_MOST;\n    const float scale", HALVES),
    Mutant("the second term repeats the first", SPLIT, "rest.element[e] -= widen(term.element[e]);", "rest.element[e] -= 0;", HALVES),
    Mutant("terms over one another", SPLIT, "terms + t * n + at)", "terms + at)", HALVES),
    Mutant("terms beyond the last number", SPLIT, "    if (at >= n) return;\n", "", HALVES),
    Mutant("the scale of almost nothing", SPLIT, "(exponent < -112 ? -112 : exponent)", "exponent", "almost_nothing"),
    Mutant("bfloat16 scaled", SPLIT, "bits == nullptr ? AT_MOST - 1 :", "bits == nullptr ? 0 :", "float32"),
    Mutant("split numbers in 32 bits", SPLIT, "at = ((long long)blockIdx.x * THREADS + threadIdx.x) * WIDTH;", "at = (int)((blockIdx.x * THREADS + threadIdx.x) * WIDTH);", "split_beyond"),
    Mutant("the largest of the first numbers in 32 bits", SPLIT, "first = (long long)blockIdx.x * (4 * THREADS) + threadIdx.x;", "first = (int)(blockIdx.x * (4 * THREADS) + threadIdx.x);", "split_beyond"),
    Mutant("bias' gradient of the last chunk alone", GRADIENTS, "sums[d:], transpose_a=True, beta=beta)", "sums[d:], transpose_a=True, beta=0.0)", CHUNKS),
    Mutant("losses of the last chunk alone", GRADIENTS, "            add_up(losses, best, t, s, own_totals)\n", "            own_totals[:] = 0.0\n            add_up(losses, best, t, s, own_totals)\n", CHUNKS),
    Mutant("every loss is the softmax", ROW_LOSSES, '"LOSS": loss,', '"LOSS": 0,', REFERENCE),
    Mutant("scores of the first chunk for all", OPS, "multiplied.multiply(chunk.converted(multiplied.type),", "multiplied.multiply(converted(X, None, 0, len(chunk), multiplied.type),", SCORES),
    Mutant("scores without the bias", OPS, "            Z += b\n", "            pass\n", SCORES),
    Mutant("best columns of the first chunk for all", OPS, "part = out[chunk.here]", "part = out[: len(chunk)]", SCORES),
    Mutant("best columns without the bias", OPS, "out[...] = self._best(Z, b)", "out[...] = self._best(Z, None)", "without_a_largest"),
    Mutant("probabilities without the bias", OPS, "            self._softmax(Z, b)", "            self._softmax(Z, None)", SCORES),
    Mutant("a bad label is not reported to the user", OPS, "if bad_row < Z.shape[0] * Z.shape[1]:", "if False:", "bad_label"),
    Mutant("a bad label is reported by the kernel's row", OPS, "row, c = bad_row // Z.shape[1],", "row, c = bad_row,", "number_of_models"),
    Mutant("a gradient is made where losses are asked for", GRADIENTS, "(d + 1 if self.with_gradient else 0, q)", "(d + 1, q)", "losses_alone_take"),
    Mutant("the memory of conversions is not counted", GRADIENTS, " + converted + ROUNDING_BYTES", " + ROUNDING_BYTES", KNOWN),
    Mutant("a chunk outlives its visit", CHUNKING, "            work(chunk)\n", "            kept = chunk.converted(np.dtype(np.float32))\n            work(chunk)\n", KNOWN),
    Mutant("out of memory is not expected", CHUNKING, "except cupy.cuda.memory.OutOfMemoryError as error:", "except ZeroDivisionError as error:", "runs_short"),
    Mutant("moments without weights", COLUMN_SUMS, "s *= weights[chunk.picked].reshape(-1, 1)", "pass", MOMENTS),
    Mutant("moments' weights not sliced by chunk", COLUMN_SUMS, "s *= weights[chunk.picked].reshape", "s *= weights[: len(x)].reshape", MOMENTS),
    Mutant("moments of the last chunk alone", COLUMN_SUMS, "second_moment.reshape(1, d), transpose_a=True, beta=beta)", "second_moment.reshape(1, d), transpose_a=True)", MOMENTS),
    Mutant("moments far from the data", COLUMN_SUMS, "x, s = chunk.converted(DOUBLE) - centre,", "x, s = chunk.converted(DOUBLE) - 0.0,", MOMENTS),
    Mutant("label sums of the last chunk alone", COLUMN_SUMS, "q, sums, transpose_a=True, beta=beta)", "q, sums, transpose_a=True, beta=0.0)", LABELS),
    Mutant("label totals of the last chunk alone", COLUMN_SUMS, "totals.reshape(1, width), transpose_a=True, beta=beta)", "totals.reshape(1, width), transpose_a=True, beta=0.0)", LABELS),
    Mutant("weights of label sums not sliced by chunk", OPS, "labels[here], weights[here], class_weight", "labels[here], weights[: part.stop - part.start], class_weight", LABELS),
    Mutant("labels of label sums not sliced by chunk", OPS, "labels[here], weights[here], class_weight", "labels[: part.stop - part.start], weights[here], class_weight", LABELS),
    Mutant("proportions not sliced by chunk", OPS, "proportions[here]", "proportions[: part.stop - part.start]", LABELS),
    # ---- chunks.py, copying.py
    Mutant("an unaligned operand", CHUNKING, " and X.data.ptr % ALIGNMENT == 0:", ":", "odd_address"),
    Mutant("the memory of live leaves is not counted", CHUNKING, "return n_leaves.bit_length()", "return 1", KNOWN),
    Mutant("the memory for rows is not expected to run short", COPYING, "except cupy.cuda.memory.OutOfMemoryError as error:", "except ZeroDivisionError as error:", "rows_that_do_not_fit"),
    Mutant("pinned memory is not expected to run short", COPYING, "except cupy.cuda.runtime.CUDARuntimeError as error:", "except ZeroDivisionError as error:", "pinned_memory"),
    Mutant("best of scores without its columns", OPS, "no_bad_row())[1].reshape(Z.shape[:2])", "no_bad_row())[0].reshape(Z.shape[:2])", SMALL),
    Mutant("coefficients of the first chunk for all", OPS, "lambda part: Q[part]", "lambda part: Q[: part.stop - part.start]", DENSE_PRODUCTS),
    Mutant("leaves go on from the one before", CHUNKING, "0.0 if is_first else 1.0)", "1.0)", TREE),
    Mutant("a leaf is its last chunk", CHUNKING, "0.0 if is_first else 1.0)", "0.0)", TREE),
    Mutant("leaves of a part have the numbers of the first", CHUNKING, "before + chunk.first // length, leaf.pop()", "chunk.first // length, leaf.pop()", "over_parts"),
    Mutant("the last leaf is left out if it is short", CHUNKING, "if chunk.stop % length == 0 or chunk.stop == n:", "if chunk.stop % length == 0:", TREE),
    Mutant("out of memory is swallowed", CHUNKING, "        raise shortage(needed", "        return\n        raise shortage(needed", "runs_short"),
    Mutant("kernels do not wait for the copies of their chunk", COPYING, "                computing.wait_event(recorded(copies.stream))\n", "", STREAMED),
    Mutant("copies do not wait for the kernels that used the buffer", COPYING, "                copies.stream.wait_event(released[turn])\n", "                pass\n", STREAMED),
    Mutant("copies wait for the kernels of the chunk before", COPYING, "copies.stream.wait_event(released[turn])", "copies.stream.wait_event(recorded(computing))", "no_later_ones"),
    Mutant("a buffer is released before its kernels are queued", COPYING, "                yield first - at, buffers[turn][:filled]\n                released[turn] = recorded(computing)\n", "                released[turn] = recorded(computing)\n                yield first - at, buffers[turn][:filled]\n", STREAMED),
    Mutant("copies to fresh memory wait for nothing", COPYING, "released = [recorded(computing) for _ in buffers]", "released = [cupy.cuda.Event(disable_timing=True) for _ in buffers]", STREAMED),
    Mutant("an upload does not wait for what used its memory", COPYING, "        copies.stream.wait_event(recorded(cupy.cuda.get_current_stream()))\n", "", "was_freed"),
    Mutant("a pinned buffer is overwritten before it is copied", COPYING, "            copied.synchronize()\n", "", STREAMED),
    Mutant("it is not noted when a pinned buffer was copied", COPYING, "            copied.record(self.stream)\n", "", STREAMED),
    Mutant("copies are left behind", COPYING, "        self.stream.synchronize()  #", "        pass  #", "left_early"),
    Mutant("copies wait for the default stream", COPYING, "cupy.cuda.Stream(non_blocking=True)", "cupy.cuda.Stream()", STREAMED),
    Mutant("rows at their place in the block", COPYING, "copies.copy(block, buffers[turn][at:filled])", "copies.copy(block, buffers[turn][: len(block)])", STREAMED),
    Mutant("blocks go across chunks", COPYING, "in X.blocks(READ_ROWS, step):", "in X.blocks(READ_ROWS):", STREAMED),
    Mutant("the last chunk is not handed out", COPYING, "if filled == step or first + len(block) == n:", "if filled == step:", STREAMED),
    Mutant("uploaded rows at the top", COPYING, "found[first : first + len(block)]", "found[: len(block)]", "was_freed"),
    Mutant("one of two buffers for rows is not counted", COPYING, "return n_buffers(n, step) * min(n, step)", "return min(n, step)", KNOWN),
    # ---- sparse.cu
    Mutant("a segment's last entry is left out", SPARSE, "const long long stop = smaller(task.stop, first + SEGMENT);", "const long long stop = smaller(task.stop, first + SEGMENT - 1);", PRODUCTS),
    Mutant("a segment goes on into the next", SPARSE, "stop = n_extra > 0 ? smaller(end, first + SEGMENT) : end;", "stop = n_extra > 0 ? smaller(end, first + SEGMENT + 1) : end;", PRODUCTS),
    Mutant("a row of one segment thought longer", SPARSE, "complete = !extra && stop == end;", "complete = !extra && stop == end && end - first < SEGMENT;", PRODUCTS),
    Mutant("a row's warp sums it all, although it is cut", SPARSE, "stop = n_extra > 0 ? smaller(end, first + SEGMENT) : end;", "stop = extra ? smaller(end, first + SEGMENT) : end;", PRODUCTS),
    Mutant("a row without a list ends after a segment", SPARSE, "stop = n_extra > 0 ? smaller(end, first + SEGMENT) : end;", "stop = smaller(end, first + SEGMENT);", CHOSEN),
    Mutant("a further segment begins with its row", SPARSE, "first = extra ? extra_firsts[number - n] : indptr[row];", "first = indptr[row];", PRODUCTS),
    Mutant("a further segment goes on into the next row", SPARSE, "const long long end = indptr[row + 1];\n        stop", "const long long end = extra ? first + SEGMENT : indptr[row + 1];\n        stop", PRODUCTS),
    Mutant("chosen rows are ignored", SPARSE, "rows == nullptr ? number : rows[number];", "number;", CHOSEN),
    Mutant("a warp too many", SPARSE, "if (task.number >= n + n_extra) return;\n    const int lane = threadIdx.x % 32, part", "if (task.number > n + n_extra) return;\n    const int lane = threadIdx.x % 32, part", PRODUCTS),
    Mutant("the last 32 entries are counted as 32", SPARSE, "(int)smaller(stop - k, 32ll);", "32;", PRODUCTS),
    Mutant("lanes without an entry load one", SPARSE, "if (lane < count) {", "if (true) {", "sanitizers", sanitized=True),
    Mutant("entries that are not there are added", SPARSE, "if (from < count && column", "if (column", PRODUCTS),
    Mutant("the last column is left out", SPARSE, "if (from < count && column + j * LANES < q)", "if (from < count && column + j * LANES < q - 1)", PRODUCTS),
    Mutant("a column too many is written", SPARSE, "if (part == 0 && at < q) to", "if (part == 0 && at <= q) to", PRODUCTS),
    Mutant("columns of the first block alone", SPARSE, "(int)blockIdx.y * (LANES * COLUMNS) + lane", "lane", PRODUCTS),
    Mutant("a lane's columns are neighbours", SPARSE, "sum[j] += x * row[column + j * LANES];", "sum[j] += x * row[column + j];", PRODUCTS),
    Mutant("a shuffle that names half of the warp", SPARSE, "(long long)__shfl_sync(FULL_WARP, index, from)", "(long long)__shfl_sync(0xffffu, index, from)", PRODUCTS),
    Mutant("values of the wrong lane", SPARSE, "__shfl_sync(FULL_WARP, value, from)", "__shfl_sync(FULL_WARP, value, e)", PRODUCTS),
    Mutant("the parts of a warp are not added", SPARSE, "offset < 32; offset *= 2) sum", "offset < 16; offset *= 2) sum", PRODUCTS),
    Mutant("a row without a list is one segment", SPARSE, "first += SEGMENT) {\n        const long long stop = smaller(task.stop, first + SEGMENT);", "first = task.stop) {\n        const long long stop = task.stop;", "bits_of_a_product"),
    Mutant("the last segment replaces the sum", SPARSE, "total[j] += sum[j];\n        }\n    }\n", "total[j] = sum[j];\n        }\n    }\n", CHOSEN),
    Mutant("bias dropped", SPARSE, "bias != nullptr && task.complete ? total[j] + bias[at] : total[j];", "total[j];", PRODUCTS),
    Mutant("bias of a long row added twice", SPARSE, "bias != nullptr && task.complete ?", "bias != nullptr ?", PRODUCTS),
    Mutant("bias of a long row dropped", SPARSE, "*to = bias == nullptr ? total : total + bias[j];", "*to = total;", PRODUCTS),
    Mutant("squares ignored", SPARSE, "return SQUARED ? x * x : x;", "return x;", PRODUCTS),
    Mutant("values taken for ones", SPARSE, "if (VALUE == ONES) return 1;", "if (VALUE == ONES || VALUE == UINT8) return 1;", PRODUCTS),
    Mutant("doubles multiplied as floats", SPARSE, "const real_t x = (real_t)widen(values[k]);", "const real_t x = (real_t)(float)widen(values[k]);", "every_sum"),
    Mutant("the first partial sum is left out", SPARSE, "s = starts[i]; s < starts[i + 1]", "s = starts[i] + 1; s < starts[i + 1]", PRODUCTS),
    Mutant("partial sums go on into the next row's", SPARSE, "s < starts[i + 1]; s++", "s <= starts[i + 1]; s++", PRODUCTS),
    Mutant("the first segment is forgotten", SPARSE, "real_t total = *to;", "real_t total = 0;", PRODUCTS),
    Mutant("partial sums by the wrong row", SPARSE, "out + long_rows[i] * q + j;", "out + i * q + j;", PRODUCTS),
    Mutant("the last long row is not added up", SPARSE, "if (at >= n_long * q) return;", "if (at >= (n_long - 1) * q) return;", PRODUCTS),
    Mutant("weights by the entry", SPARSE, "s = weights[indices[k]]", "s = weights[k - task.first]", COLUMNS),
    Mutant("the centre of a warp's number", SPARSE, "middle = centre[task.row];", "middle = centre[task.number % n];", COLUMNS),
    Mutant("squares about zero", SPARSE, "off = x - middle;", "off = x;", COLUMNS),
    Mutant("a column's first entry is left out", SPARSE, "k = task.first + lane; k < task.stop", "k = task.first + lane + 1; k < task.stop", COLUMNS),
    Mutant("one lane's sums are a column's", SPARSE, "const double total = reduce<32>(sums[j], Sum(), (double*)nullptr);", "const double total = sums[j];", COLUMNS),
    Mutant("columns that are left out are filled", SPARSE, "if (at >= 0) out", "if (at >= -1) out", FILLED),
    Mutant("filled rows by their own number", SPARSE, "out[i * width + at]", "out[rows[i] * width + at]", FILLED),
    Mutant("a row is filled by its first 32 entries", SPARSE, "k < end; k += 32) {\n        const int at", "k < end; k += 32000) {\n        const int at", FILLED),
    Mutant("sparse warps in 32 bits", SPARSE, "number = (long long)blockIdx.x * WARPS", "number = (int)(blockIdx.x * WARPS)", SPARSE_FAR),
    Mutant("sparse entries in 32 bits", SPARSE, "index = indices[k + lane];", "index = indices[(unsigned)(k + lane)];", SPARSE_FAR),
    Mutant("the first entry of a row in 32 bits", SPARSE, "first = extra ? extra_firsts[number - n] : indptr[row];", "first = (unsigned)(extra ? extra_firsts[number - n] : indptr[row]);", SPARSE_FAR),
    Mutant("a picked row's place in 32 bits", SPARSE, "M + (long long)__shfl_sync(FULL_WARP, index, from) * q;", "M + (unsigned)(__shfl_sync(FULL_WARP, index, from) * (unsigned)q);", SPARSE_FAR),
    Mutant("a written row's place in 32 bits", SPARSE, ": out + task.number * q;", ": out + (unsigned)(task.number * q);", SPARSE_FAR),
    Mutant("a partial sum's place in 32 bits", SPARSE, "partials + (task.number - n) * q :", "partials + (unsigned)((task.number - n) * q) :", SPARSE_FAR),
    Mutant("sums of a column's place in 32 bits", SPARSE, ": out + task.number * 3;", ": out + (unsigned)(task.number * 3);", SPARSE_FAR),
    Mutant("a column's entries in 32 bits", SPARSE, "s = weights[indices[k]]", "s = weights[indices[(unsigned)k]]", SPARSE_FAR),
    Mutant("long rows in 32 bits", SPARSE, "at = (long long)blockIdx.x * THREADS + threadIdx.x;", "at = (unsigned)(blockIdx.x * THREADS + threadIdx.x);", SPARSE_FAR),
    Mutant("a long row's place in 32 bits", SPARSE, "out + long_rows[i] * q + j;", "out + (unsigned)(long_rows[i] * q + j);", SPARSE_FAR),
    Mutant("an added partial sum's place in 32 bits", SPARSE, "partials[s * q + j];", "partials[(unsigned)(s * q + j)];", SPARSE_FAR),
    Mutant("filled entries in 32 bits", SPARSE, "int at = place[indices[k]];", "int at = place[indices[(unsigned)k]];", SPARSE_FAR),
    Mutant("a filled row's number in 32 bits", SPARSE, "i = (long long)blockIdx.x * WARPS + threadIdx.x / 32;\n    if (i >= n)", "i = (int)(blockIdx.x * WARPS) + threadIdx.x / 32;\n    if (i >= n)", SPARSE_FAR),
    Mutant("a filled row's place in 32 bits", SPARSE, "out[i * width + at]", "out[(unsigned)(i * width + at)]", SPARSE_FAR),
    # ---- cuda/sparse.py
    Mutant("a segment of exactly 1024 entries has another", SPARSE_HOST, "np.maximum(np.diff(indptr) - 1, 0) // SEGMENT", "np.diff(indptr) // SEGMENT", "segments_of_a_matrix or every_sum"),
    Mutant("the last segment is not listed", SPARSE_HOST, "np.maximum(np.diff(indptr) - 1, 0) // SEGMENT", "np.maximum(np.diff(indptr) - 2, 0) // SEGMENT", SPARSE_PRODUCTS),
    Mutant("segments of a part counted from its start", SPARSE_HOST, "indptr[rows] + SEGMENT * numbers", "indptr[rows] - indptr[0] + SEGMENT * numbers", "part_of_a_sparse"),
    Mutant("segments made anew for each product", SPARSE_HOST, "if A not in _known:", "if True:", "made_once"),
    Mutant("segments outlive their matrix", SPARSE_HOST, "= WeakKeyDictionary()", "= {}", "made_once"),
    Mutant("partial sums are not added", SPARSE_HOST, "    _add_segments(A, cut, partials, bias, out)\n", "", SPARSE_PRODUCTS),
    Mutant("partial sums of columns are not added", SPARSE_HOST, "    _add_segments(columns, cut, partials, None, out)\n", "", SPARSE_SUMS),
    Mutant("long rows without the bias", SPARSE_HOST, "    _add_segments(A, cut, partials, bias, out)\n", "    _add_segments(A, cut, partials, None, out)\n", SPARSE_PRODUCTS),
    Mutant("multiply_rows' grid a block short", SPARSE_HOST, "(-(-(n + n_extra) // WARPS), -(-q", "(max(1, (n + n_extra) // WARPS), -(-q", SPARSE_PRODUCTS),
    Mutant("multiply_rows' grid without the further segments", SPARSE_HOST, "(-(-(n + n_extra) // WARPS), -(-q", "(-(-n // WARPS), -(-q", SPARSE_PRODUCTS),
    Mutant("multiply_rows' grid without the last columns", SPARSE_HOST, "-(-q // (lanes * columns))", "max(1, q // (lanes * columns))", SPARSE_PRODUCTS),
    Mutant("sum_columns' grid a block short", SPARSE_HOST, "(-(-(n + n_extra) // WARPS),),", "(max(1, (n + n_extra) // WARPS),),", SPARSE_SUMS),
    Mutant("fill_columns' grid a block short", SPARSE_HOST, "(-(-m // WARPS),),", "(max(1, m // WARPS),),", SPARSE_GRAM),
    Mutant("chosen rows are not passed on", SPARSE_HOST, "or_nothing(rows), np.int64(n)", "NOTHING, np.int64(n)", SPARSE_PRODUCTS),
    Mutant("squares are not asked for", SPARSE_HOST, "SQUARED=int(squared)", "SQUARED=0", SPARSE_PRODUCTS),
    Mutant("a launch for no rows", SPARSE_HOST, "    if n == 0:\n        return out\n", "", "part_of_a_sparse"),
    Mutant("rows of no weight are multiplied", SPARSE_HOST, "np.flatnonzero(weights > smallest)", "np.flatnonzero(weights > -1)", SPARSE_GRAM),
    Mutant("the last chunk of a gram matrix alone", SPARSE_HOST, "transpose_a=True, beta=1.0)", "transpose_a=True)", SPARSE_GRAM),
    Mutant("a gram matrix without weights", SPARSE_HOST, "x * cupy.asarray(weights[numbers]).reshape(m, 1)", "x", SPARSE_GRAM),
    Mutant("a gram matrix with the weights of other rows", SPARSE_HOST, "cupy.asarray(weights[numbers])", "cupy.asarray(weights[:m])", SPARSE_GRAM),
    # ---- operations of sparse features in ops.py
    Mutant("inner products swapped", OPS, "cupy.stack(products), cupy", "cupy.stack(products[::-1]), cupy", SMALL),
    Mutant("a product for sums of no rows", OPS, "        if len(Z):\n", "        if True:\n", SMALL),
    Mutant("the softmax is not in place", OPS, "    def softmax(self, Z: Any) -> None:\n        self._softmax(Z, None)", "    def softmax(self, Z: Any) -> None:\n        self._softmax(Z.copy(), None)", SMALL),
    Mutant("label coefficients without class weights", OPS, "proportions * class_weight)", "1.0 * proportions)", SMALL),
    Mutant("label coefficients without weights", OPS, "        z *= weights.reshape(m, 1)\n", "", SMALL),
    Mutant("squares of dense rows ignored", COLUMN_SUMS, "x * x if squared else x, q", "x, q", DENSE_PRODUCTS),
    Mutant("squares overwrite the features", COLUMN_SUMS, "product(x * x if squared else x, q", "x *= x if squared else 1\n                product(x, q", DENSE_PRODUCTS),
    Mutant("row losses of no rows", OPS, "        if len(Z) == 0:  # a grid has at least one block\n            return totals[:, 0], totals[:, 1]\n", "", "every_sum"),
    # ---- probe.py
    Mutant("a wrong result passes the probe", PROBE, "!= list(range(32)):", "== []:", "reason and wrong"),
    Mutant("the probe takes a device that is not there", PROBE, "if index >= count:", "if index > count + 9:", "is_not_there"),
]  # fmt: skip


def copy(target: Path) -> None:
    """Copy what the tests need of the repository, without compiled files."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, target)


def run_tests(folder: Path, files: list[str], expression: str, sanitized: bool = False) -> tuple[int | str, str]:
    """pytest in a copy: its exit status (or why there is none) and its output."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "400",  # pytest cuts its summary to that
        "CUDA_VISIBLE_DEVICES": "",  # the emulation is what is looked at, even where there is a GPU
        # heeded by the pytest inside; the one here has its own -k
        "PYTEST_ADDOPTS": f"-k '{SANITIZED}'" if sanitized else "",
    }
    command = [sys.executable, "-m", "pytest", "-m", "", "-x", "-q", "-p", "no:cacheprovider", "-k", expression, *files]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"nothing after {LIMIT} s", ""
    return done.returncode, done.stdout + done.stderr


def attempt(mutant: Mutant) -> Outcome:
    """Make a mutant in a copy of its own and run the tests there."""
    start = time.perf_counter()
    caught, by = _attempt(mutant)
    return Outcome(caught, by, time.perf_counter() - start)


def _attempt(mutant: Mutant) -> tuple[bool, str]:
    kernels_first = mutant.file.startswith("kernels/")
    files = [*KERNEL_TESTS, *HOST_TESTS] if kernels_first else [*HOST_TESTS, *KERNEL_TESTS]
    with tempfile.TemporaryDirectory(prefix="gpusoftmax-mutant-") as name:
        copy(Path(name))
        try:
            mutant.mutate(Path(name))
        except LookupError as error:
            return False, str(error)
        # a first choice that has gone stale selects nothing (5), or passes: then all tests have their say
        for expression in dict.fromkeys([mutant.expression, ALL]):
            status, output = run_tests(Path(name), files, expression, mutant.sanitized)
            if status not in (0, 5):
                break
    if "BuildError" in output:
        return False, f"it is not C++: {output[output.index('BuildError') :][:200]}"
    if status == 0:
        return False, "it survived"
    if isinstance(status, int) and status < 0:  # reading far outside an array, say
        return True, f"signal {-status}, of which the tests' process died"
    failed = re.search(r"^FAILED tests/(\S+?\.py::.*?)(?: - .*)?$", output, re.MULTILINE)
    if status != 1 or failed is None:
        return False, f"pytest ended with {status}: {output[-300:]}"
    return True, failed[1]


def unmutated(sanitized: bool) -> str:
    """What fails before any mutant is made, or ""."""
    with tempfile.TemporaryDirectory(prefix="gpusoftmax-mutant-") as name:
        copy(Path(name))
        for expression in ["sanitizers", ALL] if sanitized else [ALL]:
            status, output = run_tests(Path(name), [*KERNEL_TESTS, *HOST_TESTS], expression, expression != ALL)
            if status != 0:
                return f"pytest ended with {status}:\n{output[-3000:]}"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="NAME", action="append", help="mutants with this in their name; repeatable")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if not options.only or any(part in m.name for part in options.only)]
    if not chosen:
        parser.error(f"no mutant has {options.only} in its name")
    if reason := build.missing():
        parser.error(reason)
    with tempfile.TemporaryDirectory(prefix="gpusoftmax-kernels-") as kernels:
        os.environ.setdefault(build.CACHE_VARIABLE, kernels)  # host mutants' kernels are built once
        start = time.perf_counter()
        if wrong := unmutated(any(mutant.sanitized for mutant in chosen)):
            print(f"the tests fail without any mutant: {wrong}")
            return 1
        print(f"without a mutant all tests pass: {time.perf_counter() - start:.0f} s")
        caught = 0
        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, outcome in zip(chosen, pool.map(attempt, chosen), strict=True):
                caught += outcome.caught
                by = outcome.by if outcome.caught else f"NOT CAUGHT: {outcome.by}"
                where = f"{mutant.name:<53} {Path(mutant.file).name:<11}"
                print(f"{where} {outcome.seconds:4.1f} s  {by}", flush=True)
        print(f"{caught} of {len(chosen)} caught, {time.perf_counter() - start:.0f} s")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
