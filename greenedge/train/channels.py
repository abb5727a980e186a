"""Which neurons and channels of a network can be removed, and the network without them.

Every channel of every tensor has a label. A dense or convolutional layer gives its outputs new labels; nodes that work
channel by channel (batch norm, activation, pooling, depthwise convolution) pass labels through; an addition unites the
labels of both sides, a concatenation joins them, flattening repeats each for its positions. What shares a label is
removed together: the rows that write it, the columns that read it, its batch norm. Labels of the network's inputs and
outputs, and those that meet a node unknown here, are never removed.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from greenedge.train.layers import is_batch_norm, is_layer

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

_TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d")
_LAYERS = ("Linear", "Conv1d", "Conv2d", *_TRANSPOSED)
_NORMS = ("BatchNorm1d", "BatchNorm2d")
_CHANNELWISE = (
    "ReLU",
    "ReLU6",
    "Sigmoid",
    "Tanh",
    "Hardtanh",
    "LeakyReLU",
    "ELU",
    "SiLU",
    "GELU",
    "Identity",
    "Dropout",
    "Dropout2d",
    "MaxPool1d",
    "MaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "Upsample",
)
_CHANNELWISE_FUNCTIONS = (
    "relu",
    "relu_",
    "relu6",
    "sigmoid",
    "tanh",
    "silu",
    "gelu",
    "dropout",
    "max_pool1d",
    "max_pool2d",
    "boolean_dispatch",
    "avg_pool1d",
    "avg_pool2d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "interpolate",
    "contiguous",
    "mean",
    "fn",
)


@dataclass(frozen=True, eq=False)
class Channels:
    """The labels of a network.

    count       of labels
    rows        layer or batch norm path → label of each output channel
    columns     layer path → label of each input channel (of each input feature after a flattening)
    spaces      name of the first layer → the labels of its outputs that can be removed, where any can
    swapped     paths of layers whose weights have inputs first (transposed convolutions)
    norms       paths of batch norms
    """

    count: int
    rows: Mapping[str, np.ndarray]
    columns: Mapping[str, np.ndarray]
    spaces: Mapping[str, np.ndarray]
    swapped: frozenset[str]
    norms: frozenset[str]


def find_channels(model: nn.Module, sample_shape: tuple[int, ...]) -> Channels:
    """Labels the channels of a float network, which is left as it is; sample_shape is without the batch axis.

    Raises UnsupportedError where torch.fx cannot trace it.
    """
    import torch
    from torch.fx.passes.shape_prop import ShapeProp

    from greenedge.train.fx_trace import trace_copy

    module = trace_copy(model)
    module.eval()
    with torch.no_grad():
        ShapeProp(module).propagate(torch.zeros(2, *sample_shape))
    walk = _Walk(module)
    for node in module.graph.nodes:
        walk.visit(node)
    return walk.result()


class _Walk:
    """One walk in topological order; `parent` is a union-find over labels."""

    def __init__(self, module: fx.GraphModule):
        self.modules: dict[str, nn.Module] = dict(module.named_modules())
        self.parent: list[int] = []
        self.stays: set[int] = set()
        self.labels: dict[fx.Node, np.ndarray] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.columns: dict[str, np.ndarray] = {}

    def visit(self, node: fx.Node) -> None:
        """Labels what the node writes; every node before it must have been visited."""
        if node.op == "placeholder":
            self.labels[node] = self._keep(self._new(_shape(node)[1]))
        elif node.op == "output":
            for source in node.all_input_nodes:
                self._keep(self.labels[source])
        elif node.op == "call_module":
            self._visit_module(node, str(node.target))
        else:
            self._visit_function(node)

    def _visit_module(self, node: fx.Node, path: str) -> None:
        module = self.modules[path]
        kind, source = type(module).__name__, node.all_input_nodes[0]
        if kind in _LAYERS:
            self._visit_layer(node, path, module, self.labels[source])
        elif kind in _NORMS:
            self._add_labels(self.rows, path, self.labels[source])
            self.labels[node] = self.labels[source]
        elif kind in _CHANNELWISE:
            self.labels[node] = self.labels[source]
        elif kind == "Flatten":
            self._flatten(node, source)
        else:
            self._visit_unknown(node)

    def _visit_layer(self, node: fx.Node, path: str, layer: nn.Module, labels: np.ndarray) -> None:
        from torch import nn

        assert is_layer(layer)
        if isinstance(layer, nn.Linear):
            outputs, groups, is_supported = layer.out_features, 1, len(_shape(node)) == 2
        else:
            outputs, groups = layer.out_channels, layer.groups
            is_supported = groups == 1 or groups == outputs == len(labels)
        if not is_supported:
            self._keep(labels)
            self.labels[node] = self._keep(self._new(outputs))
            return
        if groups > 1:  # depthwise: each channel is computed from itself alone
            self._add_labels(self.rows, path, labels)
            self.labels[node] = labels
            return
        fresh = self._new(outputs)
        self._add_labels(self.rows, path, fresh)
        self._add_labels(self.columns, path, labels)
        self.labels[node] = fresh

    def _visit_function(self, node: fx.Node) -> None:
        import torch

        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        inputs = node.all_input_nodes
        if name in ("add", "iadd", "add_") or node.target in (operator.add, operator.iadd, torch.add):
            same = len({len(self.labels[item]) for item in inputs}) == 1 and len({_shape(item) for item in inputs}) == 1
            if not same:
                self._visit_unknown(node)
                return
            for item in inputs[1:]:
                self._unite(self.labels[inputs[0]], self.labels[item])
            self.labels[node] = self.labels[inputs[0]]
        elif name in ("cat", "concat") and _axis(node, 0) == 1:
            self.labels[node] = np.concatenate([self.labels[item] for item in _nodes_in(node.args[0])])
        elif name in ("flatten", "reshape", "view") and len(_shape(node)) == 2:
            self._flatten(node, inputs[0])
        elif name in _CHANNELWISE_FUNCTIONS and len(inputs) == 1 and _shape(node)[1:2] == _shape(inputs[0])[1:2]:
            self.labels[node] = self.labels[inputs[0]]
        else:
            self._visit_unknown(node)

    def _flatten(self, node: fx.Node, source: fx.Node) -> None:
        """(N, C, …) → (N, C·positions): each label once for every position."""
        labels, features = self.labels[source], _shape(node)[1]
        self.labels[node] = np.repeat(labels, features // len(labels))

    def _visit_unknown(self, node: fx.Node) -> None:
        """Removes nothing around a node that is not known: neither what it reads nor what it writes."""
        for source in node.all_input_nodes:
            self._keep(self.labels[source])
        shape = _shape(node)
        self.labels[node] = self._keep(self._new(shape[1] if len(shape) > 1 else 1))

    def _new(self, count: int) -> np.ndarray:
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def _keep(self, labels: np.ndarray) -> np.ndarray:
        self.stays.update(labels.tolist())
        return labels

    def _add_labels(self, table: dict[str, np.ndarray], path: str, labels: np.ndarray) -> None:
        """Enters a module's labels; one that is called twice has one set of weights, so its labels are united."""
        if path in table:
            self._unite(table[path], labels)
        else:
            table[path] = labels

    def _unite(self, one: np.ndarray, other: np.ndarray) -> None:
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            self.parent[self._root(b)] = self._root(a)

    def _root(self, label: int) -> int:
        while self.parent[label] != label:
            label = self.parent[label]
        return label

    def result(self) -> Channels:
        """The labels after all nodes have been visited."""
        roots = np.array([self._root(label) for label in range(len(self.parent))])
        stays = {int(roots[label]) for label in self.stays}
        kinds = {path: type(self.modules[path]).__name__ for path in self.rows}
        spaces: dict[str, np.ndarray] = {}
        seen: set[int] = set()
        for path, labels in self.rows.items():
            own = [int(label) for label in roots[labels] if int(label) not in seen]
            seen.update(own)
            if kinds[path] in _LAYERS and own and not stays & set(own):
                spaces[path] = np.array(list(dict.fromkeys(own)))
        return Channels(
            len(self.parent),
            {path: roots[labels] for path, labels in self.rows.items()},
            {path: roots[labels] for path, labels in self.columns.items()},
            spaces,
            frozenset(path for path, kind in kinds.items() if kind in _TRANSPOSED),
            frozenset(path for path, kind in kinds.items() if kind in _NORMS),
        )


