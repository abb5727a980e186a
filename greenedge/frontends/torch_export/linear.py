"""Layers with weights: convolutions, dense layers, matrix products and batch norms."""

from __future__ import annotations

import numpy as np

from greenedge.frontends.torch_export.network import Call, Rule


def convolve(call: Call) -> None:
    """conv1d and conv2d: (N, C, *) by (M, C / groups, *kernel)."""
    _write_convolution(call, is_transposed=False)


def convolve_any(call: Call) -> None:
    """convolution: what the decomposition makes of every kind."""
    call.value("output_padding")  # of a transposed one alone
    _write_convolution(call, call.flag("transposed", False))


def convolve_transposed(call: Call) -> None:
    _write_convolution(call, is_transposed=True)


def _write_convolution(call: Call, is_transposed: bool) -> None:
    shape, kernel = call.shape("input"), call.shape("weight")[2:]
    if len(shape) != len(kernel) + 2 or not kernel:
        raise call.refuse(
            f"an input of shape {shape}", "the first axis is the batch, the second the channels", "export with a batch"
        )
    axes = len(kernel)
    strides, dilations = (call.integers(name, [1] * axes, axes) for name in ("stride", "dilation"))
    attributes = {
        "strides": strides,
        "dilations": dilations,
        "group": call.integer("groups", 1),
        "kernel_shape": list(kernel),
        "pads": _read_pads(call, kernel, dilations),
    }
    if is_transposed:
        attributes["output_padding"] = call.integers("output_padding", [0] * axes, axes)
    inputs = [call.tensor("input"), call.tensor("weight"), *([call.tensor("bias")] if call.has("bias") else [])]
    call.emit("ConvTranspose" if is_transposed else "Conv", inputs, **attributes)


def _read_pads(call: Call, kernel: tuple[int, ...], dilations: list[int]) -> list[int]:
    """Pads at the start of every axis and then at the end; "same" puts the odd one at the end, as torch does."""
    given = call.value("padding", [0])
    if given == "valid":
        return [0] * 2 * len(kernel)
    if given == "same":
        totals = [dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)]
        return [total // 2 for total in totals] + [total - total // 2 for total in totals]
    return call.integers("padding", [0], len(kernel)) * 2


def dense(call: Call) -> None:
    """linear(x, W, b) = x Wᵀ + b, with W (M, K)."""
    shape, weight = call.shape("input"), call.shape("weight")
    if len(shape) < 2 or len(weight) != 2:
        raise call.refuse(f"an input of shape {shape}", "the first axis is the batch", "export with a batch")
    biases = [call.tensor("bias")] if call.has("bias") else []
    if len(shape) == 2:
        call.emit("Gemm", [call.tensor("input"), call.tensor("weight"), *biases], transB=1)
        return
    turned = call.step("Transpose", [call.tensor("weight")], perm=[1, 0])
    if not biases:
        call.emit("MatMul", [call.tensor("input"), turned])
        return
    call.emit("Add", [call.step("MatMul", [call.tensor("input"), turned]), *biases])


def add_product(call: Call) -> None:
    """addmm(c, a, b) = beta c + alpha a b."""
    inputs = [call.tensor("mat1"), call.tensor("mat2"), call.tensor("self")]
    call.emit("Gemm", inputs, alpha=float(call.number("alpha", 1)), beta=float(call.number("beta", 1)))


def multiply_matrices(call: Call) -> None:
    """mm, bmm and matmul of activations with a batch."""
    other = "mat2" if call.has("mat2") else "other"
    if len(call.shape("self")) < 2:
        raise call.refuse(f"an input of shape {call.shape('self')}", "the first axis is the batch")
    call.emit("MatMul", [call.tensor("self"), call.tensor(other)])


def normalise_batch(call: Call) -> None:
    """batch_norm with the statistics of training: (x - mean) / sqrt(var + eps) * weight + bias."""
    if call.flag("training", False) or call.flag("train", False) or call.flag("use_input_stats", False):
        raise call.refuse(
            "it takes its statistics from the batch",
            "every sample must be computed by itself",
            "export the module in eval mode, after model.eval()",
        )
    first, second = ("running_mean", "running_var")
    channels = call.array(first).shape
    weight = call.tensor("weight") if call.has("weight") else call.constant(np.ones(channels), "weight")
    bias = call.tensor("bias") if call.has("bias") else call.constant(np.zeros(channels), "bias")
    inputs = [call.tensor("input"), weight, bias, call.tensor(first), call.tensor(second)]
    call.emit("BatchNormalization", inputs, epsilon=float(call.number("eps", 1e-5)))


RULES: dict[str, Rule] = {
    "aten.conv1d": convolve,
    "aten.conv2d": convolve,
    "aten.convolution": convolve_any,
    "aten.conv_transpose1d": convolve_transposed,
    "aten.conv_transpose2d": convolve_transposed,
    "aten.linear": dense,
    "aten.addmm": add_product,
    "aten.mm": multiply_matrices,
    "aten.bmm": multiply_matrices,
    "aten.matmul": multiply_matrices,
    "aten.batch_norm": normalise_batch,
    "aten._native_batch_norm_legit_no_training": normalise_batch,
}
