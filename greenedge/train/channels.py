"""Which neurons and channels of a network can leave it, and the network without them.

Every channel of every tensor carries a label. A dense or convolutional layer gives its outputs new labels; what works
channel by channel (batch norm, activation, pooling, depthwise convolution) hands them on; an addition makes the labels
of both sides one, a concatenation puts them side by side, flattening repeats each over its positions. What has one
label leaves together: the rows that write it, the columns that read it, its batch norm. Labels of the network's inputs
and outputs, and of whatever meets a node that is not known here, stay.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

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

    rows        layer or batch norm path → label of each output channel
    columns     layer path → label of each input channel (of each input feature after a flattening)
    spaces      name of the first layer → the labels of its outputs that may leave, where any may
    swapped     paths of layers whose weights have inputs first (transposed convolutions)
    norms       paths of batch norms
    """

    count: int
    rows: Mapping[str, np.ndarray]
    columns: Mapping[str, np.ndarray]
    spaces: Mapping[str, np.ndarray]
    swapped: frozenset[str]
    norms: frozenset[str]


def find_channels(model, sample_shape: tuple[int, ...]) -> Channels:
    """The labels of a float network; sample_shape is without the batch axis. Changes nothing.

    Raises UnsupportedError where torch.fx cannot trace it.
    """
    import torch
    from torch.fx.passes.shape_prop import ShapeProp

    from greenedge.train.fx_trace import traced_copy

    traced = traced_copy(model)
    with torch.no_grad():
        ShapeProp(traced.eval()).propagate(torch.zeros(2, *sample_shape))
    walk = _Walk(traced)
    for node in traced.graph.nodes:
        walk.visit(node)
    return walk.result()


class _Walk:
    """One walk in topological order; `parent` is a union-find over labels."""

    def __init__(self, traced):
        self.modules = dict(traced.named_modules())
        self.parent: list[int] = []
        self.stays: set[int] = set()
        self.labels: dict = {}
        self.rows: dict[str, np.ndarray] = {}
        self.columns: dict[str, np.ndarray] = {}

    def visit(self, node) -> None:
        if node.op == "placeholder":
            self.labels[node] = self._stay(self._new(_shape(node)[1]))
        elif node.op == "output":
            for source in node.all_input_nodes:
                self._stay(self.labels[source])
        elif node.op == "call_module":
            self._visit_module(node, self.modules[node.target])
        else:
            self._visit_function(node)

    def _visit_module(self, node, module) -> None:
        kind, source = type(module).__name__, node.all_input_nodes[0]
        if kind in _LAYERS:
            self._visit_layer(node, module, kind, self.labels[source])
        elif kind in _NORMS:
            self._write(node.target, self.labels[source])
            self.labels[node] = self.labels[source]
        elif kind in _CHANNELWISE:
            self.labels[node] = self.labels[source]
        elif kind == "Flatten":
            self._flatten(node, source)
        else:
            self._unknown(node)

    def _visit_layer(self, node, module, kind: str, labels: np.ndarray) -> None:
        dense = kind == "Linear"
        outputs = module.out_features if dense else module.out_channels
        groups = 1 if dense else module.groups
        if (dense and len(_shape(node)) != 2) or (groups > 1 and not groups == outputs == len(labels)):
            self._stay(labels)
            self.labels[node] = self._stay(self._new(outputs))
            return
        if groups > 1:  # depthwise: a channel in, the same channel out
            self._write(node.target, labels)
            self.labels[node] = labels
            return
        fresh = self._new(outputs)
        self._write(node.target, fresh)
        self._meet(self.columns, node.target, labels)
        self.labels[node] = fresh

    def _visit_function(self, node) -> None:
        import torch

        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        inputs = node.all_input_nodes
        if name in ("add", "iadd", "add_") or node.target in (operator.add, operator.iadd, torch.add):
            same = len({len(self.labels[item]) for item in inputs}) == 1 and len({_shape(item) for item in inputs}) == 1
            if not same:
                return self._unknown(node)
            for item in inputs[1:]:
                self._unite(self.labels[inputs[0]], self.labels[item])
            self.labels[node] = self.labels[inputs[0]]
        elif name in ("cat", "concat") and _axis(node, 0) == 1:
            self.labels[node] = np.concatenate([self.labels[item] for item in node.args[0]])
        elif name in ("flatten", "reshape", "view") and len(_shape(node)) == 2:
            self._flatten(node, inputs[0])
        elif name in _CHANNELWISE_FUNCTIONS and len(inputs) == 1 and _shape(node)[1:2] == _shape(inputs[0])[1:2]:
            self.labels[node] = self.labels[inputs[0]]
        else:
            self._unknown(node)

    def _flatten(self, node, source) -> None:
        """(N, C, …) → (N, C·positions): each label once for every position."""
        labels, features = self.labels[source], _shape(node)[1]
        self.labels[node] = np.repeat(labels, features // len(labels))

    def _unknown(self, node) -> None:
        """Whatever goes in and comes out stays as it is."""
        for source in node.all_input_nodes:
            self._stay(self.labels[source])
        shape = _shape(node)
        self.labels[node] = self._stay(self._new(shape[1] if len(shape) > 1 else 1))

    def _new(self, count: int) -> np.ndarray:
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def _stay(self, labels: np.ndarray) -> np.ndarray:
        self.stays.update(labels.tolist())
        return labels

    def _write(self, path: str, labels: np.ndarray) -> None:
        self._meet(self.rows, path, labels)

    def _meet(self, table: dict, path: str, labels: np.ndarray) -> None:
        """A module that is called twice has one set of weights: its labels become one."""
        if path in table:
            self._unite(table[path], labels)
        else:
            table[path] = labels

    def _unite(self, one: np.ndarray, other: np.ndarray) -> None:
        for a, b in zip(one.tolist(), other.tolist()):
            self.parent[self._root(b)] = self._root(a)

    def _root(self, label: int) -> int:
        while self.parent[label] != label:
            label = self.parent[label]
        return label

    def result(self) -> Channels:
        roots = np.array([self._root(label) for label in range(len(self.parent))])
        stays = {int(roots[label]) for label in self.stays}
        kinds = {path: type(self.modules[path]).__name__ for path in self.rows}
        spaces, seen = {}, set()
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


def _shape(node) -> tuple[int, ...]:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else (0, 1)


def _axis(node, default: int) -> int:
    return node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else default)


