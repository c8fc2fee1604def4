"""The first preconditioner, which needs no point: a Gram matrix of the features, from a sample of the rows.

At equal probabilities the Hessian of the mean softmax loss with respect to one class's weights is G / c, with G the
weighted Gram matrix of the features, and classes do not couple beyond a shift. So

    M_k = kappa G_k + l2_k diag(r),     G_k = (1 / S_k) sum_i s_ik (x_i - m_k)(x_i - m_k)'

kappa is the loss's curvature at zero, 1 / c for softmax; m_k is the weighted mean with a free intercept, else 0.

    Cholesky    d up to FULL_FEATURES, n >= d
    Spectrum    the same, for many penalties where d is large
    LowRank     n < d, or d too large for that
    Diagonal    neither fits, or for a start, where the others would cost more than they are likely to save

Rows are centred before the product: correcting an uncentred product makes Cholesky fail at weak penalties.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.features.batches import NO_EPOCH, generator
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.preconditioners.base import Preconditioner, Preconditioners, SharedBlock
from gpusoftmax.solvers.preconditioners.inverses import GramInverse, Inverse, Spectrum
from gpusoftmax.solvers.preconditioners.sample import (
    BLOCK,
    factor_cost,
    penalty_diagonal,
    read_cost,
    row_shares,
    scaled_rows,
    uniform_rows,
)

FULL_FEATURES = 8192  # d up to which d x d matrices are made: 256 MB in float32
SAMPLE_PER_FEATURE, SMALLEST_SAMPLE = 2, 2048  # rows of the sample
SPECTRUM_PENALTIES, SPECTRUM_FEATURES = 4, 1024  # from which on eigenpairs take less time than a factor a penalty
SPECTRUM_SPREAD = 1e6  # of the features' variances: where it is larger, small ones would be lost in the rounding
KEPT = 1 << 25  # numbers of inverses that are kept: 128 MB in float32
LOW_RANK, LOW_RANK_ELEMENTS = 2048, 1 << 26  # rows of a low-rank sample at most, and its numbers
SMALLEST_LOW_RANK = 32  # with fewer, the diagonal
AFFORDABLE = 100.0  # reads that a first preconditioner may cost


class GramSample:
    """Rows that `seed` draws, for Gram matrices in the form that fits the objective's shape.

    What all penalties share is made once, and inverses are kept. `cost` is what one takes, in reads of X; `at_once`
    tells whether it is worth that before a cheaper one has proved slow.

    Parameters
    ----------
    objective : Objective
        Its weights and penalties may change later, and its rows to some of them; its features may not.
    seed : int
        Draws the rows.
    penalties : int
        How many there will be.
    alike : bool
        Later objectives differ little in their rows and weights, as folds do: what was made for this one serves them,
        and one inverse the penalties that agree in two digits.
    """

    def __init__(self, objective: Objective, seed: int, penalties: int = 1, alike: bool = False) -> None:
        n, d, c = objective.features.n, objective.features.d, objective.n_classes
        full = d <= FULL_FEATURES and n >= d
        wanted = max(SMALLEST_SAMPLE, SAMPLE_PER_FEATURE * d) if full else min(LOW_RANK, LOW_RANK_ELEMENTS // d)
        size = wanted if full else max(wanted, SMALLEST_LOW_RANK)
        self.chosen = uniform_rows(objective.features, size, generator(seed, NO_EPOCH + 1))
        self.kind = "cholesky" if full else "low rank" if wanted >= len(self.chosen) else "diagonal"
        if self.kind == "cholesky" and penalties >= SPECTRUM_PENALTIES and d > SPECTRUM_FEATURES:
            self.kind = "spectrum"
        self.cost = factor_cost(self.kind, len(self.chosen), d) / read_cost(n, d, c)
        # with fewer rows than features, applying the inverse takes as long as a read, and the diagonal is often enough
        self.at_once = self.kind in ("cholesky", "spectrum") and self.cost <= AFFORDABLE * penalties
        self._share = row_shares(objective, 0, self.chosen) if alike else None
        # by kind: the last shares of the weights, what they make, and its inverses by penalty
        self._products: dict[str, tuple[bytes, GramInverse | Spectrum, Any, dict[float, Inverse]]] = {}

    def preconditioners(self, objective: Objective) -> Preconditioners:
        """The inverses of kappa G_k + l2_k diag(r), or of its diagonals if these are not to be made at once; logged."""
        kind = self.kind if self.at_once else "diagonal"
        penalties = objective.backend.to_numpy(objective.penalty.strengths).tolist()
        with objective.backend.single_threaded_blas():
            preconditioners = [
                self._make(objective, kind, self._shares(objective, k), l2) for k, l2 in enumerate(penalties)
            ]
        return Preconditioners(preconditioners, len(self.chosen))

    def preconditioner(self, objective: Objective, k: int) -> Preconditioner:
        """Model k's, not its diagonal."""
        l2 = float(objective.backend.to_numpy(objective.penalty.strengths)[k])
        return self._make(objective, self.kind, self._shares(objective, k), l2)

    def _shares(self, objective: Objective, k: int) -> Array:
        return row_shares(objective, k, self.chosen) if self._share is None else self._share

    @np.errstate(over="ignore", invalid="ignore")  # infinite features: the trainer reports them
    def _make(self, objective: Objective, kind: str, share: Array, l2: float) -> Preconditioner:
        """The one of a model with these shares of the weights and this l2."""
        backend, key = objective.backend, share.tobytes()
        kappa, penalty = objective.loss.curvature_at_zero(objective.n_classes), penalty_diagonal(objective)
        if kind not in self._products or self._products[kind][0] != key:
            a, mean, raw = _centred(objective, self.chosen, share, kappa)
            centre = backend.asarray(mean.astype(a.dtype)[:, None]) if objective.has_free_intercept else None
            made = "cholesky" if kind == "spectrum" and not _is_even(a) else kind
            log.info("preconditioner: %s, from %d of %d rows", made, len(self.chosen), objective.features.n)
            product = Spectrum(a, penalty, backend) if made == "spectrum" else GramInverse(made, a, raw, backend)
            self._products[kind] = key, product, centre, {}
        _, product, centre, inverses = self._products[kind]
        if self._share is not None:
            l2 = float(f"{l2:.1e}")
        if l2 not in inverses:
            if (len(inverses) + 1) * objective.features.d**2 > KEPT and isinstance(product, GramInverse):
                inverses.clear()
            inverses[l2] = product.inverse(l2 * penalty)
        return SharedBlock(inverses[l2], centre, kappa, objective.penalty.on_intercept)


