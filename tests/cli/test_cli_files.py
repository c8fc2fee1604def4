"""The command line on users' own files: train, sweep, evaluate and predict; pipes, terminals and signals."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import dump_svmlight_file
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, __version__, load_model, save_model
from gpusoftmax.reports.accuracy import measure
from gpusoftmax.reports.evaluation import MOST_SHOWN, evaluation, evaluation_in_words, predictions_as_csv, printable
from tests.support.commands import documented_keys

KINDS = np.array(["ash", "birch", "cedar"])


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """A table with a column of words, row numbers, and three kinds that can be told apart."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 20)
    X = rng.standard_normal((60, 2)) + 4 * np.array([[0, 0], [1, 0], [0, 1]])[y]
    lines = [f"{i},{a!r},{b!r},note {i},{KINDS[k]}" for i, ((a, b), k) in enumerate(zip(X.tolist(), y, strict=True))]
    (tmp_path / "flowers.csv").write_text("\n".join(["id,width,height,note,species", *lines]))
    return tmp_path / "flowers.csv"


OWN = ["--label", "species", "--drop", "id", "--drop", "note"]


@pytest.fixture
def trained(flowers: Path, run: Any) -> Path:
    """A model of them."""
    path = flowers.parent / "m.safetensors"
    assert run("train", flowers, *OWN, "--save", path, "--C", 1, "--quiet").code == 0
    return path


# tables with text and gaps

