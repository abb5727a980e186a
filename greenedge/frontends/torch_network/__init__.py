"""A float ONNX model as a torch network, for what is done to networks in torch: quantising and training.

    network = read_network(path)        # fx.GraphModule of torch.nn layers, with a free batch axis

onnxruntime folds constants and batch norms first; what it leaves has one rule an operator (rules.py), which builds a
layer or refuses. Nothing in the file is executed: a layer's kind comes from our own table.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from greenedge._warnings import quiet
from greenedge.errors import GreenedgeError, Reason, ReasonKind, Refused, UnsupportedError
from greenedge.files.scratch import scratch_folder
from greenedge.frontends.source import Source, parse_normal, read_normal
from greenedge.frontends.torch_network.builder import Builder
from greenedge.frontends.torch_network.rules import RULES

if TYPE_CHECKING:
    from torch import fx

_CURE = "quantise at 8 bits (`--bits 8`), which onnxruntime does, or write the layer with what is supported"


def read_network(path: Path) -> fx.GraphModule:
    """The network in a float ONNX file, in eval mode; its layers are called as the exporter called their weights.

    Raises GreenedgeError for a file that is none or that onnxruntime cannot load, UnsupportedError with every node that
    has no torch form here.
    """
    source = parse_normal(read_normal(path), path.stem)
    with scratch_folder("network") as scratch:
        folded = Path(scratch) / f"{path.stem}.onnx"
        _fold_constants(path, folded)
        return build_network(parse_normal(read_normal(folded), source.name))


def build_network(source: Source) -> fx.GraphModule:
    """The torch network of a model whose constants are folded. Raises UnsupportedError with every reason."""
    builder = Builder(source)
    reasons: list[Reason] = []
    failed: set[str] = set()
    with quiet():
        for node in source.nodes:
            if failed.intersection(node.inputs):
                failed.update(node.outputs)
                continue
            rule = RULES.get(node.op)
            try:
                if rule is None:
                    raise Refused(ReasonKind.UNSUPPORTED_OP, node.op, "no torch form is known for it", _CURE)
                builder.note_sequence(node)
                builder.values[node.outputs[0]] = rule(builder, node)
            except Refused as refusal:
                reasons.append(refusal.at(node.name, node.module))
                failed.update(node.outputs)
    if reasons:
        raise UnsupportedError(f"{source.name} cannot become a torch network:", reasons)
    return builder.finish()


def _fold_constants(path: Path, folded: Path) -> None:
    """Writes the model as onnxruntime's basic rewriting leaves it: constants and batch norms folded, ONNX alone."""
    import onnx
    import onnxruntime

    given = read_normal(path).proto
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(given.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime: its classes are many, and none of them ours
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise GreenedgeError(f"{path} cannot be run by onnxruntime ({said}); export the model again.") from None
    proto = onnx.load(str(folded))
    used = {node.domain for node in proto.graph.node}
    kept = [entry for entry in proto.opset_import if entry.domain in used | {""}]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    onnx.save(proto, str(folded))
