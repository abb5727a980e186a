"""The C package: model.h, model.c and golden.h written from a program; kernels, self-test and ports copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from greenedge.backends.c99.code_builder import CodeBuilder, Text, place
from greenedge.backends.c99.fast_initialisers import write_fast_call
from greenedge.backends.c99.memory_plan import Program
from greenedge.backends.c99.rows import RULES
from greenedge.backends.c99.tensor_code import Code
from greenedge.errors import Reason
from greenedge.graph import Graph, graph_digest, run_graph
from greenedge.graph.ops.base import Ints

PACKAGE = Path(__file__).with_name("package")
GOLDEN_SAMPLES, _SEED = 8, 1
_FNV_BASIS, _FNV_PRIME = 0x811C9DC5, 0x01000193


def find_reasons(graph: Graph) -> list[Reason]:
    """Every reason why the kernels cannot compute `graph` exactly in 32-bit sums and 8-bit operands."""
    return RULES.run(CodeBuilder(graph)).reasons


def write_calls(program: Program) -> Text:
    """The C text of every call, in order. The graph must be one against which there is no reason."""
    b = CodeBuilder(program.graph, program)
    for k, call in enumerate(program.calls):
        b.start_call(call, k)
        if call.fast:
            write_fast_call(b, call.fast)
        else:
            RULES.run(b, [call.op])
        b.text.statements.append(f"MODEL_TRACE({k}, {b.place(call.output)});")
    assert not b.reasons, b.reasons
    return b.text


def package_files(program: Program) -> dict[str, bytes]:
    """{path: content} of everything in the package."""
    text = write_calls(program)
    files = {
        path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in sorted(PACKAGE.rglob("*")) if path.is_file()
    }
    return {
        **files,
        "model.h": _header(program, text.bytes).encode(),
        "model.c": _source(program, text).encode(),
        "golden.h": _write_golden(program).encode(),
    }


def constant_bytes(program: Program) -> int:
    """Bytes of weights and parameters."""
    return write_calls(program).bytes


def elements(program: Program, edge: str) -> int:
    """Elements of an edge, per sample."""
    return int(np.prod(program.graph.edges[edge].shape, dtype=np.int64))


def encode(values: Ints, code: Code) -> NDArray[np.int8] | NDArray[np.int32]:
    """Graph integers as the package holds them: int8 of level - offset, or int32."""
    levels = values - code.offset
    return levels.astype(np.int32) if code.wide else levels.astype(np.int8)


def decode(data: bytes, code: Code) -> Ints:
    """Graph integers (int64) from what the package wrote."""
    stored = np.frombuffer(data, np.dtype("<i4") if code.wide else np.dtype(np.int8))
    return stored.astype(np.int64) + code.offset


def _plain(text: str) -> str:
    """A name that is safe in a C comment: only plain characters of a model's name reach the file."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "?" for c in text)[:80]


def _parameters(program: Program) -> str:
    graph = program.graph
    inputs = [f"const {program.codes[edge].c_type} *x{k}" for k, edge in enumerate(graph.inputs)]
    outputs = [f"{program.codes[edge].c_type} *y{k}" for k, edge in enumerate(graph.outputs)]
    return ", ".join([*inputs, *outputs, "uint32_t *memory"])


