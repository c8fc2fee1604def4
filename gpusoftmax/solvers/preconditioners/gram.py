"""The first preconditioner: the Gram matrix of a sample of rows. It does not depend on the weights.

At zero weights the Hessian of the mean softmax loss is kron(G, I - 11' / c) / c, with G the weighted Gram matrix of the
features: G / c for each class, except in the direction that changes all classes alike, in which the loss is constant.
The preconditioner of model k is therefore, for the weights of each class,

    M_k = kappa G_k + l2_k diag(r),     G_k = (1 / S_k) sum_i s_ik (x_i - m_k)(x_i - m_k)'

kappa is the loss's curvature at zero, 1 / c for softmax. m_k is the weighted mean of the rows if there is an
unpenalised intercept, else 0. The inverse of M_k is one of these (see `inverses`):

    Cholesky    for d up to FULL_FEATURES and n >= d
    Spectrum    the same, if there are many penalties and d is large
    LowRank     for n < d, or if d is too large for the above
    Diagonal    if nothing else fits into memory; and at first, if the others might cost more time than they save

Sparse features have a Cholesky factor if that takes little time, and otherwise a diagonal from the variances over all
rows (see `class_diagonal`): a sample of rows would miss most of the features.

Rows are centred before the product. With m m' subtracted afterwards, cancellation would make Cholesky fail at weak
penalties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.features.batches import NO_EPOCH, generator
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.preconditioners.base import Preconditioner, Preconditioners, SharedBlock
from gpusoftmax.solvers.preconditioners.class_diagonal import CurvatureSums, from_sums, sums_at_point, sums_at_zero
from gpusoftmax.solvers.preconditioners.class_scaled import ClassCurvatures, class_curvatures, scaled_for_classes
from gpusoftmax.solvers.preconditioners.inverses import GramInverse, Inverse, Spectrum, Woodbury
from gpusoftmax.solvers.preconditioners.sample import (
    BLOCK,
    fetched_rows,
    inverse_cost,
    pass_cost,
    penalty_diagonal,
    penalty_strength,
    uniform_rows,
    weight_fractions,
)
from gpusoftmax.solvers.preconditioners.woodbury import OtherRows, WoodburySamples, suits_block_search

FULL_FEATURES = 8192  # largest d for which (d, d) matrices are made: 256 MB in float32
SAMPLE_PER_FEATURE, SMALLEST_SAMPLE = 2, 2048  # rows of the sample per feature, and fewest rows of it
# With at least this many penalties and more than this many features, the eigenpairs that serve all penalties take less
# time than one Cholesky factor for each, and than small samples with a block search: 20 values of C x 5 folds of
# CIFAR-10's first 10,000 images take 391 passes instead of 360, but 2.3 s instead of 3.1; 6 values of C on all images
# 1.7 s instead of 1.9. 4 values on all images take longer, 1.4 s instead of 1.2, but x 5 folds 1.7 s instead of 2.2.
# From a start near the solution a block search saves little.
SPECTRUM_PENALTIES, SPECTRUM_FEATURES = 4, 1024
SPECTRUM_SPREAD = 1e6  # largest ratio of the features' variances; beyond it, rounding errors would hide the small ones
KEPT_ELEMENTS = 1 << 25  # largest number of entries of all stored inverses, if there are several: 128 MB in float32
LOW_RANK, LOW_RANK_ELEMENTS = 2048, 1 << 26  # largest numbers of rows, and of entries, of a low-rank sample
SMALLEST_LOW_RANK = 32  # if memory allows fewer rows, the diagonal is used
SAME_PENALTY = 0.05  # largest relative difference of penalties of folds, which differ in their numbers of rows
AFFORDABLE_PASSES = 100.0  # largest cost of the first preconditioners, in passes over the data per penalty


class GramSample:
    """A sample of rows, and the preconditioners made from its Gram matrix.

    The work that is the same for all penalties is done once, and inverses are stored.

    Parameters
    ----------
    objective : Objective
        Later calls may pass objectives with other weights and penalties or with fewer rows, but with the same features.
    seed : int
        Seed for drawing the sample.
    penalties : int
        How many penalties to expect.
    share_gram : bool
        Whether later objectives differ so little in their rows and weights, as cross-validation folds do, that they can
        share the Gram matrix of this one. Penalties that agree in two digits then share an inverse. The inverses do not
        depend on which objective asks first, so a sweep that continues from a checkpoint gets the same.

    Attributes
    ----------
    kind : {"cholesky", "spectrum", "low rank", "diagonal", "variances"}
        The kind of inverse that suits the shape.
    cost : float
        Cost of one preconditioner from the Gram matrix of the sample, in passes over the data.
    at_once : bool
        Whether to make it at the start. If not, the diagonal is used until the solver turns out to converge slowly.
    remembered : pair of int and ndarray, or None
        The model and its point (d + 1, c) of which `remember` got sums or curvatures since the last solve began.
    """

    def __init__(self, objective: Objective, seed: int, penalties: int = 1, share_gram: bool = False) -> None:
        n, d = objective.features.n, objective.features.d
        full = d <= FULL_FEATURES and n >= d
        sample_size = max(SMALLEST_SAMPLE, SAMPLE_PER_FEATURE * d) if full else min(LOW_RANK, LOW_RANK_ELEMENTS // d)
        size = sample_size if full else max(sample_size, SMALLEST_LOW_RANK)
        self.chosen = uniform_rows(objective.features, size, generator(seed, NO_EPOCH + 1))
        self.kind = "cholesky" if full else "low rank" if sample_size >= len(self.chosen) else "diagonal"
        if self.kind == "cholesky" and penalties >= SPECTRUM_PENALTIES and d > SPECTRUM_FEATURES:
            self.kind = "spectrum"
        self.cost = inverse_cost(self.kind, len(self.chosen), d) / pass_cost(objective)
        # with fewer rows than features, applying the inverse takes as long as a pass, and the diagonal is often enough
        self.at_once = self.kind in ("cholesky", "spectrum") and self.cost <= AFFORDABLE_PASSES * penalties
        if objective.features.is_sparse and not self.at_once:
            self.kind, self.at_once = "variances", True
        self._common = objective if share_gram else None
        self._common_fractions = weight_fractions(objective, 0, self.chosen) if share_gram else None
        self.remembered: tuple[int, Any] | None = None
        self.seed = seed
        # the bytes of the weight fractions that samples were drawn by, the samples, and the inverses by l2
        self._woodbury: tuple[bytes, WoodburySamples, dict[float, Woodbury | None]] | None = None
        # for each kind: the bytes of the weight fractions that it was made for, what makes the inverse for any penalty,
        # the centre, and the inverses by l2
        self._products: dict[str, tuple[bytes, GramInverse | Spectrum, Any, dict[float, Inverse]]] = {}
        # the curvatures that scale later preconditioners for each class, or what computes them; and the l2 of the
        # model that they come from
        self._curvatures: tuple[float, ClassCurvatures | Callable[[], ClassCurvatures]] | None = None
        # the sums that `variances` come from, or what computes them; and the bytes of the weight fractions they were
        # made for, unless these are later sums, which serve all
        self._sums: tuple[bytes | None, CurvatureSums | Callable[[], CurvatureSums]] | None = None

    def preconditioners(self, objective: Objective) -> Preconditioners:
        """Make the first preconditioner of each model: from M_k if `at_once`, else from its diagonal; logs which."""
        if self.kind == "variances":
            K = objective.n_models
            return Preconditioners([self._from_variances(objective, k) for k in range(K)], 0, [None] * K)
        kind = self.kind if self.at_once else "diagonal"
        penalties = objective.penalty_on_host.strengths.tolist()
        preconditioners: list[Preconditioner] = []
        rows = 0
        with objective.backend.single_threaded_blas():
            for k, l2 in enumerate(penalties):
                found: Preconditioner | None = None
                if not self._takes_eigenpairs(objective, k):
                    found = self._from_woodbury(objective, k, l2)
                if found is None:
                    found, rows = self._make(objective, kind, self._fractions(objective, k), l2), len(self.chosen)
                    found = self._scaled(objective, k, found)
                preconditioners.append(found)
        rows += 0 if self._woodbury is None else self._woodbury[1].rows_read
        return Preconditioners(preconditioners, rows, [None] * len(preconditioners))

    def other_rows(self, preconditioner: Preconditioner) -> OtherRows | None:
        """Return rows apart from the samples that a preconditioner of the last call comes from, or None."""
        of_samples = isinstance(preconditioner, SharedBlock) and isinstance(preconditioner.inverse, Woodbury)
        return self._woodbury[1].other_rows if of_samples and self._woodbury is not None else None

    def _takes_eigenpairs(self, objective: Objective, k: int) -> bool:
        """Tell whether eigenpairs serve all penalties; they are then made.

        If features differ too much in size for them, their Gram matrix is kept for penalties that are too weak for
        small samples.
        """
        if not (self.kind == "spectrum" and self.at_once):
            return False
        return isinstance(self._product(objective, self.kind, self._fractions(objective, k))[0], Spectrum)

    def _from_woodbury(self, objective: Objective, k: int, l2: float) -> SharedBlock | None:
        """Make the preconditioner of model k from samples of few rows, where that is better; see `woodbury`."""
        if not suits_block_search(objective):
            return None
        key = self._fractions(objective, k).tobytes()
        if self._woodbury is None or self._woodbury[0] != key:
            common = (objective, k) if self._common is None else (self._common, 0)
            self._woodbury = key, WoodburySamples(*common, self.seed), {}
        _, samples, inverses = self._woodbury
        l2 = self._shared_penalty(l2)
        if l2 not in inverses:
            if sum(one.nbytes for one in inverses.values() if one is not None) > KEPT_ELEMENTS * 4:
                inverses.clear()
            inverses[l2] = samples.inverse(l2)
        inverse = inverses[l2]
        if inverse is None:
            return None
        centre = samples.centre.astype(samples.dtype)[:, None] if objective.has_free_intercept else None
        return SharedBlock(inverse, centre, samples.kappa, objective.penalty.on_intercept)

    def preconditioner(self, objective: Objective, k: int) -> Preconditioner:
        """Make the preconditioner of model k from M_k, whether or not `at_once`."""
        l2 = penalty_strength(objective, k)
        return self._make(objective, self.kind, self._fractions(objective, k), l2)

    def _from_variances(self, objective: Objective, k: int) -> Preconditioner:
        """Make the preconditioner of model k from the variances over all rows, or from the sums remembered since."""
        key = self._fractions(objective, k).tobytes()
        if self._sums is None or self._sums[0] not in (None, key):
            log.info("preconditioner: variances of %d features", objective.features.d)
            self._sums = key, sums_at_zero(objective, k) if self._common is None else sums_at_zero(self._common, 0)
        made_for, sums = self._sums
        if callable(sums):
            sums = sums()
            self._sums = made_for, sums
        return from_sums(objective, k, sums)

    def _scaled(self, objective: Objective, k: int, first: SharedBlock) -> Preconditioner:
        """Scale the preconditioner of model k for its classes, by the curvatures that are remembered, if any."""
        if self._curvatures is None:
            return first
        l2, curvatures = self._curvatures
        if callable(curvatures):
            curvatures = curvatures()
            self._curvatures = l2, curvatures
        return scaled_for_classes(objective, k, curvatures, first)

    def has_curvatures(self, l2: Array) -> Array:
        """Tell which of these penalties are that of the model whose curvatures are remembered, or nearly so."""
        known = np.nan if self._curvatures is None else self._curvatures[0]
        return abs(l2 - known) <= SAME_PENALTY * known

    def remember(self, objective: Objective, k: int, point: Any, found: CurvatureSums | ClassCurvatures) -> None:
        """Make or scale later preconditioners by what was found for model k at its point (d + 1, c)."""
        self.remembered = k, point
        if isinstance(found, ClassCurvatures):
            self._curvatures = penalty_strength(objective, k), found
        else:
            self._sums = None, found

    def remember_point(self, objective: Objective, k: int, point: Any) -> None:
        """Do what `remember` does, with sums or curvatures that are computed once they are needed."""
        self.remembered = k, point
        if self.kind == "variances":
            self._sums = None, lambda: sums_at_point(objective, k, point)
        else:
            l2 = penalty_strength(objective, k)
            self._curvatures = l2, lambda: class_curvatures(objective, k, point, self.seed)

    def _fractions(self, objective: Objective, k: int) -> Array:
        return weight_fractions(objective, k, self.chosen) if self._common_fractions is None else self._common_fractions

    def _shared_penalty(self, l2: float) -> float:
        """Return the penalty for which an inverse is made: rounded to two digits if folds share it."""
        return l2 if self._common is None else float(f"{l2:.1e}")

    @np.errstate(over="ignore", invalid="ignore")  # the trainer reports infinite features, and penalties
    def _make(self, objective: Objective, kind: str, fractions: Array, l2: float) -> SharedBlock:
        """Make the preconditioner of a model with these weight fractions and this l2."""
        product, centre, inverses = self._product(objective, kind, fractions)
        l2 = self._shared_penalty(l2)
        if l2 not in inverses:
            if (len(inverses) + 1) * objective.features.d**2 > KEPT_ELEMENTS and isinstance(product, GramInverse):
                inverses.clear()
            inverses[l2] = product.inverse(l2 * penalty_diagonal(objective))
        kappa = objective.loss.curvature_at_zero(objective.n_classes)
        return SharedBlock(inverses[l2], centre, kappa, objective.penalty.on_intercept)

    @np.errstate(over="ignore", invalid="ignore")
    def _product(
        self, objective: Objective, kind: str, fractions: Array
    ) -> tuple[GramInverse | Spectrum, Any, dict[float, Inverse]]:
        """Return what makes inverses of models with these weight fractions, the centre, and the inverses by l2."""
        backend, key = objective.backend, fractions.tobytes()
        if kind not in self._products or self._products[kind][0] != key:
            common = objective if self._common is None else self._common
            kappa = objective.loss.curvature_at_zero(objective.n_classes)
            a, mean, raw = _centred(common, self.chosen, fractions, kappa)
            centre = mean.astype(a.dtype)[:, None] if objective.has_free_intercept else None
            made = "cholesky" if kind == "spectrum" and not _has_similar_scales(a, backend) else kind
            log.info("preconditioner: %s, from %d of %d rows", made, len(self.chosen), objective.features.n)
            product: GramInverse | Spectrum
            if made == "spectrum":
                product = Spectrum(a, penalty_diagonal(objective), backend)
            else:
                product = GramInverse(made, a, raw, backend)
            self._products[kind] = key, product, centre, {}
        return self._products[kind][1:]


def _has_similar_scales(a: Any, backend: Backend) -> bool:
    """Whether the variances of the features that vary differ by a factor of SPECTRUM_SPREAD at most."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = backend.to_numpy(backend.linalg.column_squares(a))
    varying = squares[squares > float(np.finfo(a.dtype).eps) ** 2 * squares.max()]
    return bool(np.isfinite(squares).all() and len(varying) and varying.max() <= SPECTRUM_SPREAD * varying.min())


