"""Where attention needs quantisers: on both factors of a product, on logits and on shares.

A softmax between layers becomes an IntSoftmax, which trains with the integers that it will have; masks and scalings
around it are read from the network's constants.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from greenedge.train.recipe_config import QuantiseSettings

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from greenedge.train.attention import IntSoftmax

_MASKED = -1e4  # what masks add to a logit that must not count, or less
_LOGIT_BITS, _SHARE_BITS = 8, 8
Make = Callable[..., "nn.Module"]


def is_sum(node: fx.Node) -> bool:
    """Whether a node adds two tensors."""
    import torch

    return node.target in (operator.add, operator.iadd, torch.add, "add", "add_")


def is_product(node: fx.Node) -> bool:
    """Whether a node multiplies two matrices, neither of them weights."""
    import torch

    return node.target in (torch.matmul, operator.matmul, torch.bmm, "matmul", "bmm")


def is_softmax(node: fx.Node) -> bool:
    """Whether a node is a softmax of torch's functions or methods."""
    import torch
    from torch.nn import functional as F

    return node.target in (torch.softmax, F.softmax, "softmax")


def is_scaling(node: fx.Node) -> bool:
    """Whether a node multiplies or divides a tensor by a number."""
    import torch
    from torch import fx

    if node.target not in (operator.truediv, torch.div, "div", operator.mul, torch.mul, "mul"):
        return False
    return len(node.args) == 2 and sum(isinstance(item, fx.Node) for item in node.args) == 1


def evaluate(node: fx.Node, known: Mapping[fx.Node, Any], modules: nn.Module) -> Any:
    """The value of a node that reads constants alone; None for any other."""
    from torch import fx

    if node.op == "get_attr":
        value: Any = modules
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value.detach()
    if node.op not in ("call_function", "call_method") or not node.all_input_nodes:
        return None
    if any(source not in known for source in node.all_input_nodes):
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def find_mask(node: fx.Node, constants: Mapping[fx.Node, Any]) -> tuple[fx.Node, torch.Tensor] | None:
    """(logits, 1 where one counts) of a sum with a mask, or a masked_fill; None for any other node."""
    import torch
    from torch import fx

    if node.target in ("masked_fill", torch.masked_fill):
        logits, hidden, value = node.args
        if not (isinstance(logits, fx.Node) and isinstance(hidden, fx.Node) and hidden in constants):
            return None
        low = isinstance(value, (int, float)) and value <= _MASKED
        return (logits, (~constants[hidden].bool()).long()) if low else None
    if not is_sum(node):
        return None
    for logits, added in (node.args[:2], node.args[1::-1]):
        if isinstance(added, fx.Node) and added in constants and isinstance(logits, fx.Node):
            values: torch.Tensor = torch.as_tensor(constants[added])
            if ((values == 0) | (values <= _MASKED)).all() and (values <= _MASKED).any():
                return logits, (values == 0).long()
    return None


def make_int_softmax(settings: QuantiseSettings, mask: torch.Tensor | None, make: Make) -> IntSoftmax:
    """An IntSoftmax with quantisers of its own: of logits with the scale that training finds, of shares in parts of
    255. `make` gives an activation quantiser of (bits, signed, settings, and what goes to Brevitas' injector)."""
    from brevitas.inject.enum import ScalingImplType

    from greenedge.train.attention import IntSoftmax

    logits: Any = make(_LOGIT_BITS, True, settings)  # Brevitas has no types
    logits.return_quant_tensor = True
    shares = make(_SHARE_BITS, False, settings, scaling_impl_type=ScalingImplType.CONST, scaling_init=1.0)
    return IntSoftmax(logits, shares, mask)


def read_call(node: fx.Node, constants: Mapping[fx.Node, Any]) -> tuple[bool, torch.Tensor | None]:
    """(whether a call of F.scaled_dot_product_attention has a quantised form, its mask): none, or a constant one."""
    import torch
    from torch import fx

    given = node.kwargs.get("attn_mask", node.args[3] if len(node.args) > 3 else None)
    rest = [node.kwargs.get("dropout_p", 0.0), node.kwargs.get("is_causal", False), *node.args[4:]]
    if any(rest) or node.kwargs.get("scale") is not None:
        return False, None
    if given is None:
        return True, None
    if not isinstance(given, fx.Node) or given not in constants:
        return False, None
    values: torch.Tensor = torch.as_tensor(constants[given])
    return True, values.long() if values.dtype == torch.bool else (values == 0).long()
