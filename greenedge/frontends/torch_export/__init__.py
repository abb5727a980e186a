"""A torch.export program (.pt2) as an ONNX model that `lower` knows. Neither torch nor anything in the file is run.

proto, kind = read_program(path)      # UnsupportedError carries every reason

archive.py, records.py     the file as JSON and arrays, within bounds
program.py                 the graph as records
network.py                 the ONNX model under construction
linear.py, elementwise.py, pools.py, moves.py, quantisers.py     one rule an operator: it is read, or refused by name
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.errors import GreenedgeError, Reason, ReasonKind, Refused, UnsupportedError
from greenedge.frontends.kinds import FAKE_PROGRAM, FLOAT_PROGRAM, PT2E_PROGRAM
from greenedge.frontends.torch_export import elementwise, linear, moves, pools, quantisers
from greenedge.frontends.torch_export.archive import SAVE_AGAIN, read_archive
from greenedge.frontends.torch_export.network import Call, Network, Rule
from greenedge.frontends.torch_export.program import Kind, Node, Program, parse_program
from greenedge.frontends.torch_export.records import Damage

if TYPE_CHECKING:
    from onnx import ModelProto

FAMILIES = (linear, elementwise, pools, moves, quantisers)
RULES: dict[str, Rule] = {name: rule for family in FAMILIES for name, rule in family.RULES.items()}
_IGNORED = {  # arguments that change no number: of memory, of devices and of training
    *("memory_format", "non_blocking", "copy", "device", "layout", "pin_memory", "implicit"),
    *("momentum", "cudnn_enabled", "p"),
}
_SUBCLASS = "export.access_subclass_inner_tensor"
_SUBJECT = "cannot become an integer graph:"


def read_program(path: Path) -> tuple[ModelProto, str]:
    """The program as an ONNX model, and what kind of program it is, in words.

    Raises UnsupportedError with every reason why it cannot be read, GreenedgeError for a file that is none, damaged, or
    of another age.
    """
    archive = read_archive(path)
    try:
        program = parse_program(archive)
    except Damage as damage:
        raise GreenedgeError(f"{path} is damaged ({damage}); {SAVE_AGAIN}.") from None
    except GreenedgeError as error:
        raise GreenedgeError(f"{path}: {error}") from None
    net = Network(program)
    _add_inputs(net)
    for node in program.nodes:
        try:
            _read_node(net, node)
        except Refused as refusal:
            net.reasons.append(refusal.at(node.name, node.module or None))
            net.lost.update(node.outputs)
        except Damage as damage:
            raise GreenedgeError(f"{path} is damaged ({damage}); {SAVE_AGAIN}.") from None
    if net.reasons:
        raise UnsupportedError(f"{path.name} {_SUBJECT}", _name_whole(path.stem, program) or net.reasons)
    try:
        kind = name_kind(program)
        return net.model(path.stem, kind), kind
    except Refused as refusal:
        raise UnsupportedError(f"{path.name} {_SUBJECT}", [refusal.at(path.stem)]) from None


def _name_whole(name: str, program: Program) -> list[Reason]:
    """One reason for a network whose quantisers are no operators, in place of one for each part of it."""
    if any(".tensor_quant" in node.module for node in program.nodes):
        what = "the quantisers of Brevitas"
        rule = "torch.export writes them out as arithmetic, and brevitas.export writes quantisers"
        cure = "build its module by greenedge.api.build, or export it by brevitas.export.export_qonnx"
    elif any(node.operator == _SUBCLASS for node in program.nodes):
        what = "weights in tensor subclasses, as torchao's quantize_ makes them"
        rule = "they are Python objects, and scales of activations that are constant belong to an integer graph"
        cure = "quantise the float module statically by PT2E: prepare_pt2e, calibrate, convert_pt2e"
    else:
        return []
    return [Reason(name, ReasonKind.UNSUPPORTED_GRAPH, what, rule, cure)]


def name_kind(program: Program) -> str:
    """What kind of program it is, in words, by its quantisers."""
    spaces = {node.target.partition(".")[0] for node in program.nodes}
    if spaces & set(quantisers.NAMESPACES):
        return PT2E_PROGRAM
    if any(name in node.target for node in program.nodes for name in quantisers.FAKE):
        return FAKE_PROGRAM
    return FLOAT_PROGRAM


def _add_inputs(net: Network) -> None:
    for name in net.program.inputs:
        net.bind(name, net.unique(name))


def _read_node(net: Network, node: Node) -> None:
    """Reads one node by its rule. Raises Refused for one without, and for an argument that its rule does not know."""
    base = node.operator
    rule, is_in_place = RULES.get(base), False
    if rule is None and base.endswith("_"):
        rule, is_in_place = RULES.get(base[:-1]), True
    call = Call(net, node)
    if net.live.intersection(node.references):
        net.live.update(node.outputs)
    if rule is None:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"operator {node.target}",
            "there is no rule that reads it",
            "replace the layer, or cut the network before it",
        )
    if net.lost.intersection(node.references):
        net.lost.update(node.outputs)  # its reason is that of the node before it
        return
    rule(call)
    unread = [name for name in node.arguments if name not in call.read and name not in _IGNORED]
    left = [name for name in unread if call.has(name) and (name, call.value(name)) != ("dtype", Kind("FLOAT"))]
    if left:
        raise call.refuse(f"argument {left[0]!r}", "its rule does not read it", "leave it out")
    data = next((name for name in ("self", "input") if name in node.arguments), None)
    if is_in_place and data:
        net.overwrite(call.name(data), call.out)
    elif base.partition(".")[2] in moves.VIEWS and data:
        for output in node.outputs:
            net.share(output, call.name(data))
