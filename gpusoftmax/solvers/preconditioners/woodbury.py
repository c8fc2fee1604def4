"""The first preconditioner for few classes and many features: the mean of inverses from several small samples.

    M^-1 = mean_j (kappa A_j'A_j / m + l2 diag(r))^-1,    A_j (m, d) the centred rows of sample j, j < q

The samples are disjoint. Each inverse comes from the product A_j A_j' (m, m), see `inverses.Woodbury`. That takes
q m^2 d operations, where the Gram matrix of as many rows and its Cholesky factor take q m d^2 + d^3.

The expected inverse from m rows is that of the whole Gram matrix with a larger ridge l2. How many times larger it is
follows from the eigenvalues v of kappa A A' / (m l2): `wider` = 1 / mean(1 / (1 + v)). m grows until that is small
enough. Where it never is, because the penalty is too weak, `gram` has other preconditioners.

Rows are drawn in proportion to their weights. A row whose weight is that of many is drawn many times. In float32 the
ridge of a feature must not vanish beside its curvature: it is at least FLOOR d eps times that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.features.base import Features
from gpusoftmax.features.batches import NO_EPOCH, generator
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.preconditioners.inverses import Woodbury, inverse_factors
from gpusoftmax.solvers.preconditioners.sample import (
    BLOCK,
    fetched_rows,
    inverse_cost,
    pass_cost,
    penalty_diagonal,
    uniform_rows,
    weight_fractions,
)

BLOCKS = 5  # gradients whose preconditioned columns span the subspace of `block_search`
FEATURES_PER_DIRECTION = 8  # of that subspace
LEAST_PASS = 1e8  # flops of a pass
SAMPLES = 6  # the most samples, whose inverses are averaged
FEWEST = 256  # rows of a sample at first
# The largest `wider`, and what will do in samples of at least d / 3 rows if a Cholesky factor costs more than DEAR
# passes. While `wider` is more than FAR times that, m is doubled, else multiplied by the root of 2.
WIDER, FAR, WIDEST, DEAR = 5.0, 3.0, 13.0, 8.0
MOST_ELEMENTS = 1 << 26  # of all samples: 256 MB in float32
# Rows apart from the samples: a fraction of all, at least so many, and so many for each unknown of the subspace. Where
# that is more than MOST_OTHERS of all rows, all rows are taken, and where it is too many bytes, fewer.
OTHERS, FEWEST_OTHERS, OTHERS_PER_UNKNOWN, MOST_OTHERS, OTHER_BYTES = 1 / 8, 2048, 24, 0.6, 1 << 27
OTHERS_OF_CLASS = 8  # the fewest of a class, if it has as many
MOST_CANDIDATES = 1 << 22  # rows from which they are drawn
FLOOR = 8  # least ridge of a feature relative to its curvature, in units of d eps


def suits_block_search(objective: Objective) -> bool:
    """Whether the subspace of `block_search` is small beside the features, with more rows than features.

    Elsewhere this preconditioner is no better than that of the Gram matrix. Where a pass takes no longer than a search,
    fewer passes would save no time.
    """
    features = objective.features
    width = 1 + BLOCKS * objective.n_classes
    small = FEATURES_PER_DIRECTION * width <= features.d <= features.n
    return not features.is_sparse and small and features.pass_cost(objective.n_classes) >= LEAST_PASS


@dataclass(frozen=True)
class OtherRows:
    """Rows drawn in proportion to their weights, but some of each class.

    Attributes
    ----------
    numbers : ndarray of int, (m,)
    times : ndarray of float64, (m,)
        One over the probability with which each was drawn.
    features : Features
        A copy of them.
    """

    numbers: Array
    times: Array
    features: Features


class WoodburySamples:
    """Disjoint samples of rows, from which preconditioners for any penalty are made.

    Parameters
    ----------
    objective : Objective
    k : int
        The model by whose weights rows are drawn.
    seed : int
        Seed for drawing the rows.

    Attributes
    ----------
    drawn : ndarray of int, (rows,)
        The numbers of the rows of all samples, in random order. Sample j of m rows has those from j m on.
    centre : ndarray of float64, (d,)
        Subtracted from the rows: the mean of the first ones, or zeros without an unpenalised intercept. On the device.
    """

    def __init__(self, objective: Objective, k: int, seed: int) -> None:
        features = objective.features
        n, d, self.backend, self.dtype = features.n, features.d, features.backend, np.dtype(features.dtype)
        self.objective, self.k, self.seed, self.factors = objective, k, seed, penalty_diagonal(objective)
        self.kappa = objective.loss.curvature_at_zero(objective.n_classes)
        self.most = max(1, min(d, n) // 2)  # rows of a sample
        self.drawn = _drawn_rows(objective, k, min(SAMPLES * self.most, n // 2), generator(seed, NO_EPOCH + 1))
        self.dear = inverse_cost("cholesky", min(2 * d, n), d) > DEAR * pass_cost(objective)
        d, xp = len(self.factors), self.backend.xp
        self.root = np.sqrt(self.factors)
        self.centre, self._floors = xp.zeros(d), xp.zeros(d)
        self._rows: Any = xp.empty((0, d), self.dtype)  # sqrt(kappa / r) (x - centre), first of drawn
        self._products: dict[tuple[int, int], Any] = {}  # A_j A_j' by j and m

    @np.errstate(over="ignore", invalid="ignore")  # the trainer reports infinite features
    def inverse(self, l2: float) -> Woodbury | None:
        """Return the mean of the inverses for this l2, on the device.

        It depends on nothing else but the objective and the seed. None if samples would have to be too large.
        """
        if not (l2 > 0 and (self.factors > 0).all() and len(self.drawn)):
            return None
        self._make_rows(FEWEST * SAMPLES)
        lift = self._lift(l2)
        most = min(self.most, MOST_ELEMENTS // (SAMPLES * len(self.factors)))
        m = min(FEWEST, most)
        while m > 0:
            R = self._factors([self._product(0, m, lift)], m * l2)[0]
            if R is None:
                break
            wider = self._wider(R, l2, lift)
            limit = WIDEST if self.dear and m >= self.objective.features.d // 3 else WIDER
            if wider <= limit:
                return self._mean_of_inverses(m, l2, lift)
            if m == most or wider * (m / most) ** 2 > WIDEST:  # not even the largest samples would do
                break
            m = min(int(m * (2.0 if wider > FAR * limit else 2**0.5)), most)
        return None

    def _lift(self, l2: float) -> Any:
        """Return by how much the root of each feature's ridge is lifted, (d,), or None if none is."""
        lift = self.backend.xp.sqrt(self.backend.xp.maximum(self._floors / l2, 1.0))
        return lift if (lift > 1).any() else None

    def _wider(self, R: Any, l2: float, lift: Any) -> float:
        """Return how many times larger the ridge is that the expected inverse has, from the factor of a sample."""
        xp = self.backend.xp
        lifted = xp.ones(1) if lift is None else xp.exp(2 * xp.log(lift).mean())
        squares, lifted = self.backend.fetch(xp.square(R).sum(dtype=np.float64), lifted)
        return float(lifted.item()) / (l2 * float(squares.item()))

    def _factors(self, products: list[Any], ridge: float) -> list[Any]:
        """Return R_j, with R_j'R_j the inverse of each product plus a ridge, or None instead."""
        ridges = self.backend.xp.full(len(products[0]), ridge)
        return list(inverse_factors([(one, ridges) for one in products], self.dtype, self.backend))

    @cached_property
    def other_rows(self) -> OtherRows:
        """Rows that are not in the samples, for `block_search`; those that weigh much may be in both."""
        return _draw_others(self.objective, self.k, self.drawn, generator(self.seed, NO_EPOCH + 1))

    @property
    def rows_read(self) -> int:
        """How many rows were fetched for samples so far."""
        return len(self._rows)

    def _mean_of_inverses(self, m: int, l2: float, lift: Any) -> Woodbury | None:
        q = max(1, min(SAMPLES, self.objective.features.n // (2 * m)))
        log.info("preconditioner: mean of %d inverses, each from %d of %d rows", q, m, self.objective.features.n)
        products = [self._product(j, m, lift) for j in range(q)]
        found: list[Any] = [None] * q

        def factorise(run: range) -> None:
            found[run.start : run.stop] = self._factors(products[run.start : run.stop], m * l2)

        self.backend.for_each_on_device(factorise, q)
        if any(R is None for R in found):
            return None
        a, root = self._lifted(slice(0, q * m), lift), self.backend.asarray(self.root)
        root = (root if lift is None else root * lift).astype(self.dtype)[:, None]
        return Woodbury(root, a, found, l2, self.backend)

    def _lifted(self, rows: slice, lift: Any) -> Any:
        """Return some rows of the samples for a ridge that is lifted."""
        self._make_rows(rows.stop)
        found = self._rows[rows]
        return found if lift is None else found / lift.astype(self.dtype)

    def _product(self, j: int, m: int, lift: Any) -> Any:
        """Return the lower triangle of A_j A_j', without 1 / m."""
        a = self._lifted(slice(j * m, (j + 1) * m), lift)
        if lift is not None:
            return self.backend.linalg.gram(a.T)
        if (j, m) not in self._products:
            self._products[j, m] = self.backend.linalg.gram(a.T)
        return self._products[j, m]

    def _make_rows(self, size: int) -> None:
        """Fetch rows until there are at least `size`, if so many were drawn; the first ones decide on the centre."""
        size, done, backend = min(size, len(self.drawn)), len(self._rows), self.backend
        if size <= done:
            return
        new = fetched_rows(self.objective, self.drawn[done:size])
        starts = range(0, len(new), BLOCK)
        if done == 0 and self.objective.has_free_intercept:
            self.centre = new.mean(axis=0, dtype=np.float64)
        centre = self.centre.astype(self.dtype)
        scale = backend.asarray(np.sqrt(self.kappa / self.factors).astype(self.dtype))

        def centred(run: range) -> None:
            for start in starts[run.start : run.stop]:
                block = new[start : start + BLOCK]
                block -= centre
                block *= scale

        backend.for_each_on_device(centred, len(starts))
        if done == 0:
            curvatures = backend.linalg.column_squares(new) / len(new)
            self._floors = FLOOR * float(np.finfo(self.dtype).eps) * self.objective.features.d * curvatures
        self._rows = backend.xp.concatenate([self._rows, new])


def _drawn_rows(objective: Objective, k: int, size: int, rng: np.random.Generator) -> Array:
    """Draw row numbers in proportion to the weights of model k; in random order.

    By systematic sampling, so that a row is drawn as often as its share of all weights says, up to rounding.
    """
    features = objective.features
    if objective.weights is None:
        return features.row_numbers(rng.choice(features.n, size, replace=False))
    order = features.row_numbers(rng.permutation(features.n))
    shares = np.cumsum(weight_fractions(objective, k, order))
    places = np.searchsorted(shares, (rng.random() + np.arange(size)) / size * shares[-1])
    return rng.permutation(order[np.minimum(places, len(order) - 1)])


def _draw_others(objective: Objective, k: int, drawn: Array, rng: np.random.Generator) -> OtherRows:
    """Draw rows apart from those that are drawn already, unless such a row would count for half a row or more here."""
    features, backend = objective.features, objective.backend
    n, row_bytes = features.n, max(1, features.nbytes // max(features.n_stored, 1))
    size = max(int(OTHERS * n), FEWEST_OTHERS, OTHERS_PER_UNKNOWN * BLOCKS * objective.n_classes)
    all_rows = size > MOST_OTHERS * n
    size = min(n if all_rows else size, max(FEWEST_OTHERS, OTHER_BYTES // row_bytes))
    numbers = uniform_rows(features, MOST_CANDIDATES, rng)
    shares = weight_fractions(objective, k, numbers)
    allowed = shares > 0
    if not all_rows:
        allowed &= ~np.isin(numbers, drawn) | (size * shares >= 0.5)
    numbers, shares = numbers[allowed], shares[allowed]
    labels = backend.to_numpy(objective.labels)[numbers]
    least = OTHERS_OF_CLASS / np.maximum(np.bincount(labels, minlength=objective.n_classes), 1)
    probability = np.minimum(1.0, np.maximum(size * shares / shares.sum(), least[labels]))
    kept = np.flatnonzero(rng.random(len(numbers)) < probability)
    return OtherRows(numbers[kept], 1 / probability[kept], features.copied(numbers[kept]))
