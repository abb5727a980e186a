"""What kind of file a network came in, in words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

TORCH_EXPORT = "greenedge.torch_export"  # the key under which a model says of which program of torch.export it is
FLOAT_PROGRAM = "a float torch.export program"
PT2E_PROGRAM = "a torch.export program, quantised by PT2E"
FAKE_PROGRAM = "a torch.export program with fake quantisers"
_QONNX = {"Quant", "IntQuant", "BipolarQuant", "Trunc", "FloatQuant"}
_QDQ = {"QuantizeLinear", "DequantizeLinear"}


def name_onnx_kind(proto: onnx.ModelProto) -> str:
    """The kind of an ONNX file as it lies there, by its operators; of one in a run the kind that it was read from."""
    for entry in proto.metadata_props:
        if entry.key == TORCH_EXPORT:
            for kind in (FLOAT_PROGRAM, PT2E_PROGRAM, FAKE_PROGRAM):
                if kind in entry.value:
                    return kind
    operators = {node.op_type for node in proto.graph.node}
    if operators & _QONNX:
        return "a QONNX file"
    if "MultiThreshold" in operators:
        return "an ONNX file with FINN's thresholds"
    if any(op.startswith(("QLinear", "QGemm")) for op in operators):
        return "an ONNX file of quantised operators (QOperator)"
    return "an ONNX file with quantisers (QDQ)" if operators & _QDQ else "a float ONNX file"