def slice_state(tensors: Mapping, channels: Channels, stays: np.ndarray) -> dict:
    """The tensors of a network, by dotted name, without the labels for which `stays` (count,) is false."""
    return {name: _slice(name, tensor, channels, stays) for name, tensor in tensors.items()}


def _slice(name: str, tensor, channels: Channels, stays: np.ndarray):
    path = name.rpartition(".")[0]
    while path and path not in channels.rows and path not in channels.columns:
        path = path.rpartition(".")[0]
    leaf = name[len(path) + 1 :]
    rows, columns = channels.rows.get(path), channels.columns.get(path)
    written, read = (1, 0) if path in channels.swapped else (0, 1)
    if leaf == "weight" and columns is not None:
        tensor = _take(tensor, written, stays[rows])
        return _take(tensor, read, stays[columns])
    if rows is not None and tensor.dim() and len(rows) > 1 and tensor.shape[0] == len(rows):
        return _take(tensor, 0, stays[rows])
    return tensor


def _take(tensor, axis: int, wanted: np.ndarray):
    import torch

    return tensor.index_select(axis, torch.from_numpy(np.flatnonzero(wanted))).clone()


def shrink(model, channels: Channels, stays: np.ndarray):
    """Takes the labels for which `stays` is false out of a float network, in place; returns it."""
    import torch

    modules = dict(model.named_modules())
    for path in dict.fromkeys([*channels.rows, *channels.columns]):
        module = modules[path]
        for kind, items in (
            ("parameter", module.named_parameters(recurse=False)),
            ("buffer", module.named_buffers(recurse=False)),
        ):
            for leaf, tensor in list(items):
                cut = _slice(f"{path}.{leaf}", tensor.detach(), channels, stays)
                setattr(module, leaf, torch.nn.Parameter(cut) if kind == "parameter" else cut)
        _rename_sizes(module, path, channels, stays)
    return model


def _rename_sizes(module, path: str, channels: Channels, stays: np.ndarray) -> None:
    """The sizes that a module tells of itself."""
    outputs = int(stays[channels.rows[path]].sum()) if path in channels.rows else None
    inputs = int(stays[channels.columns[path]].sum()) if path in channels.columns else None
    if path in channels.norms:
        module.num_features = outputs
    elif hasattr(module, "in_features"):
        module.in_features, module.out_features = inputs, outputs
    elif inputs is None:  # depthwise
        module.in_channels = module.out_channels = module.groups = outputs
    else:
        module.in_channels, module.out_channels = inputs, outputs
