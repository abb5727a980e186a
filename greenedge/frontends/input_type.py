"""Integer types that a user declares for inputs without a quantiser: "uint8:1/255"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from greenedge.errors import GreenedgeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_INPUT_TYPE = re.compile(r"(u?int)(\d{1,2})(?::(\S+))?")
_SCALE = re.compile(r"(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?:(/|\*\*)(-?\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class InputType:
    """Integers lo..hi that stand for scale * integer."""

    lo: int
    hi: int
    scale: Fraction = Fraction(1)


def parse_input_type(text: str) -> InputType:
    """'uint8:1/255', 'int16:2**-10', 'int8:0.05' or 'uint4' as integers and the real value of one step.

    Raises GreenedgeError with what is accepted.
    """
    rule = "write uint8, uint8:1/255, int16:2**-10 or int8:0.05 (1 to 16 bits, then the value of one step)"
    match = _INPUT_TYPE.fullmatch(text)
    scale = _SCALE.fullmatch(match.group(3)) if match and match.group(3) else None
    if not match or not 1 <= int(match.group(2)) <= 16 or (match.group(3) and not scale):
        raise GreenedgeError(f"input type {text!r} is not understood; {rule}.")
    value = Fraction(1)
    if scale:
        base, operator, other = scale.groups()
        if operator == "**" and (abs(float(other)) > 64 or float(other) != int(float(other)) or len(base) > 8):
            raise GreenedgeError(f"input type {text!r} is not understood; {rule}.")
        value = (
            Fraction(base)
            if not operator
            else Fraction(base) ** int(other)
            if operator == "**"
            else (Fraction(base) / Fraction(other) if Fraction(other) else Fraction(0))
        )
    if value <= 0 or abs(value) > 10**9:
        raise GreenedgeError(f"input type {text!r} has the step {float(value):g}; it must be positive; {rule}.")
    bits = int(match.group(2))
    lo, hi = (0, (1 << bits) - 1) if match.group(1) == "uint" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return InputType(lo, hi, value)


def read_annotation(name: str | None) -> InputType | None:
    """QONNX's tensor annotation as an input type: 'UINT8', 'INT4', 'BIPOLAR', 'TERNARY'; None for a float type or
    none."""
    if name in ("BIPOLAR", "TERNARY"):
        return InputType(-1, 1)
    if name == "BINARY":
        return InputType(0, 1)
    match = re.fullmatch(r"(U?)INT([1-9]\d?)", name or "")
    if match is None:
        return None
    bits = int(match.group(2))
    return InputType(0, (1 << bits) - 1) if match.group(1) else InputType(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def read_levels(values: NDArray[Any], scale: Fraction, shown: str) -> NDArray[np.int64]:
    """The integers that `values` stand for: themselves, or floats divided by the value of one step.

    Raises GreenedgeError for NaN and for values off the grid; `shown` names the input in the message.
    """
    import numpy as np

    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    if not np.isfinite(values).all():
        raise GreenedgeError(f"{shown} holds NaN or infinity; clean the data first.")
    step = float(scale)
    levels = np.rint(values.astype(np.float64) / step)
    off = np.abs(values - (levels * step))
    if values.size and off.max() > 1e-6 * max(1.0, step, float(np.abs(values).max())):
        raise GreenedgeError(
            f"{shown} holds {float(values.ravel()[off.argmax()]):g}, which is no multiple of its step "
            f"{step:g}; quantise the data or declare another input type."
        )
    return levels.astype(np.int64)
