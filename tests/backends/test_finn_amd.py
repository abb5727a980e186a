"""AMD boards: what Vivado would read, a Vivado that can fail, its reports, and the driver on a board that computes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from greenedge.backends import finn
from greenedge.backends.finn.amd.results import fmax_hz, utilisation
from greenedge.backends.finn.amd.units import choose_units, pack_unit, slices
from greenedge.backends.finn.units import Unit
from greenedge.errors import GreenedgeError
from greenedge.graph import run_graph
from greenedge.hdl.axi_stream import Stream, pack
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.graphs import Sketch
from tests.backends.unit_bench import Bench, Case, Port

UTILISATION = """
1. CLB Logic
+----------------------------+------+-------+------------+-----------+-------+
|          Site Type         | Used | Fixed | Prohibited | Available | Util% |
+----------------------------+------+-------+------------+-----------+-------+
| CLB LUTs*                  |  812 |     0 |          0 |     70560 |  1.15 |
|   LUT as Logic             |  700 |     0 |          0 |     70560 |  0.99 |
| CLB Registers              | 1033 |     0 |          0 |    141120 |  0.73 |
+----------------------------+------+-------+------------+-----------+-------+
| Block RAM Tile |  2.5 |     0 |          0 |       216 |  1.16 |
| DSPs      |    4 |     0 |          0 |       360 |  1.11 |
"""
TIMING = """
| Design Timing Summary
    WNS(ns)      TNS(ns)  TNS Failing Endpoints  TNS Total Endpoints      WHS(ns)
    -------      -------  ---------------------  -------------------      -------
      {slack}        0.000                      0                 2871        0.021
"""


@pytest.fixture(scope="module")
def graph():
    net = Sketch(np.random.default_rng(5), (2, 6, 6), "s4")
    image = net.step(net.conv("x", 4, (3, 3)), "u4", axis=0)
    return net.graph(net.step(net.dense(net.reshape(image, 64), 6), "s4"))


@pytest.fixture(scope="module")
def stitched(graph, tmp_path_factory):
    """A build folder up to the core's RTL, with FINN's units in it, and what is written for Vivado."""
    folder = tmp_path_factory.mktemp("amd") / "b"
    plan = finn.plan(graph, load_target("pynq-z1"), {"fps": 500_000})
    for name, content in plan.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for module in ("stitch", "amd write"):
        run_module(folder, module)
    return folder


def run_module(folder, module, path=None, status=0):
    environment = {**os.environ, **({"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else {})}
    first, *rest = module.split()
    done = subprocess.run(
        [sys.executable, "-m", f"greenedge.backends.finn.{first}", *rest],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def copy_build(folder, tmp_path):
    import shutil

    return shutil.copytree(folder, tmp_path / "b")


@pytest.mark.tool("finn")
def test_the_texts_for_vivado_and_finn(stitched, repo):
    """Byte for byte; GOLDEN=1 writes them anew."""
    names = (
        "vivado/core.tcl",
        "vivado/core.xdc",
        "vivado/memories.tcl",
        "vivado/overlay.tcl",
        "vivado/greenedge_axis.v",
        "vivado/driver.py",
        "finn-build/build.yaml",
        "amd.ys",
    )
    text = "".join(f"==== {name}\n{(stitched / name).read_text()}" for name in names)
    golden = repo / "tests" / "golden" / "amd-pynq-z1.txt"
    if os.environ.get("GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    assert (stitched / "finn-build" / "greenedge_steps.py").is_file() and "ge_mvu_dsp" in (
        stitched / "rtl" / "top.sv"
    ).read_text()


@pytest.mark.tool("finn")
def test_without_vivado_the_report_says_what_is_missing(stitched, tmp_path):
    folder = copy_build(stitched, tmp_path)
    run_module(folder, "amd run")
    assert json.loads((folder / "vivado.json").read_text())["said"].startswith(
        "vivado is not on PATH: the project, the overlay and its driver"
    )


def fake_vivado(folder, slack="1.250", status=0, bitstream=True, utilisation=UTILISATION):
    """A vivado that writes its argv, its reports and its bitstream, or fails as it is told."""
    folder.mkdir(exist_ok=True)
    (folder / "utilization.rpt").write_text(utilisation)
    (folder / "timing.rpt").write_text(TIMING.format(slack=slack))
    made = "touch vivado/greenedge.bit" if bitstream else ":"
    (folder / "vivado").write_text(f"""#!/bin/sh
