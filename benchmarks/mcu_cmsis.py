"""CMSIS-NN's int8 kernels on the layers of MLPerf Tiny's networks, beside ours, under the same emulator in one run.

    git clone https://github.com/ARM-software/CMSIS-NN
    PYTHONPATH=. python benchmarks/mcu_cmsis.py CMSIS-NN [--only DS-CNN]

CMSIS-NN is compiled with its own flags (-Ofast) and with -O2, linked with newlib, its kernels chosen by its own
wrappers; the lower count is taken. Ours is -O2. It computes random layers of the same shapes, channels last, with its
own requantisation: what is compared is work, not integers. Ours equals the integer graph (a difference ends the run).
Requantisers and reshapes that CMSIS-NN would not need count for ours alone. Instructions in qemu, SIMULATED.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mcu_kernels import M4, NETWORKS

from greenedge.backends import c99
from greenedge.backends.c99.cores import measure_core
from greenedge.backends.c99.emit import package_files
from greenedge.backends.c99.memory_plan import Call, Program, plan_memory
from greenedge.backends.c99.run import run_program
from greenedge.graph import Add, Conv, Dense, Graph, SumPool
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file

PORT = Path(c99.__file__).with_name("package") / "port"
PROGRAM = """#include "arm_nnfunctions.h"
#include "golden.h"
static int8_t x[131072], y[131072], w[524288], scratch[131072];
static int32_t bias[2048], multiplier[2048], shift[2048], sums[2048];
void count_call(unsigned call, const void *result);
void run_layers(void);

static void prepare(void) {
    uint32_t seed = 1;
    for (unsigned i = 0; i < sizeof x; i++) seed = seed * 1664525u + 1013904223u, x[i] = (int8_t)(seed >> 24);
    for (unsigned i = 0; i < sizeof w; i++) seed = seed * 1664525u + 1013904223u, w[i] = (int8_t)(seed >> 24);
    for (unsigned i = 0; i < 2048; i++) multiplier[i] = 1500000000, shift[i] = -9;
}

static cmsis_nn_context context(int32_t bytes) {
    cmsis_nn_context c = {scratch, bytes};
    if (bytes > (int32_t)sizeof scratch) for (;;) { }
    return c;
}

void run_layers(void) {
    prepare();
    count_call(0, y);
%s
}
"""


def write_layers(graph: Graph, program: Program) -> Iterator[str]:
    """A block of C for each call that CMSIS-NN has a kernel for; each ends with its count."""
    number = 1
    for call in program.calls:
        block = _write_layer(graph, call)
        if block:
            yield f"    {{ {block} count_call({number}, y); }}"
            number += 1


def _write_layer(graph: Graph, call: Call) -> str:
    op, source, result = call.op, graph.edges[call.op.inputs[0]].shape, graph.edges[call.output].shape
    if isinstance(op, Conv):
        depthwise = op.is_depthwise and op.channels == op.groups
        kind = "depthwise_conv" if depthwise else "convolve"
        params = f"cmsis_nn_{'dw_' if depthwise else ''}conv_params p = {{128, -128, {'1, ' if depthwise else ''}"
        params += f"{{{op.strides[1]}, {op.strides[0]}}}, {{{op.pads[1]}, {op.pads[0]}}}, {{1, 1}}, {{-128, 127}}}};"
        filters = (
            f"{{1, {op.kernel[0]}, {op.kernel[1]}, {op.channels}}}"
            if depthwise
            else (f"{{{op.channels}, {op.kernel[0]}, {op.kernel[1]}, {source[0]}}}")
        )
        return (
            f"{params} {_dims('i', source)} {_dims('o', result)} "
            f"cmsis_nn_dims f = {filters}, b = {{1, 1, 1, {op.channels}}}; "
            f"cmsis_nn_per_channel_quant_params q = {{multiplier, shift}}; "
            f"cmsis_nn_context c = context(arm_{kind}_wrapper_s8_get_buffer_size(&p, &i, &f, &o)); "
            f"if (arm_{kind}_wrapper_s8(&c, &p, &q, &i, x, &f, w, &b, bias, &o, y)) for (;;) {{ }}"
        )
    if isinstance(op, Dense):
        k, m = op.weight.shape
        return (
            "cmsis_nn_fc_params p = {128, 0, -128, {-128, 127}}; "
            "cmsis_nn_per_tensor_quant_params q = {1500000000, -9}; "
            f"cmsis_nn_dims i = {{1, 1, 1, {k}}}, f = {{{k}, 1, 1, {m}}}, b = {{1, 1, 1, {m}}}, o = {{1, 1, 1, {m}}}; "
            "cmsis_nn_context c = {sums, sizeof sums}; "
            "if (arm_fully_connected_s8(&c, &p, &q, &i, x, &f, w, &b, bias, &o, y)) for (;;) { }"
        )
    if isinstance(op, SumPool):
        return (
            "cmsis_nn_pool_params p = {{1, 1}, {0, 0}, {-128, 127}}; "
            f"{_dims('i', source)} {_dims('o', result)} "
            f"cmsis_nn_dims f = {{1, {op.kernel[0]}, {op.kernel[1]}, 1}}; "
            f"cmsis_nn_context c = context(arm_avgpool_s8_get_buffer_size(1, {source[0]})); "
            "if (arm_avgpool_s8(&c, &p, &i, x, &f, &o, y)) for (;;) { }"
        )
    if isinstance(op, Add):
        size = source[0] * source[1] * source[2]
        return (
            "arm_elementwise_add_s8(x, x + 16, 128, 1500000000, -1, 128, 1400000000, -1, 20, y, -128, 1600000000, -18, "
            f"-128, 127, {size});"
        )
    return ""


def _dims(name: str, shape: tuple[int, ...]) -> str:
    return f"cmsis_nn_dims {name} = {{1, {shape[1]}, {shape[2]}, {shape[0]}}};"


def compile_library(cmsis: Path, level: str, folder: Path) -> list[str]:
    """The object files of CMSIS-NN's int8 kernels."""
    folder.mkdir()
    sources = [
        str(path)
        for path in sorted(cmsis.rglob("Source/*/*.c"))
        if path.parent.name not in ("LSTMFunctions", "SVDFunctions", "SoftmaxFunctions")
        and not any(part in path.name for part in ("f16", "f32", "flt"))
    ]
    argv = [M4.gcc, *M4.flags, level, "-ffunction-sections", "-fdata-sections", f"-I{cmsis / 'Include'}", "-w", "-c"]
    subprocess.run([*argv, *sources], cwd=folder, check=True)
    return [str(path) for path in sorted(folder.glob("*.o"))]