prints_left_out = pytest.mark.filterwarnings("default:column .* is left out")


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A table as published: categories, gaps, an identifier, and remarks."""
    rng = np.random.default_rng(0)
    species = np.array(["Adelie", "Chinstrap", "Gentoo"])[np.arange(120) % 3]
    islands = {"Adelie": ["Biscoe", "Dream", "Torgersen"], "Chinstrap": ["Dream"], "Gentoo": ["Biscoe"]}
    lengths = {"Adelie": 38.8, "Chinstrap": 48.8, "Gentoo": 47.5}
    lines = ["id,species,island,bill_length_mm,sex,code,remark"]
    for i, name in enumerate(species.tolist()):
        length = "NA" if i % 20 == 7 else f"{rng.normal(lengths[name], 2):.1f}"
        sex, remark = ("male", "female", "")[i % 3], f"seen in the rain near rock {i}"
        lines.append(f"N{i}A,{name},{rng.choice(islands[name])},{length},{sex},{10 + i % 2},{remark}")
    path = tmp_path / "birds.csv"
    path.write_text("\n".join(lines))
    return path


@prints_left_out
def test_a_table_with_text_and_gaps_needs_no_flag_but_the_label(birds: Path, run: Any) -> None:
    path = birds.parent / "m.safetensors"
    result = run("train", birds, "--label", "species", "--save", path, "--json")
    assert "column 'id' is left out: it has as many values as rows, so it is likely an identifier" in result.err
    said = " ".join(result.err.split())
    assert re.search(r"encoded 1 column of numbers; bill_length_mm: \d gaps as the mean; island: 3 values as ind", said)
    assert result.json["test_accuracy"] > 0.8
    measured = run("evaluate", path, birds, "--label", "species", "--json").json
    assert measured["accuracy"] > 0.8
    predicted = run("predict", path, birds).out.splitlines()[1:]
    frame = {"island": ["Torgersen", "new"], "bill_length_mm": [38.0, None], "sex": [None, "x"], "code": [10, 11]}
    frame["remark"] = ["rain", ""]
    assert load_model(path).predict(frame)[0] == "Adelie"
    assert len(predicted) == 120


@prints_left_out
def test_columns_of_new_rows_are_found_by_name_and_read_as_in_training(birds: Path, run: Any) -> None:
    path = birds.parent / "m.safetensors"
    run("train", birds, "--label", "species", "--category", "code", "--drop", "remark", "--save", path, "--C", 1)
    new = birds.parent / "new.csv"
    new.write_text("code,sex,island,bill_length_mm\n10,,Dream,48\n010,male,,NA\n")
    found = run("predict", path, new, "--probabilities", "--json").json
    model = load_model(path)
    table = {"code": ["10", "010"], "sex": [None, "male"], "island": ["Dream", None], "bill_length_mm": [48, None]}
    np.testing.assert_array_equal(found["probabilities"], model.predict_proba(table))
    assert "code=10" in model["encoder"].get_feature_names_out()


@prints_left_out
def test_texts_are_named_or_found(birds: Path, run: Any) -> None:
    found = run("train", birds, "--label", "species", "--C", 1).out
    assert re.search(r"remark: text, \d+ words and pairs of words", " ".join(found.split()))
    named = run("train", birds, "--label", "species", "--text", "island", "--drop", "remark", "--C", 1).out
    assert "island: text, 3 words and pairs of words" in " ".join(named.split())


@prints_left_out
def test_sweep_saves_the_encoder_with_its_best_model(birds: Path, run: Any) -> None:
    folder = birds.parent / "swept"
    assert run("sweep", birds, "--label", "species", "--cv", 3, "--C", "0.1,1", "--out", folder, "--quiet").code == 0
    assert run("predict", folder / "model.safetensors", birds, "--json").json["rows"] == 120


@prints_left_out
def test_a_table_without_a_header_is_encoded_by_position(birds: Path, run: Any) -> None:
    path, rows = birds.parent / "m.safetensors", birds.parent / "rows.csv"
    rows.write_text("\n".join(birds.read_text(encoding="utf-8").splitlines()[1:]))
    trained = run("train", rows, "--label", 1, "--no-header", "--save", path, "--C", 1)
    assert trained.code == 0, trained.err
    found = run("evaluate", path, rows, "--label", 1, "--no-header", "--json").json
    assert found["accuracy"] > 0.8


# train and sweep


def test_train_on_a_table_holds_rows_out_and_keeps_the_names(flowers: Path, run: Any) -> None:
    path = flowers.parent / "m.safetensors"
    result = run("train", flowers, *OWN, "--save", path, "--json")
    assert "flowers.csv: 36 train, 12 validation, 12 test rows of 2 features (float64), 3 classes" in result.err
    assert result.json["dataset"] == "flowers.csv"
    assert result.json["test_accuracy"] >= 0.9
    model = load_model(path)
    assert (model.classes_.tolist(), model.feature_names_in_.tolist()) == (KINDS.tolist(), ["width", "height"])


def test_train_takes_pairs_of_arrays_and_test_rows_of_their_own(tmp_path: Path, run: Any) -> None:
    X, y = np.eye(3)[np.arange(60) % 3], np.arange(60) % 3
    for name, rows in (("", slice(0, 45)), ("_test", slice(45, None))):
        np.save(tmp_path / f"X{name}.npy", X[rows])
        np.save(tmp_path / f"y{name}.npy", y[rows])
    pairs = [f"{tmp_path}/X{name}.npy,{tmp_path}/y{name}.npy" for name in ("", "_test")]
    result = run("train", pairs[0], "--test", pairs[1], "--validation", "0.4", "--json")
    assert "X.npy: 27 train, 18 validation, 15 test rows" in result.err
    assert result.json["test_accuracy"] == 1.0


def test_parts_without_rows_have_no_accuracy(flowers: Path, run: Any) -> None:
    result = run("train", flowers, *OWN, "--validation", 0, "--test", 0, "--C", 1, "--json").json
    assert (result["validation_accuracy"], result["test_accuracy"]) == (None, None)
    assert result["train_accuracy"] >= 0.9


def test_sweep_with_folds_trains_on_rows_that_validation_would_have(flowers: Path, run: Any) -> None:
    result = run("sweep", flowers, *OWN, "--C", "0.1,1", "--cv", 3, "--out", flowers.parent / "out", "--json")
    assert "flowers.csv: 48 train, 12 test rows" in result.err
    assert load_model(flowers.parent / "out" / "model.safetensors").feature_names_in_.tolist() == ["width", "height"]


def test_the_seed_decides_which_rows_are_held_out(flowers: Path, run: Any) -> None:
    losses = {run("train", flowers, *OWN, "--C", 1, "--seed", seed, "--json").json["loss"] for seed in (0, 1, 2**62)}
    assert len(losses) == 3


@pytest.mark.slow
def test_train_names_its_columns_and_tells_of_oddities(tmp_path: Path, run: Any) -> None:
    rows = [f"{i},{i % 3},{'abc'[i % 3]}" for i in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(["number,b,label", *rows, "30,7,d"]))
    result = run("train", tmp_path / "a.csv", "--C", 1)
    assert "columns number, b\n" in result.out
    assert "column 'number' numbers the rows and is used as a feature; leave it out with drop" in result.err
    assert "'d' is the class of a single row" in result.err
    (tmp_path / "a.csv").write_text("\n".join(rows))
    assert "has no header: its first line is read as a row" in run("train", tmp_path / "a.csv", "--label", -1).err


def test_the_output_says_which_column_is_predicted(flowers: Path, run: Any) -> None:
    result = run("train", flowers, *OWN, "--C", 1)
    assert "columns width, height\nlabels  species\n" in result.out
    assert run("train", flowers, *OWN, "--C", 1, "--json").json["label"] == "species"
    assert run("sweep", flowers, *OWN, "--C", "1", "--json").json["label"] == "species"


@pytest.fixture
def years(tmp_path: Path) -> Path:
    """A table whose header has the numbers of years."""
    rows = [f"{i % 7},{i % 3}.5,{i % 4},k{i % 3}" for i in range(60)]
    (tmp_path / "years.csv").write_text("\n".join(["2019,2020,2023,label", *rows]))
    return tmp_path / "years.csv"


@pytest.mark.parametrize("label", [[], ["--label", "label"], ["--label", "-1"]])
def test_a_header_of_numbers_is_one_in_every_command(label: list[str], years: Path, run: Any) -> None:
    model, new = years.parent / "m", years.parent / "new.csv"
    assert run("train", years, *label, "--C", 1, "--save", model, "--json").json["label"] == "label"
    assert load_model(model).feature_names_in_.tolist() == ["2019", "2020", "2023"]
    rows = [line.split(",") for line in years.read_text(encoding="utf-8").splitlines()]
    new.write_text("\n".join(f"{c},{a},{b}" for a, b, c, _ in rows))
    expected = run("predict", model, years).out
    assert expected.count("\n") == 61
    assert run("predict", model, new).out == expected
    measured = run("evaluate", model, years, *label, "--json").json
    assert (measured["rows"], measured["accuracy"], measured["label"]) == (60, 1.0, "label")


def test_a_missing_year_is_named(years: Path, run: Any) -> None:
    run("train", years, "--C", 1, "--save", years.parent / "m", "--quiet")
    (years.parent / "new.csv").write_text("2019,2020\n1,2\n")
    assert "line 1: has some of the requested names, but not '2023'" in run(
        "predict", years.parent / "m", years.parent / "new.csv"
    ).err  # fmt: skip


def test_whether_there_is_a_header_can_be_said(years: Path, run: Any) -> None:
    model, new = years.parent / "m", years.parent / "new.csv"
    new.write_text("".join(years.read_text(encoding="utf-8").replace("label", "k0").splitlines(keepends=True)[:40]))
    result = run("train", new, "--label", -1, "--no-header", "--C", 1, "--save", model, "--json")
    assert ("has no header" in result.err, result.json["label"]) == (False, "column 4")
    assert run("evaluate", model, new, "--label", -1, "--no-header", "--json").json["rows"] == 40
    assert run("evaluate", model, new, "--label", -1, "--header", "--json").json["rows"] == 39
    assert run("predict", model, new, "--label", -1, "--header").out.count("\n") == 40


@pytest.mark.parametrize("delimiter", ["semicolon", ";", "tab", "\\t", "pipe", ":"])
def test_how_a_table_is_written_can_be_said_to_every_command(delimiter: str, tmp_path: Path, run: Any) -> None:
    sign = {"semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}.get(delimiter, delimiter)
    rows = [f"{i % 3 + 1},{i + 100}{sign}{'ab'[i % 3 == 1]}" for i in range(60)]
    table, model = tmp_path / "table.data", tmp_path / "m"
    table.write_text("\n".join([f"size{sign}label", *rows]), encoding="utf-8")
    assert "may be 1100 or 1.100" in run("train", table, "--delimiter", delimiter).err
    said = ["--delimiter", delimiter, "--decimal", ","]
    assert run("train", table, *said, "--C", 1, "--save", model, "--json").json["label"] == "label"
    assert run("sweep", table, *said, "--C", 1, "--json").json["label"] == "label"
    assert run("evaluate", model, table, *said, "--json").json["rows"] == 60
    assert run("predict", model, table, *said, "--json").json["rows"] == 60


def test_options_of_texts_are_refused_with_other_files(trained: Path, run: Any) -> None:
    np.save(trained.parent / "X.npy", np.ones((3, 2)))
    result = run("predict", trained, trained.parent / "X.npy", "--header")
    assert "header=True: " in result.err
    assert "is not a table in a text file; leave it out" in result.err


def test_a_model_of_embeddings_finds_them_by_name(tmp_path: Path, run: Any) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    y = np.arange(60) % 3
    table = {"text": [f"doc {i}" for i in y], "embedding": list(np.eye(3, 8, dtype="f4")[y]), "label": y}
    path, model = tmp_path / "a.parquet", tmp_path / "m"
    parquet.write_table(pyarrow.table(table), path)
    run("train", path, "--drop", "text", "--C", 1, "--save", model, "--quiet")
    expected = "prediction\n" + "0\n1\n2\n" * 20
    for drop in ([], ["--drop", "text"]):
        assert run("predict", model, path, *drop).out == expected
        assert run("evaluate", model, path, *drop, "--json").json["accuracy"] == 1.0


def test_a_model_without_names_leaves_out_what_it_is_told_to(tmp_path: Path, run: Any) -> None:
    X, y = np.eye(3)[np.arange(60) % 3], np.arange(60) % 3
    save_model(SoftmaxClassifier().fit(X, y), tmp_path / "m")
    (tmp_path / "a.csv").write_text("a,b,text,c,label\n1,0,hello,0,0\n")
    result = run("predict", tmp_path / "m", tmp_path / "a.csv", "--drop", "text")
    assert result.out == "prediction\n0\n"
    assert "'label' is taken for a column of labels, by its name, and ignored" in result.err


def test_a_model_of_a_feature_with_a_usual_name_of_labels_predicts(tmp_path: Path, run: Any) -> None:
    rows = "\n".join(f"{i % 3},{i % 3},{i % 3}" for i in range(30))
    (tmp_path / "a.csv").write_text(f"x,y,kind\n{rows}\n")
    run("train", tmp_path / "a.csv", "--label", "kind", "--C", 1, "--save", tmp_path / "m", "--quiet")
    assert run("predict", tmp_path / "m", tmp_path / "a.csv").out.count("\n") == 31


def test_an_unknown_label_is_told_by_line(trained: Path, flowers: Path, run: Any) -> None:
    lines = flowers.read_text(encoding="utf-8").splitlines()
    (flowers.parent / "b.csv").write_text("\n".join([*lines[:48], lines[48].replace("cedar", "oak"), *lines[49:]]))
    message = "b.csv, line 49: label 'oak' is not among the 3 classes of the "
    assert message + "model" in run("evaluate", trained, flowers.parent / "b.csv", "--label", "species").err
    assert message + "training rows" in run("train", flowers, *OWN, "--test", flowers.parent / "b.csv").err


# sparse files


@pytest.fixture
def reviews(tmp_path: Path) -> Any:
    """Sparse rows whose class decides which columns they have: svmlight files for training and testing, and a pair."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    dense = np.where(rng.random((60, 9)) < 0.2, 1.0, 0) + 2 * np.eye(9)[3 * y + rng.integers(0, 3, 60)]
    dense[0, [0, -1]] = 1
    X = scipy.sparse.csr_array(dense)
    dump_svmlight_file(X, y, str(tmp_path / "reviews.svm"), zero_based=False)
    dump_svmlight_file(X[:21], y[:21], str(tmp_path / "test.svm"), zero_based=False)
    scipy.sparse.save_npz(tmp_path / "X.npz", X)
    np.save(tmp_path / "y.npy", y)
    return tmp_path, X, y