def _is_even(a: Array) -> bool:
    """Whether the features' sizes are of the same order, constant columns apart."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ip,ip->p", a, a, dtype=np.float64)
    living = squares[squares > float(np.finfo(a.dtype).eps) ** 2 * squares.max()]
    return bool(np.isfinite(squares).all() and len(living) and living.max() <= SPECTRUM_SPREAD * living.min())


def _centred(objective: Objective, rows: Array, share: Array, kappa: float) -> tuple[Array, Array, Array]:
    """a (m, d): sqrt(kappa share_i) (x_i - centre), with a'a = kappa G; centre (d,); the diagonal of a'a uncentred."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(rows), BLOCK)]
    d = objective.features.d + objective.penalty.on_intercept
    mean, raw = np.zeros(d), np.zeros(d)
    for of in blocks:
        x = scaled_rows(objective, rows[of])
        mean += share[of] @ x
        raw += kappa * (share[of] @ (x * x))
    centre = mean if objective.has_free_intercept else np.zeros_like(mean)
    a: Array = np.empty((len(rows), d), objective.features.dtype)
    for of in blocks:
        x = scaled_rows(objective, rows[of])
        np.multiply(np.sqrt(kappa * share[of])[:, None], x - centre, out=a[of], casting="same_kind")
    return a, centre, raw