def count_cmsis(graph: Graph, program: Program, cmsis: Path, level: str, objects: list[str], folder: Path) -> int:
    """Instructions of all layers in CMSIS-NN's kernels."""
    layers = list(write_layers(graph, program))
    golden = "#include <stdint.h>\n#define MODEL_MEMORY_WORDS 1\n#define GOLDEN_RUN(n, memory) run_layers()\n"
    golden += "#define GOLDEN_RESULTS(n, visit) visit(0, 0)\nvoid run_layers(void);\n"
    (folder / "golden.h").write_text(golden)
    (folder / "layers.c").write_text(PROGRAM % "\n".join(layers))
    (folder / "port").mkdir(exist_ok=True)
    (folder / "port/count.c").write_bytes((PORT / "count.c").read_bytes())
    argv = [M4.gcc, *M4.flags, level, "-ffunction-sections", "-w", f"-I{cmsis / 'Include'}", "-I.", "-nostartfiles"]
    argv += [f"-DCALLS={len(layers) + 1}", f"-L{PORT}", "-T", str(PORT / "cortex-m.ld"), "-Wl,--gc-sections"]
    subprocess.run([*argv, "layers.c", "port/count.c", *objects, "-o", "run.elf"], cwd=folder, check=True)
    run = [*M4.emulator, "-nographic", "-monitor", "none", "-serial", "none", "-chardev", "stdio,id=said"]
    run += ["-semihosting-config", "enable=on,target=native,chardev=said", "-kernel", "run.elf"]
    said = run_program(run, folder, 300, "CMSIS-NN on the emulated core").decode().split()
    assert said[0] == "equal" and len(said) == len(layers) + 3, said
    return sum(map(int, said[3:]))  # behind the stack, and the preparation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cmsis", type=Path, help="a checkout of CMSIS-NN")
    parser.add_argument("--only", action="append", choices=NETWORKS)
    given = parser.parse_args()
    cmsis = given.cmsis.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        libraries = {level: compile_library(cmsis, level, folder / level[1:]) for level in ("-Ofast", "-O2")}
        print("network            CMSIS-NN -Ofast    CMSIS-NN -O2     greenedge -O2   ratio to the lower")
        for name in given.only or [name for name in NETWORKS if "w4a4" not in name]:
            NETWORKS[name](folder / "source.onnx")
            graph = legalise_graph(lower_file(folder / "source.onnx").graph, c99.BACKEND.passes)
            program = plan_memory(graph)
            theirs = [
                count_cmsis(graph, program, cmsis, level, objects, folder) for level, objects in libraries.items()
            ]
            for file, content in package_files(program).items():
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_bytes(content)
            ours = sum(measure_core(M4, folder, len(program.calls))["instructions"])
            print(f"{name:17s} {theirs[0]:16,} {theirs[1]:15,} {ours:17,}   {ours / min(theirs):.2f}", flush=True)


if __name__ == "__main__":
    main()
