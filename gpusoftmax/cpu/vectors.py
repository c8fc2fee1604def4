"""LLVM vector operations with operators, for Numba intrinsics: which vectors there are, exp and log of them, loops.

Everything takes the builder `b` first, as llvmlite's own functions do. Addresses are int64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
SIZES = {types.float32: 4, types.float64: 8, types.uint8: 1, types.uint16: 2, types.int16: 2}


@dataclass(frozen=True)
class Machine:
    """The vectors that Numba compiles for.

    Attributes
    ----------
    name : str
        Of the instruction set.
    vector : int
        Bytes of a vector.
    registers : int
        How many vectors the processor holds.
    fused : bool
        It multiplies and adds with one rounding.
    halves : bool
        It converts float16 by itself.
    """

    name: str
    vector: int
    registers: int
    fused: bool
    halves: bool

    @property
    def columns(self) -> int:
        """Columns of a tile at most."""
        return 10 if self.registers == 32 else 5

    def rows(self, columns: int) -> int:
        """Rows of a score tile: accumulators, a vector of each row and one of the weights fit the registers."""
        return 4 if 4 * columns + 5 <= self.registers else 2


def _machine() -> Machine:
    triple, _, listed = cpu_target.target_context.codegen().magic_tuple()
    features = set(listed.split(","))
    if triple.startswith(("aarch64", "arm64")):
        return Machine("NEON", 16, 32, True, True)
    halves = "+f16c" in features
    if {"+avx512f", "+avx512bw", "+avx512vl"} <= features:
        return Machine("AVX-512", 64, 32, True, halves)
    if {"+avx2", "+fma"} <= features:
        return Machine("AVX2", 32, 16, True, halves)
    return Machine("128-bit vectors", 16, 16, "+fma" in features, halves)


MACHINE = _machine()


class V:
    """A vector, number or mask with operators: the builder's calls, so that formulas read as formulas."""

    def __init__(self, b: Any, value: Any) -> None:
        self.b, self.value = b, value

    def _other(self, other: Any) -> Any:
        return other.value if isinstance(other, V) else constant(self.value.type, other)

    def _call(self, name: str, *operands: Any) -> V:
        kind = self.value.type
        suffix = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        suffix += "f32" if element_of(kind) == ir.FloatType() else "f64"
        function = ir.FunctionType(kind, [kind] * (1 + len(operands)))
        found = cgutils.get_or_insert_function(self.b.module, function, f"llvm.{name}.{suffix}")
        return V(self.b, self.b.call(found, [self.value, *map(self._other, operands)]))

    def __add__(self, other: Any) -> V:
        return V(self.b, self.b.fadd(self.value, self._other(other)))

    def __sub__(self, other: Any) -> V:
        return V(self.b, self.b.fsub(self.value, self._other(other)))

    def __mul__(self, other: Any) -> V:
        return V(self.b, self.b.fmul(self.value, self._other(other)))

    def __truediv__(self, other: Any) -> V:
        return V(self.b, self.b.fdiv(self.value, self._other(other)))

    def __neg__(self) -> V:
        return V(self.b, self.b.fneg(self.value))

    def __gt__(self, other: Any) -> V:
        return V(self.b, self.b.fcmp_ordered(">", self.value, self._other(other)))

    def __lt__(self, other: Any) -> V:
        return V(self.b, self.b.fcmp_ordered("<", self.value, self._other(other)))

    def same(self, other: Any) -> V:
        """A mask of equal numbers; a NaN equals nothing."""
        return V(self.b, self.b.fcmp_ordered("==", self.value, self._other(other)))

    def fma(self, factor: Any, addend: Any) -> V:
        """self * factor + addend, rounded once where the processor can: elsewhere that would be a function call."""
        return self._call("fma", factor, addend) if MACHINE.fused else self * factor + addend

    def floor(self) -> V:
        """The next integer below."""
        return self._call("floor")

    def where(self, mask: V, other: Any) -> V:
        """self where the mask holds, else other."""
        return V(self.b, self.b.select(mask.value, self.value, self._other(other)))


def element_of(kind: Any) -> Any:
    return kind.element if isinstance(kind, ir.VectorType) else kind


