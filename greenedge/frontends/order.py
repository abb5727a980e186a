"""Nodes in topological order under unique names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenedge.errors import GreenedgeError

if TYPE_CHECKING:
    import onnx


def name_nodes(proto: onnx.ModelProto) -> list[str]:
    """A name of its own for every node: its own text, or operator and position, with a number where it repeats."""
    count: dict[str, int] = {}
    taken: set[str] = set()
    for k, node in enumerate(proto.graph.node):
        base = node.name or f"{node.op_type}_{k}"
        count[base] = count.get(base, 0) + 1
        name = base if count[base] == 1 else f"{base}_{count[base]}"
        while name in taken:
            count[base] += 1
            name = f"{base}_{count[base]}"
        taken.add(name)
        if node.name != name:
            node.name = name
    return []


def sort_nodes(proto: onnx.ModelProto) -> list[str]:
    """Nodes by their depth behind the inputs, those of one depth as they stand in the file; in place.

    Raises GreenedgeError for a cycle, a tensor written twice and one that is read and never written.
    """
    nodes = list(proto.graph.node)
    available = {tensor.name for tensor in proto.graph.initializer} | {v.name for v in proto.graph.input} | {""}
    writers = _find_writers(nodes, available)
    depths = _measure_depths(nodes, available, writers)
    order = sorted(range(len(nodes)), key=lambda k: (depths[k], k))
    if order != list(range(len(nodes))):
        del proto.graph.node[:]
        proto.graph.node.extend(nodes[k] for k in order)
    missing = [v.name for v in proto.graph.output if v.name not in writers and v.name not in available]
    if missing:
        raise GreenedgeError(f"no node writes the output {missing[0]!r}; export the model again.")
    return []


def _measure_depths(nodes: list[onnx.NodeProto], available: set[str], writers: dict[str, int]) -> list[int]:
    """The longest way from what is available to each node, in nodes."""
    needs = [{writers[i] for i in node.input if i in writers} for node in nodes]
    readers: dict[int, list[int]] = {}
    for k, sources in enumerate(needs):
        for source in sources:
            readers.setdefault(source, []).append(k)
    depths = [0] * len(nodes)
    ghosts = [next((i for i in node.input if i not in available and i not in writers), None) for node in nodes]
    left = [len(sources) + (ghost is not None) for sources, ghost in zip(needs, ghosts, strict=True)]
    ready = [k for k, count in enumerate(left) if not count]
    done = 0
    while ready:
        k = ready.pop()
        done += 1
        for reader in readers.get(k, ()):
            depths[reader] = max(depths[reader], depths[k] + 1)
            left[reader] -= 1
            if not left[reader]:
                ready.append(reader)
    if done < len(nodes):
        waiting = [k for k, count in enumerate(left) if count]
        for k in waiting:
            if ghosts[k] is not None:
                raise GreenedgeError(
                    f"{nodes[k].name} reads tensor {ghosts[k]!r}, which no node writes; export the model again."
                )
        raise GreenedgeError(f"the graph has a cycle through {nodes[waiting[0]].name}; a network must be acyclic.")
    return depths


def _find_writers(nodes: list[onnx.NodeProto], available: set[str]) -> dict[str, int]:
    """The index of the node that writes each tensor. Raises GreenedgeError for a tensor that has a value already."""
    writers: dict[str, int] = {}
    for k, node in enumerate(nodes):
        for output in node.output:
            if output and (output in available or output in writers):
                raise GreenedgeError(f"tensor {output!r} is written more than once; export the model again.")
            if output:
                writers[output] = k
    return writers
