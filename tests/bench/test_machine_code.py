"""Control codes are read, and a warp's way is played, as the few instructions of these texts must be."""

from __future__ import annotations

import pytest

from bench.gpu.machine_code import Kernel, Work, costs, kernels

LOAD, COPY = "LDG.E.128 R{0}, desc[UR4][R2.64]", "LDGSTS.E.BYPASS.128 [R{0}], desc[UR4][R2.64]"


def line(text: str, *, clocks: int = 1, sets: int = 7, waits: tuple[int, ...] = ()) -> str:
    """An instruction as nvdisasm lists it, with its control code; or a label."""
    if text.endswith(":"):
        return text
    control = clocks | 1 << 4 | sets << 5 | 7 << 8 | sum(1 << number for number in waits) << 11
    return f"        /*0000*/                   {text} ;    /* 0x{7:016x} */\n    /* 0x{control << 41:016x} */"


def kernel(*lines: str) -> Kernel:
    return Kernel("\n".join(lines))


def waits_for(*scoreboards: int) -> str:
    return line("FADD R0, R0, R1", waits=scoreboards)


def test_a_control_code_is_taken_apart() -> None:
    one = kernel(line("@!P0 LDG.E.64.CONSTANT R10, desc[UR6][R2.64]", clocks=13, sets=2, waits=(0, 5))).instructions[0]
    assert (one.guard, one.name, one.kind, one.width) == ("@!P0", "LDG.E.64.CONSTANT", "LDG", 8)
    assert (one.clocks, one.scoreboard, one.waits) == (13, 2, (0, 5))


@pytest.mark.parametrize(
    ("name", "width"),
    [("LDG.E.U16", 2), ("LDG.E.S8", 1), ("STG.E", 4), ("LDS.128", 16), ("LDGSTS.E.BYPASS.LTC128B.128", 16)],
)
def test_the_width_of_an_access_is_in_its_name(name: str, width: int) -> None:
    assert kernel(line(f"{name} R1, [R2]")).instructions[0].width == width


def test_loads_that_follow_each_other_are_on_their_way_together() -> None:
    loads = [line(LOAD.format(4 * i), sets=i) for i in range(4)]
    together = costs(kernel(*loads, waits_for(0), waits_for(1, 2, 3), line("EXIT")).trace())
    assert (together.in_flight, together.before_wait, together.rounds) == (64, 4, 1)
    one_by_one = [part for i, load in enumerate(loads) for part in (load, waits_for(i))]
    apart = costs(kernel(*one_by_one, line("EXIT")).trace())
    assert (apart.in_flight, apart.before_wait, apart.rounds) == (16, 1, 4)


def test_a_pipeline_keeps_its_loads_on_their_way() -> None:
    parts = [line(LOAD.format(0), sets=0), line(LOAD.format(4), sets=1)]
    for i in range(4):
        parts += [waits_for(i % 2), line(LOAD.format(0), sets=i % 2)]
    found = costs(kernel(*parts, waits_for(0, 1), line("EXIT")).trace())
    assert (found.in_flight, found.rounds) == (32, 3)


def test_copies_are_on_their_way_until_their_group_is_waited_for() -> None:
    stage = [line(COPY.format(0)), line(COPY.format(16)), line("LDGDEPBAR")]
    parts = [*stage, *stage, line("DEPBAR.LE SB0, 0x1"), *stage, line("DEPBAR.LE SB0, 0x0"), line("EXIT")]
    found = costs(kernel(*parts).trace())
    assert (found.in_flight, found.before_wait, found.rounds) == (64, 4, 2)
    assert found.wavefronts == 6 * 4


