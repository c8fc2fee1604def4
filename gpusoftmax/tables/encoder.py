"""`TableEncoder`: tables of numbers, categories and text as features of a linear classifier."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import counted, shown, warn_user
from gpusoftmax.checks.scalars import check_choice, check_count
from gpusoftmax.checks.sparse import is_sparse
from gpusoftmax.tables.columns import (
    BadColumnError,
    RawColumns,
    as_columns,
    dates_are_refused,
    is_table,
    names_of,
    number_of,
)
from gpusoftmax.tables.groups import Categories, Numbers, TextColumn, count_words

KINDS = ("number", "category", "text")
WORDS_OF_TEXT = 3  # a column whose fields have as many words on average, and rarely repeat, is text
MOST_DENSE = 256  # features up to which the result is dense, unless a column is text
MOST_VALUES = 100_000  # of all categories: a model file has room for their names
MOST_HASHES = 1 << 24
DATE_SAMPLE = 1000  # fields of a column that are searched for dates
# A column of which so many fields are numbers, but not all, is an oversight rather than one of categories.
MOSTLY, FEW_ROWS = 0.9, 10
CLOCK = r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?( ?[AaPp][Mm])?(Z|[+-][0-9]{2}:?[0-9]{2})?"
DAY = r"([0-9]{4}([-/.])[0-9]{1,2}\2[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\3[0-9]{2,4})"
DATE = re.compile(rf"{DAY}([T ]{CLOCK})?|{CLOCK}")


class TableEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Encode tables of numbers, categories and text as features of a linear classifier.

    Numbers are standardised; a gap becomes the mean, and a column with gaps has one more feature that says where they
    are. A category becomes one indicator (0 or 1) for each value, one for gaps, and one for all values that are rare or
    new; without rare values in training, a new one has zeros alone. Text becomes TF-IDF of its words and pairs of
    words. With f the number of times that a word occurs in a row, n the rows of training and n_w those with the word,
    it is

        (1 + ln f) (1 + ln((1 + n) / (1 + n_w)))

    divided by the Euclidean norm of the row. Words are identified by a hash [1]_, so that two may share a feature.
    Those that occur in a single row are left out.

    Parameters
    ----------
    kinds : dict of str to {"number", "category", "text"}, optional
        The kinds of some columns. By default a column is of numbers if all its fields are numbers; of text if its
        fields have three words or more on average, and more than half of them differ; and else of categories.
    min_frequency : int
        Values of a category in fewer rows are rare.
    n_hashes : int
        The number of hashes, for each column of text; at most 2^24.

    Attributes
    ----------
    numbers_ : Numbers
    categories_ : Categories
    texts_ : list of TextColumn
        What was learned from the columns of each kind, and their features, in this order.
    columns_ : tuple of str
        The names of all columns; "0", "1" and so on where the table has none.
    left_out_ : dict of str to str
        Columns that are not used, and why: those without values, categories with one value in all rows, and those whose
        values are rare in more than half of the rows, as identifiers are. `fit` warns of them.
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.categorical = tags.input_tags.allow_nan = True
        return tags

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
            X is no table, or a column does not hold single values.
        ValueError
            A parameter is not usable, no column is, or a column holds dates, infinities, or numbers with a stray word.
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
            A table with the columns that were learned; others are not looked at. If the encoder was fitted to an array,
            columns count by position. If it was not, a matrix of numbers of shape (n, number of features) counts as
            encoded already and is returned as it is, unless it may also be the raw table.

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
        if not hasattr(self, "feature_names_in_"):
            return self._encode(self._by_position(X), {})
        if not is_table(X):
            return self._already_encoded(X)
        used = self.used_columns
        table = as_columns(X, self.string_columns, frozenset(used))
        if missing := [name for name in used if name not in table.columns]:
            raise ValueError(f"X has no column {shown(missing[0])}; pass all columns of training, {shown(used)}")
        return self._encode(table, {})

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return the names of the features.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str, of shape (number of features,)
            A number has the name of its column; an indicator is called "island=Biscoe", "island is rare or new" or "sex
            is missing"; the hash of a word is "note#8177".

        Raises
        ------
        sklearn.exceptions.NotFittedError
            The encoder is not fitted.
        """
        return np.array([feature for group in self._groups for feature in group.features], dtype=object)

    @property
    def used_columns(self) -> list[str]:
        """The names of the columns from which features are made."""
        return [*self.numbers_.names, *self.categories_.names, *(one.name for one in self.texts_)]

    @property
    def string_columns(self) -> frozenset[str]:
        """The names of the columns of categories and of text, whose fields are read as strings."""
        return frozenset(self.used_columns) - set(self.numbers_.names)

    @property
    def n_features(self) -> int:
        """The number of features."""
        return sum(group.n_features for group in self._groups)

    @property
    def _groups(self) -> list[Any]:
        check_is_fitted(self, "numbers_")
        return [self.numbers_, self.categories_, *self.texts_]

    def _already_encoded(self, X: Any) -> Any:
        """Return a matrix that holds the features of a table with names; raise if it may be something else."""
        shape, n, d = np.shape(X) if not is_sparse(X) else X.shape, self.n_features, self.n_features_in_
        if getattr(getattr(X, "dtype", None), "kind", "O") in "fiub" and shape[1:] == (n,) and n != d:
            return X if X.dtype.kind == "f" else X.astype(np.float64)
        pipeline = " (for features that are encoded, call the classifier alone)" if n == d else f", or its {n} features"
        raise ValueError(
            f"X is a {type(X).__name__} of shape {shape}, without names; pass a data frame with the columns "
            f"{shown(self.feature_names_in_.tolist())}{pipeline}"
        )

    def _by_position(self, X: Any) -> RawColumns:
        """Return the columns of a table for an encoder that was fitted to one without names."""
        if is_table(X) and not isinstance(X, RawColumns):
            warn_user(
                "X has names, but the encoder was fitted to a table without: columns count by position", UserWarning
            )
        names, of_strings = names_of(X), self.string_columns
        if len(names) != self.n_features_in_:
            raise ValueError(f"X has {len(names)} columns; pass {self.n_features_in_}, as in training")
        strings = {name for name, known in zip(names, self.columns_, strict=True) if known in of_strings}
        columns = as_columns(X, strings).columns.values()
        return RawColumns(dict(zip(self.columns_, columns, strict=True)), False)

    def _learn(self, X: Any) -> tuple[RawColumns, dict[str, Any]]:
        """Learn the columns of a table, and return it with the counts of the words in its columns of text."""
        check_count("min_frequency", self.min_frequency)
        if check_count("n_hashes", self.n_hashes) > MOST_HASHES:
            raise ValueError(f"n_hashes={self.n_hashes} is too large; pass at most {MOST_HASHES}")
        if not isinstance(self.kinds, Mapping | None):
            raise TypeError(f"kinds={shown(self.kinds)} is no dict; pass the kinds of columns by their names")
        given = {str(name): kind for name, kind in (self.kinds or {}).items()}
        for name, kind in given.items():
            check_choice(f"kinds[{name!r}]", kind, KINDS)
        table = as_columns(X, {name for name, kind in given.items() if kind != "number"})
        if unknown := [name for name in given if name not in table.columns]:
            raise ValueError(
                f"there is no column {shown(unknown[0])}, as kinds says; there are {shown(list(table.names))}"
            )
        _refuse_dates({name: column for name, column in table.columns.items() if name not in given})
        kinds, counts, left_out = {}, {}, {}
        for name, column in table.columns.items():
            kind = given.get(name) or _kind(name, column)
            reason = _why_left_out(name, column, kind, self.min_frequency)
            if kind == "text" and reason is None:
                counts[name] = count_words(table, name, self.n_hashes)
                reason = None if counts[name].nnz else "it has no words of two letters or more"
            if reason is None:
                kinds[name] = kind
            else:
                left_out[name] = reason
        if not kinds:
            reasons = "; ".join(f"{shown(name)}: {reason}" for name, reason in list(left_out.items())[:8])
            raise ValueError(f"no column is usable: {reasons}")
        self._set(table, kinds, counts, left_out)
        return table, counts

    def _set(self, table: RawColumns, kinds: dict[str, str], counts: dict[str, Any], left_out: dict[str, str]) -> None:
        """Learn the columns of these kinds, and set the fitted attributes at the end."""
        by_kind = {kind: [name for name in table.columns if kinds.get(name) == kind] for kind in KINDS}
        categories = Categories.learn(table, by_kind["category"], self.min_frequency)
        if categories.n_features > MOST_VALUES:
            sizes = dict(zip(categories.names, map(len, categories.values), strict=True))
            largest = max(sizes, key=sizes.__getitem__)
            raise BadColumnError(
                largest,
                f"has {sizes[largest]} values, and all categories more than {MOST_VALUES}",
                "fewer: leave it out, or raise min_frequency",
            )
        texts = [TextColumn.learn(name, counts[name]) for name in by_kind["text"]]
        set_learned(self, Numbers.learn(table, by_kind["number"]), categories, texts, table.names, table.named)
        self.left_out_ = left_out
        for name, reason in left_out.items():
            warn_user(f"column {shown(name)} is left out: {reason}", UserWarning)
        self.report_ = _report(self, table)

    def _encode(self, table: RawColumns, counts: dict[str, Any]) -> Any:
        """Return the features of a table; `counts` holds those of its words that are known already."""
        blocks: list[Any] = [self.numbers_.encode(table), self.categories_.encode(table)]
        for one in self.texts_:
            known = counts.get(one.name)
            blocks.append(one.encode(count_words(table, one.name, one.n_hashes) if known is None else known))
        if self.texts_ or self.n_features > MOST_DENSE:
            return sparse.csr_array(sparse.hstack([sparse.csr_array(block, dtype=np.float32) for block in blocks]))
        return np.hstack([block.toarray() if is_sparse(block) else block for block in blocks]).astype(np.float64)


