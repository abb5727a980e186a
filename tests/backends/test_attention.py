"""Random blocks of transformers: every back end that takes them gives the integer graph's integers."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from greenedge.backends import load_backend
from greenedge.graph import Linear, Normalise, Requantise, Softmax, freeze, run_graph, verify_graph
from greenedge.graph.ops.normalise import make_root_table
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.lower.models import Model

TARGETS = {"c99": "cortex-m4", "onnxruntime": "linux-x86"}
SAMPLES = 24
SLOW_BLOCKS = 60  # of each back end; a block takes most of a second to compile


def random_block(rng, path):
    """An encoder block with random sizes, bits, mask and norm."""
    heads, size, length = (int(rng.integers(*ends)) for ends in ((1, 5), (2, 7), (2, 13)))
    width, bits, act = heads * size, int(rng.integers(2, 9)), int(rng.integers(4, 9))
    m = Model((1, length, width), opset=17).quant(0.06, act)
    x = m.tensor

    def weights(fan_in, fan_out):
        return m.weight(rng.normal(0, 1, (fan_in, fan_out)), float(2.0 / 2 ** (bits - 1)), bits)

    def project(source, fan_out=width, fan_in=width):
        m.node("MatMul", weights(fan_in, fan_out), source=source)
        return m.node("Add", m.constant(rng.normal(0, 0.5, fan_out)))

    def split():
        m.node("Reshape", m.constant([1, length, heads, size], np.int64))
        return m.node("Transpose", perm=[0, 2, 1, 3])

    def norm(source):
        kind = rng.choice(["none", "layer", "rms"])
        if kind == "none":
            return source
        gain, bias = m.constant(rng.uniform(0.5, 1.5, width)), m.constant(rng.normal(0, 0.3, width))
        if kind == "layer":
            return m.node("LayerNormalization", gain, bias, source=source, axis=-1).quant(0.03, act).tensor
        root = m.node("Mul", source, source=source).node("ReduceMean", axes=[-1], keepdims=1)
        root = root.node("Add", m.constant(1e-5)).node("Sqrt").tensor
        return m.node("Div", root, source=source).node("Mul", gain).quant(0.03, act).tensor

    start = norm(x)
    q, k, v = (project(start) and split().quant(0.05 * width**0.5, act).tensor for _ in range(3))
    k = m.node("Transpose", source=k, perm=[0, 1, 3, 2]).tensor
    m.node("MatMul", k, source=q).node("Div", m.constant(float(np.sqrt(size))))
    if rng.random() < 0.7:
        m.quant(0.1, 8)
    mask = rng.choice(["none", "causal", "random"])
    if mask != "none":
        seen = np.tril(np.ones((length, length))) if mask == "causal" else rng.random((heads, length, length)) < 0.6
        seen = np.asarray(seen, bool) | np.eye(length, dtype=bool)
        m.node("Add", m.constant(np.where(seen, 0, -np.inf).astype(np.float32)))
    m.node("Softmax", axis=-1).quant(float(rng.choice([1 / 255, 0.0041, 1 / 128])), 8, signed=0)
    m.node("MatMul", v).quant(0.05, act).node("Transpose", perm=[0, 2, 1, 3])
    m.node("Reshape", m.constant([1, length, width], np.int64))
    attended = project(m.tensor).quant(0.06, act).tensor
    joined = m.node("Add", x, source=attended).quant(0.08, act).tensor
    return project(norm(joined), 3).quant(0.1, 8).save(path)


def lowered_block(rng, path):
    lowered = lower_file(random_block(rng, path))
    verify_graph(lowered.graph)
    (edge,) = lowered.graph.inputs
    low, high = lowered.graph.edges[edge].lo, lowered.graph.edges[edge].hi
    x = rng.integers(low, high + 1, (SAMPLES, *lowered.graph.edges[edge].shape))
    x[0], x[1] = low, high
    return lowered.graph, x


def build(name, graph, folder):
    """(the back end, the graph as it takes it), built."""
    module, target = load_backend(name), load_target(TARGETS[name])
    graph = legalise_graph(graph, module.passes)
    assert module.check(graph, target, {}) == [], module.check(graph, target, {})[0]
    execute(module.plan(graph, target, {}), folder)
    return module, graph


def agree(name, rng, folder):
    """How many integers the back end gave. Each is the integer graph's on the back end's own integers before it; a
    dense layer of onnxruntime, which rounds floats, may be one level off, as its certificate says."""
    graph, x = lowered_block(rng, folder / "m.onnx")
    module, graph = build(name, graph, folder / "b")
    got = module.simulate(folder / "b", x, [op.output for op in graph.ops if op.inputs])
    assert set(graph.outputs) <= set(got) and len(got) > 6
    values = {graph.inputs[0]: x}
    for op in graph.ops:
        if not op.inputs:
            continue
        values[op.output] = op.execute([values[edge] for edge in op.inputs], graph.input_edges(op))
        if op.output in got:
            is_dense = isinstance(op, Requantise) and isinstance(graph.producer(op.inputs[0]), Linear)
            off = int(name == "onnxruntime" and is_dense)
            assert np.abs(got[op.output] - values[op.output]).max() <= off, op.output
            values[op.output] = got[op.output]
    return sum(each.size for each in got.values())


@pytest.mark.tool("g++")
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("number", range(3))
def test_a_block(rng, tmp_path, name, number):
    agree(name, rng, tmp_path)


@pytest.mark.slow
@pytest.mark.tool("g++")
@pytest.mark.parametrize("name", TARGETS)
def test_many_blocks(rng, tmp_path, name):
    for number in range(SLOW_BLOCKS):
        (tmp_path / str(number)).mkdir()
        agree(name, rng, tmp_path / str(number))


def test_norms_by_tables_in_c(rng, tmp_path):
    """The form for runtimes without divisions of 64 bits; LiteRT's rule is not there yet, C has both."""
    graph, x = lowered_block(np.random.default_rng(7), tmp_path / "m.onnx")
    norms = [op for op in graph.ops if isinstance(op, Normalise)]
    assert norms, "the block has a norm"
    rows = {op.name: graph.edges[op.output].shape[-1] if op.norm == "rms" else 1 for op in norms}
    tables = {
        name: {"table": make_root_table(row << 24), "constant": row << 24, "shift": 4} for name, row in rows.items()
    }
    ops = tuple(dataclasses.replace(op, **tables.get(op.name, {})) for op in graph.ops)
    graph = dataclasses.replace(graph, ops=ops)
    graph = widen(graph)
    module, graph = build("c99", graph, tmp_path / "b")
    keep = [op.output for op in graph.ops if op.inputs]
    expected, got = run_graph(graph, x, keep=keep), module.simulate(tmp_path / "b", x, keep)
    assert all(np.array_equal(values, expected[edge]) for edge, values in got.items())


