"""Assignment 1 of Stanford's course cs231n: its recipe, its grid, its classes, and a check of a student's own loss."""

from gpusoftmax.protocols.cs231n.checker import LossCheck, check_loss_function
from gpusoftmax.protocols.cs231n.classes import LinearClassifier, LinearSVM, Softmax
from gpusoftmax.protocols.cs231n.grid import CourseSweep, sweep_cs231n
from gpusoftmax.protocols.cs231n.recipe import train_cs231n

__all__ = [
    "CourseSweep",
    "LinearClassifier",
    "LinearSVM",
    "LossCheck",
    "Softmax",
    "check_loss_function",
    "sweep_cs231n",
    "train_cs231n",
]