def set_learned(
    encoder: TableEncoder, numbers: Numbers, categories: Categories, texts: list[TextColumn], columns: tuple[str, ...],
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


def _refuse_dates(columns: dict[str, Array]) -> None:
    """Raise if columns hold dates or times, in one error about all of them."""
    dates = {}
    for name, column in columns.items():
        known = [field for field in column.tolist() if field is not None] if column.dtype == object else []
        if known and all(map(DATE.fullmatch, known[:DATE_SAMPLE])):
            dates[name] = known[0]
    if dates:
        raise dates_are_refused(list(dates), list(dates.values()))


def _kind(name: str, column: Array) -> str:
    """Return the kind of a column by its fields.

    Raises
    ------
    BadColumnError
        It holds numbers with a stray word.
    """
    if column.dtype != object:
        return "number"
    known = [(row, field) for row, field in enumerate(column.tolist()) if field is not None]
    if not known:
        return "category"
    fields = [field for _, field in known]
    strays = [(row, field) for row, field in known if number_of(field) is None]
    if strays and len(known) > FEW_ROWS and len(strays) <= (1 - MOSTLY) * len(known):
        row, field = strays[0]
        raise BadColumnError(
            name,
            f"is {shown(field)}",
            f"a number or a gap, since {len(known) - len(strays)} of its {len(known)} fields are numbers, or that the "
            f"column is said to have categories (kinds, on the command line --category {shlex.quote(name)})",
            row,
        )
    words = sum(len(field.split()) for field in fields)
    is_text = words >= WORDS_OF_TEXT * len(fields) and 2 * len(set(fields)) > len(fields)
    return "text" if is_text else "category"


def _why_left_out(name: str, column: Array, kind: str, min_frequency: int) -> str | None:
    """Say why a column cannot be used; None if it can."""
    fields = [field for field in column.tolist() if field is not None and field == field]  # NaN is not equal to itself
    if not fields:
        return "it has no values"
    if kind != "category":
        return None
    counts = Counter(fields)
    if len(counts) == 1 and len(fields) == len(column):
        return f"all rows have {shown(fields[0])}"
    frequent = sum(count for count in counts.values() if count >= min_frequency)
    if 2 * frequent >= len(fields):
        return None
    option = f"kinds, on the command line --text {shlex.quote(name)}"
    if len(counts) == len(fields):
        return f"it has as many values as rows, so it is likely an identifier (if it is text: {option})"
    return f"most of its {len(counts)} values occur in fewer than {min_frequency} rows (if it is text: {option})"


def _report(encoder: TableEncoder, table: RawColumns) -> str:
    """Say in words what became of the columns: of those of plain numbers only how many they are."""
    phrases, plain = [], 0
    numbers, categories = encoder.numbers_, encoder.categories_
    for name, has_gaps in zip(numbers.names, numbers.gaps, strict=True):
        plain += not has_gaps
        if has_gaps:
            phrases.append(f"{name}: {_gaps(table.columns[name])} as the mean")
    for name, values, has_rare in zip(categories.names, categories.values, categories.has_rare, strict=True):
        column = table.columns[name]
        rare = len(set(column.tolist())) - len(values)
        phrase = f"{name}: {counted(len(values) - (None in values), 'value')} as indicators"
        phrase += f" and one for {counted(rare, 'rare value')}" if has_rare else ""
        phrases.append(phrase + (f", {_gaps(column)}" if None in values else ""))
    phrases += [f"{one.name}: text, {counted(len(one.hashes), 'word')} and pairs of words" for one in encoder.texts_]
    if plain:
        phrases.insert(0, f"{counted(plain, 'column')} of numbers")
    return "; ".join(phrases)


def _gaps(column: Array) -> str:
    missing = [field is None for field in column.tolist()] if column.dtype == object else np.isnan(column)
    return counted(int(sum(missing)), "gap")