def _header(program: Program, constants: int) -> str:
    graph = program.graph
    lines = []
    for what, letter, edges in (("input", "X", graph.inputs), ("output", "Y", graph.outputs)):
        for k, name in enumerate(edges):
            edge, code = graph.edges[name], program.codes[name]
            stored = "level" if not code.offset else f"level - MODEL_{letter}{k}_OFFSET"
            stored = "the value itself" if code.wide else stored
            lines += [
                f"/* {what} {k}, {_plain(name)}: levels {edge.lo} to {edge.hi} of shape {edge.shape}, "
                f"each stored as {stored} */",
                f"#define MODEL_{letter}{k}_SIZE {elements(program, name)}",
                f"#define MODEL_{letter}{k}_OFFSET {code.offset}",
                "",
            ]
    words = max(1, -(-program.arena_bytes // 4))
    return f"""/* {_plain(graph.name)}: an integer network in freestanding C99. Made by greenedge.
 *
 *     static uint32_t memory[MODEL_MEMORY_WORDS];
 *     model_run(x0, y0, memory);
 *
 * The network is integers only; this code computes the same integers as greenedge's integer graph on every input.
 * No heap, no floating point, no library; the stack holds no arrays of the model's.
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_DIGEST "{graph_digest(graph)}"
#define MODEL_MEMORY_WORDS {words}
#define MODEL_CONSTANT_BYTES {constants} /* weights and parameters, in flash */

{chr(10).join(lines)}
void model_run({_parameters(program)});

#endif
"""


def _source(program: Program, text: Text) -> str:
    constants = "\n".join(text.constants)
    statements = "\n    ".join(text.statements)
    copies = "".join(_copy_out(program, edge, parameter) for edge, parameter in program.copies)
    arena = "    uint8_t *arena = (uint8_t *)memory;\n" if program.arena_bytes else "    (void)memory;\n"
    name = _plain(program.graph.name)
    return f"""/* {name}: constants and the order of the kernels. Made by greenedge; see model.h. */
#include "model.h"

#include "ge_fast.h"
#include "ge_kernels.h"

#ifdef MODEL_TRACE /* a function (call number, its result), for whoever wants to see between the layers */
void MODEL_TRACE(unsigned call, const void *result);
#else
#define MODEL_TRACE(call, result) ((void)0)
#endif

{constants}
void model_run({_parameters(program)}) {{
{arena}
    {statements}
{copies}}}
"""


def _copy_out(program: Program, edge: str, parameter: str) -> str:
    return (
        f"    for (uint32_t i = 0; i < {elements(program, edge)}; i++) "
        f"{parameter}[i] = ((const {program.codes[edge].c_type} *)({place(program, edge)}))[i];\n"
    )


def _write_golden(program: Program) -> str:
    """golden.h: random inputs with both ends of the range among them, and the integer graph's outputs."""
    graph, rng = program.graph, np.random.default_rng(_SEED)
    feeds = {}
    for name in graph.inputs:
        edge = graph.edges[name]
        feeds[name] = rng.integers(edge.lo, edge.hi + 1, (GOLDEN_SAMPLES, *edge.shape))
        feeds[name][0], feeds[name][-1] = edge.lo, edge.hi
    results = run_graph(graph, feeds)
    arrays, names = [], []
    for letter, edges, values in (("x", graph.inputs, feeds), ("y", graph.outputs, results)):
        for k, name in enumerate(edges):
            code = program.codes[name]
            flat = encode(values[name].reshape(GOLDEN_SAMPLES, -1), code)
            rows = ",\n    ".join("{" + ", ".join(map(str, row)) + "}" for row in flat)
            arrays.append(
                f"static const {code.c_type} golden_{letter}{k}[GOLDEN_SAMPLES][{flat.shape[1]}] = {{\n    {rows}}};\n"
            )
    runs = [f"golden_x{k}[n]" for k in range(len(graph.inputs))] + [f"result_y{k}" for k in range(len(graph.outputs))]
    for k, name in enumerate(graph.outputs):
        names.append(f"static {program.codes[name].c_type} result_y{k}[{elements(program, name)}];\n")
    checks = "\\\n".join(
        f"    for (uint32_t i = 0; i < MODEL_Y{k}_SIZE; i++) {{ "
        f"visit(result_y{k}[i] + MODEL_Y{k}_OFFSET, golden_y{k}[n][i] + MODEL_Y{k}_OFFSET) }} "
        for k in range(len(graph.outputs))
    )
    about = "samples with their results in the integer graph, and the hash of those results. Made by greenedge."
    return f"""/* {GOLDEN_SAMPLES} {about} */
#include "model.h"

#define GOLDEN_SAMPLES {GOLDEN_SAMPLES}u
#define GOLDEN_HASH 0x{hash_outputs([results[name] for name in graph.outputs]):08x}u

{"".join(arrays)}
{"".join(names)}
#define GOLDEN_RUN(n, memory) model_run({", ".join(runs)}, memory)
#define GOLDEN_RESULTS(n, visit) \\
{checks}
"""


def hash_outputs(outputs: Sequence[Ints]) -> int:
    """FNV-1a over the int32 values of every sample's outputs in order, low byte first (as selftest.c computes it)."""
    digest = _FNV_BASIS
    joined = np.concatenate([values.reshape(len(values), -1) for values in outputs], axis=1)
    for byte in joined.astype("<i4").tobytes():
        digest = (digest ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return digest
