"""Traces the graph with da4ml and writes the core: graph.* and job.json in, rtl/, streams.json and trace.json out.

    python -m greenedge.backends.da4ml.generate      in the build folder; a process of its own, da4ml is imported here
    alone

What was traced is kept in the user's cache folder under the digest of graph, options and versions.
"""

from __future__ import annotations

import decimal
import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import platformdirs

from greenedge.backends.da4ml.wrapper import KERNEL, TOP, UNITS, Kernel, Wire, streams_of, top
from greenedge.errors import GreenedgeError
from greenedge.files import sha256_file, write_aside
from greenedge.graph import Graph, graph_digest, load_graph

RTL = Path(__file__).resolve().parents[2] / "rtl"
FOLDER = "rtl"
_SUM, _DIFFERENCE = 0, 1  # da4ml's opcodes of its adders
# estimated adder bits from which it pays to let numba compile da4ml's solver, about two minutes once
_COMPILED_FROM = 20_000
# da4ml keeps the shifts of all layers behind one another as decimal powers of two, which Python rounds to 28 digits:
# beyond
# 2**-40 the circuit would be another one. 2**-s has fewer than s + 1 digits.
_DIGITS = 4096
_PACKAGES = ("da4ml", "numba", "numpy")


def kernel_files(graph: Graph, cutoff: float) -> tuple[dict[str, bytes], dict]:
    """(da4ml's Verilog by name, what it says about it) for at most `cutoff` adders in a row between two registers."""
    from greenedge.backends.da4ml.estimate import adder_bits

    started = time.monotonic()
    if sum(adder_bits(graph).values()) < _COMPILED_FROM:
        import numba

        numba.config.DISABLE_JIT = True
    from da4ml.codegen import RTLModel
    from da4ml.trace import comb_trace, to_pipeline

    from greenedge.backends.da4ml.unroll import bits_of, unroll

    with decimal.localcontext() as context:
        context.prec = _DIGITS
        comb = comb_trace(*unroll(graph))
        pipeline = to_pipeline(comb, cutoff, verbose=False)
    with tempfile.TemporaryDirectory(prefix="greenedge-da4ml-") as scratch:
        RTLModel(pipeline, KERNEL, scratch, "verilog", print_latency=False).write()
        source = Path(scratch) / "src"
        # without its look-up table, which nothing here has and which names a file that is not there
        static = [path for path in sorted((source / "static").glob("*.v")) if path.name != "lookup_table.v"]
        paths = [*static, *sorted(source.glob(f"{KERNEL}_stage*.v")),
                 source / f"{KERNEL}.v"]
        files = {path.name: _mended(path.read_text()).encode() for path in paths}
    wires = {name: [bits_of(float(q.min), float(q.max), float(q.step)) for q in intervals]
             for name, intervals in (("inputs", pipeline.inp_qint), ("outputs", pipeline.out_qint))}
    stages = len(pipeline.solutions)
    about = {**wires, "latency": stages + 1, "stages": stages, "cost": float(comb.cost),
             "register_bits": int(pipeline.reg_bits),
             "adders": sum(op.opcode in (_SUM, _DIFFERENCE) for op in comb.ops),
             "seconds": round(time.monotonic() - started, 2)}
    return files, about


def _mended(text: str) -> str:
    """da4ml's Verilog without time scales, its constants with their widths: a literal without one has 32 bits."""
    text = re.sub(r"(?m)^`timescale.*\n", "", text)
    return re.sub(r"assign (v\d+)\[(\d+):0\] = '(b[01]+);",
                  lambda found: f"assign {found[1]}[{found[2]}:0] = {int(found[2]) + 1}'{found[3]};", text)


def traced(graph: Graph, cutoff: float) -> tuple[dict[str, bytes], dict, bool]:
    """`kernel_files`, from the cache where they are there; the last says whether they were."""
    code = [sha256_file(Path(__file__).with_name(name)) for name in ("unroll.py", "generate.py")]
    key = json.dumps([graph_digest(graph), cutoff, code, [version(name) for name in _PACKAGES]])
    folder = Path(platformdirs.user_cache_dir("greenedge")) / "da4ml" / hashlib.sha256(key.encode()).hexdigest()[:24]
    if (folder / "about.json").is_file():
        about = json.loads((folder / "about.json").read_text())
        return {name: (folder / name).read_bytes() for name in about["files"]}, about, True
    files, about = kernel_files(graph, cutoff)
    aside = folder.with_name(f".{folder.name}.{time.time_ns()}.part")
    aside.mkdir(parents=True)
    for name, content in files.items():
        (aside / name).write_bytes(content)
    about |= {"files": list(files)}
    (aside / "about.json").write_text(json.dumps(about))
    try:
        aside.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(aside)
    return files, about, False


def write_core(graph: Graph, job: Mapping, folder: Path) -> None:
    """rtl/, streams.json and trace.json of the graph in `folder`."""
    files, about, kept = traced(graph, float(job["cutoff"]))
    kernel = Kernel(*(tuple(Wire(*wire) for wire in about[name]) for name in ("inputs", "outputs")), about["latency"])
    source, output = streams_of(graph.edges[graph.inputs[0]], graph.edges[graph.outputs[0]])
    files = {**{name: (RTL / name).read_bytes() for name in UNITS}, **files,
             f"{TOP}.sv": top(kernel, source, output).encode()}
    for name, content in files.items():
        with write_aside(folder / FOLDER / name) as path:
            path.write_bytes(content)
    streams = {"top": TOP, "sources": list(files), "streams": [source.plain(), output.plain()]}
    trace = {key: about[key] for key in ("latency", "stages", "cost", "register_bits", "adders", "seconds")}
    trace |= {"kept": kept, "cutoff": job["cutoff"], "da4ml": version("da4ml")}
    for name, content in (("streams.json", streams), ("trace.json", trace)):
        with write_aside(folder / name) as path:
            path.write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    """Writes the core of what lies in the working directory."""
    here = Path(".")
    try:
        write_core(load_graph(here), json.loads((here / "job.json").read_text()), here)
    except (GreenedgeError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
