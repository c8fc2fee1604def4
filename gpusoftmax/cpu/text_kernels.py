"""Reading the rows of a table whose fields are plain numbers. `files/fields.py` reads all others.

A number is written as `files.table.NUMBER` says. Its digits are an integer w, and w 10^q becomes the nearest float64 by
the algorithm of Eisel and Lemire ("Number parsing at a gigabyte per second", 2021): its product with the first bits of
10^q decides the rounding, except in rare cases that are left to Python. All of it is computed in integers.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from gpusoftmax.cpu.compiling import SOURCE, compiled, element

LOWEST, HIGHEST = -342, 308  # powers of ten beyond which a number of 19 digits is 0 or infinite
MOST_DIGITS = 19  # of an integer below 2^64
TAB, NEWLINE, RETURN, SPACE, PLUS, MINUS, ZERO, SMALL_E, LARGE_E = (np.uint8(ord(sign)) for sign in "\t\n\r +-0eE")
U0, U1, U3, U9, U10, U32, U48, U52, U53, U63, U1087 = map(np.uint64, (0, 1, 3, 9, 10, 32, 48, 52, 53, 63, 1087))
LOW_9, LOW_32, LOW_52 = (np.uint64((1 << bits) - 1) for bits in (9, 32, 52))
OFFSET, PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # of the hash FNV-1a
MOST_EXPONENT = np.uint64(0x7FE)
NO_NUMBER = np.uint64((1 << 64) - 1)  # the bits of a NaN

inlined = register_jitable(forceinline=True)  # a call passes so many arguments that it takes longer than the rest

SKIPPED = -1  # the role of a column that is not read
NO_WORD = -1
MOST_WORDS, MOST_STORED, LONGEST_WORD = 1 << 14, 1 << 20, 256  # different words, and their bytes


class Style(NamedTuple):
    """How the rows of a table are written, as characters; `files.dialect.Dialect` says what each means.

    `other` separates fields, too: a tab where blanks do; elsewhere it is the delimiter. `space` and `tab` do not count
    around a number; they are 0 if they separate fields. `comment` is 0 if lines cannot be comments.
    """

    delimiter: np.uint8
    other: np.uint8
    space: np.uint8
    tab: np.uint8
    point: np.uint8
    quote: np.uint8
    comment: np.uint8
    trailing: bool
    longest: int  # bytes of a line


class Words(NamedTuple):
    """The words that were found in columns of text.

    Word i is store[ends[i]:ends[i + 1]]. `slots` is a hash table: the number of a word plus 1, or 0. The only element
    of `count` is the number of words.
    """

    store: np.ndarray
    ends: np.ndarray
    slots: np.ndarray
    count: np.ndarray


def no_words():
    """Return Words without any."""
    return Words(
        np.empty(MOST_STORED, np.uint8),
        np.zeros(MOST_WORDS + 1, np.int64),
        np.zeros(4 * MOST_WORDS, np.int64),
        np.zeros(1, np.int64),
    )


@cache
def powers_of_ten():
    """The first 128 bits of 10^LOWEST to 10^HIGHEST: two columns of 64 bits, the higher ones first."""
    rows = []
    for q in range(LOWEST, HIGHEST + 1):
        power = 10 ** abs(q)
        bits = (power << 128) >> power.bit_length()
        if q < 0:  # rounded up where w 10^q may be a float64, so that its product does not come out below it
            bits = (1 << (127 + power.bit_length())) // power + (q >= -27)
        rows.append((bits >> 64, bits & ((1 << 64) - 1)))
    return np.array(rows, np.uint64)


def read_plain_rows(text, at, roles, style, values, words, codes, spans, odd):
    """Read rows until one has something else than plain fields.

    Parameters
    ----------
    text : bytes
        Whole lines of UTF-8, without a zero byte.
    at : int
        Where the first row begins.
    roles : int64 ndarray of shape (width,)
        For each column of numbers its column in `values`; for column k of text -2 - k; or SKIPPED.
    style : Style
        How rows are written.
    values : float64 ndarray of shape (n, d)
        Takes the numbers.
    words : Words
        Takes the fields of text, until there are too many or too long ones.
    codes : int64 ndarray of shape (n, t)
        Takes the number of the word in each field of text, or NO_WORD.
    spans : int64 ndarray of shape (n, t, 2)
        Takes where each field of text begins and ends.
    odd : int64 ndarray of shape (m, 4)
        Takes the fields that are no plain numbers: the row, the column in `values`, where the field begins and ends.

    Returns
    -------
    rows, n_odd, at : int
        How many rows and odd fields were read, and where the next row begins.
    """
    held = np.frombuffer(text, np.uint8)  # the kernel takes its address: no index counts from the end then
    return _read_rows(
        held.ctypes.data,
        len(held),
        at,
        roles,
        style,
        values.view(np.uint64),
        words,
        codes,
        spans,
        odd,
        powers_of_ten(),
        SOURCE,
    )


@intrinsic
def _leading_zeros(typing, number):
    def emit(context, builder, signature, args):
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), emit


@inlined
def _product(a, b):
    """Return the high and the low 64 bits of a product."""
    a_low, a_high, b_low, b_high = a & LOW_32, a >> U32, b & LOW_32, b >> U32
    low = a_low * b_low
    one = a_high * b_low + (low >> U32)
    two = a_low * b_high + (one & LOW_32)
    return a_high * b_high + (one >> U32) + (two >> U32), a * b


@inlined
def _nearest(w, q, powers):
    """Return the bits of the float64 next to w 10^q, or NO_NUMBER where that is not certain."""
    if w == U0:
        return U0
    if q < LOWEST or q > HIGHEST:
        return NO_NUMBER
    zeros = _leading_zeros(w)
    w = w << zeros
    power_high, power_low = powers[q - LOWEST, 0], powers[q - LOWEST, 1]
    high, low = _product(w, power_high)
    if high & LOW_9 == LOW_9 and low + w < w:  # the bits beyond these may change the rounding
        carry, lowest = _product(w, power_low)
        low = low + carry
        if low < carry:
            high = high + U1
        if high & LOW_9 == LOW_9 and low + U1 == U0 and lowest + w < w:
            return NO_NUMBER
    top = high >> U63
    mantissa = high >> (top + U9)
    exponent = np.uint64((217706 * q) >> 16) + U1087 - zeros - (U1 ^ top)
    if low == U0 and high & LOW_9 == U0 and mantissa & U3 == U1:  # half-way between two float64
        return NO_NUMBER
    mantissa = (mantissa + (mantissa & U1)) >> U1
    if mantissa >> U53:
        mantissa = mantissa >> U1
        exponent = exponent + U1
    if exponent - U1 >= MOST_EXPONENT:  # subnormal or infinite
        return NO_NUMBER
    return exponent << U52 | mantissa & LOW_52


@inlined
def _sign(text, at):
    return element(text, at, ZERO)


@inlined
def _digits(text, at, w):
    """Read digits after those of w; return w and the place after them."""
    while True:
        digit = np.uint64(_sign(text, at)) - U48
        if digit > U9:
            return w, at
        w = w * U10 + digit
        at += 1


@inlined
def _zeros(text, at):
    while _sign(text, at) == ZERO:
        at += 1
    return at


@inlined
def _number(text, at, style, powers):
    """Read a number and the blanks around it; return its bits, or NO_NUMBER, and the place after it."""
    while _sign(text, at) == style.space or _sign(text, at) == style.tab:
        at += 1
    negative = _sign(text, at) == MINUS
    if negative or _sign(text, at) == PLUS:
        at += 1
    begin = at
    at = _zeros(text, at)
    first = at
    w, at = _digits(text, at, U0)
    count, whole, decimals = at - first, at - begin, 0
    if _sign(text, at) == style.point:
        at += 1
        begin = at
        if count == 0:
            at = _zeros(text, at)
        first = at
        w, at = _digits(text, at, w)
        count, decimals = count + at - first, at - begin
    if count > MOST_DIGITS or whole + decimals == 0:
        return NO_NUMBER, at
    q = -decimals
    if _sign(text, at) == SMALL_E or _sign(text, at) == LARGE_E:
        at += 1
        below = _sign(text, at) == MINUS
        if below or _sign(text, at) == PLUS:
            at += 1
        begin = at
        exponent, at = _digits(text, at, U0)
        if at == begin or at - begin > 4:
            return NO_NUMBER, at
        q += -np.int64(exponent) if below else np.int64(exponent)
    while _sign(text, at) == style.space or _sign(text, at) == style.tab:
        at += 1
    bits = _nearest(w, q, powers)
    if bits != NO_NUMBER and negative:
        bits = bits | U1 << U63
    return bits, at


@inlined
def _word(text, begin, end, words):
    """Return the number of a word, which is added if it is new; NO_WORD if there is no room for it."""
    size = end - begin
    if size > LONGEST_WORD:
        return NO_WORD
    value = OFFSET
    for i in range(begin, end):
        value = (value ^ np.uint64(_sign(text, i))) * PRIME
    slot = np.int64((value ^ (value >> U32)) & np.uint64(len(words.slots) - 1))
    while words.slots[slot]:
        word = words.slots[slot] - 1
        first = words.ends[word]
        same = words.ends[word + 1] - first == size
        i = 0
        while same and i < size:
            same = words.store[first + i] == _sign(text, begin + i)
            i += 1
        if same:
            return word
        slot = (slot + 1) & (len(words.slots) - 1)
    word = words.count[0]
    first = words.ends[word]
    if word == len(words.ends) - 1 or first + size > len(words.store):
        return NO_WORD
    for i in range(size):
        words.store[first + i] = _sign(text, begin + i)
    words.ends[word + 1] = first + size
    words.slots[slot] = word + 1
    words.count[0] = word + 1
    return word


@inlined
def _is_end(sign):
    return sign in (NEWLINE, RETURN)


@compiled
def _read_rows(text, n, at, roles, style, values, words, codes, spans, odd, powers, source):
    delimiter, other, quote = style.delimiter, style.other, style.quote
    blanks = delimiter != other  # any number of them
    width, n_odd = len(roles), 0
    for row in range(len(values)):
        start, n_odd_before = at, n_odd
        if at >= n:
            return row, n_odd, start
        while _sign(text, at) == SPACE or _sign(text, at) == TAB:
            at += 1
        if _sign(text, at) == style.comment or _is_end(_sign(text, at)):
            return row, n_odd, start
        if not blanks:
            at = start
        for j in range(width):
            quoted = _sign(text, at) == quote
            if quoted:
                at += 1
            begin, role, bits = at, roles[j], NO_NUMBER
            if role >= 0:
                bits, at = _number(text, at, style, powers)
            if quoted:
                if _sign(text, at) != quote:
                    bits = NO_NUMBER
                while _sign(text, at) != quote and not _is_end(_sign(text, at)):
                    at += 1
            else:
                if _sign(text, at) != delimiter and _sign(text, at) != other and not _is_end(_sign(text, at)):
                    bits = NO_NUMBER
                while _sign(text, at) != delimiter and _sign(text, at) != other and not _is_end(_sign(text, at)):
                    if blanks and _sign(text, at) == quote:
                        return row, n_odd_before, start
                    at += 1
            end = at
            if quoted:
                if _sign(text, at) != quote:  # the field continues on the next line
                    return row, n_odd_before, start
                at += 1
            if role >= 0:
                values[row, role] = bits
                if bits == NO_NUMBER:
                    if n_odd == len(odd):
                        return row, n_odd_before, start
                    odd[n_odd, 0], odd[n_odd, 1], odd[n_odd, 2], odd[n_odd, 3] = row, role, begin, end
                    n_odd += 1
            elif role < SKIPPED:
                codes[row, -2 - role] = _word(text, begin, end, words)
                spans[row, -2 - role, 0], spans[row, -2 - role, 1] = begin, end
            if j < width - 1 or style.trailing:
                if _sign(text, at) != delimiter and _sign(text, at) != other:  # too few fields, or a quote in quotes
                    return row, n_odd_before, start
                at += 1
            while blanks and (_sign(text, at) == SPACE or _sign(text, at) == TAB):
                at += 1
        if not _is_end(_sign(text, at)) or at - start > style.longest:
            return row, n_odd_before, start
        at += 1
        if _sign(text, at - 1) == RETURN and at < n and _sign(text, at) == NEWLINE:
            at += 1
    return len(values), n_odd, at
