"""The estimators, and what stands between them and the objective."""

from gpusoftmax.estimators.classifiers import LinearSVMClassifier, SoftmaxClassifier

__all__ = ["LinearSVMClassifier", "SoftmaxClassifier"]