def _shape(node: fx.Node) -> tuple[int, ...]:
    """The shape that ShapeProp left for a node with one tensor, batch axis first; (0, 1) for any other node."""
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else (0, 1)


def _axis(node: fx.Node, default: int) -> fx.node.Argument:
    return node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else default)


def _nodes_in(argument: fx.node.Argument) -> list[fx.Node]:
    """The nodes of an argument that is a list of tensors."""
    from torch import fx

    assert isinstance(argument, (list, tuple))
    return [item for item in argument if isinstance(item, fx.Node)]


def slice_state(tensors: Mapping[str, torch.Tensor], channels: Channels, stays: np.ndarray) -> dict[str, torch.Tensor]:
    """The tensors of a network, by dotted name, without the labels for which `stays` (count,) is false."""
    return {name: _slice(name, tensor, channels, stays) for name, tensor in tensors.items()}


def _slice(name: str, tensor: torch.Tensor, channels: Channels, stays: np.ndarray) -> torch.Tensor:
    path = name.rpartition(".")[0]
    while path and path not in channels.rows and path not in channels.columns:
        path = path.rpartition(".")[0]
    leaf = name[len(path) + 1 :]
    rows, columns = channels.rows.get(path), channels.columns.get(path)
    written, read = (1, 0) if path in channels.swapped else (0, 1)
    if leaf == "weight" and rows is not None and columns is not None:
        tensor = _take(tensor, written, stays[rows])
        return _take(tensor, read, stays[columns])
    if rows is not None and tensor.dim() and len(rows) > 1 and tensor.shape[0] == len(rows):
        return _take(tensor, 0, stays[rows])
    return tensor


