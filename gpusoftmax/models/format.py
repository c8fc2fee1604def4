"""Which texts and tensors a model file has; `files.tensors` reads such files within limits."""

from __future__ import annotations

from gpusoftmax.files.tensors import Layout

FORMAT = "gpusoftmax-model"
KEYS = {"format", "format_version", "estimator", "objective", "classes", "parameters", "fitted", "versions", "sha256"}
# Version 2 has an encoder of tables. Models without one are of version 1, which older versions of gpusoftmax can read.
VERSIONS = {"1": KEYS, "2": KEYS | {"encoder"}}
TENSORS = {
    "coef": ("F32", "F64"), "intercept": ("F32", "F64"), "shift": ("F64",), "scale": ("F64",),
    "encoder.mean": ("F64",), "encoder.scale": ("F64",), "encoder.hashes": ("I32",), "encoder.idf": ("F64",),
}  # fmt: skip
MODEL = Layout(
    name="model",
    writer="save_model",
    format=FORMAT,
    versions=VERSIONS,
    tensors=TENSORS,
    required={"coef", "intercept"},
    too_long="; shorten names or history",
)
