"""A fitted `TableEncoder` as JSON and tensors of a model file, and back.

JSON:

    parameters    kinds, min_frequency, n_hashes
    columns       the names of all columns of the table
    named         whether the table gave them itself
    numbers       {"names": [...], "gaps": [true, ...]}
    categories    a list of {"name": ..., "values": [...], "has_rare": true}; null stands for a gap
    texts         a list of {"name": ..., "n_hashes": ..., "used": number of hashes that are used}
    left_out      {name: why}

Tensors: `encoder.mean` and `encoder.scale`, of the numbers; `encoder.hashes` and `encoder.idf`, of all texts one after
the other. Each exists if there is something in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.checks.scalars import check_count
from gpusoftmax.files.tensors import expect

if TYPE_CHECKING:
    from gpusoftmax.tables.encoder import TableEncoder
    from gpusoftmax.tables.groups import Categories, Numbers, TextColumn

MOST_IDF = 50.0  # ln of more rows than there are, plus 1
PARAMETERS: dict[str, tuple[type, ...]] = {"kinds": (dict, type(None)), "min_frequency": (int,), "n_hashes": (int,)}
KEYS: dict[str, tuple[type, ...]] = {
    "parameters": (dict,), "columns": (list,), "named": (bool,), "numbers": (dict,), "categories": (list,),
    "texts": (list,), "left_out": (dict,),
}  # fmt: skip


def encode_encoder(encoder: TableEncoder) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what `decode_encoder` needs: an object for JSON, and tensors."""
    numbers, categories, texts = encoder.numbers_, encoder.categories_, encoder.texts_
    parameters = encoder.get_params(deep=False)
    parameters["kinds"] = None if encoder.kinds is None else {str(name): kind for name, kind in encoder.kinds.items()}
    described = {
        "parameters": parameters,
        "columns": list(encoder.columns_),
        "named": hasattr(encoder, "feature_names_in_"),
        "numbers": {"names": list(numbers.names), "gaps": list(numbers.gaps)},
        "categories": [
            {"name": name, "values": list(values), "has_rare": has_rare}
            for name, values, has_rare in zip(categories.names, categories.values, categories.has_rare, strict=True)
        ],
        "texts": [{"name": one.name, "n_hashes": one.n_hashes, "used": len(one.hashes)} for one in texts],
        "left_out": dict(encoder.left_out_),
    }
    tensors = {
        "encoder.mean": numbers.mean,
        "encoder.scale": numbers.scale,
        "encoder.hashes": np.concatenate([one.hashes for one in texts] or [np.empty(0, np.int32)]),
        "encoder.idf": np.concatenate([one.idf for one in texts] or [np.empty(0)]),
    }
    return described, {name: tensor for name, tensor in tensors.items() if len(tensor)}


def decode_encoder(described: Any, tensors: dict[str, Array]) -> TableEncoder:
    """Return the fitted encoder that JSON and tensors describe.

    Raises
    ------
    ValueError, TypeError
        They do not describe an encoder that `TableEncoder.fit` makes; the message says why.
    """
    from gpusoftmax.tables.encoder import TableEncoder, set_learned

    expect("encoder", described, KEYS)
    columns = _names("columns", described["columns"])
    numbers, categories = _numbers(described["numbers"], tensors), _categories(described["categories"])
    texts, left_out = _texts(described["texts"], tensors), described["left_out"]
    used = [*numbers.names, *categories.names, *(one.name for one in texts)]
    if sorted([*used, *left_out]) != sorted(columns) or not used:
        raise ValueError(
            f"columns {shown(columns)}, of which {shown(used)} are used and {shown(list(left_out))} left out"
        )
    if any(type(reason) is not str for reason in left_out.values()):
        raise TypeError("left_out holds something else than reasons")
    encoder = TableEncoder(**_parameters(described["parameters"], set(columns)))
    encoder.left_out_ = left_out
    return set_learned(encoder, numbers, categories, texts, tuple(columns), described["named"])


