"""A fitted `TableEncoder` as JSON and tensors of a model file, and back.

JSON:

    parameters    kinds, min_frequency, n_hashes
    columns       the names of all columns of the table
    named         whether the table gave them itself
    numbers       {"names": [...], "gaps": [true, ...]}
    categories    a list of {"name": ..., "values": [...], "others": true}; null stands for a gap
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
from gpusoftmax.models.format import expect

if TYPE_CHECKING:
    from gpusoftmax.tables.encoder import TableEncoder

MOST_HASHES = 1 << 31  # murmurhash has 32 bits, and hashes are stored as int32
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
            {"name": name, "values": list(values), "others": others}
            for name, values, others in zip(categories.names, categories.values, categories.others, strict=True)
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
    from gpusoftmax.tables.encoder import KINDS, TableEncoder, set_learned
    from gpusoftmax.tables.groups import Numbers

    expect("encoder", described, KEYS)
    parameters = expect("parameters of the encoder", described["parameters"], PARAMETERS)
    if not all(kind in KINDS for kind in (parameters["kinds"] or {}).values()):
        raise ValueError(f"kinds {shown(parameters['kinds'])} are not known")
    for name in ("min_frequency", "n_hashes"):
        check_count(name, parameters[name])
    columns = _names("columns", described["columns"])
    numbers = expect("numbers", described["numbers"], {"names": (list,), "gaps": (list,)})
    names, gaps = _names("numbers", numbers["names"]), numbers["gaps"]
    mean, scale = (tensors.get(f"encoder.{one}", np.empty(0)) for one in ("mean", "scale"))
    if len(gaps) != len(names) or any(type(gap) is not bool for gap in gaps):
        raise ValueError(f"gaps {shown(gaps)} of {len(names)} columns of numbers")
    if {mean.shape, scale.shape} != {(len(names),)} or not (np.isfinite(mean).all() and np.isfinite(scale).all()):
        raise ValueError(
            f"encoder.mean {mean.shape} and encoder.scale {scale.shape} for {len(names)} columns of numbers"
        )
    if not (scale > 0).all():
        raise ValueError("encoder.scale holds a number that is not positive")
    categories, texts = _categories(described["categories"]), _texts(described["texts"], tensors)
    used = [*names, *categories.names, *(one.name for one in texts)]
    left_out = described["left_out"]
    if sorted([*used, *left_out]) != sorted(columns) or not used:
        raise ValueError(
            f"columns {shown(columns)}, of which {shown(used)} are used and {shown(list(left_out))} left out"
        )
    if any(type(reason) is not str for reason in left_out.values()):
        raise TypeError("left_out holds something else than reasons")
    encoder = TableEncoder(**parameters)
    encoder.left_out_ = left_out
    return set_learned(
        encoder, Numbers(tuple(names), mean, scale, tuple(gaps)), categories, texts, tuple(columns), described["named"]
    )


def _names(what: str, names: list[Any]) -> list[str]:
    if any(type(name) is not str for name in names) or len(set(names)) != len(names):
        raise ValueError(f"{what} {shown(names)} are not distinct names")
    return names


def _categories(described: list[Any]) -> Any:
    from gpusoftmax.tables.groups import Categories

    for one in described:
        expect("categories", one, {"name": (str,), "values": (list,), "others": (bool,)})
        values, text = one["values"], one["values"][:-1] if None in one["values"] else one["values"]
        if any(type(value) is not str for value in text) or values[len(text) :] not in ([], [None]):
            raise ValueError(f"values {shown(values)} of {shown(one['name'])}")
        if not values or text != sorted(set(text)):
            raise ValueError(f"values {shown(values)} of {shown(one['name'])} are not sorted and distinct")
    return Categories(
        tuple(one["name"] for one in described),
        tuple(tuple(one["values"]) for one in described),
        tuple(one["others"] for one in described),
    )


def _texts(described: list[Any], tensors: dict[str, Array]) -> list[Any]:
    from gpusoftmax.tables.groups import Words

    hashes, idf = tensors.get("encoder.hashes", np.empty(0, np.int32)), tensors.get("encoder.idf", np.empty(0))
    for one in described:
        expect("texts", one, {"name": (str,), "n_hashes": (int,), "used": (int,)})
        check_count("used", one["used"], least=0)
        if not 0 < one["n_hashes"] < MOST_HASHES:
            raise ValueError(f"n_hashes {shown(one['n_hashes'])} of {shown(one['name'])}")
    used = sum(one["used"] for one in described)
    if {hashes.shape, idf.shape} != {(used,)} or not np.isfinite(idf).all():
        raise ValueError(f"encoder.hashes {hashes.shape} and encoder.idf {idf.shape} for {used} hashes")
    texts, start = [], 0
    for one in described:
        part = slice(start, start + one["used"])
        own = hashes[part]
        if not (own[1:] > own[:-1]).all() or (len(own) and not 0 <= own[0] <= own[-1] < one["n_hashes"]):
            raise ValueError(f"encoder.hashes of {shown(one['name'])} are not increasing, from 0 to {one['n_hashes']}")
        texts.append(Words(one["name"], one["n_hashes"], own, idf[part]))
        start = part.stop
    return texts
