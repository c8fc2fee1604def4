"""Models on disk."""

from gpusoftmax.persist.model import load_model, save_model

__all__ = ["load_model", "save_model"]
