"""The estimators, and the code that turns their parameters and data into an objective and a solver."""

from gpusoftmax.estimators.classifiers import LinearSVMClassifier, SoftmaxClassifier

__all__ = ["LinearSVMClassifier", "SoftmaxClassifier"]
