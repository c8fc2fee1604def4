"""The columns of a table by kind: what is learned from them, and the features that are made of them.

Columns of categories and of text are strings here, see `columns.as_columns`. The features of a group depend on nothing
but what it holds, so a group from a model file is the same as one that was just learned.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.preprocessing import StandardScaler

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.tables.columns import BadColumnError, RawColumns, number_of, numbers_or_strings

MIN_ROWS = 2  # rows in which a word or a pair of words has to occur to become a feature; all count if none does


@dataclass(frozen=True, eq=False)
class Numbers:
    """Columns of numbers: standardised, with an indicator of gaps for each column that had gaps.

    Attributes
    ----------
    names : tuple of str, length k
    mean, scale : ndarray of float64, (k,)
        Mean and standard deviation of each column without its gaps. The scale of a constant column is 1.
    gaps : tuple of bool, length k
        Whether the column had gaps.
    """

    names: tuple[str, ...]
    mean: Array
    scale: Array
    gaps: tuple[bool, ...]

    @classmethod
    def learn(cls, table: RawColumns, names: list[str]) -> Numbers:
        """Learn the columns of these names."""
        x = _side_by_side(table, names, "as kinds says")
        scaler = StandardScaler().fit(x) if names else None
        mean, scale = (np.empty(0), np.empty(0)) if scaler is None else (scaler.mean_, scaler.scale_)
        return cls(tuple(names), mean, scale, tuple(bool(np.isnan(column).any()) for column in x.T))

    @property
    def n_features(self) -> int:
        """The number of features."""
        return len(self.names) + sum(self.gaps)

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return [*self.names, *(f"{name} is missing" for name, gap in zip(self.names, self.gaps, strict=True) if gap)]

    def encode(self, table: RawColumns) -> Array:
        """Return the features, (n, n_features) of float64; a gap is 0, the mean."""
        x = _side_by_side(table, list(self.names), "as in training")
        missing = np.isnan(x)
        x = np.where(missing, 0.0, (x - self.mean) / self.scale)
        return np.hstack([x, missing[:, np.array(self.gaps, bool)]])


def _side_by_side(table: RawColumns, names: list[str], why: str) -> Array:
    """Return columns of numbers side by side, with NaN for gaps."""
    x = np.empty((len(table), len(names)))
    for j, name in enumerate(names):
        column = numbers_or_strings(table.columns[name])
        if column.dtype == object:
            strays = (row for row, text in enumerate(column) if text is not None and number_of(text) is None)
            row = next(strays)
            option = f"kinds, on the command line --category {shlex.quote(name)}"
            expected = f"a number, {why}, or a gap (if it has categories, say so in training: {option})"
            raise BadColumnError(name, f"is {shown(column[row])}", expected, row)
        if np.isinf(column).any():
            row = int(np.isinf(column).argmax())
            raise BadColumnError(name, f"is {column[row]}", "a finite number, or a gap", row)
        x[:, j] = column
    return x


@dataclass(frozen=True, eq=False)
class Categories:
    """Columns of categories: an indicator for each value, one for gaps, and one for all values that are rare or new.

    Attributes
    ----------
    names : tuple of str, length k
    values : tuple of tuple of (str or None), length k
        Those with an indicator of their own, sorted; None is a gap, and last.
    has_rare : tuple of bool, length k
        Whether there is an indicator for rare and new values. Without one, new values have zeros alone.
    """

    names: tuple[str, ...]
    values: tuple[tuple[str | None, ...], ...]
    has_rare: tuple[bool, ...]

    @classmethod
    def learn(cls, table: RawColumns, names: list[str], min_frequency: int) -> Categories:
        """Learn the columns of these names; values in fewer than min_frequency rows are rare."""
        values: list[tuple[str | None, ...]] = []
        has_rare = []
        for name in names:
            counts = Counter(table.columns[name].tolist())
            gap = (None,) if counts.pop(None, 0) else ()
            frequent = sorted(value for value, count in counts.items() if count >= min_frequency)
            values.append((*frequent, *gap))
            has_rare.append(len(frequent) < len(counts))
        return cls(tuple(names), tuple(values), tuple(has_rare))

    @property
    def n_features(self) -> int:
        """The number of features."""
        return sum(map(len, self.values)) + sum(self.has_rare)

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return [
            feature
            for name, values, has_rare in zip(self.names, self.values, self.has_rare, strict=True)
            for feature in (
                *(f"{name} is missing" if value is None else f"{name}={value}" for value in values),
                *([f"{name} is rare or new"] if has_rare else []),
            )
        ]

    def encode(self, table: RawColumns) -> Any:
        """Return the indicators, a csr_array (n, n_features) of float32."""
        n, start = len(table), 0
        places = np.empty((n, len(self.names)), np.int32)
        for j, (known, has_rare) in enumerate(zip(self._known, self.has_rare, strict=True)):
            other = start + len(known) if has_rare else -1
            column = table.columns[self.names[j]].tolist()
            places[:, j] = [start + known[value] if value in known else other for value in column]
            start += len(known) + has_rare
        used = places >= 0
        indptr = np.concatenate([[0], used.sum(axis=1).cumsum()])
        indices = places[used]
        return sparse.csr_array((np.ones(len(indices), np.float32), indices, indptr), (n, start))

    @cached_property
    def _known(self) -> list[dict[str | None, int]]:
        return [{value: i for i, value in enumerate(values)} for values in self.values]


@dataclass(frozen=True, eq=False)
class TextColumn:
    """A column of text: TF-IDF of its words and pairs of words, which are identified by hashes.

    Attributes
    ----------
    name : str
    n_hashes : int
        How many hashes there are.
    hashes : ndarray of int32, (k,)
        Those that occur in at least two rows, increasing. Others are left out.
    idf : ndarray of float64, (k,)
        ln((1 + n) / (1 + rows with the hash)) + 1 over the n rows of training.
    """

    name: str
    n_hashes: int
    hashes: Array
    idf: Array

    @classmethod
    def learn(cls, name: str, counts: Any) -> TextColumn:
        """Learn the column of this name from the counts of its words, of which there is one; see `count_words`."""
        rows = np.bincount(counts.indices, minlength=counts.shape[1])
        hashes = np.flatnonzero(rows >= MIN_ROWS if (rows >= MIN_ROWS).any() else rows > 0).astype(np.int32)
        idf = TfidfTransformer().fit(_chosen(counts, hashes)).idf_
        return cls(name, counts.shape[1], hashes, np.asarray(idf, np.float64))

    @property
    def n_features(self) -> int:
        """The number of features."""
        return len(self.hashes)

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return [f"{self.name}#{number}" for number in self.hashes.tolist()]

    def encode(self, counts: Any) -> Any:
        """Return the features, a csr_array of float32 whose rows have norm 1, or 0 without a known word."""
        transformer = TfidfTransformer(sublinear_tf=True)
        transformer.idf_ = self.idf
        return transformer.transform(_chosen(counts, self.hashes))


def count_words(table: RawColumns, name: str, n_hashes: int) -> Any:
    """Count the words and pairs of words of each row of a column by their hashes, in a csr_array (n, n_hashes)."""
    texts = ["" if text is None else text for text in table.columns[name].tolist()]
    vectorizer = HashingVectorizer(
        n_features=n_hashes, ngram_range=(1, 2), strip_accents="unicode", alternate_sign=False, norm=None,
        dtype=np.float32,
    )  # fmt: skip
    return sparse.csr_array(vectorizer.transform(texts))


def _chosen(counts: Any, hashes: Array) -> Any:
    """Return the columns with these hashes, which increase; SciPy's own selection takes memory for all columns."""
    place = np.searchsorted(hashes, counts.indices)
    known = hashes[np.minimum(place, len(hashes) - 1)] == counts.indices
    indptr = np.concatenate([[0], known.cumsum()])[counts.indptr]
    return sparse.csr_array((counts.data[known], place[known].astype(np.int32), indptr), (counts.shape[0], len(hashes)))