[ "$1" = -version ] && echo "vivado v2024.2 (64-bit)" && exit 0
echo "$@" >> argv.txt
cp {folder}/utilization.rpt {folder}/timing.rpt vivado/
case "$*" in *overlay*) {made};; esac
[ {status} = 0 ] || echo "ERROR: [Synth 8-439] module 'mvu' not found"
exit {status}
""")
    (folder / "vivado").chmod(stat.S_IRWXU)
    return folder


@pytest.mark.tool("finn")
def test_vivado_is_run_where_it_is(stitched, tmp_path):
    folder = copy_build(stitched, tmp_path)
    run_module(folder, "amd run", fake_vivado(tmp_path / "bin"))
    found = json.loads((folder / "vivado.json").read_text())
    assert found == {
        "vivado": "2024.2",
        "core": {"lut": 812, "ff": 1033, "dsp": 4, "bram_bits": 92160, "fmax_hz": 1e9 / 8.75},
        "bitstream": "vivado/greenedge.bit",
        "finn": None,
    }
    assert [line.split()[-1] for line in (folder / "argv.txt").read_text().splitlines()] == [
        "vivado/core.tcl",
        "vivado/overlay.tcl",
    ]


@pytest.mark.tool("finn")
def test_vivado_as_a_step_of_the_plan(stitched, graph, tmp_path):
    """Asked for by name it is a command that --docker runs in an image; its reports are read afterwards."""
    plan = finn.plan(graph, load_target("pynq-z1"), {"fps": 500_000, "synthesis": "vivado"})
    assert [command.argv[-1] for command in plan.commands if command.argv[0] == "vivado"] == [
        "vivado/core.tcl",
        "vivado/overlay.tcl",
    ]
    folder, made = copy_build(stitched, tmp_path), fake_vivado(tmp_path / "bin")
    for name in ("utilization.rpt", "timing.rpt"):
        (folder / "vivado" / name).write_text((made / name).read_text())
    assert "did not make vivado/greenedge.bit" in run_module(folder, "amd read", status=1)
    (folder / "vivado" / "greenedge.bit").write_bytes(b"x")
    run_module(folder, "amd read")
    found = json.loads((folder / "vivado.json").read_text())
    assert (found["vivado"], found["core"]["lut"]) == ("in an image", 812)


@pytest.mark.tool("finn")
@pytest.mark.parametrize(
    "how, said",
    [
        (
            {"status": 1},
            "error: vivado ended with exit status 1 on core.tcl: ERROR: [Synth 8-439] module 'mvu' not found; "
            "its log is vivado/core.log.",
        ),
        (
            {"bitstream": False},
            "error: Vivado ended without an error but did not make vivado/greenedge.bit; its log is "
            "vivado/overlay.log.",
        ),
        (
            {"slack": "-2.500"},
            "error: Vivado closes the core at 80.0 MHz, 100 MHz are asked for; ask for a slower clock with "
            "--set build.clock_hz=….",
        ),
        (
            {"utilisation": "nothing"},
            "error: vivado/utilization.rpt is no utilisation report of Vivado; run the build stage again.",
        ),
    ],
    ids=["fails", "no product", "too slow", "no report"],
)
def test_a_vivado_that_fails(stitched, tmp_path, how, said):
    folder = copy_build(stitched, tmp_path)
    assert run_module(folder, "amd run", fake_vivado(tmp_path / "bin", **how), status=1).splitlines()[-1] == said
    assert not (folder / "vivado.json").exists()


def test_reports_of_both_families(tmp_path):
    path = tmp_path / "utilization.rpt"
    path.write_text(UTILISATION.replace("CLB LUTs*", "Slice LUTs").replace("CLB Registers", "Slice Registers"))
    assert utilisation(path) == {"lut": 812, "ff": 1033, "bram_bits": 92160, "dsp": 4}
    path.write_text("no table")
    with pytest.raises(GreenedgeError, match="is no timing summary of Vivado; run the build stage again."):
        fmax_hz(path, 1e8)
    with pytest.raises(GreenedgeError, match="cannot be read"):
        fmax_hz(tmp_path / "none", 1e8)


FAKE_PYNQ = '''
"""A board that computes: words in, the integer graph, words out; one output wrong where asked."""
import json, os
from pathlib import Path
import numpy as np
from greenedge.graph import load_graph, run_graph
from greenedge.hdl.axi_stream import Stream, pack, unpack

BUILD = Path(__file__).parent / "b"
FIRST, LAST = (Stream.from_plain(json.loads((BUILD / "streams.json").read_text())["streams"][k]) for k in (0, -1))

class Array(np.ndarray):
    def freebuffer(self): pass

def allocate(count, dtype): return np.zeros(count, dtype).view(Array)

class Channel:
    def __init__(self, dma, sends): self.dma, self.sends = dma, sends
    def transfer(self, data):
        if not self.sends: self.dma.result = data; return
        count = len(data) // FIRST.beats
        beats = np.array(data, "<u4").view(np.uint8).reshape(-1, 4)
        assert not beats[:, FIRST.bytes:].any()
        y = run_graph(load_graph(BUILD), unpack(FIRST, beats[:, :FIRST.bytes].tobytes(), count))
        y = y[next(iter(y))]
        if os.environ.get("WRONG"): y[-1].flat[-1] ^= 1
        words = np.frombuffer(pack(LAST, y), np.uint8).reshape(-1, LAST.bytes)
        self.dma.result[:] = np.pad(words, ((0, 0), (0, 4 - LAST.bytes))).copy().view("<u4").ravel()
    def wait(self): pass

class Dma:
    def __init__(self): self.sendchannel, self.recvchannel = Channel(self, True), Channel(self, False)

class Overlay:
    def __init__(self, path): self.dma = Dma()
'''


@pytest.mark.tool("finn")
def test_the_driver_runs_on_a_board(stitched, graph, tmp_path, rng):
    folder = copy_build(stitched, tmp_path)
    (tmp_path / "pynq.py").write_text(FAKE_PYNQ)

    def drive(*words, **more):
        path = os.pathsep.join([str(tmp_path), *sys.path])
        return subprocess.run(
            [sys.executable, "driver.py", *words],
            cwd=folder / "vivado",
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": path, **more},
            check=False,
        )

    done = drive("--selftest")
    assert (done.returncode, done.stdout) == (0, "192 output integers, 0 differ\n"), done.stderr
    assert (drive("--selftest", WRONG="1").returncode, drive("--selftest", WRONG="1").stdout) == (
        1,
        "192 output integers, 1 differ\n",
    )
    x = rng.integers(-8, 8, (300, 2, 6, 6))
    np.save(folder / "vivado" / "x.npy", x)
    assert drive("x.npy", "-o", "y.npy").returncode == 0
    assert np.array_equal(np.load(folder / "vivado" / "y.npy"), run_graph(graph, x)[graph.outputs[0]])
    np.save(folder / "vivado" / "x.npy", x[:, :1])
    assert drive("x.npy").stderr.strip() == "the input must be integers of shape (samples, 2, 6, 6)"


def unit(pe, simd, wb=4, ab=4, least=-7):
    words = np.full((4, pe * simd), least)
    parameters = {
        "K": 2 * simd,
        "M": 2 * pe,
        "PE": pe,
        "SIMD": simd,
        "W_BITS": wb,
        "A_BITS": ab,
        "ASGN": 0,
        "OUT_BITS": 12,
        "CORRECT": 0,
    }
    return Unit("ge_mvu", parameters, lambda: {"a_weights.mem": (words, wb)}, {"WEIGHTS_FILE": "rtl/a_weights.mem"})


def test_slices_are_given_to_the_largest_units():
    """Four 4-bit products in a slice, two 8-bit ones (FINN's own figures, mvu_vvu_axi.sv)."""
    assert slices(pack_unit(unit(4, 8), 1)) == 8 and slices(pack_unit(unit(4, 8, wb=8, ab=8), 2)) == 2 * 8
    assert pack_unit(unit(2, 2, least=-8), 1) is None and pack_unit(unit(2, 2, least=-8), 2).parameters["NARROW"] == 0
    assert pack_unit(unit(2, 2, wb=1, least=-1), 2) is None and pack_unit(unit(2, 2, ab=1), 2) is None
    units = {"big": unit(4, 16), "small": unit(1, 4), "middle": unit(2, 8)}
    need = {name: slices(pack_unit(u, 2)) for name, u in units.items()}
    assert set(choose_units(units, 2, 1000)) == set(units)
    assert set(choose_units(units, 2, int((need["big"] + need["small"]) / 0.9) + 1)) == {"big", "small"}
    assert choose_units(units, 2, 0) == {}


@pytest.mark.slow
@pytest.mark.tool("finn")
@pytest.mark.tool("verilator")
def test_the_core_between_the_streams_of_a_dma_engine(stitched, graph, tmp_path, rng):
    """greenedge_axis.v as it is written, packets of three samples, random pauses; TLAST is bit 32 of each beat."""
    first, last = (
        Stream.from_plain(json.loads((stitched / "streams.json").read_text())["streams"][k]) for k in (0, -1)
    )
    x = rng.integers(-8, 8, (30, 2, 6, 6))
    y = run_graph(graph, x)[graph.outputs[0]]
    ports = []
    for name, stream, values in (("s", first, x), ("m", last, y)):
        beats = np.frombuffer(pack(stream, values), np.uint8).reshape(len(values), stream.beats, -1).astype(np.int64)
        words = (beats << 8 * np.arange(beats.shape[-1])).sum(-1)
        words[2::3, -1] += 1 << 32
        ports.append(Port(name, 40, False, 1, words))
    (tmp_path / "rtl").mkdir()
    for path in (stitched / "rtl").glob("*.mem"):
        (tmp_path / "rtl" / path.name).write_bytes(path.read_bytes())
    names = json.loads((stitched / "streams.json").read_text())["sources"]
    sources = {name: (stitched / "rtl" / name).read_bytes() for name in names}
    sources |= {path.name: path.read_bytes() for path in (stitched / "vivado").glob("*.*v")}
    sources["amd_axis.sv"] = AXIS.encode()
    Bench([Case("amd_axis", {}, [ports[0]], [ports[1]])], tmp_path, sources).check()


AXIS = """
module amd_axis (
    input logic clk, input logic rst, input logic [39:0] s_tdata, input logic s_tvalid, output logic s_tready,
    output logic [39:0] m_tdata, output logic m_tvalid, input logic m_tready);
    logic [31:0] data;
    logic last;
    greenedge_axis dut (
        .aclk(clk), .aresetn(!rst),
        .s_axis_tdata(s_tdata[31:0]), .s_axis_tvalid(s_tvalid), .s_axis_tlast(s_tdata[32]), .s_axis_tready(s_tready),
        .m_axis_tdata(data), .m_axis_tkeep(), .m_axis_tvalid(m_tvalid), .m_axis_tlast(last), .m_axis_tready(m_tready));
    assign m_tdata = {7'b0, last, data};
endmodule
"""


@pytest.mark.slow
@pytest.mark.tool("finn")
@pytest.mark.tool("yosys")
@pytest.mark.tool("verilator")
@pytest.mark.parametrize("name", ["pynq-z2", "ultra96", "zcu104", "kv260", "alveo-u250"])
def test_a_build_for_every_board(graph, tmp_path, rng, name):
    """The RTL with FINN's core equals the graph, and yosys maps it to the family."""
    target = load_target(name)
    assert finn.check(graph, target, {"fps": 200_000}) == []
    execute(finn.plan(graph, target, {"fps": 200_000}), tmp_path / "b")
    x = rng.integers(-8, 8, (30, 2, 6, 6))
    assert np.array_equal(finn.simulate(tmp_path / "b", x)[graph.outputs[0]], run_graph(graph, x)[graph.outputs[0]])
    told = finn.report(tmp_path / "b")
    assert (
        told["hardware"]["lut"] > 100
        and told["evidence"]["lut"].startswith("reported by yosys")
        and told["notes"]
        and told["evidence"]["clock_hz"] == "asked for"
    )


@pytest.mark.parametrize("shape, refused", [((5,), False), ((4, 3, 3), True)])
def test_finns_own_flow_refuses_an_index_that_it_would_misread(shape, refused):
    """The step's own function, without FINN around it: its LabelSelect is over the last axis, whatever a TopK says."""
    import ast
    from importlib import resources

    from qonnx.core.modelwrapper import ModelWrapper

    from greenedge.graph.qonnx import to_qonnx

    net = Sketch(np.random.default_rng(5), shape, "s4")
    model = ModelWrapper(to_qonnx(net.graph(net.arg_max("x"))))
    steps = (resources.files("greenedge.backends.finn.amd") / "templates" / "greenedge_steps.py").read_text()
    function = next(node for node in ast.parse(steps).body if getattr(node, "name", "") == "_require_last_axis")
    names: dict = {}
    exec(compile(ast.Module([function], []), "greenedge_steps.py", "exec"), names)
    if not refused:
        names["_require_last_axis"](model)
        return
    with pytest.raises(RuntimeError) as error:
        names["_require_last_axis"](model)
    assert str(error.value) == (
        "index1 is over axis 1 of 4; FINN's LabelSelect is over the last one only: leave the ArgMax out of the model, "
        "and take it on the host"
    )
