"""What identifies a sweep, so that only the same sweep continues from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpusoftmax.checkpoints.checkpoint import MOST_TRAININGS, Checkpoint
from gpusoftmax.checkpoints.identity import digest_of, identity_of_features, identity_of_machine
from gpusoftmax.estimators.problem import Data
from gpusoftmax.estimators.resuming import identity_of_estimator, plain_parameter
from gpusoftmax.search.splits import Split


def checkpoint_of_sweep(
    estimator: Any,
    candidates: list[dict[str, Any]],
    models: int,
    data: Data,
    splits: list[Split],
    options: dict[str, Any],
    path: Path | None,
    every: float,
) -> Checkpoint | None:
    """Open the checkpoint of a sweep; None if there is no path.

    `models` is the largest number of models, and `options` are the arguments of `sweep` that decide which models are
    trained, and in which order.

    Raises
    ------
    ValueError
        The file at `path` belongs to another run, and the message says what differs; or there are too many models.
    BadFileError, OSError
        It cannot be read.
    """
    if path is None:
        return None
    if models > MOST_TRAININGS:
        raise ValueError(
            f"checkpoint={str(path)!r} holds at most {MOST_TRAININGS} models, and there are {models // len(splits)} "
            f"configurations on {len(splits)} splits; leave checkpoint out, or sweep over parts of the grid"
        )
    validation: dict[str, Any] = {}
    if data.validation is not None:
        features, *labels = data.validation
        validation = _identity_of_features("validation X", features) | {"validation y": digest_of(*labels)}
    run = {
        "run": "sweep",
        **identity_of_estimator(estimator),
        "grid": [{name: plain_parameter(value) for name, value in one.items()} for one in candidates],
        **options,
        **_identity_of_features("X", data.features),
        "y": digest_of(data.labels, data.proportions, data.classes),
        "sample_weight": digest_of(data.weights, data.unit),
        "splits": digest_of(*(rows for split in splits for rows in (split.train, split.held_out))),
        **validation,
        **identity_of_machine(data.backend),
    }
    return Checkpoint(path, every, run)


def _identity_of_features(prefix: str, features: Any) -> dict[str, Any]:
    return {f"{prefix} {name}": value for name, value in identity_of_features(features).items()}