@pytest.fixture
def model_of_reviews(reviews: Any) -> Path:
    folder, X, y = reviews
    save_model(SoftmaxClassifier(C=1.0).fit(X, y), folder / "m")
    return Path(folder / "m")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--C", 1], ["--epochs", 20, "--learning-rate", 1], ["--loss", "squared_hinge", "--C", 1], []], ids=str
)
def test_train_takes_sparse_files(options: list[Any], reviews: Any, run: Any) -> None:
    folder = reviews[0]
    for data in (folder / "reviews.svm", f"{folder}/X.npz,{folder}/y.npy"):
        result = run("train", data, *options, "--save", folder / "m", "--json")
        assert "36 train, 12 validation, 12 test rows of 9 features (float64, sparse: " in result.err
        assert result.json["train_accuracy"] > 0.8
        assert (result.json["label"], load_model(folder / "m").coef_.shape) == (None, (3, 9))


def test_train_takes_sparse_test_rows_of_their_own(reviews: Any, run: Any) -> None:
    folder = reviews[0]
    result = run("train", folder / "reviews.svm", "--test", folder / "test.svm", "--C", 1)
    assert "reviews.svm: 48 train, 12 validation, 21 test rows of 9 features (float64, sparse: " in result.out
    assert " entries per row), 3 classes\n" in result.out
    assert "\nscaling none, since the features are sparse\n" in result.out


