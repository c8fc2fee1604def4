"""Who is compared in `sweeping`: for each a function of a `Problem` and a `Watch`, in the order of the tables.

The function prepares outside the clock and returns the work that is timed. The work returns a function that gives the
`Outcome` once the clock has stopped.
"""

from dataclasses import dataclass
from functools import partial

from bench.common import harness
from bench.common.harness import lacks
from bench.sweeping.cases import FOLDS
from bench.sweeping.contenders import adelie, models, numpy, ours, sklearn, torch


@dataclass(frozen=True)
class Contender(harness.Contender):
    """A contender and how it is called; `near`: it has to reach the optimum, `once`: it takes medians itself."""

    call: str = ""
    near: bool = False
    once: bool = False


_CV, _PATH, _RECIPE, _MODELS = (
    partial(Contender, cases=names) for names in (FOLDS, ("path",), ("cs231n",), ("models",))
)
_FIT = "SoftmaxClassifier(C=C, scaling=(None, 64), solver='lbfgs').fit"
_FITS = f"{_FIT} for each C and fold, at last on all rows"
_THEIRS = f"max_iter={sklearn.ITERATIONS}"
CONTENDERS = (
    _CV("gpusoftmax", "gpusoftmax, sweep", ours.sweep, ours=True, near=True,
        call="sweep(X, y, {'C': Cs}, cv=5, scaling=(None, 64))"),
    _CV("own-auto", "gpusoftmax, sweep finds C", ours.found_grid, ours=True,
        call="sweep(estimator, 'auto', X, y, cv=5, scoring='log_loss')"),
    Contender("own-fits", "gpusoftmax, fit after fit", ours.fits, ours=True, near=True, cases=("cv",), call=_FITS),
    # the tol of a single fit leaves more at weak penalties than a sweep's
    Contender("own-fits", "gpusoftmax, fit after fit", ours.fits, ours=True, cases=("minilm",), call=_FITS),
    _CV("own-grid", "GridSearchCV around gpusoftmax", sklearn.grid_of_ours, ours=True,
        call="GridSearchCV(SoftmaxClassifier(...), n_jobs=1)"),
    _CV("sklearn-cv", "scikit-learn, LogisticRegressionCV", sklearn.logistic_cv,
        call=f"LogisticRegressionCV(Cs=Cs, cv=folds, {_THEIRS}, solver='lbfgs', n_jobs=cores)"),
    _CV("sklearn-grid", "scikit-learn, GridSearchCV", sklearn.grid,
        call=f"GridSearchCV(LogisticRegression({_THEIRS}), cv=folds, n_jobs=cores)"),
    _CV("adelie", "adelie, cv_grpnet", adelie.cv, lacks("adelie"),
        call="cv_grpnet(X, multinomial(y), alpha=0, min_ratio=1e-4, n_threads=cores)"),
    _PATH("gpusoftmax", "gpusoftmax, sweep", ours.sweep, ours=True, near=True,
          call="sweep(X, y, {'C': Cs}, validation=(Xv, yv), refit=False, scaling=(None, 64))"),
    _PATH("own-fits", "gpusoftmax, fit after fit", ours.fits, ours=True, near=True, call=f"{_FIT} for each C"),
    _RECIPE("gpusoftmax", "gpusoftmax, side by side", ours.side_by_side, ours=True,
            call="SGD of 64 models on the same minibatches"),
    _RECIPE("own-runs", "gpusoftmax, run after run", ours.recipes, ours=True,
            call="train_cs231n(X, y, learning_rate=..., reg=...) for each"),
    _RECIPE("torch", "PyTorch, 64 heads", torch.heads, lacks("torch"),
            call="one Linear, a loss and a learning rate for each head"),
    _RECIPE("numpy", "NumPy, run after run", numpy.recipes, call="cs231n's loop, vectorised, float32, for each"),
    _MODELS("pass", "a value and gradient", models.passes, ours=True, once=True, call="Objective.value_and_gradient"),
    _MODELS("step", "a minibatch step", models.steps, ours=True, once=True, call="SGD on 200 rows"),
    _MODELS("width", "a path, several C's side by side", models.widths, ours=True, once=True,
            call="sweep with exact.width"),
)  # fmt: skip
