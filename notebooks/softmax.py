# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A linear softmax classifier, from loops to the optimum
#
# This notebook goes through the first assignment of Stanford's cs231n: a linear classifier of images, written three
# times, trained by SGD, and tuned on validation images. Then it goes on to what the assignment leaves open: where the
# optimum is, how one knows that it has been reached, and what is the most that a linear classifier of pixels can do.
#
# It needs `pip install 'gpusoftmax[plots]'` and CIFAR-10 in the folder that the variable `GPUSOFTMAX_DATA` names, or
# in `~/gpusoftmax_data`. Without CIFAR-10 it takes the digits that come with scikit-learn, and other settings.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np

from gpusoftmax import (
    SoftmaxClassifier,
    fit_path,
    gradient_check,
    load_cifar10,
    load_digits,
    loss_and_gradient,
    sweep_cs231n,
)
from gpusoftmax.plots import (
    FitHistoryDisplay,
    MistakesDisplay,
    ReliabilityDisplay,
    SweepDisplay,
    WeightTemplatesDisplay,
)
from gpusoftmax.protocols.cs231n import LinearSVM, Softmax, check_loss_function

# %% [markdown]
# ## The data
#
# CIFAR-10 has 50,000 training images of 32 x 32 pixels in ten classes, of which the course takes the last 1000 for
# validation, and 10,000 test images.

# %%
try:
    data = load_cifar10()
    course = {"learning_rate": 1e-7, "reg": 2.5e4}
    rates, regs = np.logspace(-6.3, -5.6, 4), np.logspace(2, 4, 4)
except FileNotFoundError as missing:
    print(f"{missing}\nThe digits of scikit-learn take the place of CIFAR-10.")
    data = load_digits()
    course = {"learning_rate": 1e-3, "reg": 0.1}
    rates, regs = np.logspace(-3.5, -2, 4), np.logspace(-3, 0, 4)
print(data)

# %%
shape = data.feature_shape
figure, axes = plt.subplots(1, 10, figsize=(12, 1.6))
for j, ax in enumerate(axes):
    image = data.X_train[data.y_train == j][0].reshape(shape)
    ax.imshow(np.moveaxis(image, 0, -1).squeeze(), cmap="gray")
    ax.set(title=data.class_names[j], xticks=[], yticks=[])

# %% [markdown]
# ## Preprocessing
#
# The mean training image is subtracted, and a column of ones is added, so that the bias is a row of the weights.

# %%
mean = data.X_train.mean(axis=0, dtype=np.float64)


def preprocessed(X):
    """Centred pixels with a last column of ones, in float64, as in the course."""
    return np.column_stack([X - mean, np.ones(len(X))])


X_train, X_val, X_test = map(preprocessed, (data.X_train, data.X_validation, data.X_test))
y_train, y_val, y_test = data.y_train, data.y_validation, data.y_test
rng = np.random.default_rng(0)
dev = rng.choice(len(X_train), 500, replace=False)
X_dev, y_dev = X_train[dev], y_train[dev]

# %% [markdown]
# ## The loss, written with loops
#
# With the scores $s = W^T x$ of an image, the loss is $-\log$ of the probability of its class,
#
# $$L_i = -\log \frac{e^{s_{y}}}{\sum_j e^{s_j}} = \log \sum_j e^{s_j} - s_y$$
#
# and its derivative with respect to a score is $p_j - [j = y]$. The course's objective is the mean of $L_i$ plus
# `reg * sum(W * W)`.


# %%
def softmax_loss_naive(W, X, y, reg):
    """Loss and gradient with loops over images and classes."""
    loss, dW = 0.0, np.zeros_like(W)
    for i in range(len(X)):
        scores = X[i] @ W
        scores -= scores.max()  # no large number goes through exp
        total = np.exp(scores).sum()
        loss += np.log(total) - scores[y[i]]
        for j in range(W.shape[1]):
            dW[:, j] += (np.exp(scores[j]) / total - (j == y[i])) * X[i]
    return loss / len(X) + reg * (W * W).sum(), dW / len(X) + 2 * reg * W


W = 0.0001 * rng.standard_normal((X_dev.shape[1], 10))
loss, _ = softmax_loss_naive(W, X_dev, y_dev, 0.0)
print(f"loss {loss:.4f}, and ln 10 is {np.log(10):.4f}")

# %% [markdown]
# With small weights all classes are about equally likely, each with probability 1/10, so the loss is about
# $-\log 0.1 = \ln 10$. A loss far from it in the first iteration is a mistake.
#
# `check_loss_function` tells what is wrong with a loss function without telling how to write it:

# %%
print("the loss with loops:", check_loss_function(softmax_loss_naive))


def forgetful(W, X, y, reg):
    """A loss whose gradient lacks that of the penalty."""
    loss, dW = softmax_loss_naive(W, X, y, reg)
    return loss, dW - 2 * reg * W


print(check_loss_function(forgetful))

# %% [markdown]
# ## The gradient check
#
# A derivative is compared with $(f(w + h) - f(w - h)) / 2h$ at some coordinates, in float64:

# %%
for record in gradient_check(X_dev, y_dev, W, np.zeros(10), l2=0.1, penalize_intercept=True, n_checks=5):
    print(
        f"{record.coordinate!s:18s} numeric {record.numeric:+.6f} analytic {record.analytic:+.6f} "
        f"relative error {record.relative_error:.1e}"
    )

