"""The clock of a board's core: a PLL's settings for each family, and the Verilog that instantiates it.

The whole design has one clock. Where the wanted frequency is that of the board, there is no PLL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from greenedge.errors import TargetError

_MHZ = 1_000_000
# (output in Hz, VCO in Hz, ideal VCO in Hz, PLL parameters); frequencies are whole, parameters by name
PllChoice = tuple[float, float, float, tuple[tuple[str, int], ...]]


@dataclass(frozen=True)
class Clock:
    """A clock of `hz` made from one of `board_hz`. `settings` are the PLL's parameters; empty: no PLL."""

    family: str
    board_hz: int
    hz: int
    settings: tuple[tuple[str, int], ...] = ()


@cache
def core_clock(family: str, board_hz: int, wanted_hz: int) -> Clock:
    """The fastest clock not above `wanted_hz` that the family's PLL makes. Raises TargetError where there is none."""
    if wanted_hz == board_hz:
        return Clock(family, board_hz, board_hz)
    if family not in _SEARCH:
        raise TargetError(
            f"greenedge knows no PLL of family {family!r}; it knows {', '.join(_SEARCH)}, "
            f"or use the board's own {board_hz / _MHZ:g} MHz."
        )
    found = [
        (-hz, abs(vco - ideal), settings) for hz, vco, ideal, settings in _SEARCH[family](board_hz) if hz <= wanted_hz
    ]
    if not found:
        raise TargetError(
            f"the PLL of {family} makes nothing at or below {wanted_hz / _MHZ:g} MHz from "
            f"{board_hz / _MHZ:g} MHz; ask for another core clock."
        )
    hz, _, settings = min(found)
    return Clock(family, board_hz, int(-hz), settings)


