"""Tiny QONNX models written by hand, a line a node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

QONNX = "qonnx.custom_op.general"


class Model:
    """`m = Model((1, 4)); m.quant(…); m.node("Relu"); m.save(path)`: every node reads the tensor before it."""

    def __init__(self, shape=(1, 4), opset: int = 13):
        self.inputs, self.opset = {"x": shape}, opset
        self.nodes, self.constants, self.annotations, self.tensor, self.count = [], [], {}, "x", 0
        self.outputs: list[str] = []  # the last tensor where none is named

    def constant(self, values, kind=np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def node(
        self, op: str, *extra: str, source: str | None = None, domain: str = "", name: str | None = None, **attrs
    ) -> Model:
        self.count += 1
        output = f"t{self.count}"
        inputs = [self.tensor if source is None else source, *extra]
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=name or f"{op}_{self.count}", domain=domain, **attrs)
        )
        self.tensor = output
        return self

    def quant(self, scale=0.25, bits=4, signed=1, narrow=0, zero=0.0, source=None, mode="ROUND") -> Model:
        return self.node(
            "Quant",
            self.constant(scale),
            self.constant(zero),
            self.constant(float(bits)),
            source=source,
            domain=QONNX,
            signed=signed,
            narrow=narrow,
            rounding_mode=mode,
        )

    def weight(self, values, scale=0.5, bits=4) -> str:
        """A quantised constant's tensor; the current tensor stays."""
        now = self.tensor
        self.quant(scale, bits, source=self.constant(values))
        made, self.tensor = self.tensor, now
        return made

    def dense(self, fan_in=4, fan_out=3) -> Model:
        return self.node("MatMul", self.weight(np.arange(fan_in * fan_out).reshape(fan_in, fan_out) % 5 - 2))

    def proto(self, outputs=None):
        def value(name, shape, kind=TensorProto.FLOAT):
            return helper.make_tensor_value_info(name, kind, shape)

        whole = {name for node in self.nodes for name in node.output[-1:] if node.op_type in ("ArgMax", "TopK")}
        kinds = dict.fromkeys(whole, TensorProto.INT64)
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [value(name, list(shape)) for name, shape in self.inputs.items()],
            [
                value(name, None, kinds.get(name, TensorProto.FLOAT))
                for name in outputs or self.outputs or [self.tensor]
            ],
            self.constants,
        )
        for tensor, kind in self.annotations.items():
            entry = graph.quantization_annotation.add()
            entry.tensor_name = tensor
            item = entry.quant_parameter_tensor_names.add()
            item.key, item.value = "finn_datatype", kind
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(QONNX, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def save(self, path: Path, outputs=None) -> Path:
        onnx.save(self.proto(outputs), str(path))
        return path
