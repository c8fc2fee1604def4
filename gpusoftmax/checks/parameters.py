"""Parameters that other libraries have and a class here does not: what to use instead."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from gpusoftmax.checks.messages import shown

NO_L1 = "the only penalty is L2, of strength C or l2"
PATIENCE = "pass an EarlyStopping in callbacks, and validation=(X, y) to fit"
BY_VALUES = "SoftmaxClassifierCV and sweep choose C by cross-validation"
INSTEAD = {  # parameters of LogisticRegression, LogisticRegressionCV, LinearSVC, SGDClassifier, GridSearchCV and cuML
    "penalty": "the penalty is L2, of strength C or l2; C=math.inf means none",
    "l1_ratio": NO_L1,
    "l1_ratios": NO_L1,
    "penalty_normalized": "C is scikit-learn's: it multiplies the sum of the losses; l2 is relative to their mean",
    "dual": "there is no dual problem, leave it out",
    "intercept_scaling": "penalize_intercept=True penalises the intercept as a weight",
    "multi_class": "all classes are fitted together; for one against the rest use OneVsRestClassifier",
    "n_jobs": "n_threads is the number of threads",
    "pre_dispatch": "n_threads is the number of threads",
    "alpha": "l2 is the strength of the penalty: l2 = alpha, or 2 alpha with two classes",
    "eta0": "learning_rate is that of the first step, and schedule says how it changes",
    "power_t": "schedule='inverse' divides the learning rate by 1 + passes",
    "early_stopping": PATIENCE,
    "validation_fraction": PATIENCE,
    "n_iter_no_change": PATIENCE,
    "shuffle": "SGD takes the rows in an order drawn by random_state",
    "average": "there are no averaged weights; schedule='cosine' or 'inverse' settles down",
    "epsilon": "no loss here has this parameter",
    "n_iter": "max_iter is the number of steps",
    "linesearch_max_iter": "the line search is fixed, leave it out",
    "lbfgs_memory": "the memory of L-BFGS is fixed, leave it out",
    "output_type": "results are arrays of the same kind as X, leave it out",
    "handle": "CuPy's current stream is used, leave it out",
    "device": "backend chooses between CPU and GPU",
    "use_legacy_attributes": "attributes are those of use_legacy_attributes=False",
    "Cs": BY_VALUES,
    "cv": BY_VALUES,
    "scoring": BY_VALUES,
    "refit": BY_VALUES,
    "rule": BY_VALUES,
    "param_grid": "grid is the dictionary of values",
    "error_score": "the score of a configuration that diverges is NaN",
    "return_train_score": "the table shows the training objective",
    # parameters of this library that some of its classes do not have
    "C": "Cs are the values of C to try",
    "l2": "Cs are the values of C to try",
    "solver": "the exact solver is always used",
    "callbacks": "on_candidate of sweep is called after each configuration",
    "warm_start": "models start from their neighbours on the path of penalties",
    "loss": "the loss is softmax; sweep(LinearSVMClassifier(), {'C': ...}, X, y) chooses C of an SVM",
    "probability": "SoftmaxClassifier gives probabilities; for an SVM use CalibratedClassifierCV",
}
SOLVERS = dict.fromkeys(  # of other libraries
    ("liblinear", "newton-cg", "newton-cholesky", "sag", "saga", "qn"), "'auto' is an exact solver that replaces them"
)
LOSS_HINTS = {
    "log_loss": "that is 'softmax', which SoftmaxClassifier has",
    "log": "that is 'softmax', which SoftmaxClassifier has",
    "cross_entropy": "that is 'softmax', which SoftmaxClassifier has",
    "hinge": "LinearSVMClassifier has it",
    "squared_hinge": "LinearSVMClassifier has it",
    "softmax": "SoftmaxClassifier has it",
}
RATES = {name: f"schedule={name!r} says how it changes" for name in ("constant", "adaptive")} | {
    "optimal": "'auto' finds it from the data",
    "invscaling": "schedule='inverse' says how it changes",
}

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def in_place_of(name: str, known: Iterable[str]) -> str:
    """Say what to pass instead of a parameter that is not among the known ones."""
    known = list(known)
    if name in INSTEAD:
        return INSTEAD[name]
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"


def explained(cls: type[T]) -> type[T]:
    """Make TypeErrors of a class's __init__ name the class that was called, and say what to pass instead.

    Python's own errors would name the class that defines __init__, which may be a private one.
    """
    init: Any = cls.__init__
    parameters = inspect.signature(init).parameters
    names = [name for name in parameters if name != "self"]
    positional = [name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]

    @wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        kind = type(self).__name__
        if len(args) >= len(positional):
            value = shown(args[len(positional) - 1])
            raise TypeError(f"{kind} takes its parameters by name, as in {kind}(max_iter=100); {value} has no name")
        for name in kwargs:
            if name not in parameters:
                raise TypeError(f"{kind} has no parameter {name!r}: {in_place_of(name, names)}")
        init(self, *args, **kwargs)

    cls.__init__ = wrapper  # type: ignore[method-assign]
    return cls


def named_in_errors(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a method so that TypeErrors about its arguments name the class of its object, and list the arguments.

    Python's own message would name the class that defines the method, which may be a private one.
    """
    signature = inspect.signature(method)
    names = ", ".join(name for name in signature.parameters if name != "self")

    @wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            place = f"{type(args[0]).__name__}.{method.__name__}"
            raise TypeError(f"{place}: {error}; its arguments are {names}") from None
        return method(*args, **kwargs)

    return wrapper


def explain_unknown(instead: Callable[[str], str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that makes a function's TypeErrors about unknown arguments say what to do instead."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = inspect.signature(function).parameters

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    raise TypeError(f"{function.__name__} has no argument {name!r}: {instead(name)}")
            return function(*args, **kwargs)

        return wrapper

    return decorate


def check_names(estimator: Any, given: Iterable[str]) -> None:
    """Raise for a name given to set_params that is not a parameter.

    Of "a__b", which means parameter b of a, only a is checked here; scikit-learn checks the rest.
    """
    known = estimator.get_params(deep=False)
    for name in given:
        if name.partition("__")[0] not in known:
            raise ValueError(
                f"Invalid parameter {name!r} for estimator {type(estimator).__name__}: {in_place_of(name, known)}"
            )


def hint(value: Any, theirs: dict[str, str]) -> str:
    """Return the end of a message about a value that other libraries accept, or "" for any other value."""
    return f"; {theirs[value]}" if isinstance(value, str) and value in theirs else ""
