"""Connects a streaming core to a board: pins, PLL, reset, UART or SPI, the protocol (protocol.py), status registers.

There are two steps. When a back end plans, `shell_request` returns what is known then (board, clock, line, model) as
the content of shell.json. When the core is written, `python -m greenedge.hdl.board_shell` in the build folder joins
request and core (streams.json) and writes board/ with the top level and the constraints, board.json for the host, and
clients that do not need greenedge. Synthesis then reads core.f and board.f, see bitstream.py. `shell` does both in one
call.

The core is a module with one clock, an active-high reset, and byte-padded streams s_… (in) and m_… (out).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenedge import hdl
from greenedge.errors import TargetError
from greenedge.hdl.board_shell import protocol
from greenedge.hdl.board_shell.clocks import Clock, clock_module, core_clock, write_simulated_clock
from greenedge.hdl.board_shell.pins import constraint_file
from greenedge.target import Target

__all__ = ["CoreInfo", "Shell", "shell", "shell_request"]

RTL = hdl.RTL / "board"
TEMPLATES = Path(__file__).with_name("templates")
UNITS = (
    "ge_protocol_pkg.sv",
    "ge_crc.sv",
    "ge_uart_rx.sv",
    "ge_uart_tx.sv",
    "ge_spi.sv",
    "ge_frame_rx.sv",
    "ge_frame_tx.sv",
    "ge_input_feeder.sv",
    "ge_collector.sv",
    "ge_counters.sv",
    "ge_host.sv",
    "ge_reset.sv",
    "ge_led.sv",
)
LINKS = {"uart": ("uart_rx", "uart_tx"), "spi": ("spi_sck", "spi_mosi", "spi_miso", "spi_cs")}
# family -> (placed logic cells, block memories) of a shell without its core (benchmarks/board_bitstreams.py)
SHELL_COST = {"ecp5": (2700, 3), "ice40": (2400, 7), "gowin": (2000, 3)}
BAUDS = (115_200, 3_000_000)
DEFAULT_BAUD = 115_200
CYCLES_PER_BIT = 4  # the fewest with which the UART works
_LEAST_BUFFER_LOG2 = 11  # 2 kB, one block memory of ECP5 and Gowin
_OUTPUTS = {"uart_tx", "spi_miso", "led", "marker"}


@dataclass(frozen=True)
class CoreInfo:
    """A finished core. `source` and `output` are its streams in the form of greenedge.hdl.axi_stream.Stream.plain."""

    module: str
    source: Mapping[str, Any]
    output: Mapping[str, Any]
    model: str  # sha256 of the integer graph, hexadecimal
    sources: tuple[str, ...] = ()
    clock: str = "clk"
    reset: str = "restart"


@dataclass(frozen=True)
class Shell:
    """Files to write; `sources` of the board without its core, in the order for read_slang (board/ge_clock.v is Verilog
    with a vendor's cell and is read separately, see bitstream.py); `simulation` those for Verilator, with the
    core's."""

    files: Mapping[str, bytes]
    sources: tuple[str, ...]
    simulation: tuple[str, ...]
    top: str
    clock_hz: int
    board: Mapping[str, Any]


def shell_request(
    target: Target, model: str, clock_hz: int | None = None, baud: int | None = None, link: str = "uart"
) -> dict:
    """What is known of the shell before the core is written: the content of a plan's shell.json.

    `clock_hz` is the wanted core clock; None is host.core_hz of the board file, else the board's clock. Raises
    TargetError with every reason why the board cannot have this shell.
    """
    board_hz, clock_pin = target.clock_hz or 0, target.clock_pin or ""
    wanted = clock_hz or target.host.get("core_hz") or board_hz
    baud = baud or target.host.get("baud") or DEFAULT_BAUD
    reasons = []
    if link not in LINKS:
        reasons.append(f"{target.name}: link is {link!r}; a board is reached by {' or '.join(LINKS)}.")
    missing = [pin for pin in LINKS.get(link, ()) if pin not in target.pins]
    if missing:
        reasons.append(f"{target.name}: pins {', '.join(missing)} are not in the board file; link {link!r} needs them.")
    if not BAUDS[0] <= baud <= BAUDS[1]:
        reasons.append(f"{target.name}: {baud:,} baud is asked for; a board's UART does {BAUDS[0]:,} to {BAUDS[1]:,}.")
    if not board_hz or not clock_pin:
        reasons.append(
            f"{target.name}: key 'clock' is missing; a shell needs the pin and frequency of the board's clock."
        )
    if reasons:
        raise TargetError("\n".join(reasons))
    clock = core_clock(target.device.family, board_hz, wanted)
    if link == "uart" and clock.hz < CYCLES_PER_BIT * baud:
        raise TargetError(
            f"{target.name}: {baud:,} baud need a clock of at least {CYCLES_PER_BIT * baud / 1e6:g} MHz and the core's "
            f"is {clock.hz / 1e6:g} MHz; choose a lower rate or a faster clock."
        )
    signals = ("clk", *LINKS[link], *(name for name in ("led", "button", "marker") if name in target.pins))
    pins = {name: clock_pin if name == "clk" else target.pins[name] for name in signals}
    return {
        "target": target.name,
        "model": model,
        "link": link,
        "baud": baud,
        "family": clock.family,
        "board_hz": clock.board_hz,
        "clock_hz": clock.hz,
        "pll": [list(item) for item in clock.settings],
        "pins": pins,
        "io": {name: list(target.io.get(name, target.io.get("default", ()))) for name in signals},
        "active_low": [name for name in target.host.get("active_low", ()) if name in pins],
    }


def shell(
    core: CoreInfo, target: Target, clock_hz: int | None = None, baud: int | None = None, link: str = "uart"
) -> Shell:
    """The shell around `core`. Raises TargetError as `shell_request` does."""
    return join(core, shell_request(target, core.model, clock_hz, baud, link))


def join(core: CoreInfo, request: Mapping, cycles: int | None = None) -> Shell:
    """The shell around `core` that a request describes. Hosts derive time limits from `cycles` per inference, if
    known."""
    assert re.fullmatch("[0-9a-f]{64}", core.model), "a model is a sha256 in hexadecimal"
    clock = Clock(request["family"], request["board_hz"], request["clock_hz"], tuple(map(tuple, request["pll"])))
    board = {**_board(core, request), "cycles_per_inference": cycles}
    constraints, content = constraint_file(clock.family, request["pins"], request["io"], clock.board_hz)
    units = {f"board/{name}": (RTL / name).read_bytes() for name in UNITS}
    files = {
        **units,
        "board/ge_clock.v": clock_module(clock).encode(),
        f"board/{constraints}": content,
        "board/board.sv": _top(core, request, board).encode(),
        "board/sim_clock.v": write_simulated_clock().encode(),
        "board.json": (json.dumps(board, indent=1) + "\n").encode(),
        **_clients(board),
    }
    sources = (*units, "board/board.sv")
    for name, listed in (("core.f", core.sources), ("board.f", sources)):
        files[name] = "".join(f"{path}\n" for path in listed).encode()
    return Shell(
        files, sources, (*core.sources, *units, "board/sim_clock.v", "board/board.sv"), "board", clock.hz, board
    )


def _board(core: CoreInfo, request: Mapping) -> dict:
    """The content of board.json, for hosts."""
    sizes = {}
    for name, stream in (("input", core.source), ("output", core.output)):
        per_beat = (stream["elements"] * stream["bits"] + 7) // 8
        sizes[name] = {"bytes_per_beat": per_beat, "beats": stream["beats"], "bytes": per_beat * stream["beats"]}
    # Room for two of the largest requests: one is received while the other is computed.
    buffer_log2 = max(_LEAST_BUFFER_LOG2, (2 * (sizes["input"]["bytes"] + 16) - 1).bit_length())
    store_log2 = max(9, (2 * sizes["output"]["bytes_per_beat"] - 1).bit_length())
    assert sizes["input"]["bytes"] <= 32_000 and sizes["output"]["bytes"] <= 32_000, "a sample must fit a frame"
    return {
        "format": "greenedge-board/1",
        "protocol": protocol.VERSION,
        "target": request["target"],
        "model": core.model,
        "link": request["link"],
        "baud": request["baud"],
        "clock_hz": request["clock_hz"],
        "credit": 1 << buffer_log2,
        "buffer_log2": buffer_log2,
        "store_log2": store_log2,
        "input": {**sizes["input"], "stream": dict(core.source)},
        "output": {**sizes["output"], "stream": dict(core.output)},
        "active_low": list(request["active_low"]),
        "sources": list(core.sources),
    }


def _top(core: CoreInfo, request: Mapping, board: Mapping) -> str:
    """SystemVerilog of the top level."""
    pins, low = request["pins"], set(request["active_low"])
    ports = ",\n".join(f"    {'output' if name in _OUTPUTS else 'input '} logic {name}" for name in pins)
    button = ("!button" if "button" in low else "button") if "button" in pins else "1'b0"
    led_line = f"    assign led = {'!shine' if 'led' in low else 'shine'};\n" if "led" in pins else ""
    marker_line = "    assign marker = mark;\n" if "marker" in pins else ""
    source, output = board["input"], board["output"]
    sizes = f".AW({board['buffer_log2']}), .FW({board['store_log2']})"
    return f"""// {request["target"]}: the core of model {core.model[:12]} with its pins. Made by greenedge.
`default_nettype none
module board (
{ports}
);
    logic core_clk, locked, rst;
    ge_clock clock (.pin(clk), .clk(core_clk), .locked);
    ge_reset reset (.clk(core_clk), .locked, .button({button}), .rst);

    logic [7:0] rx_data, tx_data;
    logic       rx_valid, rx_bad, tx_valid, tx_ready;
{_link(request)}
    logic [{8 * source["bytes_per_beat"] - 1}:0] to_tdata;
    logic [{8 * output["bytes_per_beat"] - 1}:0] from_tdata;
    logic to_tvalid, to_tready, from_tvalid, from_tready, core_rst, opened, busy, mark, shine;
    ge_host #(
        .CLOCK_HZ({request["clock_hz"]}), .BAUD({request["baud"]}), {sizes},
        .S_BYTES({source["bytes_per_beat"]}), .S_BEATS({source["beats"]}),
        .M_BYTES({output["bytes_per_beat"]}), .M_BEATS({output["beats"]}),
        .MODEL(256'h{core.model})
    ) host (
        .clk(core_clk), .rst, .rx_data, .rx_valid, .rx_bad, .tx_data, .tx_valid, .tx_ready, .core_rst,
        .m_tdata(to_tdata), .m_tvalid(to_tvalid), .m_tready(to_tready),
        .s_tdata(from_tdata), .s_tvalid(from_tvalid), .s_tready(from_tready), .opened, .busy, .marker(mark));

    {core.module} core (
        .{core.clock}(core_clk), .{core.reset}(core_rst),
        .s_tdata(to_tdata), .s_tvalid(to_tvalid), .s_tready(to_tready),
        .m_tdata(from_tdata), .m_tvalid(from_tvalid), .m_tready(from_tready));

    ge_led #(.CLOCK_HZ({request["clock_hz"]})) status_led (.clk(core_clk), .rst, .opened, .busy, .led(shine));
{led_line}{marker_line}endmodule
`default_nettype wire
"""


def _link(request: Mapping) -> str:
    """SystemVerilog of the line's receiver and transmitter."""
    if request["link"] == "spi":
        return """    ge_spi link (.clk(core_clk), .rst, .sck(spi_sck), .mosi(spi_mosi), .miso(spi_miso), .cs_n(spi_cs),
                 .rx_data, .rx_valid, .tx_data, .tx_valid, .tx_ready);
    assign rx_bad = 1'b0;
"""
    rates = f"#(.CLOCK_HZ({request['clock_hz']}), .BAUD({request['baud']}))"
    return f"""    ge_uart_rx {rates} receiver (
        .clk(core_clk), .rst, .rx(uart_rx), .data(rx_data), .valid(rx_valid), .bad(rx_bad));
    ge_uart_tx {rates} transmitter (
        .clk(core_clk), .rst, .data(tx_data), .valid(tx_valid), .ready(tx_ready), .tx(uart_tx));
"""


def _clients(board: Mapping) -> dict[str, bytes]:
    """Client programs that do not need greenedge: client.py and greenedge_client.h."""
    source, output = board["input"]["stream"], board["output"]["stream"]
    digest = bytes.fromhex(board["model"])
    values = {
        "input_bytes": board["input"]["bytes"],
        "output_bytes": board["output"]["bytes"],
        "baud": board["baud"],
        "model": ", ".join(f"0x{byte:02x}" for byte in digest),
        "digest": board["model"],
        "target": board["target"],
    }
    for name, stream in (("in", source), ("out", output)):
        values |= {
            f"{name}_bits": stream["bits"],
            f"{name}_elements": stream["elements"],
            f"{name}_beats": stream["beats"],
            f"{name}_shape": tuple(stream["shape"]),
            f"{name}_signed": bool(stream["signed"]),
            f"{name}_offset": tuple(stream.get("offset", ())),
        }
    files = {}
    for name in ("client.py", "greenedge_client.h"):
        template = TEMPLATES / f"{name}.in" if name.endswith(".py") else TEMPLATES / name
        text = template.read_text()
        files[name] = re.sub(r"@(\w+)@", lambda found: str(values[found[1]]), text).encode()
    return files


def write_shell(folder: Path) -> dict:
    """Writes the shell around the core of a build folder: reads shell.json and streams.json, writes board/ and
    board.json.

    streams.json has the core's module as `top`, its `sources` in rtl/, and its `streams`, input first, output last;
    `clients` are those that the plan has written itself.
    """
    request = json.loads((folder / "shell.json").read_text())
    about = json.loads((folder / "streams.json").read_text())
    core = CoreInfo(
        about["top"],
        about["streams"][0],
        about["streams"][-1],
        request["model"],
        tuple(f"rtl/{name}" for name in about["sources"]),
    )
    joined = join(core, request, about.get("estimated_cycles"))
    own = about.get("clients", ())
    for name, content in ((name, content) for name, content in joined.files.items() if name not in own):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return dict(joined.board)


def simulation_sources(board: Mapping) -> Sequence[str]:
    """The sources of the virtual board in a build folder, in order."""
    return (*board["sources"], *(f"board/{name}" for name in UNITS), "board/sim_clock.v", "board/board.sv")
