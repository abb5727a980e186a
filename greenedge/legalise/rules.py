"""One rule per operation and back end: it lowers the operation, or refuses it with the reason and the cure.

    RULES = Rules("tflite", "LiteRT")

    @RULES.lowers(MaxPool)
    def max_pool(b: Emission, op: MaxPool) -> None:
        b.require(all(d == 1 for d in op.steps), f"dilations {op.steps}", "LiteRT's pools have none", "use dilation 1")
        b.begin_emission()
        ...                                       # writes the operator

Check and plan run the same rules, so what check accepts is what plan emits. A builder that is checking ends every rule
at `begin_emission`, as does one whose requirements do not hold; all requirements before it have then been looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from greenedge.errors import Reason, ReasonKind, Refused
from greenedge.graph import Graph, Op
from greenedge.legalise.capabilities import Capabilities, Ends, check_capabilities

B = TypeVar("B", bound="RuleBuilder")
O = TypeVar("O", bound=Op)  # noqa: E741  # an operation
Rule = Callable[[Any, Any], None]


class NotEmitting(Exception):
    """Ends a rule before it emits anything: the builder is checking, or a requirement does not hold."""


class RuleBuilder:
    """What a back end's builder has for its rules: the graph, the reasons against it, and whether it emits."""

    def __init__(self, graph: Graph, is_checking: bool = False) -> None:
        self.graph = graph
        self.is_checking = is_checking
        self.reasons: list[Reason] = []
        self._op = graph.name
        self._refused = False

    def require(
        self, holds: bool, value: str, rule: str, cure: str, kind: ReasonKind = ReasonKind.UNSUPPORTED_OP
    ) -> bool:
        """Notes a reason against the operation at hand unless `holds`; returns `holds`. The rule goes on to its next
        one."""
        if not holds:
            self.refuse(self._op, kind, value, rule, cure)
        return holds

    def refuse(self, node: str, kind: ReasonKind, value: str, rule: str, cure: str) -> None:
        """Notes a reason against a node, or the graph by its name."""
        self._refused = True
        self.reasons.append(Reason(node, kind, value, rule, cure))

    def begin_emission(self) -> None:
        """Ends the rule here (raises NotEmitting) while checking, or where a requirement of this operation does not
        hold."""
        if self.is_checking or self._refused:
            raise NotEmitting

    def apply(self, op: Op, rule: Rule) -> None:
        """Runs one rule; a refusal becomes a reason."""
        self._op, self._refused = op.name, False
        try:
            rule(self, op)
        except Refused as refusal:
            self.refuse(op.name, refusal.kind, refusal.value, refusal.rule, refusal.cure)
        except NotEmitting:
            pass


@dataclass
class Rules(Generic[B]):
    """The rules of one back end. `name` is the back end's, `speaker` what builds in its sentences ("finn",
    "LiteRT")."""

    name: str
    speaker: str
    supported: Capabilities = field(default_factory=dict)
    ends: Ends = Ends()
    _rules: dict[type[Op], Rule] = field(default_factory=dict)
    _refusals: dict[type[Op], tuple[str, str, str]] = field(default_factory=dict)

    def lowers(self, *kinds: type[O]) -> Callable[[Callable[[B, O], None]], Callable[[B, O], None]]:
        """Registers the decorated function as the rule of these operations."""

        def register(rule: Callable[[B, O], None]) -> Callable[[B, O], None]:
            for kind in kinds:
                assert kind not in self._rules, f"{self.name} has two rules for {kind.__name__}"
                self._rules[kind] = rule
            return rule

        return register

    def refuses(self, kind: type[Op], value: str, rule: str, cure: str) -> None:
        """Declares an operation that this back end never lowers, with the sentence that says so."""
        assert kind not in self._rules, f"{self.name} lowers {kind.__name__}"
        self._refusals[kind] = value, rule, cure

    def __contains__(self, kind: object) -> bool:
        return kind in self._rules

    def __iter__(self) -> Iterator[type[Op]]:
        return iter(self._rules)

    def run(self, builder: B, ops: Iterable[Op] | None = None) -> B:
        """Applies the rules to every operation (or these) in order; returns the builder, with every reason."""
        for op in builder.graph.ops if ops is None else ops:
            builder.reasons += check_capabilities(op, builder.graph, self.supported, self.speaker)
            builder.apply(op, self._rules.get(type(op), self._refuse_unknown))
        return builder

    def _refuse_unknown(self, builder: B, op: Op) -> None:
        if type(op) in self._refusals:
            builder.require(False, *self._refusals[type(op)])
            return
        known = ", ".join(kind.__name__ for kind in self._rules if kind.__name__ != "Input")
        builder.require(
            False,
            f"operation {op.kind}",
            f"{self.speaker} builds {known}",
            "use layers of these kinds, or choose another back end",
        )
