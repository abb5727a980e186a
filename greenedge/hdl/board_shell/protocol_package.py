"""The numbers of protocol.py as a SystemVerilog package for the board's units: rtl/board/ge_protocol_pkg.sv.

    python -m greenedge.hdl.board_shell.protocol_package        writes it anew after a change of protocol.py

The file is committed, so that the units can be read, linted and taken elsewhere without Python, and a plan copies it
like any other unit; a test compares it with what this module gives, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping

from greenedge.hdl import RTL
from greenedge.hdl.board_shell import protocol

PATH = RTL / "board" / "ge_protocol_pkg.sv"
_BYTES = {
    "IDLE": protocol.IDLE,
    "ESCAPE": protocol.ESCAPE,
    "FLAG": protocol.FLAG,
    "ESCAPE_FROM": protocol.ESCAPE_FROM,
    "ESCAPE_TO": protocol.ESCAPE_TO,
    "FLIP": protocol.FLIP,
}
_ERRORS = {"NOT_OPEN": protocol.NOT_OPEN, "BAD_LENGTH": protocol.BAD_LENGTH, "UNKNOWN": protocol.UNKNOWN}


def protocol_package() -> str:
    """The package's text."""
    # one comparison of six bits tells a reserved byte
    assert protocol.ESCAPE_FROM % 4 == 0 and protocol.ESCAPE_TO == protocol.ESCAPE_FROM + 3
    kinds = {name: kind for kind, name in protocol.NAMES.items()}
    registers = {name.upper(): number for name, number in protocol.REGISTERS.items()}
    return f"""// What a board and its host say, for the board's units; protocol.py explains these numbers.
// Written by `python -m greenedge.hdl.board_shell.protocol_package`; change protocol.py and run that again.
`default_nettype none
package ge_protocol_pkg;
    // bytes of the line
{_constants("logic [7:0]", "BYTE", _BYTES, "8'h{:02X}")}
    // frames: type, sequence and length, the payload, two checks
    localparam int unsigned HEADER_BYTES = {protocol.HEADER};
    localparam int unsigned CHECK_BYTES  = {protocol.CHECKS};
    localparam bit [15:0] CHECK_INIT   = 16'h{protocol.CHECK_INIT:04X};
    localparam bit [15:0] CHECK_A_POLY = 16'h{protocol.POLY_A:04X};
    localparam bit [15:0] CHECK_B_POLY = 16'h{protocol.POLY_B:04X};

    // types: an answer is its request with ANSWER_BIT set, or ERROR
    localparam logic [7:0] ANSWER_BIT = 8'h{protocol.ANSWER:02X};
{_constants("logic [7:0]", "KIND", kinds, "8'h{:02X}")}
{_constants("logic [7:0]", "ERROR", _ERRORS, "8'd{}")}
    // status registers
    localparam logic [31:0] MAGIC   = 32'h{protocol.MAGIC:08X};
    localparam logic [31:0] VERSION = 32'd{protocol.VERSION};
{_constants("logic [4:0]", "REGISTER", registers, "5'd{}")}
    // a byte that goes over the line only behind ESCAPE
    function automatic logic is_reserved(input logic [7:0] value);
        return value[7:2] == BYTE_ESCAPE_FROM[7:2];
    endfunction
endpackage
`default_nettype wire
"""


def _constants(kind: str, prefix: str, values: Mapping[str, int], form: str) -> str:
    width = max(map(len, values)) + len(prefix) + 1
    return "".join(
        f"    localparam {kind} {f'{prefix}_{name}':{width}} = {form.format(value)};\n"
        for name, value in values.items()
    )


if __name__ == "__main__":
    PATH.write_text(protocol_package())
