"""Loggers write what the history has, each with the library that it is for."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import CsvLogger, MlflowLogger, SoftmaxClassifier, TensorBoardLogger, load_digits
from gpusoftmax.loggers import measures_of
from gpusoftmax.trainer import Record


def fit(*callbacks: Any, passes: int = 3) -> Any:
    """A model that was trained for some passes, with validation rows."""
    digits = load_digits()
    model = SoftmaxClassifier(solver="sgd", max_iter=passes, schedule="constant", tol=0, callbacks=callbacks)
    return model.fit(*digits.parts["train"], validation=digits.parts["validation"])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_csv_file_is_the_history(tmp_path: Path) -> None:
    path = tmp_path / "fit.csv"
    model = fit(CsvLogger(path))
    rows = rows_of(path)
    assert [float(row["validation_loss"]) for row in rows] == [one.validation_loss for one in model.history_]
    assert [int(row["step"]) for row in rows] == [one.step for one in model.history_]


def test_a_second_fit_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fit.csv"
    logger = CsvLogger(path)
    fit(logger)
    fit(logger, passes=2)
    assert len(rows_of(path)) == 2


def test_a_second_fit_is_added_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "fit.csv"
    for _ in range(2):
        fit(CsvLogger(path, append=True), passes=2)
    assert [row["model"] for row in rows_of(path)] == ["0"] * 4


def test_lines_are_there_while_the_fit_runs(tmp_path: Path) -> None:
    path, seen = tmp_path / "fit.csv", []
    fit(CsvLogger(path), lambda record: seen.append(len(rows_of(path))))
    assert seen == [1, 2, 3]


def test_models_side_by_side_have_a_line_each(tmp_path: Path) -> None:
    both = {name: np.array([1.0, 2.0]) for name in ("objective", "loss", "accuracy", "learning_rate")}
    record = Record(
        passes=1, step=1, **both, validation_loss=None, validation_accuracy=None, seconds=1, rows_per_second=1
    )
    write: Any = CsvLogger(tmp_path / "fit.csv").fresh()
    write(record)
    write.close()
    assert [(row["model"], row["loss"]) for row in rows_of(tmp_path / "fit.csv")] == [("0", "1.0"), ("1", "2.0")]
    assert measures_of(record)["loss/training/1"] == 2.0


def test_the_file_is_closed_if_the_fit_fails(tmp_path: Path) -> None:
    made: list[Any] = []

    class Kept(CsvLogger):
        def fresh(self) -> Any:
            made.append(super().fresh())
            return made[-1]

    def fail(record: Record) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fit(Kept(tmp_path / "fit.csv"), fail)
    assert made[0].file.closed


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401 - the writer of real event files
    from tensorboardX.proto.event_pb2 import Event

    model = fit(TensorBoardLogger(tmp_path / "run"))
    (path,) = (tmp_path / "run").glob("events.out.tfevents.*")
    content, found, at = path.read_bytes(), [], 0
    while at < len(content):  # length (8 bytes), its check sum (4), the event, its check sum (4)
        length = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + length])
        found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == "loss/validation"]
        at += length + 16
    assert [step for step, _ in found] == [one.step for one in model.history_]
    np.testing.assert_allclose(
        [value for _, value in found], [one.validation_loss for one in model.history_], rtol=1e-6
    )


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow, which writes to a folder of this test."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    mlflow.set_experiment("fits")
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()


@pytest.mark.slow
def test_mlflow_has_a_run_for_each_fit(tracked: Any) -> None:
    model = fit(MlflowLogger(run_name="digits"))
    assert tracked.active_run() is None
    (run,) = tracked.search_runs(output_format="list")
    metrics = tracked.MlflowClient().get_metric_history(run.info.run_id, "loss/validation")
    assert [one.value for one in metrics] == [one.validation_loss for one in model.history_]
    assert run.info.run_name == "digits"
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_an_active_run_is_used_and_left_open(tracked: Any) -> None:
    with tracked.start_run() as run:
        fit(MlflowLogger())
        assert tracked.active_run().info.run_id == run.info.run_id
    assert "loss/training" in tracked.get_run(run.info.run_id).data.metrics


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own, about types of its signatures
def test_mlflow_keeps_a_classifier_as_one_of_scikit_learn(tracked: Any) -> None:
    pytest.importorskip("skops")
    model, X = fit(), load_digits().X_test
    with tracked.start_run():
        kept = tracked.sklearn.log_model(model, name="model", serialization_format="pickle")
    loaded = tracked.sklearn.load_model(kept.model_uri)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
