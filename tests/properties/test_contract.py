"""The estimators in scikit-learn's tools: searches, pipelines, metadata, calibration, selection and ensembles."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.feature_selection import RFE, SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier
from tests.support.installed import frames_of

BOTH = pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
KNOWS_TEMPERATURE = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)


@pytest.fixture
def iris() -> tuple[Any, Any]:
    """Standardised, of three classes."""
    X, y = load_iris(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0), y


@pytest.fixture
def routing() -> Iterator[None]:
    """Metadata go where they are requested."""
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def score_of(model: Any, data: tuple[Any, Any]) -> float:
    return float(model.fit(*data).score(*data))


@BOTH
def test_the_tags_say_what_it_takes(cls: Any) -> None:
    tags = get_tags(cls())
    assert (tags.estimator_type, tags.requires_fit, tags.non_deterministic) == ("classifier", True, False)
    assert (tags.classifier_tags.multi_class, tags.classifier_tags.multi_label) == (True, False)
    assert (tags.target_tags.required, tags.target_tags.multi_output) == (True, False)
    inputs = tags.input_tags
    assert (inputs.two_d_array, inputs.sparse, inputs.allow_nan, inputs.string) == (True, True, False, False)


# searches and validation


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_grid_search_finds_the_C_of_a_loop(cls: Any, n_jobs: int, iris: tuple[Any, Any]) -> None:
    grid = [1e-4, 1e-2, 1.0]
    search = GridSearchCV(cls(), {"C": grid}, n_jobs=n_jobs).fit(*iris)
    means = [cross_val_score(cls(C=C), *iris).mean() for C in grid]
    assert search.cv_results_["mean_test_score"].tolist() == means
    assert search.best_params_["C"] == grid[int(np.argmax(means))]


@BOTH
def test_a_search_reaches_into_a_pipeline(cls: Any, iris: tuple[Any, Any]) -> None:
    pipeline = Pipeline([("scale", StandardScaler()), ("model", cls())])
    search = GridSearchCV(pipeline, {"model__C": [1e-4, 1.0], "model__scaling": [None, "standard"]}).fit(*iris)
    assert search.best_score_ > 0.9


def test_predictions_of_a_cross_validation_are_probabilities(iris: tuple[Any, Any]) -> None:
    ours = cross_val_predict(SoftmaxClassifier(tol=1e-7), *iris, method="predict_proba")
    theirs = cross_val_predict(LogisticRegression(tol=1e-7, max_iter=1000), *iris, method="predict_proba")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


# metadata


@BOTH
@pytest.mark.usefixtures("routing")
def test_a_pipeline_passes_on_what_fit_requests(cls: Any, iris: tuple[Any, Any]) -> None:
    X, y = iris
    weights, start = np.linspace(0, 3, len(y)), cls().fit(X, y)
    model = cls().set_fit_request(sample_weight=True, validation=True, start_from=True)
    fitted = make_pipeline(model).fit(X, y, sample_weight=weights, validation=(X, y), start_from=start)[-1]
    alone = cls().fit(X, y, weights, validation=(X, y), start_from=start)
    assert fitted.weight_sum_ == pytest.approx(weights.sum())
    assert fitted.coef_.tobytes() == alone.coef_.tobytes()
    assert [r.validation_loss for r in fitted.history_] == [r.validation_loss for r in alone.history_]


@BOTH
@pytest.mark.usefixtures("routing")
def test_a_search_passes_weights_validation_and_start_to_each_fit(cls: Any, iris: tuple[Any, Any]) -> None:
    X, y = iris
    model = cls().set_fit_request(sample_weight=True, validation=True, start_from=True)
    model.set_score_request(sample_weight=True)
    search = GridSearchCV(model, {"C": [0.1, 1.0]})
    best = search.fit(X, y, sample_weight=np.full(150, 2.0), validation=(X, y), start_from=cls().fit(X, y))
    assert best.best_estimator_.weight_sum_ == 300
    assert best.best_estimator_.history_[0].validation_loss is not None


@BOTH
@pytest.mark.usefixtures("routing")
def test_what_was_not_requested_is_an_error(cls: Any, iris: tuple[Any, Any]) -> None:
    with pytest.raises(UnsetMetadataPassedError, match=f"{cls.__name__}.set_fit_request"):
        GridSearchCV(cls(), {"C": [1.0]}).fit(*iris, sample_weight=np.ones(150))


@BOTH
@pytest.mark.usefixtures("routing")
def test_partial_fit_requests_weights_and_classes(cls: Any, iris: tuple[Any, Any]) -> None:
    model = cls().set_partial_fit_request(sample_weight=True, classes=True)
    routed = model.get_metadata_routing().partial_fit.requests
    assert routed == {"sample_weight": True, "classes": True}


# pipelines and copies


@BOTH
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_the_output_of_a_pipelines_transformers_is_taken(cls: Any, library: str, iris: tuple[Any, Any]) -> None:
    frames = frames_of(library)
    X, y = iris
    frame = frames.DataFrame(dict(zip("abcd", X.T, strict=True)))
    pipeline = make_pipeline(StandardScaler(), cls()).set_output(transform=library).fit(frame, y)
    assert pipeline[-1].feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert pipeline.predict(frame).tolist() == make_pipeline(StandardScaler(), cls()).fit(X, y).predict(X).tolist()


@BOTH
def test_a_fitted_pipeline_is_pickled_and_cloned(cls: Any, iris: tuple[Any, Any]) -> None:
    pipeline = make_pipeline(StandardScaler(), cls(C=0.3)).fit(*iris)
    loaded = pickle.loads(pickle.dumps(pipeline))
    assert loaded.decision_function(iris[0]).tobytes() == pipeline.decision_function(iris[0]).tobytes()
    twin = clone(pipeline)
    assert not hasattr(twin[-1], "coef_")
    assert twin.fit(*iris)[-1].coef_.tobytes() == pipeline[-1].coef_.tobytes()


# calibration


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ensemble", [True, False])
@pytest.mark.parametrize(
    "method",
    [
        "sigmoid",
        "isotonic",
        pytest.param("temperature", marks=pytest.mark.skipif(not KNOWS_TEMPERATURE, reason="new in scikit-learn 1.8")),
    ],
)
def test_calibrated_probabilities_are_probabilities(
    cls: Any, classes: int, ensemble: bool, method: str, iris: tuple[Any, Any]
) -> None:
    X, y = iris if classes == 3 else (iris[0][50:], iris[1][50:] - 1)
    model = CalibratedClassifierCV(cls(), method=method, ensemble=ensemble).fit(X, y)
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert model.score(X, y) > 0.85
    assert -np.log(probabilities[np.arange(len(y)), y] + 1e-3).mean() < 0.55  # log 3 = 1.1, log 2 = 0.7


# selection of features


@BOTH
@pytest.mark.parametrize("select", [lambda model: RFE(model, n_features_to_select=2), SelectFromModel])
def test_features_are_selected_by_coef(cls: Any, select: Any, iris: tuple[Any, Any]) -> None:
    selector = select(cls()).fit(*iris)
    assert selector.get_support().tolist() == [False, False, True, True]  # the petals


# ensembles


@pytest.mark.slow
@BOTH
def test_ensembles_take_it(cls: Any, iris: tuple[Any, Any]) -> None:
    two = [("weak", cls(C=0.01)), ("strong", cls())]
    for ensemble in (
        VotingClassifier(two, voting="hard"),
        StackingClassifier(two, final_estimator=cls()),
        BaggingClassifier(cls(), n_estimators=3, random_state=0),
        AdaBoostClassifier(cls(), n_estimators=3),
        OneVsRestClassifier(cls()),
    ):
        assert score_of(ensemble, iris) > 0.8


def test_a_soft_vote_is_the_mean_of_probabilities(iris: tuple[Any, Any]) -> None:
    two = [("weak", SoftmaxClassifier(C=0.01)), ("strong", SoftmaxClassifier())]
    vote = VotingClassifier(two, voting="soft").fit(*iris)
    mean = sum(clone(model).fit(*iris).predict_proba(iris[0]) for _, model in two) / 2
    np.testing.assert_allclose(vote.predict_proba(iris[0]), mean, rtol=1e-12)
