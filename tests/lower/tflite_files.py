"""Small int8 .tflite files, as a stranger's converter would write them: any scales, any zero points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from greenedge.backends.int8.tflite.flatbuffer import Quantisation, Writer, pack

ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


class Net:
    """A file in the making. Methods take and give tensors; `rng` draws scales, half of them with exact ties."""

    per_channel = True  # False: of no layer, whatever it asks for

    def __init__(self, rng, shape, kind="INT8"):
        self.rng, self.writer, self.count = rng, Writer("net"), 0
        self.about = {}  # tensor → (shape, scale, zero point)
        self.inputs = [self.input(shape, kind)]

    def input(self, shape, kind="INT8", like=None):
        return self.tensor(shape, *(self.about[like][1:] if like is not None else self.code()), kind)

    def code(self):
        """A scale and a zero point; now and then one with halves of levels, for activations."""
        pick = self.rng.integers(4)
        scale = [
            self.rng.uniform(0.02, 0.9),
            (2 * self.rng.integers(0, 5) + 1) / 2 ** self.rng.integers(2, 7),
            6 / (self.rng.integers(2, 60) + 0.5),
            2.0 ** -self.rng.integers(0, 7),
        ][pick]
        zero = int(self.rng.choice([-128, 0, int(self.rng.integers(-128, 128)), int(self.rng.integers(-30, 30))]))
        return float(np.float32(scale)), zero

    def tensor(self, shape, scale=None, zero=None, kind="INT8"):
        if scale is None:
            scale, zero = self.code()
        self.count += 1
        number = self.writer.tensor(f"t{self.count}", shape, kind, Quantisation((scale,), zero))
        self.about[number] = (tuple(shape), scale, zero)
        return number

    def like(self, tensor, shape):
        return self.tensor(shape, *self.about[tensor][1:])

    def weights(self, shape, axis, si, so, fan_in, per_channel):
        """(tensor, scales): int8 weights whose sums come to about the levels of the output."""
        count = shape[axis] if per_channel and self.per_channel else 1
        reach = 40 * np.sqrt(fan_in) * 60
        scales = np.exp(self.rng.uniform(np.log(0.2), np.log(4), count)) * 100 * so / (si * reach)
        if self.rng.integers(3) == 0:  # halves of levels
            scales = 2.0 ** np.rint(np.log2(scales))
        scales = scales.astype(np.float32)
        values = self.rng.integers(-127, 128, shape).astype(np.int8)
        name = f"w{len(self.writer.tensors)}"
        return self.writer.constant(name, values, Quantisation(tuple(map(float, scales)), 0, axis)), scales

    def bias(self, channels, spread, si, scales):
        values = (self.rng.normal(0, 1, channels) * spread).astype(np.int32)
        parameters = Quantisation(tuple(float(np.float32(si) * s) for s in scales))
        return self.writer.constant(f"b{len(self.writer.tensors)}", values, parameters)

    def out_of(self, x, shape):
        """An output tensor with a code of its own, and both scales."""
        y = self.tensor(shape)
        return y, self.about[x][1], self.about[y][1]

    def window(self, size, kernel, strides, padding, dilations=(1, 1)):
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        if padding == "SAME":
            return [-(-s // t) for s, t in zip(size, strides, strict=True)]
        return [(s - p) // t + 1 for s, p, t in zip(size, spans, strides, strict=True)]

    def conv(
        self, x, channels, kernel=(3, 3), strides=(1, 1), padding="SAME", act="NONE", dilations=(1, 1), per_channel=True
    ):
        n, h, w, c = self.about[x][0]
        y, si, so = self.out_of(x, (n, *self.window((h, w), kernel, strides, padding, dilations), channels))
        wt, ws = self.weights((channels, *kernel, c), 0, si, so, c * kernel[0] * kernel[1], per_channel)
        self.writer.operator(
            "CONV_2D",
            [x, wt, self.bias(channels, 3000, si, ws)],
            [y],
            3,
            padding=padding,
            strideH=strides[0],
            strideW=strides[1],
            dilationHFactor=dilations[0],
            dilationWFactor=dilations[1],
            fusedActivationFunction=act,
        )
        return y

    def depthwise(self, x, multiplier=1, kernel=(3, 3), strides=(1, 1), padding="SAME", act="NONE", per_channel=True):
        n, h, w, c = self.about[x][0]
        y, si, so = self.out_of(x, (n, *self.window((h, w), kernel, strides, padding), c * multiplier))
        wt, ws = self.weights((1, *kernel, c * multiplier), 3, si, so, kernel[0] * kernel[1], per_channel)
        self.writer.operator(
            "DEPTHWISE_CONV_2D",
            [x, wt, self.bias(c * multiplier, 1000, si, ws)],
            [y],
            3,
            padding=padding,
            strideH=strides[0],
            strideW=strides[1],
            dilationHFactor=1,
            dilationWFactor=1,
            depthMultiplier=multiplier,
            fusedActivationFunction=act,
        )
        return y

    def dense(self, x, channels, act="NONE", per_channel=True, keep=False):
        shape = self.about[x][0]
        fan_in = shape[-1] if keep else int(np.prod(shape))
        y, si, so = self.out_of(x, (*shape[:-1], channels) if keep else (1, channels))
        wt, ws = self.weights((channels, fan_in), 0, si, so, fan_in, per_channel)
        self.writer.operator(
            "FULLY_CONNECTED",
            [x, wt, self.bias(channels, 3000, si, ws)],
            [y],
            5,
            fusedActivationFunction=act,
            keepNumDims=keep,
        )
        return y

    def transposed(self, x, channels, kernel=(3, 3), strides=(2, 2), padding="SAME"):
        n, h, w, c = self.about[x][0]
        size = [
            s * t if padding == "SAME" else (s - 1) * t + k for s, t, k in zip((h, w), strides, kernel, strict=True)
        ]
        y, si, so = self.out_of(x, (n, *size, channels))
        wt, ws = self.weights((channels, *kernel, c), 0, si, so, c * kernel[0] * kernel[1], True)
        shape = self.writer.constant(f"s{self.count}", np.array([n, *size, channels], np.int32))
        self.writer.operator(
            "TRANSPOSE_CONV",
            [shape, wt, x, self.bias(channels, 3000, si, ws)],
            [y],
            3,
            padding=padding,
            strideH=strides[0],
            strideW=strides[1],
        )
        return y

    def pool(self, kind, x, kernel=(2, 2), strides=(2, 2), padding="VALID", act="NONE"):
        n, h, w, c = self.about[x][0]
        y = self.like(x, (n, *self.window((h, w), kernel, strides, padding), c))
        self.writer.operator(
            kind,
            [x],
            [y],
            2,
            padding=padding,
            filterHeight=kernel[0],
            filterWidth=kernel[1],
            strideH=strides[0],
            strideW=strides[1],
            fusedActivationFunction=act,
        )
        return y

    def mean(self, x, keep=True, over=(1, 2)):
        shape = self.about[x][0]
        y = self.tensor([1 if k in over else s for k, s in enumerate(shape) if keep or k not in over])
        axes = self.writer.constant(f"a{self.count}", np.array(over, np.int32))
        self.writer.operator("MEAN", [x, axes], [y], 2, keepDims=keep)
        return y

    def binary(self, kind, a, b, act="NONE"):
        shape = tuple(np.broadcast_shapes(self.about[a][0], self.about[b][0]))
        (_, s1, _), (_, s2, _) = self.about[a], self.about[b]
        natural = 0.6 * 128 * s1 * s2 if kind == "MUL" else 0.7 * (s1 + s2)
        y = self.tensor(shape, float(np.float32(natural * 2 ** self.rng.uniform(-1, 1))), self.code()[1])
        if self.rng.integers(4) == 0:
            y = self.tensor(shape, float(2.0 ** np.rint(np.log2(natural))), self.code()[1])
        self.writer.operator(kind, [a, b], [y], 2, fusedActivationFunction=act)
        return y

    def constant(self, shape):
        scale, zero = self.code()
        number = self.writer.constant(
            f"c{len(self.writer.tensors)}",
            self.rng.integers(-128, 128, shape).astype(np.int8),
            Quantisation((scale,), zero),
        )
        self.about[number] = (tuple(shape), scale, zero)
        return number

    def unary(self, kind, x, like=False, code=None, version=2, **options):
        shape = self.about[x][0]
        y = self.like(x, shape) if like else self.tensor(shape, *(code or ()))
        self.writer.operator(kind, [x], [y], version, **options)
        return y

    def reshape(self, x, shape):
        y = self.like(x, shape)
        self.writer.operator("RESHAPE", [x, self.writer.constant(f"r{y}", np.array(shape, np.int32))], [y])
        return y

    def transpose(self, x, permutation):
        y = self.like(x, [self.about[x][0][k] for k in permutation])
        order = self.writer.constant(f"p{y}", np.array(permutation, np.int32))
        self.writer.operator("TRANSPOSE", [x, order], [y], 2)
        return y

    def pad(self, x, widths):
        y = self.like(x, [s + a + b for s, (a, b) in zip(self.about[x][0], widths, strict=True)])
        self.writer.operator("PAD", [x, self.writer.constant(f"p{y}", np.array(widths, np.int32))], [y], 2)
        return y

    def tile(self, x, counts):
        y = self.like(x, [s * c for s, c in zip(self.about[x][0], counts, strict=True)])
        self.writer.operator("TILE", [x, self.writer.constant(f"m{y}", np.array(counts, np.int32))], [y], 2)
        return y

    def concat(self, parts, axis=-1):
        shape = list(self.about[parts[0]][0])
        shape[axis] = sum(self.about[part][0][axis] for part in parts)
        y = self.like(parts[0], shape)
        self.writer.operator("CONCATENATION", parts, [y], 2, axis=axis, fusedActivationFunction="NONE")
        return y

    def resize(self, x, factors, half=False):
        n, h, w, c = self.about[x][0]
        size = (h * factors[0], w * factors[1])
        y = self.like(x, (n, *size, c))
        wanted = self.writer.constant(f"z{y}", np.array(size, np.int32))
        self.writer.operator("RESIZE_NEAREST_NEIGHBOR", [x, wanted], [y], 3, alignCorners=False, halfPixelCenters=half)
        return y

    def softmax(self, x):
        y = self.tensor(self.about[x][0], 1 / 256, -128)
        self.writer.operator("SOFTMAX", [x], [y], 2, beta=1.0)
        return y

    def save(self, path: Path, *outputs) -> Path:
        path.write_bytes(self.writer.finish(self.inputs, list(outputs)))
        return path


def _pick(rng, *values):
    return values[rng.integers(len(values))]


def _window(rng):
    """Kernel and strides."""
    return tuple(map(int, rng.integers(1, 4, 2))), tuple(map(int, rng.integers(1, 3, 2)))


def _conv(net, x, rng, act):
    kernel, strides = _window(rng)
    padding, per_channel = _pick(rng, "SAME", "VALID"), bool(rng.integers(2))
    if rng.integers(4) == 0:
        return net.conv(x, 3, (2, 2), (1, 1), padding, act, (2, 2), per_channel)
    return net.conv(x, int(rng.integers(1, 7)), kernel, strides, padding, act, (1, 1), per_channel)


def _depthwise(net, x, rng, act):
    kernel, strides = _window(rng)
    strides = (strides[0],) * 2
    return net.depthwise(
        x, int(rng.integers(1, 3)), kernel, strides, _pick(rng, "SAME", "VALID"), act, bool(rng.integers(2))
    )


def _transposed(net, x, rng, act):
    strides = tuple(map(int, rng.integers(1, 4, 2)))
    kernel = tuple(int(s + rng.integers(0, 3)) for s in strides)
    return net.transposed(
        net.conv(x, 3, act=act), int(rng.integers(1, 4)), kernel, strides, _pick(rng, "SAME", "VALID")
    )


def _with_constant(kind):
    def add(net, x, rng, act):
        channels = net.about[x][0][3]
        constant = net.constant(_pick(rng, (1,), (channels,), (1, 1, 1, channels)))
        return net.binary(kind, *_pick(rng, (x, constant), (constant, x)), act)

    return add


def _of_two(kind):
    def add(net, x, rng, act):
        net.inputs.append(net.input(net.about[x][0]))
        return net.binary(kind, x, net.inputs[1], act)

    return add


def _concat(net, x, rng, act):
    net.inputs.append(net.input(net.about[x][0], like=x))
    return net.concat([x, net.inputs[1]], int(rng.integers(1, 4)))


def _mean(net, x, rng, act):
    keep, pick = bool(rng.integers(2)), rng.integers(4)
    if pick == 3:  # of a sequence
        _, h, w, c = net.about[x][0]
        return net.mean(net.reshape(x, (1, h * w, c)), keep, (1,))
    return net.mean(x, keep, ((1, 2), (1,), (2,))[pick])


def _pad(net, x, rng, act):
    return net.pad(x, [(0, 0), *(tuple(map(int, rng.integers(0, 3, 2))) for _ in range(3))])


def _reshape(net, x, rng, act):
    _, h, w, c = net.about[x][0]
    return net.reshape(net.reshape(x, (1, w, h * c, 1)), _pick(rng, (1, c, h, w), (1, h * w * c), (1, h, w * c)))


ONE_OPERATOR = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": lambda net, x, rng, act: net.dense(
        x, int(rng.integers(1, 9)), act, bool(rng.integers(2)), bool(rng.integers(2))
    ),
    "TRANSPOSE_CONV": _transposed,
    "AVERAGE_POOL_2D": lambda net, x, rng, act: net.pool("AVERAGE_POOL_2D", x, *_window(rng), "VALID", act),
    "MAX_POOL_2D": lambda net, x, rng, act: net.pool("MAX_POOL_2D", x, *_window(rng), _pick(rng, "SAME", "VALID"), act),
    "MEAN": _mean,
    "TILE": lambda net, x, rng, act: net.tile(x, (1, *map(int, rng.integers(1, 4, 3)))),
    **{kind: _of_two(kind) for kind in ("ADD", "SUB", "MUL")},
    **{f"{kind} constant": _with_constant(kind) for kind in ("ADD", "SUB", "MUL")},
    "ADD itself": lambda net, x, rng, act: net.binary("ADD", x, x, act),
    "QUANTIZE": lambda net, x, rng, act: net.unary("QUANTIZE", x),
    "RELU": lambda net, x, rng, act: net.unary("RELU", x),
    "RELU6": lambda net, x, rng, act: net.unary("RELU6", x),
    "RELU_N1_TO_1": lambda net, x, rng, act: net.unary("RELU_N1_TO_1", x, version=1),
    "HARD_SWISH": lambda net, x, rng, act: net.unary("HARD_SWISH", x, version=1),
    "LEAKY_RELU": lambda net, x, rng, act: net.unary("LEAKY_RELU", x, alpha=float(rng.uniform(-0.5, 0.9))),
    "LOGISTIC": lambda net, x, rng, act: net.unary("LOGISTIC", x, code=(1 / 256, -128)),
    "TANH": lambda net, x, rng, act: net.unary("TANH", x, code=(1 / 128, 0)),
    "RESHAPE": _reshape,
    "TRANSPOSE": lambda net, x, rng, act: net.transpose(x, _pick(rng, (0, 2, 1, 3), (0, 3, 1, 2), (0, 3, 2, 1))),
    "PAD": _pad,
    "CONCATENATION": _concat,
    "RESIZE_NEAREST_NEIGHBOR": lambda net, x, rng, act: net.resize(
        x, tuple(map(int, rng.integers(1, 4, 2))), bool(rng.integers(2))
    ),
}


class PerTensor(Net):
    """A file whose layers have one scale each."""

    per_channel = False


def one_operator(kind, seed, make=Net):
    """(a file of that operator on a small image, its output, random inputs): every draw follows from the seed."""
    rng = np.random.default_rng([seed, *kind.encode()])
    net = make(rng, (1, *map(int, rng.integers(4, 8, 2)), int(rng.integers(1, 6))))
    out = ONE_OPERATOR[kind](net, net.inputs[0], rng, str(rng.choice(ACTIVATIONS)))
    return net, out, draw(net, rng, 200 if len(net.inputs) > 1 else 24)


def turn_uint8(path, rng=None):
    """The file with every int8 tensor as uint8, 128 higher: the same network, but that `rng` gives weights other zero
    points. Raises ValueError for weights with a scale for each channel, which uint8 does not have."""
    tree = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = tree.subgraphs[0]
    layers = {op.inputs[1] for op in graph.operators if _names_layer(tree, op)}
    for k, tensor in enumerate(graph.tensors):
        if tensor.type != schema.TensorType.INT8:
            continue
        quantisation, buffer = tensor.quantization, tree.buffers[tensor.buffer]
        if len(quantisation.scale) > 1:
            raise ValueError("uint8 weights have one scale")
        tensor.type = schema.TensorType.UINT8
        spread = rng.integers(-30, 31) if rng is not None and k in layers else 0
        quantisation.zeroPoint = [int(zero) + 128 + int(spread) for zero in quantisation.zeroPoint]
        if buffer.data is not None and len(buffer.data):
            buffer.data = np.asarray(buffer.data, np.uint8) ^ 0x80
    path.write_bytes(pack(tree))
    return path


def _names_layer(tree, operator):
    """Whether an operator has weights."""
    codes = (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.CONV_2D)
    codes += (schema.BuiltinOperator.DEPTHWISE_CONV_2D, schema.BuiltinOperator.TRANSPOSE_CONV)
    return tree.operatorCodes[operator.opcodeIndex].builtinCode in codes


def draw(net, rng, count):
    """Random stored values for every input."""
    return [rng.integers(-128, 128, (count, *net.about[number][0][1:])).astype(np.int8) for number in net.inputs]


def residual(rng, make=Net):
    """An 8-layer residual network in small: two branches of different scales, a pool, a dense layer, a softmax."""
    net = make(rng, (1, 8, 8, 3))
    x = net.conv(net.inputs[0], 8, act="RELU")
    y = net.conv(net.conv(x, 8, act="RELU"), 8)
    x = net.binary("ADD", x, y, "RELU")
    y = net.conv(net.conv(x, 12, strides=(2, 2), act="RELU"), 12)
    x = net.binary("ADD", y, net.conv(x, 12, (1, 1), (2, 2)), "RELU")
    x = net.pool("AVERAGE_POOL_2D", x, (4, 4), (4, 4))
    logits = net.dense(net.reshape(x, (1, 12)), 10)
    return net, logits, net.softmax(logits)


def mobile(rng, make=Net):
    """Depthwise and pointwise layers with RELU6, padding and a mean."""
    net = make(rng, (1, 12, 10, 2))
    x = net.conv(
        net.pad(net.inputs[0], [(0, 0), (0, 1), (0, 1), (0, 0)]), 6, strides=(2, 2), padding="VALID", act="RELU6"
    )
    for channels, stride in ((8, 1), (12, 2)):
        x = net.conv(net.depthwise(x, strides=(stride, stride), act="RELU6"), channels, (1, 1), act="RELU6")
    logits = net.dense(net.mean(x, keep=False), 5)
    return net, logits, net.softmax(logits)


def autoencoder(rng, make=Net):
    """Dense layers down and up again."""
    net = make(rng, (1, 40))
    x = net.inputs[0]
    for width in (24, 24, 6, 24):
        x = net.dense(x, width, "RELU")
    x = net.dense(x, 40)
    return net, x, x


NETWORKS = {"residual": residual, "mobile": mobile, "autoencoder": autoencoder}