def _take(tensor: torch.Tensor, axis: int, wanted: np.ndarray) -> torch.Tensor:
    import torch

    return tensor.index_select(axis, torch.from_numpy(np.flatnonzero(wanted))).clone()


def shrink(model: nn.Module, channels: Channels, stays: np.ndarray) -> nn.Module:
    """Removes the labels for which `stays` (count,) is false from a float network, in place; returns it."""
    import torch

    modules = dict(model.named_modules())
    for path in dict.fromkeys([*channels.rows, *channels.columns]):
        module = modules[path]
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            cut = _slice(f"{path}.{leaf}", parameter.detach(), channels, stays)
            setattr(module, leaf, torch.nn.Parameter(cut))
        for leaf, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, leaf, _slice(f"{path}.{leaf}", buffer.detach(), channels, stays))
        _set_sizes(module, path, channels, stays)
    return model


def _set_sizes(module: nn.Module, path: str, channels: Channels, stays: np.ndarray) -> None:
    """Sets the sizes that a module keeps besides its weights; torch reads some of them in forward."""
    from torch import nn

    outputs = int(stays[channels.rows[path]].sum())
    inputs = int(stays[channels.columns[path]].sum()) if path in channels.columns else None
    if is_batch_norm(module):
        module.num_features = outputs
        return
    assert is_layer(module)
    if isinstance(module, nn.Linear):
        assert inputs is not None
        module.in_features, module.out_features = inputs, outputs
    elif inputs is None:  # depthwise
        module.in_channels = module.out_channels = module.groups = outputs
    else:
        module.in_channels, module.out_channels = inputs, outputs
