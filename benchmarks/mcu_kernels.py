"""What a network costs on a microcontroller: instructions of every layer, bytes of flash, RAM and stack.

    PYTHONPATH=. python benchmarks/mcu_kernels.py [--general] [--layers] [--level=-Os] [--only DS-CNN]

The C99 packages of MLPerf Tiny's four networks (random weights, the published shapes) are compiled for a Cortex-M4
with its DSP instructions, the same in plain C (GE_PLAIN), and RV32IMAC, and run in qemu, which counts instructions
and knows no cycles: SIMULATED, not measured. The output integers of a golden sample are compared; a difference ends
the run. `general` is the same network with the fast kernels left out. Flash is the linker's, kernels and model
together; RAM is the arena. A core whose compiler or emulator is missing is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from unittest.mock import patch

from mlperf_tiny import autoencoder, ds_cnn, mobilenet, resnet8

from greenedge.backends import c99
from greenedge.backends.c99.cores import CORES, measure_core
from greenedge.backends.c99.emit import package_files
from greenedge.backends.c99.memory_plan import Program, plan_memory
from greenedge.graph import Graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file

NETWORKS = {
    "DS-CNN": lambda path: ds_cnn(path),
    "DS-CNN w4a4": lambda path: ds_cnn(path, 4, 4),
    "ResNet-8": lambda path: resnet8(path),
    "autoencoder": lambda path: autoencoder(path, 8, 8),
    "MobileNetV1-0.25": lambda path: mobilenet(path),
}
M4 = CORES["cortex_m4"]
KINDS = {
    "Cortex-M4 DSP": M4,
    "Cortex-M4 plain": dataclasses.replace(M4, flags=(*M4.flags, "-DGE_PLAIN")),
    "RV32IMAC": CORES["rv32imac"],
}


def plan_general(graph: Graph) -> Program:
    """The program with general kernels alone."""
    with patch.object(c99.memory_plan, "find_form", lambda *_: None):
        return plan_memory(graph)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", action="append", help="of the compiler; -O2 and -Os unless given")
    parser.add_argument("--only", action="append", choices=NETWORKS)
    parser.add_argument("--core", action="append", choices=KINDS)
    parser.add_argument("--layers", action="store_true", help="also the instructions of every call")
    parser.add_argument("--general", action="store_true", help="also with general kernels alone")
    given = parser.parse_args()
    print("network           core             -O   kernels   instructions  flash bytes  RAM bytes  stack")
    for name in given.only or NETWORKS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            NETWORKS[name](folder / "source.onnx")
            graph = legalise_graph(lower_file(folder / "source.onnx").graph, c99.BACKEND.passes)
            kinds = {"fast": plan_memory(graph)} | ({"general": plan_general(graph)} if given.general else {})
            for kind, planned in kinds.items():
                for file, content in package_files(planned).items():
                    (folder / file).parent.mkdir(exist_ok=True)
                    (folder / file).write_bytes(content)
                for core in given.core or KINDS:
                    for level in given.level or ("-O2", "-Os"):
                        found = measure_core(KINDS[core], folder, len(planned.calls), level)
                        counts = found.get("instructions")
                        if not counts:
                            print(f"{name:17s} {core:16s} not run: {KINDS[core].gcc} or its emulator is missing")
                            break
                        print(
                            f"{name:17s} {core:16s} {level:4s} {kind:8s} {sum(counts):13,}  {found['flash_bytes']:11,}"
                            f"  {planned.arena_bytes:9,}  {found['stack_bytes']:5,}",
                            flush=True,
                        )
                        for call, count in zip(planned.calls, counts, strict=True) if given.layers else ():
                            form = call.fast.kernel if call.fast else "general"
                            print(f"    {type(call.op).__name__:12s} {form:10s} {call.op.name:24s} {count:12,}")


if __name__ == "__main__":
    main()
