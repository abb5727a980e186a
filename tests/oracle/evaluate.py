"""Follows a model node by node."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.oracle.exact import Exact
from tests.oracle.operators import RULES


def evaluate(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], fixed: Mapping[str, Exact]) -> dict[str, Exact]:
    """{tensor: its exact values}. A tensor of `fixed` is what it says whatever its node would give; a node without a
    rule, or one that needs such a node's output, gives nothing."""
    known: dict[str, Exact] = {name: Exact.of(x) for name, x in inputs.items()}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known |= {name: Exact.of(values) for name, values in constants.items()}
    known |= fixed
    for node in model.graph.node:
        if node.op_type not in RULES or any(name and name not in known for name in node.input):
            continue
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attrs["types"] = [constants[name].dtype if name in constants else None for name in node.input]
        found = RULES[node.op_type]([known[name] if name else None for name in node.input], attrs)
        for name, value in zip(node.output, found if isinstance(found, list) else [found], strict=False):
            known.setdefault(name, value)
    return known
