"""Padding by name, SAME or VALID, as the numbers that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenedge.frontends.shapes import Shapes

if TYPE_CHECKING:
    import onnx

_WINDOWS = ("Conv", "MaxPool", "AveragePool")


def state_pads(proto: onnx.ModelProto, known: Shapes) -> None:
    """auto_pad → pads of convolutions and pools whose input has a known shape, in place.

    SAME gives ceil(size / stride) outputs and pads what its windows reach beyond, nothing where strides are longer than
    windows (a runtime may take that for a negative padding); an odd one is larger at the end, with LOWER at the begin.
    """
    import onnx

    constants = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        attributes: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        auto = attributes.get("auto_pad", b"NOTSET")
        if node.op_type not in _WINDOWS or node.domain or auto in (b"NOTSET", b"") or node.input[0] not in known:
            continue
        size = known[node.input[0]][2:]
        weights = known.get(node.input[1], constants.get(node.input[1])) if node.op_type == "Conv" else None
        kernel = attributes.get("kernel_shape", weights[2:] if weights else None)
        if kernel is None:
            continue
        ones = [1] * len(size)
        strides, dilations = (attributes.get(name, ones) for name in ("strides", "dilations"))
        total = [
            max((-(-d // s) - 1) * s + by * (k - 1) + 1 - d, 0) if auto != b"VALID" else 0
            for d, s, by, k in zip(size, strides, dilations, kernel, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        kept = [a for a in node.attribute if a.name not in ("auto_pad", "pads", "ceil_mode")]
        ends = [*large, *small] if auto == b"SAME_LOWER" else [*small, *large]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("pads", ends)])
