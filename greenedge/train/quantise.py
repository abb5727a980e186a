"""torch.nn → Brevitas: a network of supported layers becomes the same network with quantisers where integers must be.

What the back ends need decides where (everything between two quantisers is a function of one integer): every input of
a dense, convolutional, pooling, adding or joining node comes from a quantiser, possibly through nodes that only move
values; both inputs of an addition or a concatenation share one scale; weights are narrow range; a bias that no
batch norm absorbs lies on the accumulator's grid (Int32Bias), which is what makes edge files exact.
"""

from __future__ import annotations

import itertools
import operator

from greenedge._warnings import quiet
from greenedge.errors import Reason, UnsupportedError
from greenedge.train.fx_trace import traced
from greenedge.train.recipe_config import QuantiseSettings

_NO_FORM = "no quantised form is known for it"
_OTHER = "use a supported layer, or write the network with brevitas.nn"
_MOVING_METHODS = ("flatten", "reshape", "view", "permute", "transpose", "contiguous")
_COLLECT_STEPS = 100  # training batches whose activations set a scale before it is learned


def quantise(model, settings: QuantiseSettings, name: str = "model"):
    """The network with quantisers, as a torch.fx.GraphModule; modules keep their paths, and `model` is used up.

    Raises UnsupportedError with every node that has no quantised form, and for a path in [quantise.layers] that names
    no layer of the network.
    """
    graph = traced(model, name)
    placer = _Placer(graph, settings)
    with quiet():
        placer.run()
    if placer.reasons:
        raise UnsupportedError(f"{name} cannot be quantised:", placer.reasons)
    graph.graph.lint()
    graph.recompile()
    return graph


