"""Which matrix-vector units of a stitched core become FINN's DSP-packed ones, under the device's number of slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from greenedge.backends.finn.topfile import Instance
from greenedge.backends.finn.units import Unit

MODULE, OURS = "ge_mvu_dsp", "ge_mvu"
_SHARE = 0.9  # of the device's slices; beyond, routing suffers
_WIDE_OPERAND_BITS = {1: 25, 2: 27}  # of a DSP48E1 and a DSP48E2


def slices(unit: Unit) -> int:
    """DSP slices that FINN's core takes for a packed unit: as many products per slice as fit side by side (mvu.sv)."""
    p = unit.parameters
    lane = p["W_BITS"] + p["A_BITS"] - 1
    lanes = 1 + (_WIDE_OPERAND_BITS[p["DSP"]] - (not p["NARROW"]) - p["W_BITS"]) // lane
    return -(-p["PE"] // lanes) * p["SIMD"]


def pack_unit(unit: Unit, version: int) -> Unit | None:
    """FINN's unit in place of ours, or None where FINN's core does not take such operands."""
    p = unit.parameters
    if unit.module != OURS or p["W_BITS"] < 2 or p["A_BITS"] < 2:
        return None
    files = unit.memories()
    name = unit.files["WEIGHTS_FILE"].rsplit("/", 1)[-1]
    words, bits = files[name]
    narrow = int(words.min() > -(1 << (bits - 1)))
    if version == 1 and not narrow:  # DSP48E1 has no room for the widest negative product
        return None
    offset = name.replace("_weights.mem", "_offset.mem")
    parameters = {
        "DSP": version,
        "NARROW": narrow,
        **{key: p[key] for key in ("K", "M", "PE", "SIMD", "W_BITS", "A_BITS", "ASGN", "OUT_BITS", "CORRECT")},
    }
    weights = {"WEIGHTS_FILE": unit.files["WEIGHTS_FILE"]}
    if p["CORRECT"]:
        return Unit(MODULE, parameters, lambda: {name: files[name]}, weights)
    folds = p["M"] // p["PE"]
    negative = (words < 0).reshape(folds, -1, p["PE"], p["SIMD"]).sum(axis=(1, 3))
    left_out = negative.astype(np.int64) << max(bits - 2, 0)  # what ge_product leaves out for each negative weight
    weights["OFFSET_FILE"] = weights["WEIGHTS_FILE"].replace("_weights.mem", "_offset.mem")
    return Unit(MODULE, parameters, lambda: {name: files[name], offset: (left_out, p["OUT_BITS"])}, weights)


def choose_units(units: Mapping[str, Unit], version: int, held: int) -> dict[str, Unit]:
    """{instance: packed unit}: the units with most products first, while `held` slices of the device last."""
    found, left = {}, _SHARE * held
    ways = {name: way for name, unit in units.items() if (way := pack_unit(unit, version)) is not None}
    for name in sorted(ways, key=lambda name: (-units[name].parameters["PE"] * units[name].parameters["SIMD"], name)):
        if slices(ways[name]) <= left:
            found[name] = ways[name]
            left -= slices(ways[name])
    return found


def replace_units(instances: Sequence[Instance], version: int, held: int) -> tuple[Instance, ...]:
    """The instances of a stitched core, FINN's units in place of ours where they fit."""
    ours = {i.name: i.unit for i in instances if i.unit is not None and i.unit.module == OURS}
    new = choose_units(ours, version, held)
    return tuple(replace(i, unit=new[i.name]) if i.name in new else i for i in instances)
