"""A network of integers only."""

from __future__ import annotations

from dataclasses import dataclass, field

from greenedge.graph.ops import Edge, Input, Linear, Op, Requantise


@dataclass(frozen=True, eq=False)
class Graph:
    """A network of integers only. `ops` are in topological order; every edge is written once; outputs are edges."""

    name: str
    ops: tuple[Op, ...]
    edges: dict[str, Edge]
    outputs: tuple[str, ...]
    _by_output: dict[str, Op] = field(init=False, default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._by_output.update({op.output: op for op in self.ops})

    @property
    def inputs(self) -> tuple[str, ...]:
        """The edges at which integers come in."""
        return tuple(op.output for op in self.ops if isinstance(op, Input))

    @property
    def layers(self) -> tuple[Op, ...]:
        """The operations that compute: all but the inputs."""
        return tuple(op for op in self.ops if not isinstance(op, Input))

    @property
    def requantisers(self) -> tuple[Requantise, ...]:
        """The step functions, in order."""
        return tuple(op for op in self.ops if isinstance(op, Requantise))

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The layers with weights, in order."""
        return tuple(op for op in self.ops if isinstance(op, Linear))

    def producer(self, edge: str) -> Op:
        """The operation that writes `edge`."""
        return self._by_output[edge]

    def consumers(self, edge: str) -> list[Op]:
        """The operations that read `edge`, in order."""
        return [op for op in self.ops if edge in op.inputs]

    def needs_storage(self, edge: str) -> bool:
        """Whether the edge is an output or read by something other than a requantiser: its values are then stored as
        they are."""
        return edge in self.outputs or any(not isinstance(reader, Requantise) for reader in self.consumers(edge))

    def input_edges(self, op: Op) -> list[Edge]:
        """The edges that `op` reads."""
        return [self.edges[edge] for edge in op.inputs]

    def replace_ops(self, ops: list[Op] | tuple[Op, ...], outputs: tuple[str, ...] | None = None) -> Graph:
        """The graph with these operations; edges that none of them writes are dropped."""
        written = {op.output for op in ops}
        edges = {name: edge for name, edge in self.edges.items() if name in written}
        return Graph(self.name, tuple(ops), edges, self.outputs if outputs is None else outputs)