class _Placer:
    """One walk over the graph in topological order.

    state[node] is "quantised" (levels times a scale) or "accumulator" (what a quantiser must still turn into levels).
    `positive` holds the nodes whose values are never negative, `moves` those that only move values.
    """

    def __init__(self, module, settings: QuantiseSettings):
        self.traced = module
        self.graph = module.graph
        self.settings = settings
        self.modules = dict(module.named_modules())
        self.paths = sorted(self.modules.keys() - {""})
        self.state: dict = {}
        self.positive: set = set()
        self.moves: set = set()
        self.reasons: list[Reason] = []
        self.used_layers: set[str] = set()

    def run(self) -> None:
        for node in list(self.graph.nodes):
            self._visit(node)
        for path in self.settings.layers:
            if path not in self.used_layers:
                self._refuse(
                    path,
                    "unknown-layer",
                    "[quantise.layers] names it",
                    "no quantised layer has that path",
                    f"use one of: {', '.join(self.paths)}",
                )

    def _visit(self, node) -> None:
        if node.op == "placeholder":
            self.state[node] = "accumulator"
            self._quantiser_after(node, "input_quant", input_quantiser(self.settings))
        elif node.op == "output":
            self._visit_output(node)
        elif node.op == "call_module":
            self._visit_module(node, self.modules[node.target])
        elif node.op == "get_attr":
            self._refuse(
                node.name,
                "constant",
                f"a constant tensor ({node.target})",
                "constants have no quantiser",
                "fold it into a layer's weights",
                node.target,
            )
        else:
            self._visit_function(node)

    def _visit_output(self, node) -> None:
        outputs = node.args[0] if isinstance(node.args[0], (tuple, list)) else (node.args[0],)
        for output in outputs:
            if self.state.get(output) == "accumulator" and self.settings.output_bits:
                last = quantiser(self.settings.output_bits, True, self.settings)
                self._quantiser_after(output, "output_quant", last, only=node)

    def _visit_module(self, node, module) -> None:
        from torch import nn

        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)):
            self._visit_layer(node, module)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            self.state[node] = "accumulator"
        elif isinstance(module, nn.ReLU):
            self._replace_relu(node, node.target)
        elif isinstance(module, (nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU)):
            self._visit_activation(node, isinstance(module, (nn.ReLU6, nn.Sigmoid)))
        elif isinstance(module, (nn.MaxPool1d, nn.MaxPool2d, nn.Upsample)):
            self._on_levels(node, "quantised")
            self._refuse_upsample(node, getattr(module, "mode", "nearest"))
        elif isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)):
            self._on_levels(node, "accumulator")
        elif isinstance(module, (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.PixelShuffle)):
            self._move(node)
        else:
            self._refuse(node.name, "unsupported-layer", f"a {type(module).__name__}", _NO_FORM, _OTHER, node.target)

    def _visit_function(self, node) -> None:
        import torch
        import torch.nn.functional as F

        target = node.target
        if target in (operator.add, operator.iadd, torch.add, "add", "add_"):
            self._join(node, [item for item in node.args if hasattr(item, "op")], f"{node.name}_in_quant")
            self.state[node] = "accumulator"
        elif target in (torch.cat, torch.concat):
            self._join(node, list(node.args[0]), f"{node.name}_in_quant")
            self.state[node] = "quantised"
        elif target in (F.relu, torch.relu, "relu", "relu_"):
            self._replace_relu(node, node.name)
        elif target in (torch.flatten, torch.reshape, torch.permute, torch.transpose, F.dropout, *_MOVING_METHODS):
            self._move(node)
        elif target in (F.max_pool1d, F.max_pool2d, F.pad, F.interpolate):
            self._on_levels(node, "quantised")
            self._refuse_upsample(node, node.kwargs.get("mode", "nearest") if target is F.interpolate else "nearest")
        elif target in (F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, torch.mean, "mean"):
            self._on_levels(node, "accumulator")
        elif target in (F.sigmoid, torch.sigmoid, torch.tanh, F.tanh, F.relu6, F.silu, F.gelu):
            self._visit_activation(node, target in (F.sigmoid, torch.sigmoid, F.relu6))
        elif target not in (getattr, "size", operator.getitem):
            called = getattr(target, "__name__", target)
            self._refuse(node.name, "unsupported-function", f"a call of {called}", _NO_FORM, _OTHER)

    def _on_levels(self, node, state: str) -> None:
        """A node that takes levels and keeps the sign: pooling, padding, upsampling."""
        self._need_quantised(node)
        self.state[node] = state
        self._keep_sign(node, [node.args[0]])

    def _move(self, node) -> None:
        self.state[node] = self.state[node.args[0]]
        self.moves.add(node)
        self._keep_sign(node, [node.args[0]])

    def _keep_sign(self, node, inputs: list) -> None:
        if all(item in self.positive for item in inputs):
            self.positive.add(node)

    def _visit_layer(self, node, layer) -> None:
        """Dense or convolutional: quantised input, quantised weights, a bias on the grid or inside the batch norm."""
        self._need_quantised(node)
        norm = self._batch_norm_after(node)
        if norm is not None and layer.bias is not None:
            absorb_bias(layer, norm)
        if layer.bias is not None:
            pass_scale(self.modules, node.args[0])
        bits = self._layer_bits(node.target, "weight_bits")
        replaced = quantised_layer(layer, bits, self.settings)
        self._set_module(node.target, replaced)
        self.state[node] = "accumulator"

    def _visit_activation(self, node, unsigned: bool) -> None:
        """Any activation but ReLU stays, and a quantiser follows: the lowering tabulates both together."""
        self.state[node] = "accumulator"
        path = node.target if node.op == "call_module" else node.name
        if unsigned:
            self.positive.add(node)
        bits = self._layer_bits(path, "act_bits")
        self._quantiser_after(node, f"{path}_quant", quantiser(bits, not unsigned, self.settings))

    def _replace_relu(self, node, path: str) -> None:
        from brevitas.nn import QuantReLU

        bits = self._layer_bits(path, "act_bits")
        rectifier = QuantReLU(act_quant=act_quant(bits, False, self.settings), return_quant_tensor=False)
        if node.op == "call_module" and self._calls(node.target) == 1:
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

    def _join(self, node, inputs: list, path: str) -> None:
        """Both sides of an addition or a concatenation go through one quantiser, so that they share a scale."""
        path = self._fresh_path(path)
        signed = any(item not in self.positive for item in inputs)
        self._set_module(path, quantiser(self.settings.add_bits, signed, self.settings))
        for item in dict.fromkeys(inputs):
            with self.graph.inserting_before(node):
                shared = self.graph.call_module(path, (item,))
            self.state[shared] = "quantised"
            node.replace_input_with(item, shared)
        self._keep_sign(node, inputs)

    def _need_quantised(self, node) -> None:
        """Puts a quantiser where the accumulator arises, unless its values come from one already."""
        source = node.args[0]
        if self.state.get(source) != "accumulator":
            return
        chain = []
        while source in self.moves and len(source.users) == 1:
            chain.append(source)
            source = source.args[0]
        if len(source.users) > 1:  # its other readers may want the accumulator itself
            chain, source = [], node.args[0]
        path = source.target if source.op == "call_module" else source.name
        bits = self._layer_bits(path, "act_bits")
        self._quantiser_after(
            source,
            f"{path}_quant",
            quantiser(bits, source not in self.positive, self.settings),
            only=None if chain else node,
        )
        self.state.update(dict.fromkeys(chain, "quantised"))

    def _quantiser_after(self, node, path: str, module, only=None):
        """Inserts a quantiser that every reader of `node` reads from now on, or `only` that one."""
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
        return fresh

    def _batch_norm_after(self, node):
        from torch import nn

        users = list(node.users)
        if len(users) == 1 and users[0].op == "call_module":
            module = self.modules[users[0].target]
            return module if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.affine else None
        return None

    def _layer_bits(self, path: str, kind: str) -> int:
        own = self.settings.layers.get(path)
        if own is not None:
            self.used_layers.add(path)
        return (getattr(own, kind) if own else 0) or getattr(self.settings, kind)

    def _calls(self, path: str) -> int:
        return sum(node.op == "call_module" and node.target == path for node in self.graph.nodes)

    def _fresh_path(self, path: str) -> str:
        """`path`, or the first of path_2, path_3, … that no module has."""
        names = itertools.chain([path], (f"{path}_{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in self.modules)

    def _set_module(self, path: str, module) -> None:
        self.traced.add_submodule(path, module)
        self.modules[path] = module

    def _refuse_upsample(self, node, mode: str) -> None:
        if mode != "nearest":
            module = node.target if node.op == "call_module" else None
            self._refuse(
                node.name,
                "unsupported-mode",
                f"interpolation mode '{mode}'",
                "only 'nearest' copies levels",
                "use mode='nearest'",
                module,
            )

    def _refuse(self, node: str, kind: str, value: str, rule: str, cure: str, module: str | None = None) -> None:
        self.reasons.append(Reason(node, kind, value, rule, cure, None if module == node else module))


def pass_scale(modules: dict, node) -> None:
    """Lets the scale travel with the tensor from its quantisers to a layer whose bias needs it."""
    if isinstance(node, (tuple, list)):
        for item in node:
            pass_scale(modules, item)
    elif node.op == "call_module" and hasattr(modules[node.target], "return_quant_tensor"):
        modules[node.target].return_quant_tensor = True
    else:
        pass_scale(modules, node.args[0])


def act_quant(bits: int, signed: bool, settings: QuantiseSettings, **more):
    """Brevitas' activation quantiser with a scale learned from the 99.999th percentile of the first batches."""
    from brevitas import quant

    kinds = {
        (False, False): quant.Uint8ActPerTensorFloat,
        (True, False): quant.Int8ActPerTensorFloat,
        (False, True): quant.Uint8ActPerTensorFixedPoint,
        (True, True): quant.Int8ActPerTensorFixedPoint,
    }
    return kinds[signed, settings.power_of_two].let(bit_width=bits, collect_stats_steps=_COLLECT_STEPS, **more)


def quantiser(bits: int, signed: bool, settings: QuantiseSettings):
    """A QuantIdentity with levels 0 … 2^bits - 1, or -2^(bits-1) … 2^(bits-1) - 1 where signed."""
    from brevitas.nn import QuantIdentity

    return QuantIdentity(act_quant=act_quant(bits, signed, settings), return_quant_tensor=False)


def input_quantiser(settings: QuantiseSettings):
    """The QuantIdentity at the input: it runs on the host as the prologue."""
    from brevitas.inject.enum import ScalingImplType
    from brevitas.nn import QuantIdentity

    fixed = {}
    if settings.input_scale:
        # Brevitas divides the threshold by the largest level's magnitude, 2^(bits-1) if signed and 2^bits - 1 if not
        levels = 2 ** (settings.input_bits - 1) if settings.input_signed else 2**settings.input_bits - 1
        fixed = {"scaling_impl_type": ScalingImplType.CONST, "scaling_init": settings.input_scale * levels}
    return QuantIdentity(
        act_quant=act_quant(settings.input_bits, settings.input_signed, settings, **fixed), return_quant_tensor=False
    )


def weight_quant(bits: int, settings: QuantiseSettings):
    """Narrow-range integers of `bits` bits scaled by their largest magnitude; the sign alone for one bit."""
    from brevitas import quant
    from brevitas.inject.enum import ScalingImplType

    if bits == 1:
        return quant.SignedBinaryWeightPerTensorConst.let(
            scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS,
            scaling_stats_op="ave",
            scaling_per_output_channel=settings.per_channel,
        )
    kind = quant.Int8WeightPerTensorFixedPoint if settings.power_of_two else quant.Int8WeightPerTensorFloat
    return kind.let(bit_width=bits, scaling_per_output_channel=settings.per_channel)


def quantised_layer(layer, bits: int, settings: QuantiseSettings):
    """The Brevitas layer with the same weights and geometry."""
    import torch
    from brevitas import nn as qnn
    from brevitas.quant import Int32Bias

    common = {
        "bias": layer.bias is not None,
        "weight_quant": weight_quant(bits, settings),
        "bias_quant": Int32Bias if layer.bias is not None else None,
        "return_quant_tensor": False,
    }
    if isinstance(layer, torch.nn.Linear):
        fresh = qnn.QuantLinear(layer.in_features, layer.out_features, **common)
    else:
        geometry = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
        if layer.transposed:
            geometry["output_padding"] = layer.output_padding
        kind = getattr(qnn, f"Quant{type(layer).__name__}")
        fresh = kind(layer.in_channels, layer.out_channels, layer.kernel_size, **geometry, **common)
    with torch.no_grad():
        fresh.weight.copy_(layer.weight)
        if layer.bias is not None:
            fresh.bias.copy_(layer.bias)
    fresh.weight_quant.init_tensor_quant()  # a scale that starts from the weights' statistics starts from these weights
    return fresh


def absorb_bias(layer, norm) -> None:
    """norm(Wx + b) = norm'(Wx) with the running mean less b; the layer loses its bias."""
    import torch

    with torch.no_grad():
        norm.running_mean.sub_(layer.bias)
    layer.bias = None
