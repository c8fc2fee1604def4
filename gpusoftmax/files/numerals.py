"""How tables write numbers, truth values and gaps."""

from __future__ import annotations

import re

from gpusoftmax.tables.columns import GAPS, NUMBER, TRUTH

DECIMALS = (".", ",")
# with a decimal point, and commas between groups of three digits; with a decimal comma, and points between these
GROUPED = {
    decimal: re.compile(
        rf"[+-]?(?:(?:[0-9]+|[1-9][0-9]{{0,2}}(?:{other}[0-9]{{3}})++)(?:{sign}[0-9]*)?|{sign}[0-9]+)(?:[eE][+-]?[0-9]+)?"
    )
    for decimal, sign, other in ((".", r"\.", ","), (",", ",", r"\."))
}
INFINITE = ("inf", "infinity")


def number(field: str, decimal: str | None = None) -> float | None:
    """Convert a field to a number, which may be infinite; None if it is neither a number nor a truth value.

    Parameters
    ----------
    field : str
        The field; blanks around it do not count.
    decimal : str or None
        The sign of decimals, "." or ","; the other one may part groups of three digits. None: a decimal point, and no
        groups.
    """
    # as `float` does, to which control characters of ASCII are not blanks
    text = field.strip(" \t\n\r\f\v" if field.isascii() else None)
    if decimal is not None and GROUPED[decimal].fullmatch(text):
        text = text.replace("." if decimal == "," else ",", "").replace(",", ".")
    elif text in TRUTH:
        return float(TRUTH[text])
    elif decimal == "," or not NUMBER.fullmatch(text):
        return None
    return float(text)


def is_number(field: str) -> bool:
    """Whether a field is a number with any sign for decimals."""
    return any(grouped.fullmatch(field) for grouped in GROUPED.values())


def is_infinite(field: str) -> bool:
    """Whether a field is infinity in words."""
    return field.strip().lower().lstrip("+-") in INFINITE


def decimal_of(fields: list[str]) -> tuple[str | None, str | None]:
    """Find the sign of decimals from the numbers of a table.

    Returns
    -------
    decimal : str or None
        "." or ","; None if no number has a comma, so that plain numbers are expected.
    doubtful : str or None
        A field that may be read in two ways, such as 1,234, if nothing decides between them.
    """
    point = comma = ambiguous = None
    for field in fields:
        as_point, as_comma = (GROUPED[decimal].fullmatch(field) for decimal in DECIMALS)
        if "," not in field and "." not in field:
            continue
        if as_point and as_comma:
            ambiguous = ambiguous or (field if "," in field else None)
        elif as_point:
            point = point or field
        elif as_comma:
            comma = comma or field
    if comma is None and ambiguous is None and (point is None or not any("," in field for field in fields)):
        return None, None
    if comma is not None and point is None:
        return ",", None
    if point is not None and comma is None:
        return ".", None
    return None, comma or ambiguous


def is_value(field: str) -> bool:
    """Whether a field is a number, a gap that is not empty, an infinity or a truth value."""
    return is_number(field) or field.lower() in GAPS or is_infinite(field) or field in TRUTH