def _parameters(parameters: Any, columns: set[str]) -> dict[str, Any]:
    from gpusoftmax.tables.encoder import KINDS, MOST_HASHES

    expect("parameters of the encoder", parameters, PARAMETERS)
    kinds = parameters["kinds"] or {}
    if not kinds.keys() <= columns or not all(kind in KINDS for kind in kinds.values()):
        raise ValueError(f"kinds {shown(kinds)} are not known")
    check_count("min_frequency", parameters["min_frequency"])
    if check_count("n_hashes", parameters["n_hashes"]) > MOST_HASHES:
        raise ValueError(f"n_hashes {shown(parameters['n_hashes'])}, more than {MOST_HASHES}")
    return dict(parameters)


def _numbers(described: Any, tensors: dict[str, Array]) -> Numbers:
    from gpusoftmax.tables.groups import Numbers

    expect("numbers", described, {"names": (list,), "gaps": (list,)})
    names, gaps = _names("numbers", described["names"]), described["gaps"]
    mean, scale = (tensors.get(f"encoder.{one}", np.empty(0)) for one in ("mean", "scale"))
    if len(gaps) != len(names) or any(type(gap) is not bool for gap in gaps):
        raise ValueError(f"gaps {shown(gaps)} of {len(names)} columns of numbers")
    if {mean.shape, scale.shape} != {(len(names),)}:
        raise ValueError(f"encoder.mean {mean.shape} and encoder.scale {scale.shape} for {len(names)} columns")
    with np.errstate(all="ignore"):
        if not (scale > 0).all() or not np.isfinite(scale + 1 / scale + mean / scale).all():
            raise ValueError("encoder.mean or encoder.scale holds numbers that cannot be used, or are not positive")
    return Numbers(tuple(names), mean, scale, tuple(gaps))


def _names(what: str, names: list[Any]) -> list[str]:
    if any(type(name) is not str for name in names) or len(set(names)) != len(names):
        raise ValueError(f"{what} {shown(names)} are not distinct names")
    return names


def _categories(described: list[Any]) -> Categories:
    from gpusoftmax.tables.encoder import MOST_VALUES
    from gpusoftmax.tables.groups import Categories

    for one in described:
        expect("categories", one, {"name": (str,), "values": (list,), "has_rare": (bool,)})
        values, text = one["values"], one["values"][:-1] if None in one["values"] else one["values"]
        if any(type(value) is not str for value in text) or values[len(text) :] not in ([], [None]):
            raise ValueError(f"values {shown(values)} of {shown(one['name'])}")
        if not values or text != sorted(set(text)):
            raise ValueError(f"values {shown(values)} of {shown(one['name'])} are not sorted and distinct")
    found = Categories(
        tuple(one["name"] for one in described),
        tuple(tuple(one["values"]) for one in described),
        tuple(one["has_rare"] for one in described),
    )
    if found.n_features > MOST_VALUES:
        raise ValueError(f"categories with {found.n_features} values, more than {MOST_VALUES}")
    return found


def _texts(described: list[Any], tensors: dict[str, Array]) -> list[TextColumn]:
    from gpusoftmax.tables.encoder import MOST_HASHES
    from gpusoftmax.tables.groups import TextColumn

    hashes, idf = tensors.get("encoder.hashes", np.empty(0, np.int32)), tensors.get("encoder.idf", np.empty(0))
    for one in described:
        expect("texts", one, {"name": (str,), "n_hashes": (int,), "used": (int,)})
        check_count("used", one["used"])
        if not 0 < one["n_hashes"] <= MOST_HASHES:
            raise ValueError(f"n_hashes {shown(one['n_hashes'])} of {shown(one['name'])}")
    used = sum(one["used"] for one in described)
    if {hashes.shape, idf.shape} != {(used,)} or not ((idf > 0) & (idf < MOST_IDF)).all():
        raise ValueError(f"encoder.hashes {hashes.shape} and encoder.idf {idf.shape} for {used} hashes")
    texts, start = [], 0
    for one in described:
        part = slice(start, start + one["used"])
        own = hashes[part]
        if not (own[1:] > own[:-1]).all() or (len(own) and not 0 <= own[0] <= own[-1] < one["n_hashes"]):
            raise ValueError(f"encoder.hashes of {shown(one['name'])} are not increasing, from 0 to {one['n_hashes']}")
        texts.append(TextColumn(one["name"], one["n_hashes"], own, idf[part]))
        start = part.stop
    return texts
