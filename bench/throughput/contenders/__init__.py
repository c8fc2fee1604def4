"""Who is compared in `throughput`: a function from a `Problem` to a `Prepared` for each, in the order of the tables."""

from functools import partial

from bench.common.harness import Contender, lacks
from bench.throughput.contenders import by_hand, jax, ours, sklearn, torch


def _backend(name: str, words: str, backend: str) -> Contender:
    return Contender(name, words, partial(ours.prepare, name=backend), partial(ours.absent, backend), ours=True)


CONTENDERS = (
    Contender("reference", "ours: the specification, float64 NumPy", ours.specification, ours=True),
    _backend("numpy", "ours: backend='numpy'", "numpy"),
    _backend("numba", "ours: backend='cpu', compiled kernels", "cpu"),
    _backend("cuda", "ours: backend='cuda', CUDA kernels", "cuda"),
    Contender("cuda-plain", "CuPy by hand, no kernels of ours", by_hand.cupy, partial(ours.absent, "cuda"), ours=True),
    Contender("hand", "NumPy by hand", by_hand.numpy),
    Contender("sklearn", "scikit-learn's own loss and predict", sklearn.prepare),
    Contender("torch", "PyTorch eager", torch.eager, torch.no_torch),
    Contender("torch-compile", "PyTorch, torch.compile", torch.compiled, torch.no_compiler),
    Contender("torch-cuda", "PyTorch eager on the GPU", torch.on_gpu, torch.no_torch_gpu),
    Contender("jax", "JAX, jit", jax.prepare, lacks("jax")),
)