def widen(graph):
    """The graph with ranges of its norms and of what reads them as a table's form has them."""
    from greenedge.graph.verifier import find_faults

    edges = dict(graph.edges)
    ops = []
    for op in graph.ops:
        if isinstance(op, Normalise):
            edge = edges[op.inputs[0]]
            ranges = [(np.array([edge.lo]), np.array([edge.hi]))]
            _, (low, high) = op.infer([edge], ranges)
            edges[op.output] = dataclasses.replace(edges[op.output], lo=int(low.min()), hi=int(high.max()))
        if isinstance(op, Requantise) and isinstance(graph.producer(op.inputs[0]), Normalise):
            edge = edges[op.inputs[0]]
            ends = [freeze(np.full(op.channels, value)) for value in (edge.lo, edge.hi)]
            steps = op.require_steps()
            op = dataclasses.replace(op.with_steps(steps.sign, steps.thresholds, None), x_lo=ends[0], x_hi=ends[1])
        ops.append(op)
    wide = dataclasses.replace(graph, ops=tuple(ops), edges=edges)
    assert find_faults(wide) == []
    return wide


@pytest.mark.parametrize("name", TARGETS)
def test_a_curve_behind_a_product(rng, tmp_path, name):
    """A function that falls and rises is a table of all sums that can occur."""
    m = Model((1, 4, 4)).quant(0.25, 4)
    y = m.node("MatMul", m.tensor).tensor
    gate = m.node("Sigmoid", source=y).tensor
    m.node("Mul", gate, source=y).quant(0.05, 8).dense(4, 3).quant(0.25, 8)
    graph = lower_file(m.save(tmp_path / "m.onnx")).graph
    assert [op for op in graph.requantisers if op.steps is None]
    x = rng.integers(-8, 8, (200, 4, 4))
    module, graph = build(name, graph, tmp_path / "b")
    keep = [op.output for op in graph.ops if op.inputs]
    expected, got = run_graph(graph, x, keep=keep), module.simulate(tmp_path / "b", x, keep)
    assert all(np.array_equal(values, expected[edge]) for edge, values in got.items())


@pytest.mark.parametrize("what", ["table", "mask"])
@pytest.mark.parametrize("name", TARGETS)
def test_a_wrong_softmax_is_seen(tmp_path, name, what):
    """One entry of a table, one bit of a mask: the comparison ends there."""
    rng = np.random.default_rng(3)
    graph, x = lowered_block(rng, tmp_path / "m.onnx")
    (softmax,) = (op for op in graph.ops if isinstance(op, Softmax))
    seen = np.ones(graph.edges[softmax.output].shape[-2:], np.int64) if softmax.mask is None else softmax.mask.copy()
    seen[..., -1, 0] ^= 1
    table = softmax.table.copy()
    table[min(2, len(table) - 1)] += 1 << 14
    wrong = dataclasses.replace(softmax, **({"table": freeze(table)} if what == "table" else {"mask": freeze(seen)}))
    spoiled = graph.replace_ops(tuple(wrong if op is softmax else op for op in graph.ops))
    module, _ = build(name, spoiled, tmp_path / "b")
    got = module.simulate(tmp_path / "b", x, [softmax.output])[softmax.output]
    assert not np.array_equal(got, run_graph(graph, x, keep=[softmax.output])[softmax.output])


@pytest.mark.parametrize("name", ["tflite", "finn", "da4ml", "hls4ml"])
def test_what_has_no_rule_yet_refuses_in_a_sentence(rng, tmp_path, name):
    graph, _ = lowered_block(rng, tmp_path / "m.onnx")
    target = load_target({"tflite": "linux-x86", "hls4ml": "pynq-z2"}.get(name, "ulx3s-85f"))
    reasons = load_backend(name).check(graph, target, {})
    assert reasons and all(reason.cure for reason in reasons)
    assert {reason.node for reason in reasons} >= {op.name for op in graph.ops if isinstance(op, Softmax)}


def test_the_file_of_a_block_has_no_softmax_of_the_runtime(rng, tmp_path):
    """It is spelled out in integers: the runtime's own is another function."""
    graph, _ = lowered_block(rng, tmp_path / "m.onnx")
    module = load_backend("onnxruntime")
    graph = legalise_graph(graph, module.passes)
    proto = onnx.load_model_from_string(module.plan(graph, load_target("linux-x86"), {}).files["model.onnx"])
    assert not {"Softmax", "LayerNormalization"} & {node.op_type for node in proto.graph.node}
