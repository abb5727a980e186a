"""A network as a torch.fx graph."""

from __future__ import annotations

import copy

from greenedge.errors import Reason, UnsupportedError


def traced(model, name: str):
    """The network as a torch.fx.GraphModule that shares its modules. Raises UnsupportedError where it has no graph."""
    import torch.fx

    try:
        return torch.fx.symbolic_trace(model)
    except (TypeError, torch.fx.proxy.TraceError) as error:
        reason = Reason(
            type(model).__name__,
            "untraceable",
            f"its forward depends on values ({error})",
            "a network is quantised from its graph",
            "compute with tensors alone in forward, or write the network with brevitas.nn and leave [quantise] out",
        )
        raise UnsupportedError(f"{name} cannot be quantised:", [reason]) from error


def traced_copy(model, name: str = "model"):
    """The same of a copy, so that nothing done to it reaches `model`."""
    return traced(copy.deepcopy(model), name)
