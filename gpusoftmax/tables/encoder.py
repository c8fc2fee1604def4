"""`TableEncoder`: tables of numbers, categories and text as features of a linear classifier."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.checks.scalars import check_choice, check_count
from gpusoftmax.checks.sparse import is_sparse
from gpusoftmax.tables.columns import RawColumns, as_columns, as_text, dates_are_refused, is_table
from gpusoftmax.tables.groups import Categories, Numbers, Words, count_words

KINDS = ("number", "category", "text")
WORDS_OF_A_SENTENCE = 5  # a column whose fields have as many words on average, and rarely repeat, is text
MOST_DENSE = 256  # features up to which the result is dense, unless a column is text
LOOKED_AT = 1000  # fields of a column that are searched for dates
CLOCK = r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?( ?[AaPp][Mm])?(Z|[+-][0-9]{2}:?[0-9]{2})?"
DAY = r"([0-9]{4}([-/.])[0-9]{1,2}\2[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\3[0-9]{2,4})"
DATE = re.compile(rf"{DAY}([T ]{CLOCK})?|{CLOCK}")


class TableEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Encode tables of numbers, categories and text as features of a linear classifier.

    Numbers are standardised; a gap becomes the mean, and a column with gaps has one more feature that says where they
    are. A category becomes one indicator (0 or 1) for each value, and one for all values that are rare; a value that
    training did not have counts as rare. Text becomes TF-IDF of its words and pairs of words. With f the number of
    times that a word occurs in a row, n the rows of training and n_w those with the word, it is

        (1 + ln f) (1 + ln((1 + n) / (1 + n_w)))

    divided by the Euclidean norm of the row. Words are told apart by a hash [1]_. Those that occur in a single row are
    left out.

    Parameters
    ----------
    kinds : dict of str to {"number", "category", "text"}, optional
        The kinds of some columns. By default a column is of numbers if all its fields are numbers; of text if its
        fields have five words or more on average, and more than half of them differ; and else of categories.
    min_frequency : int
        Values of a category in fewer rows are rare.
    n_hashes : int
        The number of hashes, for each column of text.

    Attributes
    ----------
    numbers_ : Numbers
    categories_ : Categories
    texts_ : list of Words
        What was learned from the columns of each kind, and their features, in this order.
    columns_ : tuple of str
        The names of all columns; "0", "1" and so on where the table has none.
    left_out_ : dict of str to str
        Columns that are not used, and why: those without values, and those of which each value occurs in one row, as
        identifiers do.
    report_ : str
        What became of the columns, in words. It does not exist after loading.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if they have any.

    See Also
    --------
    make_table_classifier : an encoder and a classifier in a Pipeline, which `save_model` writes to one file.

    References
    ----------
    .. [1] K. Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from gpusoftmax import TableEncoder
    >>> table = {"island": ["Biscoe", "Dream", "Biscoe", "Dream"], "bill": [39.1, None, 36.7, 40.3]}
    >>> encoder = TableEncoder().fit(table)
    >>> encoder.get_feature_names_out().tolist()
    ['bill', 'bill is missing', 'island=Biscoe', 'island=Dream']
    """

    def __init__(
        self, *, kinds: Mapping[str, str] | None = None, min_frequency: int = 2, n_hashes: int = 1 << 20
    ) -> None:
        self.kinds = kinds
        self.min_frequency = min_frequency
        self.n_hashes = n_hashes

    def fit(self, X: Any, y: Any = None) -> TableEncoder:
        """Learn the columns of a table.

        Parameters
        ----------
        X : data frame, pyarrow table, dict of columns, or array-like of shape (n, d)
            The table. None, NaN, empty text and words such as "NA" and "?" are gaps.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        TypeError
            X is no table, or a column holds dates or objects.
        ValueError
            A parameter is not usable, no column is, or a number is infinite.
        """
        self._learn(X)
        return self

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Learn the columns of a table, and return its features; faster than `fit` and `transform`.

        Parameters
        ----------
        X : data frame, pyarrow table, dict of columns, or array-like of shape (n, d)
            The table, as for `fit`.
        y, **fit_params : ignored

        Returns
        -------
        ndarray of float64, or csr_array of float32
            The features, as of `transform`.

        Raises
        ------
        TypeError, ValueError
            The same as for `fit`.
        """
        return self._encode(*self._learn(X))

    def transform(self, X: Any) -> Any:
        """Return the features of a table.

        Parameters
        ----------
        X : data frame, pyarrow table, dict of columns, or array-like of shape (n, n_features_in_)
            A table with the columns that were learned; others are ignored. A matrix of numbers of shape (n, number of
            features) counts as encoded already and is returned as it is, unless the encoder was fitted to an array.

        Returns
        -------
        ndarray of float64, or csr_array of float32
            The features. They are sparse if a column is text, or if there are more than 256.

        Raises
        ------
        ValueError, TypeError
            A column is missing, or a field of a column of numbers is not a number.
        sklearn.exceptions.NotFittedError
            The encoder is not fitted.
        """
        check_is_fitted(self, "numbers_")
        if hasattr(self, "feature_names_in_") and not is_table(X):
            n_features = len(self.get_feature_names_out())
            if getattr(getattr(X, "dtype", None), "kind", "O") in "fiub" and X.shape[1:] == (n_features,):
                return X
            raise ValueError(
                f"X is a {type(X).__name__} of shape {np.shape(X)}; pass a data frame with the columns "
                f"{shown(self.feature_names_in_.tolist())}, or their {n_features} encoded features"
            )
        table = as_columns(X, self.text_columns)
        if not hasattr(self, "feature_names_in_") and len(table.columns) == self.n_features_in_:
            table = RawColumns(dict(zip(self.columns_, table.columns.values(), strict=True)))  # by position
        if missing := [name for name in self.used_columns if name not in table.columns]:
            raise ValueError(
                f"X has no column {shown(missing[0])} among {shown(list(table.columns))}; pass all columns of "
                f"training, {shown(self.used_columns)}"
            )
        return self._encode(table, {})

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return the names of the features.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str, of shape (number of features,)
            A number has the name of its column; an indicator is called "island=Biscoe", "island is another" or "sex is
            missing"; the hash of a word is "note#8177".

        Raises
        ------
        sklearn.exceptions.NotFittedError
            The encoder is not fitted.
        """
        check_is_fitted(self, "numbers_")
        groups: list[Any] = [self.numbers_, *([self.categories_] if self.categories_.names else []), *self.texts_]
        return np.array([feature for group in groups for feature in group.features], dtype=object)

    @property
    def text_columns(self) -> frozenset[str]:
        """The names of the columns of categories and of text."""
        check_is_fitted(self, "numbers_")
        return frozenset((*self.categories_.names, *(one.name for one in self.texts_)))

    def _learn(self, X: Any) -> tuple[RawColumns, dict[str, Any]]:
        """Learn the columns of a table, and return it with the counts of the words in its columns of text."""
        check_count("min_frequency", self.min_frequency)
        check_count("n_hashes", self.n_hashes)
        table = as_columns(X, {str(name) for name, kind in (self.kinds or {}).items() if kind != "number"})
        kinds, counts = self._kinds(table)
        by_kind = {kind: [name for name in table.columns if kinds.get(name) == kind] for kind in KINDS}
        set_learned(
            self,
            Numbers.learn(table, by_kind["number"]),
            Categories.learn(table, by_kind["category"], self.min_frequency),
            [Words.learn(name, counts[name]) for name in by_kind["text"]],
            table.names,
            table.named,
        )
        self.report_ = _report(self, table)
        return table, counts

    def _kinds(self, table: RawColumns) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the kinds of the columns to use, and the counts of words of those of text; set `left_out_`."""
        kinds, counts = dict(self.kinds or {}), {}
        if unknown := [name for name in kinds if name not in table.columns]:
            raise ValueError(f"kinds has {shown(unknown[0])}, but the columns are {shown(list(table.names))}")
        self.left_out_: dict[str, str] = {}
        for name, column in table.columns.items():
            if name in kinds:
                check_choice(f"kinds[{name!r}]", kinds[name], KINDS)
            else:
                kinds[name] = _kind(name, column)
            reason = _useless(column, kinds[name], self.min_frequency)
            if kinds[name] == "text" and not reason:
                counts[name] = count_words(table, name, self.n_hashes)
                reason = "" if counts[name].nnz else "it has no words of two letters or more"
            if reason:
                self.left_out_[name] = reason
                del kinds[name]
                log.warning("column %s is left out: %s", shown(name), reason)
        if not kinds:
            raise ValueError(f"no column is usable: {_listed(self.left_out_)}")
        return kinds, counts

    @property
    def used_columns(self) -> list[str]:
        """The names of the columns from which features are made."""
        check_is_fitted(self, "numbers_")
        return [*self.numbers_.names, *self.categories_.names, *(one.name for one in self.texts_)]

    def _encode(self, table: RawColumns, counts: dict[str, Any]) -> Any:
        """Return the features of a table; `counts` holds those of its words that are known already."""
        blocks: list[Any] = [self.numbers_.encode(table)] if self.numbers_.names else []
        if self.categories_.names:
            blocks.append(self.categories_.encode(table))
        for one in self.texts_:
            known = counts.get(one.name)
            blocks.append(one.encode(count_words(table, one.name, one.n_hashes) if known is None else known))
        if self.texts_ or len(self.get_feature_names_out()) > MOST_DENSE:
            return sparse.csr_array(sparse.hstack([sparse.csr_array(block, dtype=np.float32) for block in blocks]))
        return np.hstack([block.toarray() if is_sparse(block) else block for block in blocks]).astype(np.float64)


def set_learned(
    encoder: TableEncoder, numbers: Numbers, categories: Categories, texts: list[Words], columns: tuple[str, ...],
    named: bool,
) -> TableEncoder:  # fmt: skip
    """Set what was learned from a table with these columns, and return the encoder.

    `named` says whether the table itself gave the names.
    """
    encoder.numbers_, encoder.categories_, encoder.texts_ = numbers, categories, texts
    encoder.columns_, encoder.n_features_in_ = columns, len(columns)
    if named:
        encoder.feature_names_in_ = np.array(columns, dtype=object)
    elif hasattr(encoder, "feature_names_in_"):
        del encoder.feature_names_in_
    return encoder


def _kind(name: str, column: Array) -> str:
    """Return the kind of a column by its fields; raises for dates."""
    if column.dtype != object:
        return "number"
    fields = [field for field in column.tolist() if field is not None]
    looked_at = fields[:LOOKED_AT]
    if fields and all(map(DATE.fullmatch, looked_at)):
        raise ValueError(f"column {shown(name)} {dates_are_refused(shown(fields[0]), name)}")
    words = sum(len(field.split()) for field in looked_at)
    is_text = words >= WORDS_OF_A_SENTENCE * len(looked_at) and 2 * len(set(fields)) > len(fields)
    return "text" if fields and is_text else "category"


def _useless(column: Array, kind: str, min_frequency: int) -> str:
    """Say why a column cannot be used; empty if it can."""
    if column.dtype != object:
        return "it has no values" if np.isnan(column).all() else ""
    fields = [field for field in column.tolist() if field is not None]
    if not fields:
        return "it has no values"
    if kind != "category":
        return ""
    counts = Counter(fields)
    if len(counts) == 1 and len(fields) == len(column):
        return f"all rows have {shown(fields[0])}"
    if max(counts.values()) >= min_frequency or len(column) - len(fields) >= min_frequency:
        return ""
    if len(counts) == len(fields):
        return "it has as many values as rows, so it is likely an identifier"
    return f"none of its {len(counts)} values occurs in {min_frequency} rows"


def _listed(reasons: dict[str, str]) -> str:
    return "; ".join(f"{shown(name)}: {reason}" for name, reason in list(reasons.items())[:8])


def _report(encoder: TableEncoder, table: RawColumns) -> str:
    """Say in words what became of the columns: of those of plain numbers only how many they are."""
    phrases, plain = [], 0
    numbers, categories = encoder.numbers_, encoder.categories_
    for name, has_gaps in zip(numbers.names, numbers.gaps, strict=True):
        plain += not has_gaps
        if has_gaps:
            phrases.append(f"{name}: {_gaps(table.columns[name])} as the mean")
    for name, values, others in zip(categories.names, categories.values, categories.others, strict=True):
        column = as_text(table.columns[name])
        gaps = _gaps(column)
        known = sum(value is not None for value in values)
        rare = len(set(column.tolist())) - len(values)
        together = f" and one for {rare} rare {'value' if rare == 1 else 'values'}" if others else ""
        phrases.append(f"{name}: {known} values as indicators{together}" + (f", {gaps}" if gaps else ""))
    phrases += [f"{one.name}: text, {len(one.hashes)} words and pairs of words" for one in encoder.texts_]
    if plain:
        phrases.insert(0, f"{plain} {'column' if plain == 1 else 'columns'} of numbers")
    return "; ".join(phrases)


def _gaps(column: Array) -> str:
    count = sum(field is None for field in column.tolist()) if column.dtype == object else int(np.isnan(column).sum())
    return f"{count} {'gap' if count == 1 else 'gaps'}" if count else ""
