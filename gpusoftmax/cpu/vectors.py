"""LLVM vector operations for Numba intrinsics: the processor's vectors, operators on them, exp and log, loops.

Functions take the LLVM builder as `b` and emit code with it. Addresses are int64.
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
SIZES = {types.float32: 4, types.float64: 8, types.uint8: 1, types.uint16: 2, types.float16: 2}


@dataclass(frozen=True)
class Machine:
    """The vector instructions that Numba compiles for.

    Attributes
    ----------
    name : str
        The instruction set.
    vector : int
        Bytes of a vector.
    registers : int
        Vector registers.
    fused : bool
        There is an instruction that multiplies and adds with one rounding.
    halves : bool
        There is an instruction that converts float16.
    """

    name: str
    vector: int
    registers: int
    fused: bool
    halves: bool

    @property
    def columns(self) -> int:
        """The most columns of a tile."""
        return 10 if self.registers == 32 else 5

    def rows(self, columns: int) -> int:
        """Rows of a score tile, such that accumulators, a vector of each row and one of weights fit the registers."""
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
    """A vector, number or mask in LLVM with Python's operators, so that formulas can be read as formulas."""

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
        """A mask of equal numbers; NaN equals nothing."""
        return V(self.b, self.b.fcmp_ordered("==", self.value, self._other(other)))

    def fma(self, factor: Any, addend: Any) -> V:
        """self * factor + addend, rounded once where the processor has an instruction for it.

        Elsewhere LLVM would call a function, so there it is rounded twice.
        """
        return self._call("fma", factor, addend) if MACHINE.fused else self * factor + addend

    def floor(self) -> V:
        """The largest integer that is not above."""
        return self._call("floor")

    def where(self, mask: V, other: Any) -> V:
        """self where the mask is set, other elsewhere."""
        return V(self.b, self.b.select(mask.value, self.value, self._other(other)))


def element_of(kind: Any) -> Any:
    return kind.element if isinstance(kind, ir.VectorType) else kind


def like(kind: Any, element: Any) -> Any:
    """A vector type as long as `kind`, or a scalar type if that is one, of another element type."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def constant(kind: Any, x: Any) -> Any:
    """A constant of type `kind` with x in every element."""
    return ir.Constant(kind, [x] * kind.count if isinstance(kind, ir.VectorType) else x)


def exponential(x: V) -> V:
    """exp(x) for x <= 0 or NaN.

    float32: within 1.05 ulp, and 0 where the result would be subnormal; NaN stays NaN. float64: the function of libm.
    """
    b, kind = x.b, x.value.type
    if element_of(kind) != ir.FloatType():
        return x._call("exp")
    whole = like(kind, I32)
    k = (x * 1.44269504 + 0.5).floor()
    k = k.where(k > -126.0, -126.0)
    r = k.fma(-0.693359375, x)  # ln 2 in two parts; in one part the result is off by 33 ulp at -87
    r = k.fma(2.12194440e-4, r)
    p = V(b, constant(kind, 1.9875691500e-4))  # minimax on [-ln 2 / 2, ln 2 / 2], from Cephes
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p.fma(r, coefficient)
    p = (p * r).fma(r, r) + 1.0
    exponent = b.add(b.fptosi(k.value, whole), constant(whole, 127))
    scaled = p * V(b, b.bitcast(b.shl(exponent, constant(whole, 23)), kind))
    return V(b, constant(kind, 0.0)).where(x < -87.3365, scaled)


def logarithm(x: V) -> V:
    """log(x) for x >= 1; infinity and NaN are returned unchanged. float32: within 1 ulp (logf of Cephes)."""
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
    """log(1 + x) for x >= 0, with a small relative error even for tiny x, as a confident row has it."""
    u = x + 1.0
    return logarithm(u) + (x - (u - 1.0)) / u


def splat(b: Any, x: Any, kind: Any) -> Any:
    """A vector with the scalar x in every element."""
    undefined = ir.Constant(kind, ir.Undefined)
    lanes = constant(ir.VectorType(I32, kind.count), 0)
    return b.shuffle_vector(b.insert_element(undefined, x, I32(0)), undefined, lanes)


def outlined(name: str, b: Any, arguments: Any, body: Any) -> Any:
    """Call an LLVM function; body(builder, arguments) emits it if the module has none of that name yet.

    If the body were inlined at each place of use, it would be compiled several times: 5 s instead of 2.
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


def halved_sum(b: Any, x: Any) -> Any:
    """The sum of a vector: of its halves, of the halves of that, and so on."""
    n = x.type.count
    while n > 1:
        n //= 2
        low, high = (ir.Constant(ir.VectorType(I32, n), list(range(first, first + n))) for first in (0, n))
        x = b.fadd(b.shuffle_vector(x, x, low), b.shuffle_vector(x, x, high))
    return b.extract_element(x, I32(0))


def pointer(b: Any, address: Any, kind: Any) -> Any:
    """Convert an int64 address to a pointer to `kind`, in functions where null is an address like any other.

    Numba optimises functions, links them into their callers and optimises them again. The first time LLVM may turn
    `base + offset` into a pointer made from the offset, plus the base. If the offset is 0, that looks like an access to
    null the second time, which is undefined: on AVX2 the first score of a block was lost. It happened only with kernels
    from the cache on disk, because the process that compiles them runs the functions of the first time.
    """
    set.add(b.function.attributes, "null_pointer_is_valid")  # llvmlite's own `add` does not know this attribute
    return b.inttoptr(address, kind.as_pointer())


def load(b: Any, address: Any, kind: Any, align: int) -> Any:
    loaded = b.load(pointer(b, address, kind))
    loaded.align = align
    return loaded


def store(b: Any, value: Any, address: Any, align: int) -> None:
    b.store(value, pointer(b, address, value.type)).align = align


def either(b: Any, condition: Any, emit_if: Any, emit_else: Any) -> list[Any]:
    """Emit a branch: the values that `emit_if()` returns where `condition` is not 0, else those of `emit_else()`."""
    yes, no, after = (b.append_basic_block(name) for name in ("yes", "no", "after"))
    b.cbranch(b.icmp_signed("!=", condition, I64(0)), yes, no)
    ends = []
    for block, emit in ((yes, emit_if), (no, emit_else)):
        b.position_at_end(block)
        values = emit()
        ends.append((values, b.block))
        b.branch(after)
    b.position_at_end(after)
    merged = []
    for pair in zip(*(values for values, _ in ends), strict=True):
        phi = b.phi(pair[0].type)
        for value, (_, block) in zip(pair, ends, strict=True):
            phi.add_incoming(value, block)
        merged.append(phi)
    return merged


def only_if(b: Any, condition: Any, emit: Any) -> None:
    """Emit a branch: `emit()` where `condition` is not 0."""
    either(b, condition, lambda: emit() or [], lambda: [])


def loop(b: Any, start: Any, stop: Any, step: int, carried: list[Any], body: Any) -> list[Any]:
    """Emit a loop over range(start, stop, step), run at least once: body(index, carried values) -> new values.

    Returns the last values.
    """
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
