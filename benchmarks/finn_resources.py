"""How far the finn back end's resource estimates are from yosys's counts, unit by unit and network by network.

    python benchmarks/finn_resources.py            synthesises some networks for ECP5 and prints the errors
    python benchmarks/finn_resources.py --fit      also fits the coefficients anew and writes resources.toml

Every unit stays a module of its own in synthesis, so that its cells can be counted. The estimates are made for folding,
before anything exists; a count by yosys stands beside each in a build's report. Takes some minutes of CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from greenedge.backends.finn import resources  # noqa: E402
from greenedge.backends.finn.build_dir import cells  # noqa: E402
from greenedge.backends.finn.design import Limits  # noqa: E402
from greenedge.backends.finn.objective import Objective  # noqa: E402
from greenedge.backends.finn.search import choose  # noqa: E402
from greenedge.backends.finn.stitch import Stitched, rtl_files, stitch  # noqa: E402
from greenedge.backends.finn.units import Unit  # noqa: E402
from greenedge.target import load_target  # noqa: E402
from greenedge.tools.plan import Command, Plan  # noqa: E402
from greenedge.tools.run import execute, find_tool  # noqa: E402
from tests.backends.finn_sketches import SKETCHES, digits_like, finn_network  # noqa: E402
from tests.backends.nets import mlp  # noqa: E402

_KINDS = {"lut4": "LUT4", "ccu2c": "CCU2C", "ff": "TRELLIS_FF", "ram16": "TRELLIS_DPR16X4", "blocks": "DP16KD"}
_SMALL = 20  # cells: below, an error is told in cells and not as a share


def designs(rng: np.random.Generator) -> Iterator[tuple[str, Stitched]]:
    """The networks that are measured, at several foldings."""
    limits = Limits.of(load_target("ulx3s-85f").device)
    graphs = [
        ("mlp 64-128-10", mlp(rng, (64, 128, 10)), (512, 128)),
        ("mlp w2a3", mlp(rng, (48, 64, 32, 12), 2, 3, in_signed=True), (300, 24)),
        ("mlp w8a8", mlp(rng, (40, 30, 10), 8, 8), (300, 60)),
    ]
    graphs += [(sketch.__name__, sketch(rng), (150,)) for sketch in SKETCHES]
    graphs += [("digits-cnn", digits_like(rng), (4600, 576))]
    for name, graph, intervals in graphs:
        for interval in intervals:
            design = choose(finn_network(graph), limits, Objective(interval)).design
            yield f"{name} at {design.schedule.interval:.0f} cycles", stitch(design.network, design.folding)


@dataclass(frozen=True)
class Counted:
    """A unit and yosys's count of its cells."""

    unit: Unit
    cells: dict[str, int]

    def plain(self) -> dict:
        return {"module": self.unit.module, "parameters": dict(self.unit.parameters), "cells": self.cells}

    @classmethod
    def from_plain(cls, data: dict) -> Counted:
        return cls(Unit(data["module"], data["parameters"]), data["cells"])


def count_units(stitched: Stitched, folder: Path) -> list[Counted]:
    """Every unit of a network, synthesised."""
    units = [instance for instance in stitched.instances if instance.unit]
    kept = " ".join(f"{instance.unit.module}$top.{instance.name}" for instance in units)
    script = f"""read_slang --threads 1 --ignore-assertions --allow-use-before-declare --keep-hierarchy --top top {
        " ".join(f"rtl/{name}" for name in (*stitched.sources, "top.sv"))
    }
setattr -mod -set keep_hierarchy 1 {kept}
synth_ecp5 -abc9 -top top
tee -q -o stat.json stat -json
"""
    files = {f"rtl/{name}": content for name, content in rtl_files("resources", stitched).items()} | {
        "synth.ys": script.encode()
    }
    execute(
        Plan(
            files,
            (Command(("{yosys}", "-q", "-l", "yosys.log", "-s", "synth.ys"), "out.log", "yosys"),),
            ("stat.json",),
        ),
        folder,
    )
    stat = json.loads((folder / "stat.json").read_text())
    return [
        Counted(
            i.unit, {cell: cells(stat, f"{i.unit.module}$top.{i.name}", kind) or 0 for cell, kind in _KINDS.items()}
        )
        for i in units
    ]


