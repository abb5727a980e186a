"""Node domains: every spelling of QONNX's quantisers in one domain, what no domain of ours has refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from greenedge.errors import Reason, ReasonKind

if TYPE_CHECKING:
    import onnx

QONNX = "qonnx.custom_op.general"
CHANNELS_LAST = "qonnx.custom_op.channels_last"
STANDARD = ("", "ai.onnx")
_FINN_HARDWARE = "finn.custom_op.fpgadataflow"  # and what lies below it: .hls, .rtl
QUANTISERS = ("Quant", "IntQuant", "BipolarQuant", "Trunc", "FloatQuant", "MultiThreshold")
QONNX_SPELLINGS = ("", "ai.onnx", "onnx.brevitas", "qonnx", "finn", "finn.custom_op.general", QONNX)
_MICROSOFT = ("QuantizeLinear", "DequantizeLinear")  # onnxruntime's copies mean what the standard ones mean


def name_domains(proto: onnx.ModelProto) -> list[str]:
    """Quantisers of every older domain into QONNX's; standard operators into the domain "", in place."""
    moved: set[str] = set()
    for node in proto.graph.node:
        domain = QONNX if node.op_type in QUANTISERS and node.domain in QONNX_SPELLINGS else node.domain
        if domain == "ai.onnx" or (domain == "com.microsoft" and node.op_type in _MICROSOFT):
            domain = ""
        if domain != node.domain and domain == QONNX:
            moved.add(node.domain or "ai.onnx")
        if domain:
            node.domain = domain
        else:
            node.ClearField("domain")
    import_domains(proto)
    return [f"quantisers of the domain {name!r} are read as those of {QONNX!r}" for name in sorted(moved)]


def import_domains(proto: onnx.ModelProto) -> None:
    """opset_import of the domains that are used, ONNX's own first; QONNX's version follows from the nodes."""
    import onnx

    versions: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        versions[domain] = max(entry.version, versions.get(domain, 0))
    used = {node.domain for node in proto.graph.node} - {""}
    if QONNX in used:
        second = any(node.op_type == "Trunc" and len(node.input) == 6 for node in proto.graph.node)
        versions[QONNX] = max(versions.get(QONNX, 1), 2 if second else 1)
    ids = [onnx.helper.make_opsetid("", versions.get("", 13))]
    ids += [onnx.helper.make_opsetid(domain, versions.get(domain, 1)) for domain in sorted(used)]
    if [(entry.domain, entry.version) for entry in proto.opset_import] != [(e.domain, e.version) for e in ids]:
        del proto.opset_import[:]
        proto.opset_import.extend(ids)


def _is_hardware(node: onnx.NodeProto) -> bool:
    return f"{node.domain}.".startswith(f"{_FINN_HARDWARE}.")


def find_unknown_domains(nodes: Iterable[onnx.NodeProto]) -> list[Reason]:
    """A reason for every node whose domain is not read, or has no such operator."""
    reasons = []
    nodes = list(nodes)
    hardware = [node for node in nodes if _is_hardware(node)]
    if hardware:
        reasons.append(
            Reason(
                hardware[0].name,
                ReasonKind.UNSUPPORTED_OP,
                f"{len(hardware)} hardware layers of FINN, the first {hardware[0].op_type}",
                "they hold folded weights and streams, no longer the network",
                "give the file before the conversion to hardware layers",
            )
        )
    for node in nodes:
        if node.domain == QONNX and node.op_type in QUANTISERS or node.domain == "" or _is_hardware(node):
            continue
        reasons.append(
            Reason(
                node.name,
                ReasonKind.UNSUPPORTED_OP,
                f"operator {node.domain}.{node.op_type}",
                "it is no standard ONNX or QONNX operator",
                "replace the layer",
            )
        )
    return reasons