def test_a_loop_is_repeated_until_the_tile_is_moved() -> None:
    text = [
        line("S2R R0, SR_TID.X", sets=0), ".L_x_0:", line(LOAD.format(4), sets=1), line(LOAD.format(8), sets=1),
        waits_for(1), line("@P0 BRA `(.L_x_0)"), line("STG.E [R2.64], R0"), line("EXIT"),
    ]  # fmt: skip
    once = kernel(*text).trace()
    assert len(once) == 7
    five = kernel(*text).trace(Work(tile=5 * 2 * 16 * 128 - 3, threads=128))
    assert len(five) == 7 + 4 * 4
    assert costs(five).instructions == pytest.approx(len(five), rel=1e-3)
    half = costs(kernel(*text).trace(Work(tile=16 * 128, threads=128)))  # one of the loop's two loads is enough
    assert (half.instructions, half.in_flight) == (3 + 4 / 2, 16)
    assert costs(five).rounds == 5


def test_copies_in_a_loop_are_all_on_their_way() -> None:
    text = [
        ".L_x_0:", line(COPY.format(0)), line("@P0 BRA `(.L_x_0)"), line("LDGDEPBAR"), line("DEPBAR.LE SB0, 0x0"),
        line("EXIT"),
    ]  # fmt: skip
    found = costs(kernel(*text).trace(Work(tile=4096, threads=32)))
    assert (found.in_flight, found.before_wait, found.rounds) == (128, 8, 1)


def test_a_loop_over_loops_is_repeated_for_each_tile() -> None:
    text = [
        ".rows:", line("IADD3 R1, R1, R2"), ".segments:", line(LOAD.format(4), sets=0), waits_for(0),
        line("@P0 BRA `(.segments)"), line("@P1 BRA `(.rows)"), line("EXIT"),
    ]  # fmt: skip
    trace = kernel(*text).trace(Work(tile=2 * 16 * 64, threads=64, tiles=3))
    assert len(trace) == 3 * (2 + 2 * 3) + 1


def test_what_an_unrolled_loop_leaves_is_not_counted_again() -> None:
    text = [
        ".four:", *(line(LOAD.format(4 * i), sets=0) for i in range(4)), line("@P0 BRA `(.four)"), ".one:",
        line(LOAD.format(0), sets=0), line("@P1 BRA `(.one)"), line("EXIT"),
    ]  # fmt: skip
    assert len(kernel(*text).trace(Work(tile=8 * 16 * 32, threads=32))) == 2 * 5 + 2 + 1


def test_the_way_goes_where_the_widest_loads_are() -> None:
    narrow = [line(f"LDG.E R{i}, [R8]", sets=0) for i in range(4)]
    text = [
        line("@P0 BRA `(.edge)"), line(LOAD.format(0), sets=0), line("BRA `(.end)"), ".edge:", *narrow, ".end:",
        waits_for(0), line("@!P1 BRA `(.short)"), line("CALL.REL.NOINC `(.slow)"), line("MOV R1, R2"), ".short:",
        line("STG.E [R2.64], R0"), line("EXIT"), ".slow:", *[line("FMUL R0, R0, R0")] * 20, line("RET.REL.NODEC R2"),
    ]  # fmt: skip
    names = [one.kind for one, _ in kernel(*text).trace()]
    assert names == ["BRA", "LDG", "BRA", "FADD", "BRA", "STG", "EXIT"]


def test_a_loop_that_is_left_at_its_start_is_gone_through() -> None:
    text = [
        ".start:", line("@P0 BRA `(.end)"), line(LOAD.format(0), sets=0), line("BRA `(.start)"), ".end:",
        line("STG.E [R2.64], R0"), line("EXIT"),
    ]  # fmt: skip
    assert [one.kind for one, _ in kernel(*text).trace()] == ["BRA", "LDG", "BRA", "STG", "EXIT"]


def test_a_warp_alone_takes_its_clocks_and_waits() -> None:
    text = [line("SHFL.BFLY PT, R1, R0", clocks=2, sets=0), line("FADD R0, R0, R1", clocks=5, waits=(0,)), line("EXIT")]
    assert costs(kernel(*text).trace()).clocks == 24 + 5 + 1


def test_the_kernels_of_a_listing_are_told_apart() -> None:
    listing = "\n".join(
        f'\t.section\t.text.{name},"ax",@progbits\n{line("NOP")}\n{line("EXIT")}' for name in ("first", "second")
    )
    assert {name: len(one.instructions) for name, one in kernels(listing).items()} == {"first": 2, "second": 2}
