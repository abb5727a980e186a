"""Writes the HLS project: graph.* and job.json in, project/ out. A process of its own, hls4ml is imported here alone.

python -m greenedge.backends.hls4ml.project      in the build folder
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenedge.backends.hls4ml.hand_over import hand_over
from greenedge.backends.hls4ml.layers import Handover
from greenedge.backends.hls4ml.sources import sources_within
from greenedge.backends.hls4ml.toolchains import PROJECT, TOOLCHAINS, TOP
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.graph import Graph, load_graph

STAMP = "00000000"  # hls4ml draws one at random; the same project is the same bytes


def write_project(graph: Graph, job: Mapping[str, Any], folder: Path) -> Handover:
    """The project of `graph` as the job (plan's job.json) says, below `folder`."""
    from hls4ml.model.graph import ModelGraph
    from hls4ml.utils.config import create_config

    chain = TOOLCHAINS[job["toolchain"]]
    handover = hand_over(graph, chain.has_depthwise)
    traces = handover.traces
    config = create_config(str(folder / PROJECT), TOP, chain.backend, **job["settings"])
    names = {
        layer.name: {
            "Precision": dict(layer.precision),
            "Trace": layer.name in traces,
            **{key: value for key, value in job["folding"].get(layer.name, {}).items() if key != "Cycles"},
        }
        for layer in handover.layers
    }
    # the weights that are simulated are then those of the headers, which the vendor's compiler reads
    writer = {**config.get("WriterConfig", {}), "WriteWeightsTxt": not chain.weights_in_headers}
    config |= {
        "TraceOutput": True,
        "WriterConfig": writer,
        "HLSConfig": {
            "Model": {"Precision": "fixed<16,6>", "ReuseFactor": 1, "Strategy": "latency"},
            "LayerName": names,
        },
    }
    layers = [
        {"name": layer.name, "class_name": layer.kind, "inputs": list(layer.inputs), **layer.attributes}
        for layer in handover.layers
    ]
    model = ModelGraph.from_layer_list(
        config, layers, [handover.layers[0].name], [handover.layouts[graph.outputs[0]].layer]
    )
    model.write()
    _settle(folder / PROJECT, model.config.get_config_value("Stamp"), job)
    return handover


def _settle(project: Path, stamp: str, job: Mapping[str, Any]) -> None:
    """Removes what differs from run to run (stamp, absolute path, archive) and sets the synthesis script's steps."""
    for name in ("build_lib.sh", "CMakeLists.txt", f"src/{TOP}_bridge.cpp"):
        path = project / name
        if path.is_file():
            path.write_text(path.read_text().replace(stamp, STAMP))
    config = project / "hls4ml_config.yml"  # quoted there where it looks like a number
    config.write_text(re.sub(r"(?m)^Stamp: .*$", f"Stamp: '{STAMP}'", config.read_text()))
    bridge = project / f"{TOP}_bridge.cpp"
    if bridge.is_file():  # Catapult's contains an absolute path
        bridge.write_text(re.sub(r'(s_weights_dir = )".*"', r'\1"firmware/weights"', bridge.read_text()))
    project.with_suffix(".tar.gz").unlink(missing_ok=True)  # Catapult's writer packs one regardless of settings
    script = project / "vivado_synth.tcl"
    if job["toolchain"] == "vivado-accelerator" and script.is_file():  # its RTL has the streams around the network
        script.write_text(script.read_text().replace("-top ${project_name} ", "-top ${project_name}_axi "))
    options = project / "build_opt.tcl"
    if options.is_file():
        steps = {
            "reset": 0,
            "csim": 0,
            "synth": 1,
            "cosim": 0,
            "validation": 0,
            "export": 0,
            "vsynth": job["logic"],
            "fifo_opt": 0,
        }
        options.write_text(
            "array set opt {\n" + "".join(f"    {key} {value}\n" for key, value in steps.items()) + "}\n"
        )


def _layers(handover: Handover, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Class, types and folding of every layer, for the report."""
    words = {"ReuseFactor": "reuse_factor", "Strategy": "strategy", "Cycles": "cycles"}
    return [
        {
            "layer": layer.edge or layer.name,
            "kind": f"{layer.kind} {layer.name}",
            **layer.precision,
            **{words[key]: value for key, value in job["folding"].get(layer.name, {}).items()},
        }
        for layer in handover.layers
    ]


def main() -> int:
    """Writes the project of the graph in the working directory."""
    here = Path(".")
    try:
        job = json.loads((here / "job.json").read_text())
        started = time.monotonic()
        handover = write_project(load_graph(here), job, here)
        from importlib.metadata import version

        about = {
            "hls4ml": version("hls4ml"),
            "seconds": round(time.monotonic() - started, 2),
            "sources": sources_within(here),
            "layers": _layers(handover, job),
        }
        with atomic_write(here / "project.json") as path:
            path.write_text(json.dumps(about, indent=1) + "\n")
    except (GreenedgeError, OSError, ValueError, KeyError, ImportError) as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