def _ecp5(board_hz: int) -> Iterator[PllChoice]:
    """f_vco = f_in / CLKI_DIV · CLKFB_DIV · CLKOP_DIV within 400 … 800 MHz, f_out = f_vco / CLKOP_DIV (feedback from
    CLKOP); phase detector 3.125 … 400 MHz. Project Trellis, libtrellis/tools/ecppll.cpp; Lattice FPGA-TN-02200."""
    for refer in range(1, 9):
        if not 3.125 * _MHZ <= board_hz / refer <= 400 * _MHZ:
            continue
        for feedback in range(1, 81):
            hz = board_hz * feedback / refer
            for out in range(1, 129):
                if hz % 1 == 0 and 10 * _MHZ <= hz <= 400 * _MHZ and 400 * _MHZ <= hz * out <= 800 * _MHZ:
                    yield (
                        hz,
                        hz * out,
                        600 * _MHZ,
                        (("CLKI_DIV", refer), ("CLKFB_DIV", feedback), ("CLKOP_DIV", out), ("CLKOP_CPHASE", out // 2)),
                    )


def _ice40(board_hz: int) -> Iterator[PllChoice]:
    """SIMPLE feedback: f_vco = f_in · (DIVF+1) / (DIVR+1) within 533 … 1066 MHz, f_out = f_vco / 2^DIVQ within 16 … 275
    MHz; phase detector 10 … 133 MHz. Project IceStorm, icepll/icepll.cc; Lattice FPGA-TN-02052."""
    for divr in range(16):
        detector = board_hz / (divr + 1)
        if not 10 * _MHZ <= detector <= 133 * _MHZ:
            continue
        limits = (17, 26, 44, 66, 101)
        filter_range = 1 + sum(detector >= limit * _MHZ for limit in limits)
        for divf in range(128):
            vco = detector * (divf + 1)
            for divq in range(1, 7):
                hz = vco / 2**divq
                if hz % 1 == 0 and 533 * _MHZ <= vco <= 1066 * _MHZ and 16 * _MHZ <= hz <= 275 * _MHZ:
                    yield (
                        hz,
                        vco,
                        800 * _MHZ,
                        (("DIVR", divr), ("DIVF", divf), ("DIVQ", divq), ("FILTER_RANGE", filter_range)),
                    )


def _gowin(board_hz: int) -> Iterator[PllChoice]:
    """rPLL: f_out = f_in · (FBDIV_SEL+1) / (IDIV_SEL+1), f_vco = f_out · ODIV_SEL within 400 … 1200 MHz, phase detector
    3 … 400 MHz, f_out 3.125 … 600 MHz (GW1NR-9C C6/I5). Gowin UG286E, Clock; DS117E, PLL parameters."""
    for idiv in range(64):
        if not 3 * _MHZ <= board_hz / (idiv + 1) <= 400 * _MHZ:
            continue
        for fbdiv in range(64):
            hz = board_hz * (fbdiv + 1) / (idiv + 1)
            for odiv in (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128):
                if hz % 1 == 0 and 3.125 * _MHZ <= hz <= 600 * _MHZ and 400 * _MHZ <= hz * odiv <= 1200 * _MHZ:
                    yield hz, hz * odiv, 800 * _MHZ, (("IDIV_SEL", idiv), ("FBDIV_SEL", fbdiv), ("ODIV_SEL", odiv))


_SEARCH: dict[str, Callable[[int], Iterator[PllChoice]]] = {"ecp5": _ecp5, "ice40": _ice40, "gowin": _gowin}


def clock_module(clock: Clock) -> str:
    """Verilog of `ge_clock`: pin in, clock and `locked` out."""
    settings = dict(clock.settings)
    if not settings:
        body = "    assign clk = pin;\n    assign locked = 1'b1;\n"
    elif clock.family == "ecp5":
        # ICP_CURRENT, LPF_RESISTOR: the loop filter of Lattice's tool for this range (ecppll.cpp)
        body = f"""    (* ICP_CURRENT="12" *) (* LPF_RESISTOR="8" *) (* MFG_ENABLE_FILTEROPAMP="1" *) (* \
MFG_GMCREF_SEL="2" *)
    EHXPLLL #(
        .CLKI_DIV({settings["CLKI_DIV"]}), .CLKFB_DIV({settings["CLKFB_DIV"]}), .CLKOP_DIV({settings["CLKOP_DIV"]}),
        .CLKOP_CPHASE({settings["CLKOP_CPHASE"]}), .CLKOP_FPHASE(0), .CLKOP_ENABLE("ENABLED"), .FEEDBK_PATH("CLKOP"),
        .OUTDIVIDER_MUXA("DIVA"), .PLLRST_ENA("DISABLED"), .INTFB_WAKE("DISABLED"), .STDBY_ENABLE("DISABLED"),
        .DPHASE_SOURCE("DISABLED")
    ) pll (
        .CLKI(pin), .CLKFB(clk), .CLKOP(clk), .LOCK(locked), .RST(1'b0), .STDBY(1'b0), .PHASESEL0(1'b0), \
.PHASESEL1(1'b0),
        .PHASEDIR(1'b1), .PHASESTEP(1'b1), .PHASELOADREG(1'b1), .PLLWAKESYNC(1'b0), .ENCLKOP(1'b0)
    );
"""
    elif clock.family == "ice40":
        body = f"""    SB_PLL40_PAD #(
        .FEEDBACK_PATH("SIMPLE"), .DIVR(4'd{settings["DIVR"]}), .DIVF(7'd{settings["DIVF"]}), \
.DIVQ(3'd{settings["DIVQ"]}),
        .FILTER_RANGE(3'd{settings["FILTER_RANGE"]})
    ) pll (
        .PACKAGEPIN(pin), .PLLOUTGLOBAL(clk), .LOCK(locked), .RESETB(1'b1), .BYPASS(1'b0)
    );
"""
    else:
        body = f"""    rPLL #(
        .FCLKIN("{clock.board_hz / _MHZ:g}"), .DEVICE("GW1NR-9C"), .IDIV_SEL({settings["IDIV_SEL"]}),
        .FBDIV_SEL({settings["FBDIV_SEL"]}), .ODIV_SEL({settings["ODIV_SEL"]}), .DYN_IDIV_SEL("false"), \
.DYN_FBDIV_SEL("false"),
        .DYN_ODIV_SEL("false"), .PSDA_SEL("0000"), .DYN_DA_EN("false"), .DUTYDA_SEL("1000"), .CLKOUT_FT_DIR(1'b1),
        .CLKOUTP_FT_DIR(1'b1), .CLKOUT_DLY_STEP(0), .CLKOUTP_DLY_STEP(0), .CLKFB_SEL("internal"), \
.CLKOUT_BYPASS("false"),
        .CLKOUTP_BYPASS("false"), .CLKOUTD_BYPASS("false"), .DYN_SDIV_SEL(2), .CLKOUTD_SRC("CLKOUT"), \
.CLKOUTD3_SRC("CLKOUT")
    ) pll (
        .CLKIN(pin), .CLKOUT(clk), .LOCK(locked), .CLKOUTP(), .CLKOUTD(), .CLKOUTD3(), .RESET(1'b0), .RESET_P(1'b0),
        .CLKFB(1'b0), .FBDSEL(6'b0), .IDSEL(6'b0), .ODSEL(6'b0), .DUTYDA(4'b0), .PSDA(4'b0), .FDLY(4'b0)
    );
"""
    comment = "the board's own clock" if not settings else f"{clock.hz / _MHZ:g} MHz from {clock.board_hz / _MHZ:g} MHz"
    return f"""// {comment}
`default_nettype none
module ge_clock (
    input  wire  pin,
    output wire  clk,
    output wire  locked
);
{body}endmodule
`default_nettype wire
"""


def write_simulated_clock() -> str:
    """`ge_clock` of the simulation, where the pin itself runs at the core's frequency, locked from the start."""
    return clock_module(Clock("simulation", 1, 1)).replace(
        "the board's own clock", "simulation: the pin moves at the core's rate"
    )