def test_sparse_features_are_not_standardised(reviews: Any, run: Any) -> None:
    folder, X, y = reviews
    run("train", folder / "reviews.svm", "--C", 2, "--validation", 0, "--test", 0, "--save", folder / "m")
    expected = SoftmaxClassifier(C=2).fit(X, y)
    np.testing.assert_allclose(load_model(folder / "m").coef_, expected.coef_, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--C", "0.1,1"], ["--learning-rate", "0.1,1", "--epochs", 2]], ids=["exact", "sgd"]
)
@pytest.mark.parametrize("split", [["--cv", 3], [], ["--rows", 30]], ids=["cv", "validation", "rows"])
def test_sweep_takes_sparse_files(split: list[Any], options: list[Any], reviews: Any, run: Any) -> None:
    folder = reviews[0]
    results = [
        run("sweep", data, *options, *split, "--json").json
        for data in (folder / "reviews.svm", f"{folder}/X.npz,{folder}/y.npy")
    ]
    assert len(results[0]["candidates"]) == 2
    assert results[0]["score"] == results[1]["score"] > 0.4


def test_evaluate_takes_sparse_files(reviews: Any, model_of_reviews: Path, run: Any) -> None:
    folder, X, y = reviews
    expected = float(np.mean(load_model(model_of_reviews).predict(X) == y))
    for data in (folder / "reviews.svm", f"{folder}/X.npz,{folder}/y.npy"):
        result = run("evaluate", model_of_reviews, data, "--json").json
        assert (result["accuracy"], result["rows"]) == (expected, 60)


