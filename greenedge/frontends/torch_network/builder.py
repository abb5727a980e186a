"""What the rules build with: the fx graph, constants, static shapes, and layers that take in constant factors."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node, Source

if TYPE_CHECKING:
    from torch import fx, nn

_ROW_OPERATORS = ("MatMul", "LayerNormalization")
_WEIGHT = re.compile(r"(?:.*_)?([A-Za-z0-9][\w.]*)\.weight$")  # as torch's exporters call the weights of a layer


class Builder:
    """A torch network under construction.

    values      the fx node of every tensor that depends on an input
    """

    def __init__(self, source: Source) -> None:
        import torch
        from torch import fx

        self.source = source
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        self.layers: dict[fx.Node, str] = {}  # the path of the layer or batch norm that writes a node
        self.values: dict[str, fx.Node] = {}
        self.shapes = {**source.shapes, **source.inputs, **source.outputs}
        self.readers = {
            name: sum(name in node.inputs for node in source.nodes) + (name in source.outputs)
            for name in {name for node in source.nodes for name in (*node.inputs, *node.outputs)}
        }
        self._sequences: dict[str, bool] = {}
        for name in source.inputs:
            self.values[name] = self.graph.placeholder(re.sub(r"\W", "_", name) or "x")

    def finish(self) -> fx.GraphModule:
        """The network, in eval mode; of several outputs a tuple."""
        from torch import fx

        outputs = [self.values[name] for name in self.source.outputs]
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        module = fx.GraphModule(self.root, self.graph)
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        module.graph.lint()
        module.recompile()
        return module.eval()

    # -- what a node reads ---------------------------------------------------------------------------------------------

    def live(self, node: Node, position: int = 0) -> fx.Node:
        """The fx node of an input that depends on the model's inputs. Raises Refused for a constant one."""
        name = node.inputs[position]
        if name not in self.values:
            raise Refused(
                ReasonKind.CONSTANT,
                f"its input {name!r} is a constant",
                f"{node.op} takes an activation there",
                "fold the constant into a layer",
            )
        return self.values[name]

    def constant(self, node: Node, position: int, rule: str) -> NDArray[Any]:
        """A constant input. Raises Refused where it is none, with the rule in words."""
        name = node.inputs[position]
        if name not in self.source.constants:
            raise Refused(ReasonKind.TWO_ACTIVATIONS, f"its input {name!r} is computed", rule, "give it a constant")
        return self.source.constants[name]

    def optional(self, node: Node, position: int) -> NDArray[Any] | None:
        """A constant input that may be left out."""
        if position >= len(node.inputs) or not node.inputs[position]:
            return None
        return self.constant(node, position, f"input {position} of {node.op} is a constant")

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, the batch of one in front. Raises Refused where it does not follow from the inputs'."""
        shape = self.shapes.get(name)
        if shape is None or None in shape:
            raise Refused(
                ReasonKind.DYNAMIC_SHAPE,
                f"the shape of {name!r} is not fixed",
                "a network is built for one shape",
                "export the model with fixed shapes",
            )
        return tuple(int(size or 1) for size in shape)

    def is_sequence(self, name: str) -> bool:
        """Whether a tensor has places and features, or heads of them: a dense layer with rows, a norm or a product of
        activations is on the way from the inputs, and its last axis is its features'."""
        return self._sequences.get(name, False)

    def note_sequence(self, node: Node) -> None:
        """Works that out for a node's outputs."""
        rows = node.op in _ROW_OPERATORS and len(self.shape(node.outputs[0])) > 2
        found = rows or any(self._sequences.get(name, False) for name in node.inputs)
        self._sequences.update(dict.fromkeys(node.outputs, found and len(self.shape(node.outputs[0])) > 2))

    def is_alone(self, name: str) -> bool:
        """Whether one node reads what a dense layer writes."""
        from torch import nn

        path = self.layers.get(self.values[name])
        return path is not None and isinstance(self.modules[path], nn.Linear) and self.readers.get(name) == 1

    def add_bias(self, source: fx.Node, bias: NDArray[Any]) -> fx.Node:
        """A bias in the layer that writes a tensor."""
        _scale_layer(self.modules[self.layers[source]], np.ones_like(bias), bias)
        return source

    def buffer(self, node: Node, values: NDArray[Any]) -> fx.Node:
        """A constant tensor of the network."""
        import torch

        name = next(name for k in itertools.count() if not hasattr(self.root, name := f"constant{k}"))
        self.root.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)))
        return self.graph.get_attr(name)

    # -- what a node becomes -------------------------------------------------------------------------------------------

    def call(self, node: Node, module: nn.Module, *inputs: fx.Node, weight: str = "") -> fx.Node:
        """The fx node of a module on these inputs, under the name of its weights or of the node."""
        path = self._name(node, weight)
        parent, _, last = path.rpartition(".")
        owner = self.root
        for part in filter(None, parent.split(".")):
            if part not in dict(owner.named_children()):
                owner.add_module(part, type(self.root)())
            owner = owner.get_submodule(part)
        owner.add_module(last, module)
        self.modules[path] = module
        made = self.graph.call_module(path, inputs)
        if weight:
            self.layers[made] = path
        return made

    def apply(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """The fx node of a function."""
        return self.graph.call_function(function, args, kwargs)

    def _name(self, node: Node, weight: str) -> str:
        match = _WEIGHT.match(weight)
        plain = re.sub(r"\W+", "_", node.name).strip("_") or node.op.lower()
        path = match.group(1).strip(".") if match else plain
        parts = path.split(".")
        above = {".".join(parts[:k]) for k in range(1, len(parts))}
        if above & self.modules.keys() or any(other.startswith(f"{path}.") for other in self.modules):
            path = path.replace(".", "_")
        names = itertools.chain([path], (f"{path}_{number}" for number in itertools.count(2)))
        taken = self.modules.keys() | {".".join(p.split(".")[:k]) for p in self.modules for k in range(1, p.count("."))}
        return next(name for name in names if name not in taken)

    # -- constant factors ----------------------------------------------------------------------------------------------

    def scale_channels(self, node: Node, name: str, factor: NDArray[Any], offset: NDArray[Any]) -> fx.Node:
        """factor · x + offset, both (channels,): inside the layer that alone writes x where there is one, else as a
        batch norm."""
        import torch
        from torch import nn

        source = self.values[name]
        path = self.layers.get(source)
        if path is not None and self.readers.get(name) == 1:
            _scale_layer(self.modules[path], factor, offset)
            return source
        rank = len(self.shape(name))
        kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
        if rank not in kinds:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"a factor for each channel of rank {rank}",
                "channels have factors at rank 2 to 4",
                "put it behind a layer",
            )
        norm = kinds[rank](len(factor), eps=0.0)
        with torch.no_grad():
            norm.weight.copy_(torch.from_numpy(factor.astype(np.float32)))
            norm.bias.copy_(torch.from_numpy(offset.astype(np.float32)))
        made = self.call(node, norm, source)
        self.layers[made] = str(made.target)
        return made


def _scale_layer(layer: Any, factor: NDArray[Any], offset: NDArray[Any]) -> None:
    """w → factor · w and b → factor · b + offset, channel by channel; the layer gets a bias."""
    import torch

    from greenedge.train.layers import has_swapped_weight

    gain, add = (torch.from_numpy(array.astype(np.float32)) for array in (factor, offset))
    with torch.no_grad():
        if has_swapped_weight(layer):
            count = layer.weight.shape[0] // layer.groups
            gains = gain.view(layer.groups, 1, -1).expand(-1, count, -1).reshape(layer.weight.shape[:2])
            layer.weight.mul_(gains.view(*gains.shape, *[1] * (layer.weight.dim() - 2)))
        else:
            layer.weight.mul_(gain.view(-1, *[1] * (layer.weight.dim() - 1)))
        bias = add if layer.bias is None else layer.bias * gain + add
        layer.bias = torch.nn.Parameter(bias.clone())
