"""Tables in the form in which well-known ones are published: one command, no flag but --label, as good as by hand.

The rows are drawn here; the form is that of the files: separators, quotes, headers, gaps, endings of names.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gpusoftmax.files.load import held_out

N = 1500
Rows = list[list[Any]]


def penguins(rng: np.random.Generator) -> tuple[str, str, Rows]:
    """With NA for gaps."""
    species = rng.choice(["Adelie", "Chinstrap", "Gentoo"], N)
    means = {"Adelie": (38.8, 18.3, 190, 3700), "Chinstrap": (48.8, 18.4, 196, 3733), "Gentoo": (47.5, 15.0, 217, 5076)}
    islands = {"Adelie": ["Biscoe", "Dream", "Torgersen"], "Chinstrap": ["Dream"], "Gentoo": ["Biscoe"]}
    rows = []
    for i, one in enumerate(species.tolist()):
        lengths = [round(rng.normal(m, s), 1) for m, s in zip(means[one], (4.0, 1.8, 11.0, 700.0), strict=True)]
        sex = "NA" if i % 31 == 3 else rng.choice(["male", "female"])
        rows.append([one, rng.choice(islands[one]), *(["NA"] * 4 if i % 90 == 3 else lengths), sex, 2007 + i % 3])
    names = ["species", "island", "bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "sex", "year"]
    return "penguins.csv", "species", [names, *rows]


def diamonds(rng: np.random.Generator) -> tuple[str, str, Rows]:
    """Every word in quotes."""
    carat, table = rng.uniform(0.2, 2, N).round(2), rng.normal(57, 2, N).round(1)
    clarity, colour = rng.choice(["SI2", "SI1", "VS1", "IF"], N), rng.choice(list("DEFGHIJ"), N)
    score = rng.gumbel(size=(N, 3)) + np.outer(table - 57, [0, 1, -1]) + (clarity == "IF")[:, None] * [0, 0, 2]
    cut = np.array(["Fair", "Good", "Ideal"])[score.argmax(axis=1)]
    words = [[f'"{word}"' for word in row] for row in zip(cut, colour, clarity, strict=True)]
    rows = [[*row, *numbers] for row, *numbers in zip(words, carat, table, (4000 * carat).astype(int), strict=True)]
    return "diamonds.csv", "cut", [['"cut"', '"color"', '"clarity"', '"carat"', '"table"', '"price"'], *rows]


def titanic(rng: np.random.Generator) -> tuple[str, str, Rows]:
    """With names that contain commas, empty fields, an identifier, and cabins of which most are missing."""
    sex, place = rng.choice(["male", "female"], N), rng.integers(1, 4, N)
    survived = (rng.random(N) < np.where(sex == "female", 0.9, 0.25) - 0.1 * (place - 1)).astype(int)
    names = ["PassengerId", "Survived", "Pclass", "Name", "Sex", "Age", "SibSp", "Ticket", "Fare", "Cabin", "Embarked"]
    rows: Rows = [names]
    for i in range(N):
        name = f'"Smith{i}, {"Mrs" if sex[i] == "female" else "Mr"}. John"'
        age, cabin = "" if i % 5 == 2 else round(rng.uniform(1, 80)), "" if i % 4 else f"C{i % 60}"
        where, fare, ticket = "" if i % 400 == 7 else rng.choice(list("SCQ")), round(100 / place[i], 4), f"A/5 {i // 2}"
        rows.append([i + 1, survived[i], place[i], name, sex[i], age, i % 3, ticket, fare, cabin, where])
    return "train.csv", "Survived", rows


def adult(rng: np.random.Generator) -> tuple[str, str, Rows]:
    """Without a header, with a blank behind each comma, and ? for gaps."""
    age, hours = rng.integers(17, 80, N), rng.integers(10, 80, N)
    education, job = rng.choice(["HS-grad", "Bachelors", "Masters"], N), rng.choice(["Private", "State-gov", "?"], N)
    rich = rng.random(N) < 1 / (1 + np.exp(4 - 0.05 * hours - 0.02 * age - 2.0 * (education == "Masters")))
    return "adult.data", "-1", [
        [f" {one}" if j else one for j, one in enumerate((age[i], job[i], 77516 + 13 * i, education[i], hours[i],
         ">50K" if rich[i] else "<=50K"))] for i in range(N)
    ]  # fmt: skip


def wine(rng: np.random.Generator) -> tuple[str, str, Rows]:
    """With semicolons, and a header in quotes."""
    X = rng.normal([7.4, 0.5, 10.4], [1.7, 0.2, 1.1], (N, 3)).round(2)
    score = 5.6 + 0.8 * (X[:, 2] - 10.4) - 2 * (X[:, 1] - 0.5) + rng.normal(0, 0.4, N)
    quality = np.clip(np.round(score), 4, 7).astype(int)
    header = ['"fixed acidity"', '"volatile acidity"', '"alcohol"', '"quality"']
    return "winequality-red.csv", "quality", [header, *([*x, q] for x, q in zip(X.tolist(), quality, strict=True))]


def letters(rng: np.random.Generator) -> tuple[str, str, Rows]:
    """Without a header, the label first; a .data file."""
    letter = rng.integers(4, size=N)
    X = np.clip(np.round(rng.normal(rng.integers(3, 12, (4, 16))[letter], 3)), 0, 15).astype(int)
    return "letter-recognition.data", "0", [["ABCD"[k], *x] for k, x in zip(letter, X.tolist(), strict=True)]


def letters_with_a_header(rng: np.random.Generator) -> tuple[str, str, Rows]:
    """Letters with a header of numbers."""
    _, _, rows = letters(rng)
    return "letters.csv", "Letter", [["Letter", *range(1, 17)], *rows]


def mushrooms(rng: np.random.Generator) -> tuple[str, str, Rows]:
    """Single letters without a header, ? for gaps."""
    poison = rng.random(N) < 0.48
    odour = np.where(poison, rng.choice(list("fyn"), N), rng.choice(list("aln"), N))
    shape, root, colour = (rng.choice(list(values), N) for values in ("xbsf", "be?", "kno"))
    columns = np.where(poison, "p", "e"), shape, odour, root, colour
    return "agaricus-lepiota.data", "0", [list(row) for row in zip(*columns, strict=True)]


TABLES: list[Callable[[np.random.Generator], tuple[str, str, Rows]]] = [
    penguins, diamonds, titanic, adult, wine, letters, letters_with_a_header, mushrooms,
]  # fmt: skip


def by_hand(rows: Rows, names: list[str] | None, label: str, C: float) -> float:
    """The accuracy of a pipeline of scikit-learn, on the same test rows."""
    pandas = pytest.importorskip("pandas")
    text = io.StringIO("\n".join(",".join(map(str, row)) for row in rows))
    frame = pandas.read_csv(
        text, header=None, names=names, skipinitialspace=True, na_values=["?", "NA", ""], keep_default_na=False
    )
    y = frame.pop(frame.columns[int(label)] if names is None else label).to_numpy()
    part = held_out(np.array(y, dtype=str), {"validation": 0.2, "test": 0.2}, 0)
    frame.columns = [str(name) for name in frame]
    words = [name for name in frame if not pandas.api.types.is_numeric_dtype(frame[name])]
    numbers = [name for name in frame if name not in words]
    words = [name for name in words if frame[name].nunique() < 0.9 * len(frame)]
    indicators = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="gap"), OneHotEncoder(handle_unknown="ignore")
    )
    encoder = make_column_transformer((make_pipeline(SimpleImputer(), StandardScaler()), numbers), (indicators, words))
    model = make_pipeline(encoder, LogisticRegression(C=C, max_iter=5000))
    frame = frame.astype(dict.fromkeys(words, object))
    model.fit(frame.iloc[part["train"]], y[part["train"]])
    return float(model.score(frame.iloc[part["test"]], y[part["test"]]))


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_one_command_from_the_file_to_its_accuracy(make: Any, tmp_path: Path, run: Any) -> None:
    name, label, rows = make(np.random.default_rng(0))
    separator = ";" if "wine" in name else ","
    (tmp_path / name).write_text("\n".join(separator.join(map(str, row)) for row in rows) + "\n")
    result = run("train", tmp_path / name, "--label", label, "--quiet", "--json")
    assert result.code == 0, result.err
    named = not label.lstrip("-").isdigit()
    names = [str(one).strip('"') for one in rows[0]] if named else None
    expected = by_hand(rows[named:], names, label, result.json["C"])
    # 300 test rows: half a point is a row and a half
    assert abs(result.json["test_accuracy"] - expected) <= 0.0051, result.err
    assert expected > 0.5


def test_the_tables_are_written_as_published() -> None:
    for make in TABLES:
        name, label, rows = make(np.random.default_rng(0))
        parsed = list(csv.reader(io.StringIO("\n".join(",".join(map(str, row)) for row in rows))))
        assert len({len(row) for row in parsed}) == 1, name
        assert label.lstrip("-").isdigit() or label in parsed[0]
