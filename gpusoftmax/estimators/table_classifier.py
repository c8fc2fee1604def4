"""A classifier for tables: an encoder and a classifier in a Pipeline."""

from __future__ import annotations

from typing import Any

from sklearn.pipeline import Pipeline

from gpusoftmax.estimators.classifiers import SoftmaxClassifier
from gpusoftmax.tables.encoder import TableEncoder


def make_table_classifier(classifier: Any = None, **encoder: Any) -> Pipeline:
    """Make a Pipeline that encodes tables of numbers, categories and text, and classifies their rows.

    Parameters
    ----------
    classifier : classifier, optional
        By default ``SoftmaxClassifier()``. The encoder standardises the columns of numbers, so leave its `scaling` at
        None.
    **encoder
        Parameters of `TableEncoder`.

    Returns
    -------
    sklearn.pipeline.Pipeline
        With the steps "encoder" and "classifier". Its methods take a data frame, a pyarrow table or a dict of columns.
        Once it is fitted to one of these, those that predict take the encoded features as well, where they cannot be
        mistaken for raw columns. `save_model` writes it to one file.

    Examples
    --------
    >>> from gpusoftmax import SoftmaxClassifier, make_table_classifier
    >>> penguins = {"island": ["Biscoe", "Dream", "Biscoe", "Dream"], "bill": [39.1, None, 36.7, 50.3]}
    >>> model = make_table_classifier(SoftmaxClassifier(C=10)).fit(penguins, ["Adelie", "Gentoo", "Adelie", "Gentoo"])
    >>> model.predict({"island": ["Torgersen", "Dream"], "bill": [37.0, None]}).tolist()
    ['Adelie', 'Gentoo']
    """
    return table_pipeline(TableEncoder(**encoder), SoftmaxClassifier() if classifier is None else classifier)


def table_pipeline(encoder: TableEncoder, classifier: Any) -> Pipeline:
    """Return the Pipeline of an encoder and a classifier."""
    return Pipeline([("encoder", encoder), ("classifier", classifier)])
