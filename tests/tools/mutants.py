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
KERNEL_TESTS, HOST_TESTS = ("tests/cuda/test_kernels.py",), ("tests/cuda/test_host.py", "tests/cuda/test_blocks.py")
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


COMMON, GATHER, REDUCE, ROW_LOSS, SPARSE = (
    f"kernels/{name}" for name in ("common.cuh", "gather.cu", "reduce.cu", "row_loss.cu", "sparse.cu")
)
BLAS, BUCKETS, COMPILE, MEMORY, OPS, PROBE, SPARSE_HOST = (
    f"gpusoftmax/cuda/{name}.py" for name in ("blas", "buckets", "compile", "memory", "ops", "probe", "sparse")
)
CHUNKING, COLUMN_SUMS, COPYING, GRADIENTS, ROW_LOSSES = (
    f"gpusoftmax/cuda/{name}.py" for name in ("chunks", "column_sums", "copying", "gradients", "row_losses")
)

# pytest's -k, so that most mutants cost a second of building and testing
SUMS = "row_losses_are_summed"
GATHERED = "gathered_by_index and float32-float32"
LANES, SEGMENTS, ONLINE = (f"legal_scores and {way}-softmax" for way in ("lanes", "warp", "online"))
MODELS = "rows_of_several_models and lanes"
DIGITS = "keeps_its_digits and lanes"
BAD = "bad_label_is_reported_and_its_row and lanes"
HINGES = "ladder and float32-9-gradient-unaligned"
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
    Mutant(
        "scratch halved", ROW_LOSS, "__shared__ real_t scratch[32];", "__shared__ real_t scratch[16];",
        "sanitizers", sanitized=True,
    ),
    Mutant(
        "scratch of the arg max halved", ROW_LOSS,
        "__shared__ unsigned index_scratch[32];", "__shared__ unsigned index_scratch[16];",
        "sanitizers", sanitized=True,
    ),
    Mutant(
        "a segment that reaches beyond the row is loaded whole", ROW_LOSS,
        "if (j >= 0 && j + WIDTH <= c) {\n                Vector<stored_t> v = *", "if (j >= 0 && j + WIDTH <= c + 1) {\n                Vector<stored_t> v = *",
        SEGMENTS,
    ),
    Mutant(
        "a segment that begins before the row is loaded whole", ROW_LOSS,
        "if (j >= 0 && j + WIDTH <= c) {\n                Vector<stored_t> v = *", "if (j >= -1 && j + WIDTH <= c) {\n                Vector<stored_t> v = *",
        SEGMENTS,
    ),
    Mutant("a column too many is loaded", ROW_LOSS, "j + e < c ? biased", "j + e <= c ? biased", SEGMENTS),
    Mutant("a column too many is stored", ROW_LOSS, "j + e < c) narrow", "j + e <= c) narrow", SEGMENTS),
    Mutant("a row's first column is not stored", ROW_LOSS, "if (j + e >= 0 && j", "if (j + e >= 1 && j", SEGMENTS),
    Mutant("columns are counted from the segment's start", ROW_LOSS, "* WIDTH - skip; }", "* WIDTH; }", SEGMENTS),
    Mutant("the last segment of an unaligned row is forgotten", ROW_LOSS, "(c + skip + GROUP * WIDTH - 1)", "(c + GROUP * WIDTH - 1)", "ladder and float32-16383-gradient-unaligned"),
    Mutant("what lies beside the row counts as zero", ROW_LOSS, ": (real_t)NEGATIVE_INFINITY;\n    }\n\n    __device__ __forceinline__ real_t biased", ": (real_t)0;\n    }\n\n    __device__ __forceinline__ real_t biased", SEGMENTS),
    Mutant("row number in 32 bits", ROW_LOSS, "wanted = (long long)blockIdx.x * ROWS", "wanted = (int)(blockIdx.x * ROWS)", "row_numbers_beyond"),
    Mutant("row in 32 bits", ROW_LOSS, "const long long r = present", "const int r = present", "row_numbers_beyond"),
    Mutant("stride in 32 bits", ROW_LOSS, "scores + r * stride", "scores + r * (int)stride", "strides_beyond"),
    Mutant("labels by the wrong K", ROW_LOSS, "K == 1 ? r : r / K]", "K == 1 ? r : r / (K - 1)]", MODELS),
    Mutant("bias of the wrong model", ROW_LOSS, "r % K * c);", "(r + 1) % K * c);", MODELS),
    Mutant("bias of the first model for all", ROW_LOSS, "(K == 1 ? 0 : r % K * c)", "0", MODELS),
    Mutant("the target's score without its bias", ROW_LOSS, "row.biased(widen(first[t]), t)", "widen(first[t])", MODELS),
    Mutant("weights by the row of the data", ROW_LOSS, "(real_t)weights[r]", "(real_t)weights[r / K]", MODELS),
    Mutant("max not subtracted", ROW_LOSS, "exponential(held[i][e] - top);", "exponential(held[i][e]);", LANES),
    Mutant("max not subtracted from the target", ROW_LOSS, "exponential(z_t - top)", "exponential(z_t)", LANES),
    Mutant("online sum not rescaled to a new max", ROW_LOSS, "others *= exponential(top - above);", "others *= 1;", ONLINE),
    Mutant("threads' online sums not brought to one max", ROW_LOSS, "others *= exponential(mine - top);", "others *= 1;", ONLINE),
    Mutant("target in the sum of the others", ROW_LOSS, "if (row.column(i) + e != t) others += power;", "others += power;", LANES),
    Mutant("target in the others' online sum", ROW_LOSS, "if (row.column(i) + e != t && held", "if (held", ONLINE),
    Mutant("target's gradient as p_t - 1", ROW_LOSS, "of_target = -others * factor;", "of_target = (e_t / total - 1) * weight;", DIGITS),
    Mutant("loss as log of the whole sum", ROW_LOSS, "value = z_t == top ? logarithm_1p(others) + (z_t - top) :", "value =", DIGITS),
    Mutant("target's gradient not stored", ROW_LOSS, "if (row.column(i) + e == t) out[e] = of_target;", "", LANES),
    Mutant("hinge margin's sign", ROW_LOSS, "real_t margin = held[ITEMS > 0 ? i : 0][e] - z_t + 1;", "real_t margin = z_t - held[ITEMS > 0 ? i : 0][e] + 1;", "legal_scores and lanes-hinge"),
    Mutant("hinge margin in the gradient without its 1", ROW_LOSS, "real_t margin = z - z_t + 1;", "real_t margin = z - z_t;", "legal_scores and lanes-hinge"),
    Mutant("NaN lost in a hinge", ROW_LOSS, "if (margin <= 0 || row", "if (!(margin > 0) || row", "not_finite and lanes-hinge"),
    Mutant("squared hinge's factor 2 lost", ROW_LOSS, "(margin > 0 ? (real_t)1 : margin) : 2 * margin) * factor", "(margin > 0 ? (real_t)1 : margin) : margin) * factor", "legal_scores and lanes-squared_hinge"),
    Mutant("squared hinge's factor 2 lost for the target", ROW_LOSS, "(margin > 0 ? (real_t)1 : margin) : 2 * margin;", "(margin > 0 ? (real_t)1 : margin) : margin;", "legal_scores and lanes-squared_hinge"),
    Mutant("target's gradient without its weight", ROW_LOSS, "of_target = -slope * weight;", "of_target = -slope;", HINGES),
    Mutant("the last of equal scores is the best", ROW_LOSS, "place = smaller(place, (unsigned)(row.column(i) + e));", "place = (unsigned)(row.column(i) + e);", "equal_scores and lanes"),
    Mutant("NaN has a best column", ROW_LOSS, "if (MODE != GRADIENT && BEST && labels == nullptr && present && row.lane == 0 && !(total >= 1)) best[r] = -1;", "", "without_a_largest"),
    Mutant("each thread's best is the row's", ROW_LOSS, "if (mine != top) place = NOWHERE;", "", "equal_scores and online"),
    Mutant("the last of equal scores is the best online", ROW_LOSS, "if (BEST && held[0][e] > above)", "if (BEST && held[0][e] >= above)", "equal_scores and online"),
    Mutant("a bad label is not reported", ROW_LOSS, "if (bad) atomicMin(bad_row, (unsigned long long)r);", "", BAD),
    Mutant("any bad row is reported, not the first", ROW_LOSS, "if (bad) atomicMin(bad_row, (unsigned long long)r);", "if (bad) *bad_row = (unsigned long long)r;", BAD),
    Mutant("a negative label is taken", ROW_LOSS, "bad = t < 0 || t >= c;", "bad = t >= c;", BAD),
    Mutant("a bad row is overwritten", ROW_LOSS, "if (MODE == LOSSES || bad) return;", "if (MODE == LOSSES) return;", BAD),
    Mutant("losses alone overwrite the scores", ROW_LOSS, "if (MODE == LOSSES || bad) return;", "if (bad) return;", "ladder and float32-9-losses-unaligned"),
    Mutant("threads without a row store, too", ROW_LOSS, "    if (!present) return;\n", "", LANES),
    # ---- buckets.py
    Mutant("an unaligned row in a variant too small for it", BUCKETS, "c + (0 if aligned else bucket.width - 1) <=", "c <=", "wherever_it_starts"),
    Mutant("the address is not looked at", BUCKETS, "address % 16 == 0 and stride", "stride", "wherever_it_starts"),
    Mutant("the stride is not looked at", BUCKETS, "address % 16 == 0 and stride % bucket.width == 0", "address % 16 == 0", "wherever_it_starts"),
    # ---- compile.py
    Mutant("kernels of one device are launched on another", COMPILE, "_compiled(cupy.cuda.runtime.getDevice(), ", "_compiled(0, ", "its_own_compiled"),
    # ---- blas.py
    Mutant("product without transpose", BLAS, "cublas.CUBLAS_OP_T if transpose_a else cublas.CUBLAS_OP_N", "cublas.CUBLAS_OP_N", REFERENCE),
    Mutant("product with a wrong leading dimension", BLAS, "kinds[a.dtype], a.shape[1],", "kinds[a.dtype], a.shape[0],", REFERENCE),
    Mutant("product ignores beta", BLAS, "np.array([1.0, beta]", "np.array([1.0, 0.0]", CHUNKS),
    Mutant("product's scalars of another type", BLAS, "dtype=out.dtype)", "dtype=np.float64)", REFERENCE),
    Mutant("product ignores the precision high", BLAS, 'if precision == "high" else', 'if precision == "TF32" else', PRECISION),
    Mutant("product in TF32 without being asked", BLAS, 'if precision == "high" else', 'if precision != "medium" else', REFERENCE),
    # ---- memory.py
    Mutant("a tensor that wants a gradient is exported", MEMORY, 'x.detach() if hasattr(x, "detach") else x', "x", "torch_tensors"),
    Mutant("an array that does not fit is not explained", MEMORY, "except cupy.cuda.memory.OutOfMemoryError as error:", "except ZeroDivisionError as error:", "features_that_do_not_fit"),
    Mutant("what is missing counts what is free", MEMORY, "max(needed - free, 0)", "needed", FIT),
    # ---- ops.py, and what it calls: row_losses.py, gradients.py, column_sums.py
    Mutant("row_loss' grid a block short", ROW_LOSSES, "(-(-rows // bucket.rows),)", "(max(1, rows // bucket.rows),)", REFERENCE),
    Mutant("gather's grid a block short", CHUNKING, "(-(-m * d // (256 * width)),)", "(max(1, m * d // (256 * width)),)", REFERENCE),
    Mutant("sum_rows' grid a block short", ROW_LOSSES, "blocks = KINDS[losses.dtype], -(-m // ROWS_A_SUM)", "blocks = KINDS[losses.dtype], max(1, m // ROWS_A_SUM)", BLOCKS),
    Mutant("a block of sum_rows thought longer than it is", ROW_LOSSES, "ROWS_A_SUM = 4096", "ROWS_A_SUM = 8192", BLOCKS),
    Mutant("c and K swapped", ROW_LOSSES, "np.int32(c), np.int32(K)", "np.int32(K), np.int32(c)", REFERENCE),
    Mutant("rows and stride swapped", ROW_LOSSES, "Z, np.int64(c), or_nothing(b), or_nothing(labels), or_nothing(weights),\n            np.int64(rows),", "Z, np.int64(rows), or_nothing(b), or_nothing(labels), or_nothing(weights),\n            np.int64(c),", REFERENCE),
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
    Mutant("features stay float32 at precision medium", GRADIENTS, 'return BFLOAT16 if precision == "medium" else np.dtype(np.float32)', "return np.dtype(np.float32)", PRECISION),
    Mutant("precision of the scores ignored", GRADIENTS, "product(x, W, Z, precision=precision)", "product(x, W, Z)", PRECISION),
    Mutant("precision of the gradient ignored", GRADIENTS, "transpose_a=True, beta=beta, precision=precision)", "transpose_a=True, beta=beta)", PRECISION),
    Mutant("gradient of the last chunk alone", GRADIENTS, "sums[:d], transpose_a=True, beta=beta,", "sums[:d], transpose_a=True, beta=0.0,", CHUNKS),
    Mutant("bias' gradient of the last chunk alone", GRADIENTS, "sums[d:], transpose_a=True, beta=beta)", "sums[d:], transpose_a=True, beta=0.0)", CHUNKS),
    Mutant("losses of the last chunk alone", GRADIENTS, "            add_up(losses, best, t, s, own_totals)\n", "            own_totals[:] = 0.0\n            add_up(losses, best, t, s, own_totals)\n", CHUNKS),
    Mutant("every loss is the softmax", ROW_LOSSES, "LOSS=loss,", "LOSS=0,", REFERENCE),
    Mutant("scores of the first chunk for all", OPS, "x = chunk.converted(operand_type(X.dtype, self.precision))", "x = converted(X, None, 0, len(chunk), operand_type(X.dtype, self.precision))", SCORES),
    Mutant("scores without the bias", OPS, "            Z += b\n", "            pass\n", SCORES),
    Mutant("best columns of the first chunk for all", OPS, "part = out[chunk.here]", "part = out[: len(chunk)]", SCORES),
    Mutant("best columns without the bias", OPS, "out[...] = self._best(Z, b)", "out[...] = self._best(Z, None)", "without_a_largest"),
    Mutant("probabilities without the bias", OPS, "            self._softmax(Z, b)", "            self._softmax(Z, None)", SCORES),
    Mutant("precision of predictions ignored", OPS, "Z.reshape(len(chunk), q), precision=self.precision)", "Z.reshape(len(chunk), q))", PRECISION),
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
    Mutant("kernels do not wait for the copies of their chunk", COPYING, "                computing.wait_event(_recorded(copies.stream))\n", "", STREAMED),
    Mutant("copies do not wait for the kernels that used the buffer", COPYING, "                copies.stream.wait_event(released[turn])\n", "                pass\n", STREAMED),
    Mutant("copies wait for the kernels of the chunk before", COPYING, "copies.stream.wait_event(released[turn])", "copies.stream.wait_event(_recorded(computing))", "no_later_ones"),
    Mutant("a buffer is released before its kernels are queued", COPYING, "                yield first - at, buffers[turn][:filled]\n                released[turn] = _recorded(computing)\n", "                released[turn] = _recorded(computing)\n                yield first - at, buffers[turn][:filled]\n", STREAMED),
    Mutant("copies to fresh memory wait for nothing", COPYING, "released = [_recorded(computing) for _ in buffers]", "released = [cupy.cuda.Event(disable_timing=True) for _ in buffers]", STREAMED),
    Mutant("an upload does not wait for what used its memory", COPYING, "        copies.stream.wait_event(_recorded(cupy.cuda.get_current_stream()))\n", "", "was_freed"),
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
