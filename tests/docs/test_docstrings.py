"""Public docstrings follow numpydoc, and document the parameters of the signature."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpusoftmax

CALLED_BY_US = ("Backend.", "LBFGS.", "SGD.")  # users pass these objects on; their methods have a summary only
SECTIONS = ("Parameters", "Returns", "Yields", "Raises", "Attributes", "Notes", "Examples", "See Also", "References")


def sections(docstring: str) -> dict[str, list[str]]:
    """What each section of a docstring lists: the first words of lines that are not indented."""
    found: dict[str, list[str]] = {}
    lines = inspect.cleandoc(docstring).splitlines()
    current: list[str] = []
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line in SECTIONS and set(below) == {"-"}:
            current = found[line] = []
        elif line and not line.startswith((" ", "-")):
            current.append(line)
    return found


def listed(entries: list[str]) -> list[str]:
    """The names of "a, b : type", in order; many may go on in the next line."""
    names = [name.strip().lstrip("*") for entry in entries for name in entry.partition(" : ")[0].split(",")]
    return [name for name in names if name]


def plain(method: Any) -> Any:
    """The function behind a classmethod, a property, or scikit-learn's available_if."""
    for name in ("__func__", "fget", "fn"):
        method = getattr(method, name, method)
    return method


def public(owner: type) -> dict[str, Any]:
    """The methods and properties that a class of ours, or one of ours that it inherits from, has in the open."""
    ours = [base for base in inspect.getmro(owner) if base.__module__.startswith("gpusoftmax")]
    members = [value for base in ours for name, value in vars(base).items() if not name.startswith("_")]
    return {plain(value).__qualname__: value for value in members if inspect.isfunction(plain(value))}


def has_a_page_too() -> list[str]:
    """The names in ALSO of docs/hooks.py, which is not imported, since that takes MkDocs."""
    tree = ast.parse((Path(__file__).resolve().parents[2] / "docs/hooks.py").read_text(encoding="utf-8"))
    targets = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    return list(ast.literal_eval(targets["ALSO"]))


def imported(place: str) -> Any:
    """What a name such as "trainer.TrainResult" stands for."""
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(f"gpusoftmax.{module}"), name)


PUBLIC = {name: getattr(gpusoftmax, name) for name in gpusoftmax.__all__} | {
    place.rpartition(".")[2]: imported(place) for place in has_a_page_too()
}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
METHODS = {name: value for owner in CLASSES.values() for name, value in public(owner).items()}
CALLS: dict[str, Callable[..., Any]] = FUNCTIONS | {
    name: plain(value)
    for name, value in METHODS.items()
    if not isinstance(value, property) and not name.startswith(CALLED_BY_US)
}


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def raises(function: Callable[..., Any]) -> bool:
    """Whether it makes an error itself: not one of what it calls, nor in what it returns."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    pending, found = list(ast.iter_child_nodes(tree)), False
    while pending:
        node = pending.pop()
        found |= isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS, *METHODS])
def test_what_is_public_has_a_summary_that_ends_with_a_full_stop(name: str) -> None:
    described = (CLASSES | FUNCTIONS | METHODS)[name]
    paragraph = inspect.cleandoc(described.__doc__ or "").partition("\n\n")[0]
    assert re.search(r"[.:]$", paragraph)


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if parameters(call)])
def test_a_function_documents_the_parameters_that_it_has(name: str) -> None:
    documented = listed(sections(CALLS[name].__doc__ or "").get("Parameters", []))
    assert sorted(documented) == sorted(parameters(CALLS[name]))


@pytest.mark.parametrize(
    "name", [name for name, call in CALLS.items() if inspect.signature(call).return_annotation not in ("None", "Self")]
)
def test_a_function_documents_what_it_returns(name: str) -> None:
    assert sections(CALLS[name].__doc__ or "").keys() & {"Returns", "Yields"}


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if raises(call)])
def test_a_function_documents_what_it_raises(name: str) -> None:
    assert sections(CALLS[name].__doc__ or "").get("Raises")


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_documents_the_arguments_that_it_takes_or_the_attributes_that_it_has(name: str) -> None:
    found = sections(CLASSES[name].__doc__ or "")
    if dataclasses.is_dataclass(CLASSES[name]):
        fields = [field.name for field in dataclasses.fields(CLASSES[name]) if not field.name.startswith("_")]
        assert set(fields) <= set(listed(found.get("Parameters", []) + found.get("Attributes", [])))
    elif not issubclass(CLASSES[name], Exception):
        assert sorted(listed(found.get("Parameters", []))) == sorted(parameters(CLASSES[name].__init__))