def fit(found: list[Counted]) -> str:
    """resources.toml: non-negative least squares of relative errors."""
    from scipy.optimize import nnls

    text = [
        f"""# Cells per part of a unit (greenedge/backends/finn/resources.py says what the parts are), on ECP5.
# Written by `python benchmarks/finn_resources.py --fit`.
origin = "yosys {find_tool("yosys").version}, synth_ecp5 -abc9, {len(found)} units"
"""
    ]
    for module in sorted({resources.kind_of(one.unit) for one in found}):
        known = [(resources.features(one.unit)[0], one.cells) for one in found if resources.kind_of(one.unit) == module]
        names = list(known[0][0])
        text.append(f"[units.{module}]  # {len(known)} measured")
        for cell in resources.CELLS:
            y = np.array([counts[cell] for _, counts in known], float)
            a = np.array([[parts[name] for name in names] for parts, _ in known], float)
            weight = 1 / (y + _SMALL)
            solved, _ = nnls(a * weight[:, None], y * weight)
            entries = ", ".join(
                f"{name} = {value:.4g}" for name, value in zip(names, solved, strict=True) if value > 1e-6
            )
            text.append(f"{cell:5} = {{ {entries} }}")
        text.append("")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--fit", action="store_true", help="write resources.toml")
    parser.add_argument("--counts", type=Path, help="a file that keeps the counts, to fit again without yosys")
    arguments = parser.parse_args()
    rng = np.random.default_rng(7)
    kept = json.loads(arguments.counts.read_text()) if arguments.counts and arguments.counts.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="greenedge-resources-") as scratch:
        for index, (name, stitched) in enumerate(designs(rng)):
            if name not in kept:
                print(f"synthesising {name}", flush=True)
                kept[name] = [unit.plain() for unit in count_units(stitched, Path(scratch) / str(index))]
                if arguments.counts:
                    arguments.counts.write_text(json.dumps(kept))
    measured = {name: [Counted.from_plain(unit) for unit in units] for name, units in kept.items()}
    if arguments.fit:
        resources.DATA.write_text(fit([unit for units in measured.values() for unit in units]))
        resources.coefficients.cache_clear()
    table(measured)


def table(measured: dict[str, list[Counted]]) -> None:
    """Estimated against counted, per module and per network."""
    print(f"\n{'unit':20} {'seen':>4}  " + "  ".join(f"{cell:>8}" for cell in _KINDS) + "     mean error of a unit")
    errors: dict[str, dict[str, list[float]]] = {}
    for found in (found for units in measured.values() for found in units):
        guess = resources.estimate(found.unit)
        for cell, real in found.cells.items():
            errors.setdefault(resources.kind_of(found.unit), {}).setdefault(cell, []).append(
                abs(getattr(guess, cell) - real) / max(real, _SMALL)
            )
    for module, cells_of in sorted(errors.items()):
        print(
            f"{module:20} {len(cells_of['lut4']):4}  " + "  ".join(f"{np.mean(cells_of[cell]):8.0%}" for cell in _KINDS)
        )
    print(f"\n{'network':34} " + "  ".join(f"{cell:>22}" for cell in _KINDS) + "     estimated, yosys, error")
    for name, units in measured.items():
        row = []
        for cell in _KINDS:
            guess, real = (
                sum(getattr(resources.estimate(found.unit), cell) for found in units),
                sum(found.cells[cell] for found in units),
            )
            row.append(f"{guess:7.0f} {real:6} {guess / real - 1:+7.0%}" if real else f"{guess:7.0f} {real:6}        ")
        print(f"{name:34} " + "  ".join(row))


if __name__ == "__main__":
    main()
