"""Saving fitted models to files and loading them."""

from gpusoftmax.models.safetensors import load_model, save_model

__all__ = ["load_model", "save_model"]