def _centred(objective: Objective, rows: Array, fractions: Array, kappa: float) -> tuple[Any, Any, Any]:
    """Return the weighted rows a (m, d), the centre (d,), and the diagonal (d,) that a'a would have without centring.

    The rows of a are sqrt(kappa fractions_i) (x_i - centre), so that a'a = kappa G. All are on the device.
    """
    a, backend, xp = fetched_rows(objective, rows), objective.backend, objective.backend.xp
    blocks, s = [slice(start, start + BLOCK) for start in range(0, len(rows), BLOCK)], backend.asarray(fractions)

    def moments(run: range) -> list[tuple[Any, Any]]:
        return [(s[part] @ a[part], kappa * (s[part] @ xp.square(a[part]))) for part in blocks[run.start : run.stop]]

    found = [one for ones in backend.for_each_on_device(moments, len(blocks)) for one in ones]
    mean, raw = (xp.stack(parts).sum(axis=0) for parts in zip(*found, strict=True))
    centre = mean if objective.has_free_intercept else xp.zeros_like(mean)

    def weigh(run: range) -> None:
        for part in blocks[run.start : run.stop]:
            a[part] -= centre.astype(a.dtype)
            a[part] *= xp.sqrt(kappa * s[part])[:, None].astype(a.dtype)

    backend.for_each_on_device(weigh, len(blocks))
    return a, centre, raw