def like(kind: Any, element: Any) -> Any:
    """A vector as long as `kind`, or a scalar as it is, of another element type."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def constant(kind: Any, x: Any) -> Any:
    """The number x, in every element."""
    return ir.Constant(kind, [x] * kind.count if isinstance(kind, ir.VectorType) else x)


def exponential(x: V) -> V:
    """exp(x) for x <= 0 or NaN. float32: within 1.05 ulp, 0 for what is no normal number, NaN kept; float64: libm's."""
    b, kind = x.b, x.value.type
    if element_of(kind) != ir.FloatType():
        return x._call("exp")
    whole = like(kind, I32)
    k = (x * 1.44269504 + 0.5).floor()
    k = k.where(k > -126.0, -126.0)
    r = k.fma(-0.693359375, x)  # ln 2 in two parts: in one it is off by 33 ulp at -87
    r = k.fma(2.12194440e-4, r)
    p = V(b, constant(kind, 1.9875691500e-4))  # minimax on [-ln 2 / 2, ln 2 / 2], Cephes' coefficients
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p.fma(r, coefficient)
    p = (p * r).fma(r, r) + 1.0
    exponent = b.add(b.fptosi(k.value, whole), constant(whole, 127))
    scaled = p * V(b, b.bitcast(b.shl(exponent, constant(whole, 23)), kind))
    return V(b, constant(kind, 0.0)).where(x < -87.3365, scaled)


def logarithm(x: V) -> V:
    """log(x) for x >= 1, infinity or NaN, which come out as they are. float32: within 1 ulp (Cephes' logf)."""
    b, kind = x.b, x.value.type
    if element_of(kind) != ir.FloatType():
        return x._call("log")
    whole = like(kind, I32)
    # x = (1 + f) 2^e with 1 + f in [sqrt(1/2), sqrt(2))
    shifted = b.sub(b.bitcast(x.value, whole), constant(whole, 0x3F3504F3))
    e = V(b, b.sitofp(b.ashr(shifted, constant(whole, 23)), kind))
    fraction = b.add(b.and_(shifted, constant(whole, 0x007FFFFF)), constant(whole, 0x3F3504F3))
    f = V(b, b.bitcast(fraction, kind)) - 1.0
    p = V(b, constant(kind, 7.0376836292e-2))
    for coefficient in (
        -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
        -2.4999993993e-1, 3.3333331174e-1,
    ):  # fmt: skip
        p = p.fma(f, coefficient)
    square = f * f
    y = e.fma(-2.12194440e-4, p * f * square)
    y = square.fma(-0.5, y)
    return e.fma(0.693359375, f + y).where(x < float("inf"), x)


def logarithm_1p(x: V) -> V:
    """log(1 + x) for x >= 0 with the relative error of x, which is tiny for a confident row."""
    u = x + 1.0
    return logarithm(u) + (x - (u - 1.0)) / u


def splat(b: Any, x: Any, kind: Any) -> Any:
    """The scalar value x in every element of a vector."""
    undefined = ir.Constant(kind, ir.Undefined)
    lanes = constant(ir.VectorType(I32, kind.count), 0)
    return b.shuffle_vector(b.insert_element(undefined, x, I32(0)), undefined, lanes)


def outlined(name: str, b: Any, arguments: Any, body: Any) -> Any:
    """A call of a function of its own, made by body(builder, arguments) where the module has none of that name yet.

    Inlined at each of its places of use the same text would be compiled several times: 2 s instead of 5.
    """
    function = b.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        function = ir.Function(b.module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        body(inside, function.args)
        inside.ret_void()
    return b.call(function, arguments)


def pointer(b: Any, address: Any, kind: Any) -> Any:
    """The int64 address as a pointer to `kind`. In our functions a null pointer is an address like any other.

    Numba links functions into their callers after LLVM has made machine code of them, and LLVM is then free to have
    written `base + offset` as a pointer made of the offset, plus the base. Optimised again, where the offset is 0, that
    is an access to null: on AVX2 the first score of a block was dropped as undefined, and only from the cache on disk,
    since the process that compiles runs the functions as they were before.
    """
    set.add(b.function.attributes, "null_pointer_is_valid")  # llvmlite's own `add` does not know it
    return b.inttoptr(address, kind.as_pointer())


def load(b: Any, address: Any, kind: Any, align: int) -> Any:
    loaded = b.load(pointer(b, address, kind))
    loaded.align = align
    return loaded


def store(b: Any, value: Any, address: Any, align: int) -> None:
    b.store(value, pointer(b, address, value.type)).align = align


def loop(b: Any, start: Any, stop: Any, step: int, carried: list[Any], body: Any) -> list[Any]:
    """body(index, carried values) -> new values, for index from start (below stop) in steps; -> the last values."""
    before, loop, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
    b.branch(loop)
    b.position_at_end(loop)
    index = b.phi(I64)
    phis = [b.phi(value.type) for value in carried]
    new = body(index, list(phis))
    following = b.add(index, I64(step))
    b.cbranch(b.icmp_signed("<", following, stop), loop, after)
    for phi, first, nxt in zip([index, *phis], [start, *carried], [following, *new], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(nxt, b.block)
    b.position_at_end(after)
    return new