def test_predict_takes_sparse_files_with_and_without_labels(reviews: Any, model_of_reviews: Path, run: Any) -> None:
    folder, X, _ = reviews
    labels = load_model(model_of_reviews).predict(X)
    for data in (folder / "reviews.svm", folder / "X.npz", f"{folder}/X.npz,{folder}/y.npy"):
        result = run("predict", model_of_reviews, data)
        assert result.out.split() == ["prediction", *map(str, labels)]
        assert result.err == ""
        run("predict", model_of_reviews, data, "--probabilities", "--out", folder / "p.npy")
        np.testing.assert_allclose(
            np.load(folder / "p.npy"), load_model(model_of_reviews).predict_proba(X), rtol=1e-6, atol=1e-12
        )


def test_new_rows_have_the_columns_of_the_model(reviews: Any, model_of_reviews: Path, run: Any) -> None:
    """Rows of few entries do not reach the last column; labels that are not known do not matter."""
    folder = reviews[0]
    (folder / "new.svm").write_text("0.5 2:1 4:2\n0\n")
    result = run("predict", model_of_reviews, folder / "new.svm")
    new = scipy.sparse.csr_array(([1.0, 2.0], ([0, 0], [1, 3])), shape=(2, 9))
    assert result.out.split()[1:] == [str(label) for label in load_model(model_of_reviews).predict(new)]
    assert "new.svm: columns are counted from 1, because neither column 0 nor column 9 occurs" in result.err
    (folder / "new.svm").write_text("0 2:1\n0 10:1\n")
    result = run("predict", model_of_reviews, folder / "new.svm")
    assert (result.code, result.out) == (1, "")
    assert "new.svm, line 2: column 10; expected at most 9 for 9 features" in result.err


def test_options_for_tables_are_refused_for_sparse_files(reviews: Any, model_of_reviews: Path, run: Any) -> None:
    folder = reviews[0]
    for option, message in ((["--label", "y"], "no column of labels"), (["--drop", "y"], "have no names")):
        for command in (["train"], ["evaluate", model_of_reviews]):
            result = run(*command, folder / "reviews.svm", *option)
            assert result.code == 1
            assert message in result.err


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "sweep"])
def test_the_help_names_sparse_files(command: str, run: Any) -> None:
    assert ".svm" in run(command, "--help").out


# evaluate


def test_evaluate_measures_all_rows_of_a_table(trained: Path, flowers: Path, run: Any) -> None:
    result = run("evaluate", trained, flowers, "--label", "species", "--top", 2, "--json").json
    assert (result["part"], result["rows"], result["k"]) == ("rows", 60, 2)
    assert (result["train_accuracy"], result["test_accuracy"]) == (None, None)
    assert [one["name"] for one in result["classes"]] == KINDS.tolist()
    assert np.array(result["confusion"]).sum() == 60


def test_evaluate_measures_the_parts_of_an_archive(tmp_path: Path, run: Any) -> None:
    X, y = np.eye(3)[np.arange(60) % 3], np.arange(60) % 3
    save_model(SoftmaxClassifier().fit(X, y), tmp_path / "m")
    np.savez(tmp_path / "a.npz", X_train=X, y_train=y, X_test=X[:6], y_test=np.zeros(6, int))
    result = run("evaluate", tmp_path / "m", tmp_path / "a.npz", "--json").json
    assert (result["train_accuracy"], result["test_accuracy"], result["part"]) == (1.0, 1 / 3, "test")


