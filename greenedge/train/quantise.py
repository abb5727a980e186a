"""torch.nn → Brevitas: inserts quantisers into a network of supported layers where the back ends need integers.

Everything between two quantisers must be a function of one integer. So every input of a dense, convolutional, pooling,
adding or joining node comes from a quantiser, possibly through nodes that only move values; both inputs of an addition
or a concatenation share one scale; weights are narrow range; a bias that no batch norm absorbs lies on the
accumulator's grid (Int32Bias), without which an 8-bit file could not be exact.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from greenedge._warnings import quiet
from greenedge.errors import Reason, ReasonKind, UnsupportedError
from greenedge.train import quantise_attention as attention
from greenedge.train.fx_trace import trace_network
from greenedge.train.layers import BatchNorm, Layer, has_swapped_weight, is_batch_norm, is_layer
from greenedge.train.recipe_config import QuantiseSettings

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

_State: TypeAlias = Literal["quantised", "accumulator", "host"]
_BitsKey: TypeAlias = Literal["weight_bits", "act_bits"]

_NO_FORM = "no quantised form is known for it"
_OTHER = "use a supported layer, or write the network with brevitas.nn"
_DOT_PRODUCT = "scaled_dot_product_attention"
_MOVING_METHODS = ("flatten", "reshape", "view", "permute", "transpose", "contiguous")
_COLLECT_STEPS = 100  # training batches whose activations set a scale before it is learned


def quantise(
    model: nn.Module,
    settings: QuantiseSettings,
    name: str = "model",
    inputs: Mapping[str, QuantiseSettings] | None = None,
    before_curves: bool = False,
) -> fx.GraphModule:
    """The network with quantisers; modules keep their paths. It shares `model`'s modules, so do not use `model` again.

    inputs      settings of single inputs' quantisers, by the arguments of forward; the network's for the rest
    before_curves  a quantiser in front of activations that fall and rise too: a function of few levels can always be
                tabulated, one of a wide accumulator cannot
    Raises UnsupportedError with every node that has no quantised form, and for a path in [quantise.layers] that names
    no layer of the network.
    """
    module = trace_network(model, name)
    placer = _Placer(module, settings, inputs or {}, before_curves)
    with quiet():
        placer.run()
    if placer.reasons:
        raise UnsupportedError(f"{name} cannot be quantised:", placer.reasons)
    module.graph.lint()
    module.recompile()
    return module


class _Placer:
    """One walk over the graph in topological order.

    state[node] is "quantised" (levels times a scale), "accumulator" (values that a quantiser must turn into levels) or
    "host" (a function of the scores at the network's end, in float).
    `positive` holds the nodes whose values are never negative, `moves` those that only move values.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        settings: QuantiseSettings,
        inputs: Mapping[str, QuantiseSettings],
        before_curves: bool,
    ):
        self.module = module
        self.graph = module.graph
        self.settings = settings
        self.inputs = inputs
        self.modules: dict[str, nn.Module] = dict(module.named_modules())
        norms = (type(part).__name__ in ("LayerNorm", "RMSNorm", "AttentionCore") for part in self.modules.values())
        self.before_curves = before_curves or any(norms)  # transformers' curves follow wide accumulators
        self.paths = sorted(self.modules.keys() - {""})
        self.state: dict[fx.Node, _State] = {}
        self.positive: set[fx.Node] = set()
        self.moves: set[fx.Node] = set()
        self.constants: dict[fx.Node, Any] = {}  # nodes that the network's own tensors alone decide, and their values
        self.masks: dict[fx.Node, tuple[fx.Node, torch.Tensor]] = {}  # masked logits: the logits, and which count
        self.reasons: list[Reason] = []
        self.used_layers: set[str] = set()

    def run(self) -> None:
        """Places every quantiser; afterwards `reasons` says what has no quantised form."""
        for node in list(self.graph.nodes):
            self._visit(node)
        for path in self.settings.layers:
            if path not in self.used_layers:
                self._refuse(
                    path,
                    ReasonKind.UNKNOWN_LAYER,
                    "[quantise.layers] names it",
                    "no quantised layer has that path",
                    f"use one of: {', '.join(self.paths)}",
                )

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.state[node] = "accumulator"
            own = self.inputs.get(node.name, self.settings)
            self._insert_after(self._skip_affine(node), "input_quant", make_input_quantiser(own))
        elif node.op == "output":
            self._visit_output(node)
        elif node.op == "call_module":
            self._visit_module(node, self.modules[_path_of(node)])
        elif (value := attention.evaluate(node, self.constants, self.module)) is not None:
            self._visit_constant(node, value)
        else:
            self._visit_function(node)

    def _visit_constant(self, node: fx.Node, value: Any) -> None:
        """A tensor of the network itself: masks, and what is added to every element."""
        self.constants[node] = value
        users = [user for user in node.users if attention.evaluate(user, self.constants, self.module) is None]
        readable = all(attention.is_sum(user) or attention.find_mask(user, self.constants) for user in users)
        if (
            node.op == "get_attr"
            and not readable
            and not any(getattr(user.target, "__name__", "") == _DOT_PRODUCT for user in users)
        ):
            self._refuse(
                node.name,
                ReasonKind.CONSTANT,
                f"a constant tensor ({node.target})",
                "constants have no quantiser",
                "fold it into a layer's weights",
                _path_of(node),
            )

    def _visit_output(self, node: fx.Node) -> None:
        for output in node.all_input_nodes:
            self._quantise_scores(output, node)

    def _quantise_scores(self, scores: fx.Node, reader: fx.Node) -> None:
        if self.state.get(scores) == "accumulator" and self.settings.output_bits:
            last = make_quantiser(self.settings.output_bits, True, self.settings)
            self._insert_after(scores, "output_quant", last, only=reader)

    def _visit_module(self, node: fx.Node, module: nn.Module) -> None:
        from torch import nn

        from greenedge.train.attention import AttentionCore

        if is_layer(module):
            self._visit_layer(node, module)
        elif is_batch_norm(module):
            self.state.setdefault(node, "accumulator")
        elif isinstance(module, nn.ReLU):
            self._replace_relu(node, _path_of(node))
        elif isinstance(module, (nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid)):
            self._visit_activation(node, True)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            self._visit_norm(node, module)
        elif isinstance(module, AttentionCore):
            self._visit_core(node, module.mask)
        elif self.before_curves and isinstance(module, (nn.SiLU, nn.GELU, nn.Hardswish)):
            self._quantise_input(node)
            self._visit_activation(node, False)
        elif isinstance(module, (nn.Tanh, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish)):
            self._visit_activation(node, False)
        elif isinstance(module, (nn.Softmax, nn.LogSoftmax)) and all(user.op == "output" for user in node.users):
            self._quantise_scores(_input_of(node), node)
            self.state[node] = "host"
        elif isinstance(module, nn.Softmax):
            self._visit_softmax(node, module.dim)
        elif isinstance(module, (nn.MaxPool1d, nn.MaxPool2d, nn.Upsample)):
            self._take_levels(node, "quantised")
            self._refuse_upsample(node, getattr(module, "mode", "nearest"))
        elif isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)):
            self._take_levels(node, "accumulator")
        elif isinstance(module, (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.PixelShuffle)):
            self._move(node)
        else:
            self._refuse(
                node.name, ReasonKind.UNSUPPORTED_LAYER, f"a {type(module).__name__}", _NO_FORM, _OTHER, _path_of(node)
            )

    def _visit_function(self, node: fx.Node) -> None:
        import torch
        import torch.nn.functional as F
        from torch import fx

        target = node.target
        if (masked := attention.find_mask(node, self.constants)) is not None:
            self.masks[node] = masked
            self.state[node] = self.state[masked[0]]
        elif attention.is_sum(node) and any(item in self.constants for item in node.all_input_nodes):
            self.state[node] = "accumulator"  # every element gets a number of its own
        elif attention.is_sum(node):
            self._join(node, [item for item in node.args if isinstance(item, fx.Node)], f"{node.name}_in_quant")
            self.state[node] = "accumulator"
        elif target in (operator.mul, torch.mul, "mul") and len(node.all_input_nodes) == 2:
            for source in node.all_input_nodes:
                self._quantise_input(node, source)
            self.state[node] = "accumulator"
            self._keep_sign(node, node.all_input_nodes)
        elif attention.is_product(node):
            for source in node.all_input_nodes:
                self._quantise_input(node, source)
            self.state[node] = "accumulator"
        elif attention.is_scaling(node):
            self.state[node] = self.state[node.all_input_nodes[0]]
        elif attention.is_softmax(node):
            self._visit_softmax(node, node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None))
        elif getattr(target, "__name__", "") == _DOT_PRODUCT:
            self._visit_dot_product(node)
        elif target in (torch.cat, torch.concat):
            self._join(node, _nodes_in(node.args[0]), f"{node.name}_in_quant")
            self.state[node] = "quantised"
        elif target in (F.relu, torch.relu, "relu", "relu_"):
            self._replace_relu(node, node.name)
        elif target in (torch.flatten, torch.reshape, torch.permute, torch.transpose, F.dropout, *_MOVING_METHODS):
            self._move(node)
        elif target in (torch.select, torch.unsqueeze):
            self._move(node)
        elif target in (F.max_pool1d, F.max_pool2d, F.pad, F.interpolate):
            self._take_levels(node, "quantised")
            self._refuse_upsample(
                node, str(node.kwargs.get("mode", "nearest")) if target is F.interpolate else "nearest"
            )
        elif target in (F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, torch.mean, "mean"):
            self._take_levels(node, "accumulator")
        elif target in (F.sigmoid, torch.sigmoid, torch.tanh, F.tanh, F.relu6, F.silu, F.gelu):
            self._visit_activation(node, target in (F.sigmoid, torch.sigmoid, F.relu6))
        elif target not in (getattr, "size", operator.getitem):
            called = getattr(target, "__name__", target)
            self._refuse(node.name, ReasonKind.UNSUPPORTED_FUNCTION, f"a call of {called}", _NO_FORM, _OTHER)

    def _visit_norm(self, node: fx.Node, module: nn.LayerNorm | nn.RMSNorm) -> None:
        """A norm of levels of its own, and one quantiser for all that read it."""
        from greenedge.train.attention import IntNorm

        levels: Any = make_quantiser(self.settings.add_bits, True, self.settings)
        levels.return_quant_tensor = True
        path = _path_of(node)
        self._replace(node, path, IntNorm(levels, module), node.args)
        self._insert_after(node, f"{path}_quant", make_quantiser(self.settings.act_bits, True, self.settings))

    def _visit_softmax(self, node: fx.Node, dim: object) -> None:
        """A softmax between layers, of logits and a mask or of logits alone."""
        source = _input_of(node)
        logits, mask = self.masks.get(source, (source, None))
        if dim != -1:
            rule = "attention's softmax goes along the last axis"
            self._refuse(node.name, ReasonKind.UNSUPPORTED_FUNCTION, f"a softmax along {dim}", rule, "use dim=-1")
        self._replace(node, "softmax", attention.make_int_softmax(self.settings, mask, make_quantiser), (logits,))
        self.state[node] = "quantised"

    def _visit_dot_product(self, node: fx.Node) -> None:
        """F.scaled_dot_product_attention."""
        known, mask = attention.read_call(node, self.constants)
        if known:
            self._visit_core(node, mask)
            return
        self._refuse(
            node.name,
            ReasonKind.UNSUPPORTED_FUNCTION,
            "scaled_dot_product_attention with a mask or a scale of its own",
            "its mask is a constant tensor of the network, and its scale 1 / sqrt(size)",
            "give attn_mask a buffer",
        )

    def _visit_core(self, node: fx.Node, mask: torch.Tensor | None) -> None:
        """Attention as a whole: its three inputs on levels, its shares from integers."""
        from torch import fx

        from greenedge.train.attention import QuantisedCore

        inputs = list(node.args[:3])
        for source in dict.fromkeys(inputs):
            assert isinstance(source, fx.Node)
            self._quantise_input(node, source)
        softmax = attention.make_int_softmax(self.settings, mask, make_quantiser)
        self._replace(node, "attention", QuantisedCore(softmax), tuple(node.args[:3]))

    def _replace(self, node: fx.Node, path: str, module: nn.Module, args: tuple[fx.node.Argument, ...]) -> None:
        """The node as a call of a module, in place."""
        path = self._fresh_path(path if node.op != "call_module" else f"{_path_of(node)}_quantised")
        self._set_module(path, module)
        node.op, node.target, node.args, node.kwargs = "call_module", path, args, {}
        self.state[node] = "accumulator"

    def _take_levels(self, node: fx.Node, state: _State) -> None:
        """A node that reads levels and keeps their sign: pooling, padding, upsampling."""
        self._quantise_input(node)
        self.state[node] = state
        self._keep_sign(node, [_input_of(node)])

    def _move(self, node: fx.Node) -> None:
        self.state[node] = self.state[_input_of(node)]
        self.moves.add(node)
        self._keep_sign(node, [_input_of(node)])

    def _keep_sign(self, node: fx.Node, inputs: Sequence[fx.Node]) -> None:
        if all(item in self.positive for item in inputs):
            self.positive.add(node)

    def _visit_layer(self, node: fx.Node, layer: Layer) -> None:
        """Dense or convolutional: quantised input, quantised weights, a bias on the grid or inside the batch norm."""
        self._quantise_input(node)
        norm = self._batch_norm_after(node)
        if norm is not None and layer.bias is not None:
            absorb_bias(layer, norm)
        if layer.bias is not None:
            pass_scale(self.modules, node.args[0])
        bits = self._layer_bits(_path_of(node), "weight_bits")
        self._set_module(_path_of(node), quantise_layer(layer, bits, self.settings))
        self.state[node] = "accumulator"

    def _visit_activation(self, node: fx.Node, unsigned: bool) -> None:
        """Any activation but ReLU stays, and a quantiser follows: the lowering tabulates both together."""
        self.state[node] = "accumulator"
        path = _path_of(node) if node.op == "call_module" else node.name
        if unsigned:
            self.positive.add(node)
        bits = self._layer_bits(path, "act_bits")
        self._insert_after(node, f"{path}_quant", make_quantiser(bits, not unsigned, self.settings))

    def _replace_relu(self, node: fx.Node, path: str) -> None:
        from brevitas.nn import QuantReLU

        bits = self._layer_bits(path, "act_bits")
        rectifier = QuantReLU(act_quant=choose_act_quant(bits, False, self.settings), return_quant_tensor=False)
        if node.op == "call_module" and self._count_calls(path) == 1:
            self._set_module(path, rectifier)
            self.state[node] = "quantised"
            self.positive.add(node)
            return
        path = self._fresh_path(path)
        self._set_module(path, rectifier)
        with self.graph.inserting_after(node):
            fresh = self.graph.call_module(path, (node.args[0],))
        node.replace_all_uses_with(fresh)
        self.graph.erase_node(node)
        self.state[fresh] = "quantised"
        self.positive.add(fresh)

    def _join(self, node: fx.Node, inputs: Sequence[fx.Node], path: str) -> None:
        """Both sides of an addition or a concatenation go through one quantiser, so that they share a scale."""
        path = self._fresh_path(path)
        signed = any(item not in self.positive for item in inputs)
        self._set_module(path, make_quantiser(self.settings.add_bits, signed, self.settings))
        for item in dict.fromkeys(inputs):
            with self.graph.inserting_before(node):
                shared = self.graph.call_module(path, (item,))
            self.state[shared] = "quantised"
            node.replace_input_with(item, shared)
        self._keep_sign(node, inputs)

    def _skip_affine(self, node: fx.Node) -> fx.Node:
        """The last of the batch norms that an input goes through before anything else: the host computes them."""
        while len(node.users) == 1:
            reader = next(iter(node.users))
            if reader.op != "call_module" or not is_batch_norm(self.modules[_path_of(reader)]):
                break
            node = reader
        return node

    def _quantise_input(self, node: fx.Node, source: fx.Node | None = None) -> None:
        """Inserts a quantiser where the accumulator that `node` reads arises; none where it reads levels already."""
        given = source = source or _input_of(node)
        if self.state.get(source) != "accumulator":
            return
        chain: list[fx.Node] = []
        while source in self.moves and len(source.users) == 1:
            chain.append(source)
            source = _input_of(source)
        if len(source.users) > 1:  # its other readers may need the accumulator itself
            chain, source = [], given
        path = _path_of(source) if source.op == "call_module" else source.name
        bits = self._layer_bits(path, "act_bits")
        self._insert_after(
            source,
            f"{path}_quant",
            make_quantiser(bits, source not in self.positive, self.settings),
            only=None if chain else node,
        )
        self.state.update(dict.fromkeys(chain, "quantised"))

    def _insert_after(self, node: fx.Node, path: str, module: nn.Module, only: fx.Node | None = None) -> None:
        """Inserts a quantiser between `node` and all its readers, or `only` that one."""
        path = self._fresh_path(path)
        self._set_module(path, module)
        with self.graph.inserting_after(node):
            fresh = self.graph.call_module(path, (node,))
        if only is not None:
            only.replace_input_with(node, fresh)
        else:
            node.replace_all_uses_with(fresh, delete_user_cb=lambda user: user is not fresh)
        self.state[fresh] = "quantised"
        if node in self.positive:
            self.positive.add(fresh)

    def _batch_norm_after(self, node: fx.Node) -> BatchNorm | None:
        """The batch norm that alone reads `node`, where it has factors and offsets."""
        users = list(node.users)
        if len(users) == 1 and users[0].op == "call_module":
            module = self.modules[_path_of(users[0])]
            return module if is_batch_norm(module) and module.affine else None
        return None

    def _layer_bits(self, path: str, key: _BitsKey) -> int:
        """The bit width in [quantise.layers] for that path, else the network's."""
        own = self.settings.layers.get(path)
        if own is not None:
            self.used_layers.add(path)
        if key == "weight_bits":
            return (own.weight_bits if own else 0) or self.settings.weight_bits
        return (own.act_bits if own else 0) or self.settings.act_bits

    def _count_calls(self, path: str) -> int:
        return sum(node.op == "call_module" and node.target == path for node in self.graph.nodes)

    def _fresh_path(self, path: str) -> str:
        """`path`, or the first of path_2, path_3, … that no module has."""
        names = itertools.chain([path], (f"{path}_{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in self.modules)

    def _set_module(self, path: str, module: nn.Module) -> None:
        self.module.add_submodule(path, module)
        self.modules[path] = module

    def _refuse_upsample(self, node: fx.Node, mode: str) -> None:
        if mode != "nearest":
            module = _path_of(node) if node.op == "call_module" else None
            self._refuse(
                node.name,
                ReasonKind.UNSUPPORTED_MODE,
                f"interpolation mode '{mode}'",
                "only 'nearest' copies levels",
                "use mode='nearest'",
                module,
            )

    def _refuse(self, node: str, kind: ReasonKind, value: str, rule: str, cure: str, module: str | None = None) -> None:
        self.reasons.append(Reason(node, kind, value, rule, cure, None if module == node else module))


def _path_of(node: fx.Node) -> str:
    """The module or attribute path that a call_module or get_attr node names."""
    assert isinstance(node.target, str)
    return node.target


def _input_of(node: fx.Node) -> fx.Node:
    """The first argument of a node, which is a tensor for every node that `quantise` knows."""
    from torch import fx

    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def _nodes_in(argument: fx.node.Argument) -> list[fx.Node]:
    """The nodes of an argument that is a list of tensors."""
    from torch import fx

    assert isinstance(argument, (list, tuple))
    return [item for item in argument if isinstance(item, fx.Node)]


def pass_scale(modules: dict[str, Any], source: fx.node.Argument) -> None:
    """Makes the quantisers above `source` return a QuantTensor: a layer with an Int32Bias needs its input's scale."""
    from torch import fx

    if isinstance(source, (tuple, list)):
        for item in source:
            pass_scale(modules, item)
        return
    assert isinstance(source, fx.Node)
    if source.op == "call_module" and hasattr(modules[_path_of(source)], "return_quant_tensor"):
        modules[_path_of(source)].return_quant_tensor = True
    else:
        pass_scale(modules, source.args[0])


def choose_act_quant(bits: int, signed: bool, settings: QuantiseSettings, **more: Any) -> Any:
    """Brevitas' activation quantiser (an injector class, untyped there) with a scale learned from the 99.999th
    percentile of the first batches. `more` goes to the injector."""
    from brevitas import quant

    kinds = {
        (False, False): quant.Uint8ActPerTensorFloat,
        (True, False): quant.Int8ActPerTensorFloat,
        (False, True): quant.Uint8ActPerTensorFixedPoint,
        (True, True): quant.Int8ActPerTensorFixedPoint,
    }
    if settings.mse_scales and bits < 8 and not more:
        kinds = {
            (False, False): quant.Uint8ActPerTensorFloatMSE,
            (True, False): quant.Int8ActPerTensorFloatMSE,
            (False, True): quant.Uint8ActPerTensorFixedPointMSE,
            (True, True): quant.Int8ActPerTensorFixedPointMSE,
        }
    return kinds[signed, settings.power_of_two].let(bit_width=bits, collect_stats_steps=_COLLECT_STEPS, **more)


def make_quantiser(bits: int, signed: bool, settings: QuantiseSettings, **more: Any) -> nn.Module:
    """A QuantIdentity with levels 0 … 2^bits - 1, or -2^(bits-1) … 2^(bits-1) - 1 where signed; `more` goes to its
    injector."""
    from brevitas.nn import QuantIdentity

    return QuantIdentity(act_quant=choose_act_quant(bits, signed, settings, **more), return_quant_tensor=False)


def make_input_quantiser(settings: QuantiseSettings) -> nn.Module:
    """The QuantIdentity at the input: it runs on the host as the prologue."""
    from brevitas.inject.enum import ScalingImplType
    from brevitas.nn import QuantIdentity

    fixed: dict[str, Any] = {}
    if settings.input_scale:
        # Brevitas divides the threshold by the largest level's magnitude, 2^(bits-1) if signed and 2^bits - 1 if not
        levels = 2 ** (settings.input_bits - 1) if settings.input_signed else 2**settings.input_bits - 1
        fixed = {"scaling_impl_type": ScalingImplType.CONST, "scaling_init": settings.input_scale * levels}
    return QuantIdentity(
        act_quant=choose_act_quant(settings.input_bits, settings.input_signed, settings, **fixed),
        return_quant_tensor=False,
    )


def choose_weight_quant(bits: int, settings: QuantiseSettings) -> Any:
    """Brevitas' weight quantiser (an injector class, untyped there).

    Narrow-range integers of `bits` bits scaled by their largest magnitude; -1 and 1 for one bit.
    """
    from brevitas import quant
    from brevitas.inject.enum import ScalingImplType

    if bits == 1:
        return quant.SignedBinaryWeightPerTensorConst.let(
            scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS,
            scaling_stats_op="ave",
            scaling_per_output_channel=settings.per_channel,
        )
    if settings.mse_scales and bits < 8:
        kind = quant.Int8WeightPerTensorFixedPointMSE if settings.power_of_two else quant.Int8WeightPerTensorFloatMSE
    else:
        kind = quant.Int8WeightPerTensorFixedPoint if settings.power_of_two else quant.Int8WeightPerTensorFloat
    return kind.let(bit_width=bits, scaling_per_output_channel=settings.per_channel)


def quantise_layer(layer: Layer, bits: int, settings: QuantiseSettings) -> nn.Module:
    """The Brevitas layer with the same weights and geometry; Brevitas has no types, so neither has the new layer."""
    import torch
    from brevitas import nn as qnn
    from brevitas.quant import Int32Bias

    common = {
        "bias": layer.bias is not None,
        "weight_quant": choose_weight_quant(bits, settings),
        "bias_quant": Int32Bias if layer.bias is not None else None,
        "return_quant_tensor": False,
    }
    if isinstance(layer, torch.nn.Linear):
        fresh = qnn.QuantLinear(layer.in_features, layer.out_features, **common)
    else:
        kind = getattr(qnn, f"Quant{type(layer).__name__}")
        fresh = kind(layer.in_channels, layer.out_channels, **geometry_of(layer), **common)
    with torch.no_grad():
        fresh.weight.copy_(layer.weight)
        if layer.bias is not None:
            fresh.bias.copy_(layer.bias)
    fresh.weight_quant.init_tensor_quant()  # a scale that starts from the weights' statistics starts from these weights
    return fresh


def geometry_of(layer: nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d) -> dict[str, Any]:
    """Keyword arguments of a convolution's constructor besides its channels and its bias."""
    geometry: dict[str, Any] = {
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
    return geometry | ({"output_padding": layer.output_padding} if has_swapped_weight(layer) else {})


def absorb_bias(layer: Layer, norm: BatchNorm) -> None:
    """norm(Wx + b) = norm'(Wx) with the running mean less b; the layer loses its bias."""
    import torch

    assert norm.running_mean is not None and layer.bias is not None
    with torch.no_grad():
        norm.running_mean.sub_(layer.bias)
    layer.bias = None
