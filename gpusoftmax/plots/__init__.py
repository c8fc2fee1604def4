"""Plots of models, fits, sweeps and predictions with matplotlib, in the manner of scikit-learn's displays.

A display holds what is plotted. `from_estimator`, `from_predictions` or `from_result` computes it and plots it; `plot`
plots it again. Nothing is shown: matplotlib figures of a notebook show themselves, and `display.figure_.savefig(path)`
writes a file.
"""

from gpusoftmax.plots.history import FitHistoryDisplay
from gpusoftmax.plots.mistakes import MistakesDisplay
from gpusoftmax.plots.reliability import ReliabilityDisplay
from gpusoftmax.plots.sweeps import SweepDisplay
from gpusoftmax.plots.templates import WeightTemplatesDisplay

__all__ = ["FitHistoryDisplay", "MistakesDisplay", "ReliabilityDisplay", "SweepDisplay", "WeightTemplatesDisplay"]
