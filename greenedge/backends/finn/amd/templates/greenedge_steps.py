"""Hands greenedge's integer graph to FINN as it is: layouts change, no value does, and FINN's streamlining never runs.

Made by greenedge; imported by `finn build build.yaml model.onnx` beside it.
"""

import finn.transformation.streamline.absorb as absorb
import finn.transformation.streamline.reorder as reorder
import numpy as np
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.general import GiveReadableTensorNames, GiveUniqueNodeNames, RemoveUnusedTensors
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.transformation.lower_convs_to_matmul import LowerConvsToMatMul

SAMPLES, SEED = 3, 1


def step_hand_over(model, cfg):
    """Convolutions as matrix products, images channels last; refuses to go on where a value has changed."""
    model = model.transform(InferShapes()).transform(GiveUniqueNodeNames())
    _require_last_axis(model)
    samples = _samples(model)
    before = [_run(model, x) for x in samples]
    model = model.transform(LowerConvsToMatMul())
    for change in (
        reorder.MakeMaxPoolNHWC,
        absorb.AbsorbTransposeIntoMultiThreshold,
        reorder.MoveTransposePastFork,
        reorder.MoveTransposePastJoinAdd,
        absorb.AbsorbTransposeIntoMultiThreshold,
        absorb.AbsorbConsecutiveTransposes,
        reorder.MakeMaxPoolNHWC,
        absorb.AbsorbConsecutiveTransposes,
        absorb.AbsorbTransposeIntoFlatten,
    ):
        model = model.transform(change())
    model = model.transform(InferShapes()).transform(GiveUniqueNodeNames()).transform(GiveReadableTensorNames())
    model = model.transform(RemoveUnusedTensors())
    for k, (x, expected) in enumerate(zip(samples, before, strict=True)):
        if not np.array_equal(_run(model, x), expected):
            raise RuntimeError(f"the hand-over changed the output of random sample {k}; greenedge's graph was exact")
    return model


def _require_last_axis(model):
    """FINN takes the last axis for every TopK's, whatever the node says."""
    for node in model.graph.node:
        axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
        rank = len(model.get_tensor_shape(node.input[0]))
        if node.op_type == "TopK" and axes and axes[0] % rank != rank - 1:
            raise RuntimeError(
                f"{node.name} is over axis {axes[0]} of {rank}; FINN's LabelSelect is over the last one only: "
                "leave the ArgMax out of the model, and take it on the host"
            )


def _samples(model):
    name = model.graph.input[0].name
    kind, shape = model.get_tensor_datatype(name), model.get_tensor_shape(name)
    rng = np.random.default_rng(SEED)
    return [rng.integers(int(kind.min()), int(kind.max()) + 1, shape).astype(np.float32) for _ in range(SAMPLES)]


def _run(model, x):
    return next(iter(execute_onnx(model, {model.graph.input[0].name: x}).values()))
