"""Traces a network into a torch.fx graph."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from greenedge.errors import Reason, ReasonKind, UnsupportedError

if TYPE_CHECKING:
    from torch import fx, nn


def trace_network(model: nn.Module, name: str) -> fx.GraphModule:
    """The network as a torch.fx.GraphModule that shares its modules. Raises UnsupportedError where it has no graph."""
    import torch.fx

    from greenedge.train.attention import AttentionCore, spell_out

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, AttentionCore) or super().is_leaf_module(m, module_qualified_name)

    try:
        model = spell_out(model)
    except ValueError as error:
        rule, cure = "other forms have no quantised one", "set these, or write the attention with Linear layers"
        reason = Reason(type(model).__name__, ReasonKind.UNSUPPORTED_LAYER, str(error), rule, cure)
        raise UnsupportedError(f"{name} cannot be quantised:", [reason]) from None
    try:
        return torch.fx.GraphModule(model, Tracer().trace(model), type(model).__name__)
    except (TypeError, torch.fx.proxy.TraceError) as error:
        reason = Reason(
            type(model).__name__,
            ReasonKind.UNTRACEABLE,
            f"its forward depends on values ({error})",
            "a network is quantised from its graph",
            "compute with tensors alone in forward, or write the network with brevitas.nn and leave [quantise] out",
        )
        raise UnsupportedError(f"{name} cannot be quantised:", [reason]) from error


def trace_copy(model: nn.Module, name: str = "model") -> fx.GraphModule:
    """Traces a deep copy: changes to the result do not reach `model`."""
    return trace_network(copy.deepcopy(model), name)
