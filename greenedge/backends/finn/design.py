"""The design that a network becomes on a device: its folding and queues, its cost and speed; folding.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenedge.backends.finn.dialect.layer import Fold, Layer
from greenedge.backends.finn.dialect.lower import require_network
from greenedge.backends.finn.dialect.ops import Network
from greenedge.backends.finn.fifos import Schedule, place_queues
from greenedge.backends.finn.folding import Folding
from greenedge.backends.finn.resources import BLOCK_BITS, Cost
from greenedge.errors import GreenedgeError
from greenedge.files.json_file import read_table
from greenedge.graph import Graph
from greenedge.hdl.board_shell import SHELL_COST
from greenedge.target import Device

# Share of a device that is planned for: beyond, placement and timing suffer. The board's shell takes its part of the
# rest; on a small device it needs more than that, and the whole may fill no more than FULL.
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
        # a 6-input table holds what one of four inputs does
        logic = device.resources.get("lut4", device.resources.get("lut"))
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

    network: Network
    folding: Folding
    schedule: Schedule
    cost: Cost
    limits: Limits

    @property
    def fits(self) -> bool:
        return self.limits.hold(self.cost)


def to_plain(design: Design) -> dict[str, Any]:
    """The design as folding.json holds it."""
    folding = design.folding
    layers = [_plain_layer(layer, folding[layer.name]) for layer in design.network.layers if layer.name in folding]
    queues = {queue.source.name: queue.depth for queue in design.network.queues}
    cells = {name: round(amount) for name, amount in design.cost.by_cell.items()}
    return {
        "layers": layers,
        "queues": queues,
        "interval_cycles": design.schedule.interval,
        "latency_cycles": design.schedule.latency,
        "estimate": {**cells, "blocks": design.cost.blocks, "logic": round(design.cost.logic)},
        "notes": list(design.network.notes),
    }


def _plain_layer(layer: Layer, fold: Fold) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": type(layer).__name__,
        "pe": fold.pe,
        "simd": fold.simd,
        "form": fold.form,
        "cycles_per_beat": fold.cycles,
        "cycles": layer.cycles(fold),
    }


def _read_fold(entry: Mapping[str, Any]) -> Fold:
    return Fold(int(entry["pe"]), int(entry["simd"]), int(entry["cycles_per_beat"]), str(entry["form"]))


def describe_damage(folder: Path, error: Exception) -> GreenedgeError:
    """What is said of a folding that is none of the network's."""
    return GreenedgeError(
        f"{folder / FILE} does not fold this network ({type(error).__name__}: {error}); run the build stage again."
    )


def read_design(graph: Graph, folder: Path) -> tuple[Network, dict[str, Fold]]:
    """(the network with its queues, its folding) as folding.json in a build folder says.

    Raises GreenedgeError where it is missing or damaged.
    """
    try:
        data = read_table(folder / FILE)
        folding = {entry["name"]: _read_fold(entry) for entry in data["layers"]}
        queues = {str(name): int(depth) for name, depth in data["queues"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GreenedgeError(f"{folder / FILE} is missing or damaged ({error}); run the build stage again.") from None
    return place_queues(require_network(graph), queues), folding
