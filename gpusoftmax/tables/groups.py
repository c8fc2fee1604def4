"""The columns of a table by kind: what is learned from them, and the features that scikit-learn's encoders make.

Each group is made from what was learned alone, so a group from a model file is the same as one that was just learned.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.tables.columns import RawColumns, as_text, numbers_or_text

ROWS = 2  # in which a word or a pair of words has to occur to be a feature, unless none does


@dataclass(frozen=True, eq=False)
class Numbers:
    """Columns of numbers, of which k are used: standardised, with an indicator for each column that had gaps.

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
        x = _numbers(table, names)
        scaler = StandardScaler().fit(x) if names else None
        mean, scale = (np.empty(0), np.empty(0)) if scaler is None else (scaler.mean_, scaler.scale_)
        gaps = np.atleast_1d(np.isnan(x).any(axis=0))
        return cls(tuple(names), mean, scale, tuple(map(bool, gaps)))

    @cached_property
    def _imputer(self) -> SimpleImputer:
        gaps = np.where(self.gaps, np.nan, np.zeros((2, len(self.names))))
        return SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True, keep_empty_features=True).fit(
            gaps
        )

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return [*self.names, *(f"{name} is missing" for name, gap in zip(self.names, self.gaps, strict=True) if gap)]

    def encode(self, table: RawColumns) -> Array:
        """Return the features (n, k + columns with gaps); a gap is 0, the mean."""
        x = (_numbers(table, list(self.names)) - self.mean) / self.scale
        encoded: Array = self._imputer.transform(x)
        return encoded


def _numbers(table: RawColumns, names: list[str]) -> Array:
    """Return columns of numbers side by side, with NaN for gaps."""
    x = np.empty((len(table), len(names)))
    for j, name in enumerate(names):
        column = table.columns[name]
        if column.dtype == object:
            column = numbers_or_text(column)
        if column.dtype == object:
            known = [(i, text) for i, text in enumerate(column.tolist()) if text is not None]
            if known:
                row, text = next((i, text) for i, text in known if not _is_number(text))
                raise ValueError(f"column {shown(name)} is {shown(text)} in row {row}, and a number in training")
            column = np.full(len(table), np.nan)
        if np.isinf(column).any():
            row = int(np.isinf(column).argmax())
            raise ValueError(f"column {shown(name)} is infinite in row {row}; pass a finite number, or a gap")
        x[:, j] = column
    return x


def _is_number(text: str) -> bool:
    return bool(numbers_or_text(np.array([text], object)).dtype != object)


@dataclass(frozen=True, eq=False)
class Categories:
    """Columns of categories: an indicator for each value, and one for all values that are rare or unseen.

    Attributes
    ----------
    names : tuple of str, length k
    values : tuple of tuple of (str or None), length k
        Those with an indicator, sorted; None is a gap, and last.
    others : tuple of bool, length k
        Whether there is an indicator for all other values. Without one, unseen values have zeros alone.
    """

    names: tuple[str, ...]
    values: tuple[tuple[str | None, ...], ...]
    others: tuple[bool, ...]

    @classmethod
    def learn(cls, table: RawColumns, names: list[str], min_frequency: int) -> Categories:
        """Learn the columns of these names; values in fewer than min_frequency rows are rare."""
        values, others = [], []
        for name in names:
            counts = Counter(as_text(table.columns[name]).tolist())
            kept = [value for value, count in counts.items() if count >= min_frequency]
            values.append(tuple(sorted(kept, key=lambda value: (value is None, value or ""))))
            others.append(len(kept) < len(counts))
        return cls(tuple(names), tuple(values), tuple(others))

    @cached_property
    def _encoder(self) -> OneHotEncoder:
        """The encoder, fitted to columns in which each value occurs twice or more, and another value once."""
        columns = [
            [*values, *values, *([_unlike(values)] if other else [])]
            for values, other in zip(self.values, self.others, strict=True)
        ]
        n = max(map(len, columns))
        example = np.array([column + column[:1] * (n - len(column)) for column in columns], object).T
        return OneHotEncoder(min_frequency=2, handle_unknown="infrequent_if_exist", dtype=np.float32).fit(example)

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return [
            feature
            for name, values, other in zip(self.names, self.values, self.others, strict=True)
            for feature in (
                *(f"{name} is missing" if value is None else f"{name}={value}" for value in values),
                *([f"{name} is another"] if other else []),
            )
        ]

    def encode(self, table: RawColumns) -> Any:
        """Return the indicators, a csr_matrix of float32."""
        columns = np.empty((len(table), len(self.names)), object)
        for j, name in enumerate(self.names):
            columns[:, j] = as_text(table.columns[name])
        return self._encoder.transform(columns)


def _unlike(values: tuple[str | None, ...]) -> str:
    """Return a text that is none of the values."""
    return "x" * (1 + max((len(value) for value in values if value is not None), default=0))


@dataclass(frozen=True, eq=False)
class Words:
    """A column of text: TF-IDF of its words and pairs of words, which are told apart by hashes.

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
    def learn(cls, name: str, counts: Any) -> Words:
        """Learn the column of this name from the counts of its words, of which there is one; see `count_words`."""
        rows = np.bincount(counts.indices, minlength=counts.shape[1])
        hashes = np.flatnonzero(rows >= ROWS if (rows >= ROWS).any() else rows > 0).astype(np.int32)
        idf = TfidfTransformer().fit(counts[:, hashes]).idf_
        return cls(name, counts.shape[1], hashes, np.asarray(idf, np.float64))

    @cached_property
    def _tfidf(self) -> TfidfTransformer:
        transformer = TfidfTransformer(sublinear_tf=True)
        transformer.idf_ = self.idf
        return transformer

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return [f"{self.name}#{number}" for number in self.hashes.tolist()]

    def encode(self, counts: Any) -> Any:
        """Return the features, a csr_matrix of float32 whose rows have norm 1, or 0 without a known word."""
        return self._tfidf.transform(counts[:, self.hashes])


def count_words(table: RawColumns, name: str, n_hashes: int) -> Any:
    """Count the words and pairs of words of each row of a column by their hashes, in a csr_matrix (n, n_hashes)."""
    texts = ["" if text is None else text for text in as_text(table.columns[name]).tolist()]
    vectorizer = HashingVectorizer(
        n_features=n_hashes, ngram_range=(1, 2), strip_accents="unicode", alternate_sign=False, norm=None,
        dtype=np.float32,
    )  # fmt: skip
    return sparse.csr_matrix(vectorizer.transform(texts))
