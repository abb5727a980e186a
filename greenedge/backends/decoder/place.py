"""The engine alone through yosys and nextpnr, for its cells and its clock: a plan, as every tool run is."""

from __future__ import annotations

from greenedge.backends.decoder.engine import CORE, Engine, sources
from greenedge.tools.plan import Command, Plan

TOP = "decoder_alone"
_READ = "read_slang --threads 1 --ignore-assertions --allow-use-before-declare"


def write_alone(engine: Engine) -> str:
    """The engine between registers that a few pins fill and empty: a part has fewer pins than it has ports."""
    token, place = (engine.vocabulary - 1).bit_length(), (max(2, engine.context) - 1).bit_length()
    inputs, outputs = token + place + 67, token + 34
    return f"""// For figures only: the ports of the engine are shifted in and out.
`default_nettype none
module {TOP} (
    input  logic clk, shift, in,
    output logic out
);
    logic [{inputs - 1}:0] given;
    logic [{outputs - 1}:0] shown;
    logic ready, done;
    logic [{token - 1}:0] next;
    logic [31:0] cycles;
    always_ff @(posedge clk) begin
        if (shift) given <= {{given[{inputs - 2}:0], in}};
        shown <= shift ? {{shown[{outputs - 2}:0], 1'b0}} : {{ready, done, next, cycles}};
        out   <= shown[{outputs - 1}];
    end
    logic rst, start, sample;
    logic [{token - 1}:0] token;
    logic [{place - 1}:0] at;
    logic [31:0] state, unit;
    assign {{rst, start, sample, token, at, state, unit}} = given;
    {CORE} core (
        .clk, .rst, .ready, .start, .token, .at, .sample, .unit, .state, .done, .next, .cycles,
        .watch_x(), .watch_x_index(), .watch_x_value(), .watch_layer(), .watch_logit(), .watch_logit_index(),
        .watch_logit_value());
endmodule
`default_nettype wire
"""


def plan_alone(engine: Engine, memories: dict[str, bytes], nextpnr: tuple[str, ...], mhz: float, seed: int = 1) -> Plan:
    """Synthesis, output registers into block RAMs, counts (stat.json), place and route (report.json) at `mhz`.

    `nextpnr` are the part's arguments (Target.device.toolchain). `memories` from write_memories.
    """
    core = sources(engine)
    units = {**core, f"{TOP}.sv": write_alone(engine).encode()}
    script = (
        f"{_READ} --top {CORE} {' '.join(core)}\n{_READ} --top {TOP} {TOP}.sv\n"
        f"setattr -mod -set keep_hierarchy 1 {CORE}\n"
        f"synth_ecp5 -abc9 -top {TOP}\nwrite_json synthesised.json\n"
    ).encode()
    count = f"read_json netlist.json\ntee -q -o stat.json stat -json -top {TOP}\n".encode()
    pins = f'FREQUENCY PORT "clk" {mhz:g} MHZ;\n'.encode()
    commands = (
        Command(("{yosys}", "-q", "-l", "yosys.log", "-s", "alone.ys"), "yosys-out.log", "synthesis with yosys", 3600),
        Command(
            ("{python}", "-m", "greenedge.hdl.board_shell.ram_registers", "synthesised.json", "netlist.json"),
            "registers.log",
            "moving registers into block RAMs",
        ),
        Command(("{yosys}", "-q", "-s", "count.ys"), "count.log", "counting cells"),
        Command(
            ("{nextpnr-ecp5}", *nextpnr, "--json", "netlist.json", "--lpf", "pins.lpf", "--lpf-allow-unconstrained")
            + ("--textcfg", "top.config", "--timing-allow-fail", "--report", "report.json", "--seed", str(seed)),
            "nextpnr.log",
            "place and route with nextpnr",
            7200,
        ),
    )
    files = {**units, **memories, "alone.ys": script, "count.ys": count, "pins.lpf": pins}
    return Plan(files, commands, ("netlist.json", "stat.json", "report.json"))
