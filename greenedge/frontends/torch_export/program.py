"""A torch.export program as plain records: its nodes with their arguments, its constants, and what goes in and out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from greenedge.errors import GreenedgeError
from greenedge.frontends.torch_export.archive import KINDS, Archive, Unread
from greenedge.frontends.torch_export.records import Damage, Size, read_field, read_size, read_union
from greenedge.graph.ops.base import Array

MAX_NODES = 50_000
MAX_CONSTANTS = 1 << 27  # numbers in all constants together
_MAX_RANK, _LONGEST = 8, 120
_MODULE = re.compile(r"[\w.]+")
_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_MUTATES = {
    "buffer_mutation": "changes its buffer {!r} at every call",
    "parameter_mutation": "changes its parameter {!r} at every call",
    "loss_output": "computes a loss",
    "gradient_to_parameter": "computes gradients",
    "gradient_to_user_input": "computes gradients",
    "token": "has side effects",
}


@dataclass(frozen=True)
class Ref:
    """A tensor or an open size of the graph, by its name."""

    name: str


@dataclass(frozen=True)
class Kind:
    """One of torch's element types, by the name in its schema ("CHAR"); "" for one that is not read."""

    name: str


@dataclass(frozen=True)
class Opaque:
    """An argument that no rule reads, such as a graph or an object: the tag of what it is."""

    tag: str


Value = None | bool | int | float | str | Ref | Kind | Opaque | tuple[Any, ...]


@dataclass(frozen=True)
class Node:
    """One call: its operator ("aten.conv2d.default"), arguments by their names in the operator's schema where they
    were given, and the names of its results ("" for one without). `module` is the path of the module that called it."""

    name: str
    target: str
    arguments: Mapping[str, Value]
    outputs: tuple[str, ...]
    module: str

    @property
    def operator(self) -> str:
        """aten.conv2d.default → aten.conv2d; the overload says of which types the arguments are."""
        return ".".join(self.target.split(".")[:2])

    @property
    def references(self) -> set[str]:
        """What it reads, by name."""
        given = [one for value in self.arguments.values() for one in (value if isinstance(value, tuple) else (value,))]
        return {one.name for one in given if isinstance(one, Ref)}


@dataclass(frozen=True, eq=False)
class Program:
    """One program. `shapes` and `kinds` are what it says of every tensor; `values` are constants that are no tensors,
    `parameters` the names that constants have in the module."""

    torch: str
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array | Unread]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    outputs: tuple[Value, ...]
    shapes: Mapping[str, tuple[Size, ...]]
    kinds: Mapping[str, str]
    parameters: Mapping[str, str]


def parse_program(archive: Archive) -> Program:
    """The records of an archive. Raises Damage where they are none, GreenedgeError for a program with state."""
    module = read_field(archive.program, "graph_module", dict)
    graph, signature = read_field(module, "graph", dict), read_field(module, "signature", dict)
    nodes = read_field(graph, "nodes", list)
    if len(nodes) > MAX_NODES:
        raise Damage(f"it has {len(nodes):,} nodes, of which at most {MAX_NODES:,} are read")
    metas = read_field(graph, "tensor_values", dict)
    constants: dict[str, Array | Unread] = {}
    values: dict[str, Value] = {}
    parameters: dict[str, str] = {}
    inputs: list[str] = []
    total = 0
    for spec in read_field(signature, "input_specs", list):
        read = _read_input(archive, *read_union(spec), inputs, constants, values, parameters)
        total += 0 if read is None or isinstance(read, Unread) else read.size
        if total > MAX_CONSTANTS:
            raise Damage(f"its constants are more than {MAX_CONSTANTS:,} numbers")
    return Program(
        str(archive.program.get("torch_version", ""))[:_LONGEST],
        tuple(_read_node(node, k) for k, node in enumerate(nodes)),
        constants,
        values,
        tuple(inputs),
        tuple(_read_outputs(read_field(signature, "output_specs", list))),
        {name: _read_shape(name, meta) for name, meta in metas.items()},
        {name: KINDS.get(read_field(meta, "dtype", int), "") for name, meta in metas.items()},
        parameters,
    )


def _read_input(
    archive: Archive,
    tag: str,
    spec: Any,
    inputs: list[str],
    constants: dict[str, Array | Unread],
    values: dict[str, Value],
    parameters: dict[str, str],
) -> Array | Unread | None:
    """One input of the graph: the user's, or a constant, which is returned where it is a tensor."""
    if tag == "user_input":
        value = _read_value(spec.get("arg") if isinstance(spec, dict) else None)
        if isinstance(value, Ref):
            inputs.append(value.name)
        return None
    if tag == "constant_input":
        given_tag, given = read_union(read_field(spec, "value", dict))
        values[read_field(spec, "name", str)] = None if given_tag == "as_none" else _read_scalar(given)
        return None
    field = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}.get(tag)
    if field is None:
        raise GreenedgeError(
            f"the program takes a {tag[:_LONGEST]} as input; inputs are tensors: export the part between them."
        )
    name, stored = read_field(read_field(spec, "arg", dict), "name", str), read_field(spec, field, str)
    is_stored = tag == "parameter" or (tag == "buffer" and spec.get("persistent", True))
    constants[name] = (archive.weights if is_stored else archive.constants).read(stored)
    parameters[name] = stored
    return constants[name]


