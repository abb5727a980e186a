"""The ONNX network under construction while a torch.export program is read, for one sample where its batch is open.

A program in torch's training form still has operations in place. What such a one writes is the value of its tensor from
then on; a tensor that shares memory with it under another name is refused where it is read afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.errors import Reason, ReasonKind, Refused
from greenedge.frontends.kinds import TORCH_EXPORT
from greenedge.frontends.names import take_name
from greenedge.frontends.torch_export.archive import Unread
from greenedge.frontends.torch_export.program import Kind, Node, Program, Ref, Value
from greenedge.frontends.torch_export.records import Symbol
from greenedge.graph.ops.base import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET = 21
_ONNX = {  # torch's types of what a network takes and gives
    "FLOAT": 1,
    "BYTE": 2,
    "CHAR": 3,
    "UINT16": 4,
    "SHORT": 5,
    "INT": 6,
    "LONG": 7,
    "BOOL": 9,
    "HALF": 10,
    "DOUBLE": 11,
}
_FUNCTIONAL = "call program.run_decompositions() before torch.export.save"


class Network:
    """Nodes, constants and the value of every tensor of one program; the reasons why a node cannot be read."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[NodeProto] = []
        self.initialisers: dict[str, Array] = {}
        self.values: dict[str, str] = {}  # tensor of the program → the tensor here
        self.arrays: dict[str, Array] = {}  # tensor of the program → its value, where it is constant
        self.scalars: dict[str, Value] = dict(program.values)  # number of the program → its value
        self.reasons: list[Reason] = []
        self.live = set(program.inputs)  # what follows from the samples
        self.lost: set[str] = set()  # what nodes would have given that were refused
        firsts = {size for name in program.inputs for size in program.shapes.get(name, ())[:1]}
        self.batch = {size for size in firsts if isinstance(size, Symbol) or (isinstance(size, int) and size > 1)}
        self._taken: set[str] = set()
        self._ends: set[str] = set()  # outputs of the network so far
        self._written: set[str] = set()  # what its nodes give
        self._counts: dict[str, int] = {}  # how often a name was wanted
        self._owners: dict[str, str] = {}  # tensor of the program → the first that has its memory
        self._sharing: dict[str, set[str]] = {}  # that first one → all that have its memory and its value
        self._stale: set[str] = set()  # tensors whose memory was written under another name

    # -- the program's tensors ---------------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape for one sample where the batch is open. Raises Refused for another size that is open."""
        if name not in self.program.shapes:
            raise Refused(ReasonKind.MALFORMED, f"tensor {name!r} has no shape", "the program says it", "export again")
        shape = self.program.shapes[name]
        if self.batch and name in self.live and (not shape or shape[0] not in self.batch):
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"tensor {name!r} does not have the batch as its first axis",
                "every sample must be computed by itself",
                "export with a batch of 1, fixed",
            )
        is_open = bool(shape) and isinstance(shape[0], Symbol) and shape[0] in self.batch
        sizes = [1 if axis == 0 and is_open else size for axis, size in enumerate(shape)]
        wrong = next((axis for axis, size in enumerate(sizes) if not isinstance(size, int)), None)
        if wrong is not None:
            raise Refused(
                ReasonKind.DYNAMIC_SHAPE,
                f"axis {wrong} of tensor {name!r} is open",
                "only the batch, which is the first axis, may be",
                "export with a fixed size there",
            )
        return tuple(size for size in sizes if isinstance(size, int))

    def array(self, name: str) -> Array | None:
        """A constant's value; None for a tensor that is computed. Raises Refused for one that is not read."""
        if name in self.arrays:
            return self.arrays[name]
        found = self.program.constants.get(name)
        if isinstance(found, Unread):
            raise Refused(
                ReasonKind.MALFORMED,
                found.reason,
                "weights are plain tensors",
                "replace tensor subclasses by plain tensors before torch.export, or quantise by PT2E",
            )
        return found

    def tensor(self, name: str) -> str:
        """A tensor as it is called here. Raises Refused for one that nothing gave, or whose memory was written under
        another name."""
        if name in self._stale:
            raise Refused(
                ReasonKind.UNSUPPORTED_GRAPH,
                f"it reads {name!r}, which an operation in place changed under another name",
                "a tensor has one value",
                _FUNCTIONAL,
            )
        if name not in self.values:
            array = self.array(name)
            if array is None:
                raise Refused(
                    ReasonKind.MALFORMED,
                    f"it reads {name!r}, which no node before it gives",
                    "nodes stand in order of execution",
                    "export the program again",
                )
            self.values[name] = self.add_constant(array, self.program.parameters.get(name, name))
        return self.values[name]

    def bind(self, name: str, value: str) -> None:
        """What a tensor of the program is here."""
        self.values[name] = value

    def share(self, name: str, other: str) -> None:
        """Notes that a tensor may have the memory of another."""
        owner = self._owners.setdefault(other, other)
        self._owners[name] = owner
        self._sharing.setdefault(owner, {owner}).update((name, other))

    def overwrite(self, name: str, result: str) -> None:
        """Notes that `result` was written into the memory of `name`. Raises Refused for a constant."""
        if name in self.program.constants:
            raise Refused(
                ReasonKind.UNSUPPORTED_GRAPH,
                f"it writes into {self.program.parameters.get(name, name)!r}",
                "weights are constant",
                "export the module in eval mode, after model.eval()",
            )
        self.share(result, name)
        owner = self._owners[name]
        self._stale |= self._sharing[owner]
        self._stale -= {name, result}
        self._sharing[owner] = {name, result}
        self.arrays.pop(name, None)
        self.values[name] = self.tensor(result)

    # -- what is written ---------------------------------------------------------------------------------------------

    def unique(self, wanted: str) -> str:
        base = re.sub(r"[^\w.]+", "_", wanted).strip("_") or "tensor"
        count = self._counts[base] = self._counts.get(base, 0) + 1
        return take_name(base if count == 1 else f"{base}_{count}", self._taken)

    def add_constant(self, values: Array, name: str) -> str:
        name = self.unique(name)
        self.initialisers[name] = np.asarray(values)
        return name

    def add_node(self, op: str, inputs: Sequence[str], name: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Adds a node; the names of its outputs, of which the first is its own."""
        import onnx

        names = [self.unique(name) for _ in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return names

    def model(self, name: str, kind: str) -> ModelProto:
        """The finished network under this name, with what kind of program it was. Raises Refused for inputs and
        outputs that are no tensors."""
        import onnx
        from onnx import numpy_helper

        helper = onnx.helper
        self._written = {output for node in self.nodes for output in node.output}
        inputs = [self._describe(each, self.values[each]) for each in self.program.inputs]
        outputs = [self._add_output(value) for value in self.program.outputs]
        known = {
            self.values[each]: self._describe(each, self.values[each])
            for each in self.program.shapes
            if each in self.values
        }
        graph = helper.make_graph(
            self.nodes,
            name,
            inputs,
            outputs,
            [numpy_helper.from_array(np.asarray(a, order="C"), own) for own, a in self.initialisers.items()],
        )
        ends = {value.name for value in (*inputs, *outputs)} | set(self.initialisers)
        graph.value_info.extend(value for own, value in known.items() if own not in ends)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="greenedge")
        proto.metadata_props.add(key=TORCH_EXPORT, value=json.dumps({"torch": self.program.torch, "kind": kind}))
        return proto

    def _describe(self, name: str, here: str) -> Any:
        from onnx import helper

        kind = _ONNX.get(self.program.kinds.get(name, ""))
        if kind is None:
            raise Refused(
                ReasonKind.UNSUPPORTED_BITS,
                f"tensor {name!r} is of a type that no network here has",
                "float32 and integers are read",
                "export the module in float32",
            )
        return helper.make_tensor_value_info(here, kind, self.shape(name))

    def _add_output(self, value: Value) -> Any:
        if not isinstance(value, Ref) or value.name not in self.program.shapes:
            raise Refused(
                ReasonKind.UNSUPPORTED_GRAPH,
                f"an output is {type(value).__name__.lower()} and no tensor",
                "a network gives tensors",
                "return tensors from forward",
            )
        here = self.tensor(value.name)
        if here in self._ends or here not in self._written:  # an input, a constant, or an output that is given twice
            here = self.add_node("Identity", [here], f"output_{value.name}")[0]
        self._ends.add(here)
        return self._describe(value.name, here)


class Call:
    """One node while it is read: its arguments as a rule wants them, and what it gives."""

    def __init__(self, net: Network, node: Node) -> None:
        self.net, self.node = net, node
        self.read: set[str] = set()  # arguments that its rule asked for

    # -- arguments ---------------------------------------------------------------------------------------------------

    def value(self, name: str, default: Any = None) -> Any:
        """An argument as it stands, or its default; an open size is that of one sample."""
        self.read.add(name)
        return self._resolve(self.node.arguments[name]) if name in self.node.arguments else default

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._resolve(one) for one in value)
        if isinstance(value, Ref) and value.name in self.net.scalars:
            return self.net.scalars[value.name]
        return value

    def has(self, name: str) -> bool:
        return self.value(name) is not None

    def number(self, name: str, default: float | None = None) -> float:
        """A number, also one in a constant of one element. Raises Refused for anything else."""
        value = self.value(name, default)
        if isinstance(value, Ref) and (array := self.net.array(value.name)) is not None and array.size == 1:
            value = array.reshape(()).item()
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refuse(f"its {name} is {_show(value)}", "it is a number that is constant")
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.number(name, default)
        if not isinstance(value, int):
            raise self.refuse(f"its {name} is {value}", "it is a whole number")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.value(name, default)
        if not isinstance(value, (bool, int)):
            raise self.refuse(f"its {name} is {_show(value)}", "it is true or false")
        return bool(value)

    def integers(self, name: str, default: Sequence[int] | None = None, count: int | None = None) -> list[int]:
        """Whole numbers; one alone stands for `count`."""
        value = self.value(name, default)
        value = (value,) if isinstance(value, int) else value
        if not isinstance(value, (tuple, list)) or not all(type(one) is int for one in value):
            raise self.refuse(f"its {name} is {_show(value)}", "it is whole numbers that are constant")
        if count is not None and len(value) == 1:
            value = list(value) * count
        if count is not None and len(value) != count:
            raise self.refuse(f"its {name} is {_show(value)}", f"it is {count} numbers")
        return list(value)

    def name(self, name: str) -> str:
        """The program's name of a tensor. Raises Refused for anything else."""
        value = self.value(name)
        if not isinstance(value, Ref):
            raise self.refuse(f"its {name} is {_show(value)}", "it is a tensor")
        return value.name

    def tensor(self, name: str) -> str:
        """A tensor as it is called here."""
        return self.net.tensor(self.name(name))

    def tensors(self, name: str) -> list[str]:
        """The program's names of a list of tensors."""
        value = self.value(name)
        if not isinstance(value, tuple) or not all(isinstance(one, Ref) for one in value):
            raise self.refuse(f"its {name} is {_show(value)}", "it is a list of tensors")
        return [one.name for one in value]

    def array(self, name: str) -> Array:
        """A constant's value. Raises Refused for a tensor that is computed."""
        array = self.net.array(self.name(name))
        if array is None:
            raise self.refuse(f"its {name} is computed at run time", "it must be constant", "freeze it")
        return array

    def shape(self, name: str) -> tuple[int, ...]:
        return self.net.shape(self.name(name))

    def axis(self, value: int, rank: int) -> int:
        """An axis, counted from the front. Raises Refused for one that is not there, and for the batch."""
        if not -rank <= value < rank:
            raise self.refuse(f"its axis is {value} of a tensor with {rank}", "an axis is one of the tensor's")
        if value % rank == 0:
            raise self.refuse("it works along the first axis", "every sample must be computed by itself")
        return value % rank

    # -- results -----------------------------------------------------------------------------------------------------

    @property
    def out(self) -> str:
        """The program's name of the first result. Raises Refused for a node without one."""
        if not self.node.outputs or not self.node.outputs[0]:
            raise self.refuse("it gives no tensor", "an operator writes one")
        return self.node.outputs[0]

    @property
    def label(self) -> str:
        return self.node.module or self.node.name

    def constant(self, values: Any, what: str, kind: Any = np.float32) -> str:
        """Adds a constant that belongs to this node."""
        return self.net.add_constant(np.asarray(values, kind), f"{self.node.name}.{what}")

    def step(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node whose result is not yet this node's."""
        return self.net.add_node(op, inputs, self.label, **attributes)[0]

    def emit(self, op: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Adds the node that gives this node's result."""
        self.net.bind(self.out, self.step(op, inputs, **attributes))

    def fold(self, array: Array) -> None:
        """Gives a constant as this node's result."""
        self.net.arrays[self.out] = array

    def reshape(self, source: str, shape: Sequence[int]) -> str:
        return self.step("Reshape", [source, self.constant(shape, "shape", np.int64)])

    def refuse(self, value: str, rule: str, cure: str = "replace the layer") -> Refused:
        return Refused(ReasonKind.UNSUPPORTED_OP, f"{self.node.operator}: {value}", rule, cure)


Rule = Callable[[Call], None]


def _show(value: Any) -> str:
    if isinstance(value, Ref):
        return f"the tensor {value.name!r}"
    if isinstance(value, Kind):
        return f"the type {value.name!r}"
    return "left out" if value is None else str(value)[:40]