# %% [markdown]
# ## Vectorised, and fused
#
# NumPy computes all scores in one product of matrices, and the gradient in another. It reads the images twice and makes
# arrays of scores and probabilities in between. `loss_and_gradient` goes through the images once: while a few of them
# are in the cache, it computes scores, probabilities and their part of the gradient. It has no column of ones, and
# leaves the pixels in the type in which they are stored.


# %%
def softmax_loss_vectorized(W, X, y, reg):
    """Loss and gradient with products of matrices."""
    scores = X @ W
    scores -= scores.max(axis=1, keepdims=True)
    p = np.exp(scores)
    total = p.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = (np.log(total[:, 0]) - scores[rows, y]).mean() + reg * (W * W).sum()
    p /= total
    p[rows, y] -= 1
    return loss, X.T @ p / len(y) + 2 * reg * W


def seconds(function):
    """The best of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


naive = seconds(lambda: softmax_loss_naive(W, X_dev, y_dev, 0.1)) / len(X_dev)
vectorised = seconds(lambda: softmax_loss_vectorized(W, X_train, y_train, 0.1)) / len(X_train)
small = W[:-1].astype(np.float32), W[-1].astype(np.float32)
fused = seconds(lambda: loss_and_gradient(data.X_train, y_train, *small, l2=0.2, shift=mean)) / len(X_train)
print("microseconds an image:")
for name, value in {"loops": naive, "vectorised": vectorised, "fused, bytes": fused}.items():
    print(f"  {name:14s} {1e6 * value:8.2f}")

difference = softmax_loss_naive(W, X_dev, y_dev, 0.1)[1] - softmax_loss_vectorized(W, X_dev, y_dev, 0.1)[1]
print(f"largest difference of the gradients: {abs(difference).max():.1e}")

# %% [markdown]
# ## Stochastic gradient descent
#
# `Softmax` has the signature of the course's class. Each iteration takes 200 images and makes a step against their
# gradient.

# %%
np.random.seed(0)
softmax = Softmax()
started = time.perf_counter()
history = softmax.train(X_train, y_train, **course, num_iters=1500, verbose=True)
print(f"{time.perf_counter() - started:.1f} s")
plt.figure(figsize=(6, 3))
plt.plot(history)
plt.xlabel("iteration")
plt.ylabel("loss of the batch")

# %% [markdown]
# The loss begins high because of the penalty on the random weights, and falls to about 2.1: the settings of the course
# stop well before the optimum.

# %%
svm = LinearSVM()
svm.train(X_train, y_train, **course, num_iters=1500)
for name, model in {"softmax": softmax, "SVM": svm}.items():
    val, test = ((model.predict(X) == y).mean() for X, y in ((X_val, y_val), (X_test, y_test)))
    print(f"{name}, the course's settings: validation {val:.1%}, test {test:.1%}")

# %% [markdown]
# ## All settings at once
#
# The assignment asks for the best learning rate and regularisation. `sweep_cs231n` trains all pairs side by side, over
# the same batches: each of them is the model that training it alone would give.

# %%
found = sweep_cs231n(
    data.X_train, y_train, (data.X_validation, y_val), learning_rates=rates, regs=regs, test=(data.X_test, y_test)
)
print(found)
found.plot(plt.subplots(1, 2, figsize=(11, 3.6))[1])
WeightTemplatesDisplay.from_estimator(found.best_estimator, image_shape=shape, names=data.class_names)

# %% [markdown]
# Each template is what the classifier looks for: bright where pixels speak for the class. They resemble an average
# image, because a class has a single template for all its images: a horse has two heads.
#
# ## The optimum
#
# SGD stops near the optimum, and nobody knows how near. The objective is convex, so it has one minimum, and L-BFGS with
# a good preconditioner finds it in about ten passes over the images. Then only the strength of the penalty has to be
# chosen. `fit_path` goes from strong penalties to weak ones, and takes the one with the smallest loss on the validation
# images.

# %%
chosen = fit_path(SoftmaxClassifier(scaling="standard"), data.X_train, y_train, validation=(data.X_validation, y_val))
best = chosen.best_estimator_
SweepDisplay.from_result(chosen)
print(f"chosen {chosen.best_params_}: test accuracy {best.score(data.X_test, y_test):.1%}")

# %% [markdown]
# That is the most that a linear classifier of pixels does here: the settings of SGD matter no more, and a model that is
# fitted more exactly is not better on test images. What is missing is in the model: it has no features but pixels.
#
# ## A certificate
#
# How does one know that this is the optimum? The objective is strongly convex: it lies above a parabola whose curvature
# the penalty gives. Hence from the gradient alone follows a bound on how far below the minimum can be,
#
# $$f(W) - f^* \le \frac{\lVert \nabla f(W) \rVert^2}{2 \lambda}$$

# %%
print(best.fit_report_)
FitHistoryDisplay.from_estimator(best)
ReliabilityDisplay.from_estimator(best, data.X_test, y_test)

# %% [markdown]
# The diagram shows how often predictions are right, by how probable the model says that they are. And these are the
# test images about which it is most certain, and wrong:

# %%
MistakesDisplay.from_estimator(best, data.X_test, y_test, n=12, image_shape=shape, names=data.class_names)