def _read_outputs(specs: list[Any]) -> list[Value]:
    """The user's outputs. Raises GreenedgeError for a program that has other results."""
    outputs = []
    for spec in specs:
        tag, record = read_union(spec)
        if tag == "user_output":
            outputs.append(_read_value(record.get("arg") if isinstance(record, dict) else None))
        elif tag != "user_input_mutation":  # nobody sees what becomes of a sample afterwards
            name = str(record.get("buffer_name") or record.get("parameter_name")) if isinstance(record, dict) else ""
            does = _MUTATES.get(tag, f"has the result {tag[:_LONGEST]!r}").format(name[:_LONGEST])
            raise GreenedgeError(
                f"the program {does}; a network computes its outputs from its inputs alone: export it in eval mode, "
                "after model.eval()."
            )
    return outputs


def _read_node(node: Any, number: int) -> Node:
    target = read_field(node, "target", str)[:_LONGEST].removeprefix("torch.ops.")
    arguments = {
        read_field(given, "name", str): _read_value(given.get("arg")) for given in read_field(node, "inputs", list)
    }
    outputs: list[str] = []
    for one in read_field(node, "outputs", list):
        value = _read_value(one)
        outputs += [v.name if isinstance(v, Ref) else "" for v in (value if isinstance(value, tuple) else (value,))]
    name = node.get("name") or next(filter(None, outputs), f"node_{number}")
    if not isinstance(name, str):
        raise Damage(f"node {number} has the name {str(name)[:_LONGEST]!r}")
    return Node(name, target, arguments, tuple(outputs), _read_module(node.get("metadata")))


def _read_module(metadata: Any) -> str:
    """The path of the module in which a node was called, "conv.0"; empty where the exporter left none."""
    stack = metadata.get("nn_module_stack") if isinstance(metadata, dict) else None
    last = stack.rsplit(";", 1)[-1].split(",") if isinstance(stack, str) else []
    return last[1][:_LONGEST] if len(last) > 2 and _MODULE.fullmatch(last[1]) else ""


def _read_shape(name: str, meta: Any) -> tuple[Size, ...]:
    sizes = read_field(meta, "sizes", list)
    if len(sizes) > _MAX_RANK:
        raise Damage(f"tensor {name[:_LONGEST]!r} has {len(sizes)} axes, of which at most {_MAX_RANK} are read")
    return tuple(map(read_size, sizes))


def _read_scalar(value: Any) -> None | bool | int | float | str:
    if isinstance(value, str):
        return _FLOATS.get(value, value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise Damage(f"an argument is {str(value)[:40]!r}")


def _read_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Damage(f"an argument is {str(value)[:40]!r}, and a list belongs there")
    return value


def _read_value(argument: Any) -> Value:
    """An argument or a result, by its tag."""
    tag, value = read_union(argument)
    if tag == "as_none":
        return None
    if tag in ("as_tensor", "as_optional_tensor"):
        return _read_tensor(value)
    if tag in ("as_tensors", "as_optional_tensors"):
        return tuple(_read_tensor(one) for one in _read_list(value))
    if tag in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return _read_open(value)
    if tag in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
        return tuple(_read_open(one) for one in _read_list(value))
    if tag in ("as_int", "as_float", "as_bool", "as_string"):
        return _read_scalar(value)
    if tag in ("as_ints", "as_floats", "as_bools", "as_strings"):
        return tuple(_read_scalar(one) for one in _read_list(value))
    if tag == "as_scalar_type":
        return Kind(KINDS.get(value, "") if isinstance(value, int) else "")
    return Opaque(tag[:_LONGEST])


def _read_tensor(value: Any) -> Ref | None:
    """A tensor, or one that is left out: either by its name alone, or behind another tag."""
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("as_tensor", "as_none"):
        tag, value = read_union(value)
        if tag == "as_none":
            return None
    return Ref(read_field(value, "name", str))


def _read_open(value: Any) -> Ref | None | bool | int | float | str:
    """A number that may follow from an open size."""
    tag, given = read_union(value)
    if tag == "as_name":
        if not isinstance(given, str):
            raise Damage(f"an argument is {str(given)[:40]!r}")
        return Ref(given)
    return _read_scalar(given)
