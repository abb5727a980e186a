"""The design that a network becomes on a device: its folding and queues, what it costs and how fast it is; folding.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.lower import network_of
from greenedge.backends.finn.fifos import Schedule, placed
from greenedge.backends.finn.folding import Fold, Folding, cycles
from greenedge.backends.finn.resources import BLOCK_BITS, Cost
from greenedge.errors import GreenedgeError
from greenedge.graph import Graph
from greenedge.hdl.board_shell import SHELL_COST
from greenedge.target import Device

# Share of a device that is planned for: beyond, placement and timing suffer. The board's shell takes its part of the rest;
# on a small device it needs more than that, and the whole may fill no more than FULL.
LOGIC_SHARE, BLOCK_SHARE, FULL = 0.7, 0.9, 0.9
FILE = "folding.json"


@dataclass(frozen=True)
class Limits:
    """What of a device the core may take: logic cells, blocks of memory; None where the device file does not say."""

    family: str
    logic: float | None
    blocks: int | None

    @classmethod
    def of(cls, device: Device) -> Limits:
        logic = device.resources.get(
            "lut4", device.resources.get("lut")
        )  # a 6-input table holds what one of four inputs does
        bits = device.resources.get("bram_bits")
        shell_logic, shell_blocks = SHELL_COST.get(device.family, (0, 0))
        blocks = None if bits is None else bits // BLOCK_BITS[device.family]
        return cls(
            device.family,
            None if logic is None else max(1.0, min(LOGIC_SHARE * logic, FULL * logic - shell_logic)),
            None if blocks is None else max(0, min(int(BLOCK_SHARE * blocks), blocks - shell_blocks)),
        )

    def hold(self, cost: Cost) -> bool:
        """Whether that much fits."""
        return (self.logic is None or cost.logic <= self.logic) and (self.blocks is None or cost.blocks <= self.blocks)

    def share(self, cost: Cost) -> float:
        """What a layer is judged by: its parts of the device, added."""
        return cost.logic / (self.logic or 1e5) + cost.blocks / (self.blocks or 1e2)


@dataclass(frozen=True)
class Design:
    """A network with its queues, folded."""

    network: hw.Network
    folding: Folding
    schedule: Schedule
    cost: Cost
    limits: Limits

    @property
    def fits(self) -> bool:
        return self.limits.hold(self.cost)


def plain(design: Design) -> dict:
    """As folding.json holds it."""
    folding = design.folding
    layers = [_plain_layer(layer, folding[layer.name]) for layer in design.network.layers if layer.name in folding]
    queues = {layer.source.name: layer.depth for layer in design.network.layers if isinstance(layer, hw.Queue)}
    cells = {f.name: round(getattr(design.cost, f.name)) for f in fields(Cost)}
    return {
        "layers": layers,
        "queues": queues,
        "interval_cycles": design.schedule.interval,
        "latency_cycles": design.schedule.latency,
        "estimate": {**cells, "logic": round(design.cost.logic)},
        "notes": list(design.network.notes),
    }


def _plain_layer(layer: hw.Layer, fold: Fold) -> dict:
    return {
        "name": layer.name,
        "kind": type(layer).__name__,
        "pe": fold.pe,
        "simd": fold.simd,
        "form": fold.form,
        "cycles_per_beat": fold.cycles,
        "cycles": cycles(layer, fold),
    }


def _fold(entry: dict) -> Fold:
    return Fold(int(entry["pe"]), int(entry["simd"]), int(entry["cycles_per_beat"]), str(entry["form"]))


def read_design(graph: Graph, folder: Path) -> tuple[hw.Network, dict[str, Fold]]:
    """(the network with its queues, its folding) as folding.json in a build folder says. Raises GreenedgeError if it is damaged."""
    try:
        data = json.loads((folder / FILE).read_text())
        folding = {entry["name"]: _fold(entry) for entry in data["layers"]}
        queues = {str(name): int(depth) for name, depth in data["queues"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GreenedgeError(f"{folder / FILE} is missing or damaged ({error}); run the build stage again.") from None
    return placed(network_of(graph), queues), folding
