"""The engine of one decoder: its parameters, and where things lie in its memories, as ge_decoder.sv derives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from greenedge.decoder.record import CONTEXT_BITS, Decoder
from greenedge.hdl import RTL

# packages first, parts before what uses them: read_slang and Verilator read them in this order
UNITS = (
    "ge_decoder_pkg.sv",
    "ge_decoder_rom.sv",
    "ge_decoder_tree.sv",
    "ge_decoder_multiply.sv",
    "ge_decoder_lanes.sv",
    "ge_decoder_requantise.sv",
    "ge_decoder_rotate.sv",
    "ge_decoder_gate.sv",
    "ge_decoder_residual.sv",
    "ge_decoder_weigh.sv",
    "ge_decoder_sample.sv",
    "ge_decoder.sv",
)
LANES = 64
CORE = "decoder_core"  # the module of write_core


@dataclass(frozen=True)
class Engine:
    """What ge_decoder is made for. `reciprocal_bits` holds context_numerator // Z, Z being at least exponential[0]."""

    lanes: int
    vocabulary: int
    dim: int
    heads: int
    kv_heads: int
    hidden: int
    layers: int
    context: int
    weight_bits: int
    residual_shift: int
    reciprocal_bits: int

    @property
    def head_dim(self) -> int:
        """Elements of a head."""
        return self.dim // self.heads

    @property
    def groups(self) -> int:
        """Positions whose keys lie in one word."""
        return self.lanes // self.head_dim

    @property
    def x_chunks(self) -> int:
        """Words of a row with `dim` columns."""
        return -(-self.dim // self.lanes)

    @property
    def z_chunks(self) -> int:
        """Words of a row with `hidden` columns."""
        return -(-self.hidden // self.lanes)

    @property
    def head_base(self) -> int:
        """Words of keys and values, in front of the head."""
        narrow = self.kv_heads * self.head_dim
        keys, values = -(-self.context // self.groups), -(-self.context // self.lanes)
        return self.layers * (self.kv_heads * keys + narrow * values)

    @property
    def cache_rows(self) -> int:
        """Words of keys, values and head."""
        return self.head_base + self.vocabulary * self.x_chunks

    @property
    def rows(self) -> int:
        """Rows of a layer: each has a multiplier."""
        return 3 * self.dim + 2 * self.kv_heads * self.head_dim + 2 * self.hidden

    @property
    def weight_rows(self) -> int:
        """Words of weights of all layers."""
        return self.layers * ((self.rows - self.dim) * self.x_chunks + self.dim * self.z_chunks)

    @property
    def sum_bits(self) -> int:
        """Bits of the accumulator behind the lanes (ACC_BITS)."""
        return 17 + (max(self.dim, self.hidden, self.context) - 1).bit_length()

    @property
    def constant_bits(self) -> int:
        """Bits of the constants of a layer (ge_decoder_pkg::layer_t)."""
        return 18 + 18 + 17 + 30 + 4 + 7 * 5


def describe(decoder: Decoder, lanes: int = LANES) -> Engine:
    """The engine for a decoder."""
    largest = max(layer.context_numerator for layer in decoder.layers) // int(decoder.exponential[0])
    return Engine(
        lanes=lanes,
        vocabulary=decoder.vocabulary,
        dim=decoder.dim,
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        hidden=decoder.hidden,
        layers=len(decoder.layers),
        context=decoder.context,
        weight_bits=decoder.weight_bits,
        residual_shift=decoder.residual_shift,
        reciprocal_bits=min(max(1, largest.bit_length()), CONTEXT_BITS),
    )


def write_core(engine: Engine, prefix: str = "") -> str:
    """SystemVerilog of the module CORE: the engine with its parameters; memory files are `prefix` and their name.

    Ports as ge_decoder states them; numbers are as wide there as `list_ports` says.
    """
    values = ", ".join(f".{key.upper()}({value})" for key, value in asdict(engine).items())
    ports = ",\n".join(f"    {kind} logic {width}{name}" for kind, name, width in _list_declarations(engine))
    return f"""// The engine of one decoder. Made by greenedge.
`default_nettype none
module {CORE} (
{ports}
);
    ge_decoder #({values}, .PREFIX("{prefix}")) engine (.*);
endmodule
`default_nettype wire
"""


def list_ports(engine: Engine) -> tuple[tuple[str, str, int, bool], ...]:
    """(direction, name, bits, signed) of the ports of ge_decoder."""
    token, element = (engine.vocabulary - 1).bit_length(), (engine.dim - 1).bit_length()
    place = (max(2, engine.context) - 1).bit_length()
    inputs = {"clk": 1, "rst": 1, "start": 1, "token": token, "at": place, "sample": 1, "unit": 32, "state": 32}
    outputs = {"ready": 1, "done": 1, "next": token, "cycles": 32}
    watched = {"x": 1, "x_index": element, "x_value": 16, "layer": 1, "logit": 1, "logit_index": token}
    outputs |= {f"watch_{name}": bits for name, bits in watched.items()} | {"watch_logit_value": engine.sum_bits}
    return (
        *(("input", name, bits, False) for name, bits in inputs.items()),
        *(("output", name, bits, name.endswith("_value")) for name, bits in outputs.items()),
    )


def _list_declarations(engine: Engine) -> Iterator[tuple[str, str, str]]:
    for direction, name, bits, has_sign in list_ports(engine):
        yield f"{direction:6}", name, ("signed " if has_sign else "") + (f"[{bits - 1}:0] " if bits > 1 else "")


def sources(engine: Engine, prefix: str = "") -> dict[str, bytes]:
    """{file: content} of the units and the core, in the order for the tools; `prefix` as in write_core."""
    units = {name: (RTL / "decoder" / name).read_bytes() for name in UNITS}
    return {**units, f"{CORE}.sv": write_core(engine, prefix).encode()}
