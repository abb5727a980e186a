"""The engine of one decoder: its parameters, and where things lie in its memories, as ge_decoder.sv derives them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from greenedge.decoder.record import CONTEXT_BITS, Decoder
from greenedge.hdl import RTL

# packages first, parts before what uses them: read_slang and Verilator read them in this order
UNITS = (
    "ge_decoder_pkg.sv",
    "ge_decoder_rom.sv",
    "ge_decoder_tree.sv",
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


def instance(engine: Engine, prefix: str, name: str = "engine") -> str:
    """SystemVerilog of `ge_decoder #(…) name`, without its connections."""
    values = ", ".join(f".{key.upper()}({value})" for key, value in asdict(engine).items())
    return f'ge_decoder #({values}, .PREFIX("{prefix}")) {name}'


def sources() -> dict[str, bytes]:
    """{file: content} of the units, in the order for the tools."""
    return {name: (RTL / "decoder" / name).read_bytes() for name in UNITS}