@pytest.fixture
def wrong_often() -> tuple[Any, Any, Any]:
    """A model that errs, with rows of all classes but one."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, 4)), np.array(list("abcde"))[rng.integers(0, 5, 200)]
    model = SoftmaxClassifier(C=0.1).fit(X, y)
    return model, X[y != "c"], y[y != "c"]


def test_the_numbers_of_an_evaluation_are_scikit_learns(wrong_often: Any) -> None:
    model, X, y = wrong_often
    found = evaluation(measure(model, X, y), model.classes_)
    predicted = model.predict(X)
    assert found["log_loss"] == pytest.approx(log_loss(y, model.predict_proba(X), labels=model.classes_), rel=1e-12)
    assert found["confusion"] == confusion_matrix(y, predicted, labels=model.classes_).tolist()
    expected = precision_recall_fscore_support(y, predicted, labels=model.classes_, zero_division=np.nan)
    for key, values in zip(("precision", "recall", "f1", "rows"), expected, strict=True):
        ours = np.array([one[key] for one in found["classes"]], float)
        np.testing.assert_allclose(ours, values, rtol=1e-12, err_msg=key)


def test_an_evaluation_is_right_json_though_a_class_has_no_rows(wrong_often: Any) -> None:
    model, X, y = wrong_often
    found = evaluation(measure(model, X, y), model.classes_)
    assert found["classes"][2]["recall"] is None
    json.dumps(found, allow_nan=False)


def test_an_svm_has_no_log_loss(wrong_often: Any) -> None:
    _, X, y = wrong_often
    model = LinearSVMClassifier(loss="squared_hinge").fit(X, y)
    found = measure(model, X, y)
    assert evaluation(found, model.classes_)["log_loss"] is None
    assert "log loss" not in evaluation_in_words(evaluation(found, model.classes_), found)


def test_the_words_of_an_evaluation_hold_its_numbers(wrong_often: Any) -> None:
    model, X, y = wrong_often
    found = measure(model, X, y, k=2)
    result = evaluation(found, model.classes_)
    words = evaluation_in_words(result, found)
    assert f"accuracy  {found.top_1:.2%} of {len(y)} rows" in words
    assert f"top-2     {found.top_k:.2%}" in words
    one = result["classes"][0]
    row = next(line for line in words.splitlines() if line.startswith("a ")).split()
    assert row == ["a", str(one["rows"]), *(f"{one[key]:.3f}" for key in ("precision", "recall", "f1"))]
    assert [line.split()[1:] for line in words.splitlines()[-5:]] == [
        [str(count or "·") for count in row] for row in result["confusion"]
    ]


def test_of_many_classes_the_worst_are_shown_and_what_they_are_taken_for() -> None:
    c = MOST_SHOWN + 10
    y = np.repeat(np.arange(c), 3)
    X = np.eye(c)[y]
    model = SoftmaxClassifier().fit(X, y)
    y = y.copy()
    y[y == 7] = 8  # right for none of them
    found = measure(model, X, y)
    words = evaluation_in_words(evaluation(found, model.classes_), found)
    assert f"the worst {MOST_SHOWN} of {c}" in words
    assert words.splitlines()[-1] == "8 taken for 7 3 times"
    first = words.splitlines()[words.splitlines().index("") + 2]
    assert first.split()[:2] == ["8", "6"]


@pytest.mark.parametrize(
    ("name", "expected"), [("ash", "ash"), ("x" * 30, "x" * 19 + "…"), ("\x1b[2J", r"'\x1b[2J'"), (7, "7")]
)
def test_a_name_cannot_command_the_terminal(name: Any, expected: str) -> None:
    assert printable(name) == expected


# predict


def predicted(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_predict_names_each_row(trained: Path, flowers: Path, run: Any) -> None:
    model = load_model(trained)
    X = pytest.importorskip("pandas").read_csv(flowers)[model.feature_names_in_]
    header, *rows = predicted(run("predict", trained, flowers).out)
    assert (header, [label for (label,) in rows]) == (["prediction"], model.predict(X).tolist())


def test_predict_finds_columns_by_name_whatever_else_there_is(trained: Path, tmp_path: Path, run: Any) -> None:
    (tmp_path / "new.csv").write_text("remark,height,width\nhello,4,0\nworld,0,4\n")
    assert run("predict", trained, tmp_path / "new.csv").out == "prediction\ncedar\nbirch\n"


def test_predict_says_that_names_are_not_known(tmp_path: Path, run: Any) -> None:
    X, y = np.eye(3)[np.arange(60) % 3], np.arange(60) % 3
    save_model(SoftmaxClassifier().fit(X, y), tmp_path / "m")
    (tmp_path / "a.csv").write_text("a,b,c\n1,0,0\n")
    assert "used in the file's order" in run("predict", tmp_path / "m", tmp_path / "a.csv").err


def test_predict_gives_probabilities(trained: Path, flowers: Path, run: Any) -> None:
    model = load_model(trained)
    X = pytest.importorskip("pandas").read_csv(flowers)[model.feature_names_in_]
    header, *rows = predicted(run("predict", trained, flowers, "--probabilities").out)
    assert header == ["prediction", *KINDS]
    np.testing.assert_allclose([[float(p) for p in row[1:]] for row in rows], model.predict_proba(X), rtol=1e-8)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("out", ["p.csv", "p.npy"])
def test_predict_writes_what_it_would_print(
    out: str, probabilities: bool, trained: Path, flowers: Path, tmp_path: Path, run: Any
) -> None:
    option = ["--probabilities"] if probabilities else []
    printed = run("predict", trained, flowers, *option).out
    result = run("predict", trained, flowers, *option, "--out", tmp_path / out)
    assert (result.code, result.out) == (0, f"saved   60 rows to {tmp_path / out}\n")
    if out.endswith("csv"):
        assert (tmp_path / out).read_text() == printed
    else:
        array = np.load(tmp_path / out)
        rows = [row[1:] if probabilities else row[0] for row in predicted(printed)[1:]]
        np.testing.assert_allclose(array, np.array(rows, float), rtol=1e-8) if probabilities else None
        assert probabilities or array.tolist() == rows


def test_predict_takes_arrays(tmp_path: Path, run: Any) -> None:
    X, y = np.eye(3)[np.arange(60) % 3], np.arange(60) % 3
    save_model(SoftmaxClassifier().fit(X, y), tmp_path / "m")
    np.save(tmp_path / "X.npy", X[:4])
    np.savez(tmp_path / "X.npz", X=X[:4])
    for name in ("X.npy", "X.npz"):
        assert run("predict", tmp_path / "m", tmp_path / name).out == "prediction\n0\n1\n2\n0\n"


def test_predict_leaves_out_a_column_of_labels_without_a_header(tmp_path: Path, run: Any) -> None:
    X, y = np.eye(3)[np.arange(60) % 3], np.arange(60) % 3
    save_model(SoftmaxClassifier().fit(X, y), tmp_path / "m")
    (tmp_path / "a.csv").write_text("1,0,0,9\n0,0,1,9\n")
    assert run("predict", tmp_path / "m", tmp_path / "a.csv", "--label", -1).out == "prediction\n0\n2\n"


@pytest.mark.parametrize("options", [[], ["--probabilities"], ["--out", "p.csv"]])
def test_json_of_predict_has_the_documented_keys(
    options: list[str], trained: Path, flowers: Path, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("predict", trained, flowers, *options, "--json").json
    assert set(result) == documented_keys("predict")
    assert (result["predictions"] is None) == ("--out" in options)
    assert (result["probabilities"] is not None) == (options == ["--probabilities"])
    assert sum(result["counts"].values()) == result["rows"] == 60


FAILURES: dict[str, Any] = {
    "no label": (["train", "FLOWERS"], "no column that is clearly the labels among 5 columns: id, width, .*--label"),
    "a model onto its table": (["train", "FLOWERS", *OWN, "--save", "FLOWERS"], "--save flowers.csv is one of"),
    "predictions onto their rows": (["predict", "MODEL", "FLOWERS", "--out", "FLOWERS"], "--out flowers.csv is one of"),
    "predictions onto a folder": (["predict", "MODEL", "FLOWERS", "--out", "folder.csv"], "is a folder; name a file"),
    "a label that is dropped": (["train", "FLOWERS", *OWN, "--drop", "species"], "column of labels and dropped"),
    "a column nearly right": (["train", "FLOWERS", "--label", "Species"], "did you mean 'species'"),
    "a folder": (["train", "folder.csv"], "is a folder|Is a directory"),
    "dates": (["train", "dates.csv", "--label", "kind"], "column 'when': holds dates or times, such as '2020"),
    "two kinds": (["train", "FLOWERS", *OWN, "--text", "id", "--category", "id"], "'id' is given to --category and to"),
    "no such category": (["train", "FLOWERS", *OWN, "--category", "x"], "there is no column 'x', as kinds says; "),
    "a category of digits": (["train", "digits", "--category", "x"], "--category is for files of your own"),
    "another label": (["train", "FLOWERS", "--label", "kind"], "no 'kind' among 5 columns"),
    "a file that is not there": (["train", "nothing.csv"], r"No such file or directory: 'nothing\.csv'"),
    "a folder of a file": (["train", "FLOWERS", "--data", "x"], "--data x is for cifar10"),
    "columns to drop of digits": (["evaluate", "MODEL", "digits", "--drop", "a"], "--drop is for files of your own"),
    "a header of digits": (["train", "digits", "--no-header"], "--header is for files of your own"),
    "a delimiter of digits": (["evaluate", "MODEL", "digits", "--delimiter", "tab"], "--delimiter is for files"),
    "decimals of digits": (["sweep", "digits", "--decimal", ","], "--decimal is for files of your own"),
    "a word for a delimiter": (["train", "FLOWERS", "--delimiter", "tabs"], "delimiter='tabs' does not"),
    "a delimiter to predict": (["predict", "MODEL", "FLOWERS", "--delimiter", "ab"], "delimiter='ab' does not"),
    "a word for a sign": (["predict", "MODEL", "FLOWERS", "--decimal", "comma"], "decimal='comma' is not known"),
    "a column that the model needs": (["predict", "MODEL", "FLOWERS", "--drop", "width"], "'width' is both a feature"),
    "a share with an underscore": (["train", "FLOWERS", *OWN, "--test", "0_2"], "0_2: is of kind unknown"),
    "a download of a file": (["evaluate", "MODEL", "FLOWERS", "--download"], "--download is for cifar10"),
    "a label of digits": (["train", "digits", "--label", "y"], "--label is for files of your own"),
    "a label of digits to measure": (["evaluate", "MODEL", "digits", "--label", "y"], "--label is for files"),
    "test rows for digits": (["train", "digits", "--test", "a.csv"], "--test is for files of your own"),
    "no rows to choose by": (["train", "FLOWERS", *OWN, "--validation", "0"], "no validation rows to choose C by"),
    "no rows to score on": (["sweep", "FLOWERS", *OWN, "--validation", "0"], "no validation rows to score on.*--cv 5"),
    "a share of more than all": (["train", "FLOWERS", *OWN, "--test", "2"], "test=2.0 is out of range"),
    "a column that is not there": (["predict", "MODEL", "OTHER"], "no 'height' among 1 columns: width"),
    "unknown labels": (["evaluate", "MODEL", "FLOWERS", "--label", "note"], "'note 0'.* not among the 3 classes"),
    "predictions of another kind": (["predict", "MODEL", "FLOWERS", "--out", "p.xls"], r"--out p\.xls .*\.csv or"),
    "predictions into no folder": (["predict", "MODEL", "FLOWERS", "--out", "no/p.csv"], "--out .*does not exist"),
    "probabilities of an SVM": (["predict", "SVM", "FLOWERS", "--probabilities"], "an SVM .* has none"),
    "a known name to predict": (["predict", "MODEL", "digits"], "digits: is of kind unknown; expected one of"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), FAILURES.values(), ids=FAILURES.keys())
def test_a_users_error_is_one_line_and_exits_with_1(
    arguments: list[str], message: str, trained: Path, flowers: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flowers.parent)
    (flowers.parent / "other.csv").write_text("width\n1\n")
    (flowers.parent / "dates.csv").write_text("when,kind\n" + "2020-01-02,a\n2020-01-03,b\n" * 9)
    (flowers.parent / "folder.csv").mkdir()
    rows = np.eye(3)[np.arange(9) % 3]
    save_model(LinearSVMClassifier(loss="squared_hinge").fit(rows, np.arange(9) % 3), flowers.parent / "svm")
    places = {"FLOWERS": "flowers.csv", "MODEL": "m.safetensors", "OTHER": "other.csv", "SVM": "svm"}
    result = run(*(places.get(one, one) for one in arguments), "--quiet")
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(result.err)


def test_json_is_json_without_a_penalty(flowers: Path, run: Any) -> None:
    result = run("train", flowers, *OWN, "--C", "inf", "--json")
    assert json.loads(result.out, parse_constant=pytest.fail)["l2"] == 0


def test_a_name_in_a_file_does_not_command_the_terminal(tmp_path: Path, run: Any) -> None:
    (tmp_path / "a.csv").write_text("a\x1b[31m,b\n1,2\n")
    assert "a\\x1b[31m, b" in run("train", tmp_path / "a.csv").err


def test_predictions_with_a_carriage_return_are_a_row_each() -> None:
    text = predictions_as_csv(np.array(["a\rb", "c"]), None, np.array(["a\rb", "c"]))
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["prediction"], ["a\rb"], ["c"]]


# as a program


def test_version_is_printed_alone(run: Any) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")


def test_help_lists_commands_as_one_comes_to_need_them(run: Any) -> None:
    shown = run("--help").out
    places = [shown.index(f"│ {name} ") for name in ("train", "evaluate", "predict", "sweep", "info", "gradcheck")]
    assert places == sorted(places)


def gpusoftmax(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpusoftmax", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash", {"COMP_WORDS": "gpusoftmax pre", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "gpusoftmax pre"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "gpusoftmax pre", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_the_shell_completes_commands(shell: str, words: dict[str, str]) -> None:
    assert "predict" in gpusoftmax(_GPUSOFTMAX_COMPLETE=f"complete_{shell}", **words).stdout


@pytest.mark.slow
def test_the_shell_completes_data_sets() -> None:
    done = gpusoftmax(_GPUSOFTMAX_COMPLETE="complete_bash", COMP_WORDS="gpusoftmax train dig", COMP_CWORD="2")
    assert done.stdout.split() == ["digits"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a terminal is made by pty")
@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_turns_colours_off(no_color: str) -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CI", "GITHUB_ACTIONS")}
    environment |= {"TERM": "xterm-256color", **({"NO_COLOR": no_color} if no_color else {})}
    with subprocess.Popen([sys.executable, "-m", "gpusoftmax", "--help"], stdout=theirs, env=environment) as process:
        os.close(theirs)
        found = b""
        try:
            while part := os.read(ours, 4096):
                found += part
        except OSError:  # of Linux, when the other end is closed
            pass
        assert process.wait(60) == 0
    os.close(ours)
    colours = [code for code in (b"\x1b[3", b"\x1b[1;3") if code in found]
    assert b"Commands" in found
    assert (colours == []) == bool(no_color)


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    X = np.eye(3)[np.arange(60) % 3]
    save_model(SoftmaxClassifier().fit(X, np.arange(60) % 3), tmp_path / "m")
    np.save(tmp_path / "X.npy", np.tile(X, (5000, 1)))
    with subprocess.Popen(
        [sys.executable, "-m", "gpusoftmax", "predict", tmp_path / "m", tmp_path / "X.npy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_predictions_in_a_pipe_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    rows = [f"{i % 3},{i % 5},{'猫犬鳥'[i % 3]}" for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,label", *rows]), encoding="utf-8")
    command, environment = [sys.executable, "-m", "gpusoftmax"], {**os.environ, "PYTHONIOENCODING": "cp1252"}
    model = tmp_path / "m.safetensors"
    subprocess.run([*command, "train", tmp_path / "t.csv", "--C", "1", "--quiet", "--save", model], env=environment,
                   check=True, capture_output=True)  # fmt: skip
    done = subprocess.run([*command, "predict", model, tmp_path / "t.csv", "--quiet"], env=environment, check=True,
                          capture_output=True)  # fmt: skip
    assert done.stdout.decode("utf-8").split()[1:4] == ["猫", "犬", "鳥"]
