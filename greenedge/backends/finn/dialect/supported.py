"""The rules of finn, one per operation, and what they can carry as data."""

from __future__ import annotations

from greenedge.backends.finn.dialect.builder import Builder
from greenedge.errors import ReasonKind
from greenedge.graph import ChannelAdd, Conv, Dense, Edge, Input, Multiply, Requantise
from greenedge.graph.ops.base import Ints
from greenedge.legalise.capabilities import Capabilities, Limit, Measure
from greenedge.legalise.rules import Rules

MAX_BITS = 8  # of weights, inputs and quantised activations
MAX_SUM_BITS = 16  # of sums that go into a layer with weights without being quantised before

MAX_FACTOR_BITS = 24  # of a sum's factors for each channel


def weight_bits(weight: Ints) -> int:
    """1 for signs alone (every weight +1 or -1), else the two's-complement width, at least 2."""
    if (abs(weight) == 1).all():
        return 1
    return max(2, Edge("w", (), min(int(weight.min()), -1), int(weight.max())).bits)


def _limit_bits(measure: Measure, most: int = MAX_BITS) -> Limit:
    rule, cure = f"finn computes with 1 to {most} bits", f"quantise to at most {most} bits"
    return measure.limit(range(1, most + 1), rule, cure, ReasonKind.TOO_WIDE)


_INPUT = Measure("input bits", "input of {} bits", lambda op, inputs, output: (inputs or [output])[0].bits)
_FACTORS = Measure("factor bits", "factors of up to {} bits", lambda op, inputs, output: max(e.bits for e in inputs))
_OUTPUT = Measure("output bits", "output of {} bits", lambda op, inputs, output: output.bits)
_WEIGHTS = Measure("weight bits", "weights of {} bits", lambda op, inputs, output: weight_bits(op.weight))
_CHANNEL_FACTORS = Measure(
    "factor bits", "factors of {} bits for each channel", lambda op, inputs, output: weight_bits(op.multipliers)
)
_LINEAR = (_limit_bits(_INPUT, MAX_SUM_BITS), _limit_bits(_WEIGHTS))

SUPPORTED: Capabilities = {
    Input: (_limit_bits(_INPUT),),
    Dense: _LINEAR,
    Conv: _LINEAR,
    ChannelAdd: (
        _limit_bits(_FACTORS, MAX_SUM_BITS),
        _CHANNEL_FACTORS.limit(
            range(1, MAX_FACTOR_BITS + 1),
            f"its factors have at most {MAX_FACTOR_BITS} bits",
            "quantise both branches to 8 bits before they are added",
            ReasonKind.TOO_WIDE,
        ),
    ),
    Multiply: (_limit_bits(_FACTORS, MAX_SUM_BITS),),
    Requantise: (_limit_bits(_OUTPUT),),
}
RULES: Rules[Builder] = Rules("finn", "finn", SUPPORTED)
