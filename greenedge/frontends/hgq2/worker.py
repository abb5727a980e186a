"""Reads an HGQ2 model in its own environment (Keras on jax); a program of its own:

    python worker.py MODEL.keras FOLDER     FOLDER gets network.json and arrays.npz
    python worker.py --predict MODEL.keras X.npy Y.npy     what Keras itself gives
    python worker.py --probe

Loaded in Keras' safe mode: no code in the file is run. What a step does is said in network.py, which writes it as ONNX.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"

REFUSED = 3  # exit status: a sentence on standard error says why
_PLAIN = ("InputLayer", "Dropout", "Flatten", "Reshape", "ReLU", "Activation", "MaxPooling2D", "Quantizer")
_DENSE = ("QDense", "QBatchNormDense")
_CONV = ("QConv1D", "QConv2D")
_MERGE = {"QAdd": "add", "QSubtract": "subtract"}


class Refusal(Exception):
    """Why a model cannot be read, a sentence a layer."""


class Steps:
    """The network as steps in order of execution, and the arrays that they name."""

    def __init__(self):
        self.steps, self.arrays, self.names, self.reasons = [], {}, {}, []

    def array(self, values):
        import numpy as np

        key = f"a{len(self.arrays)}"
        self.arrays[key] = np.asarray(values)
        return key

    def add(self, op, name, inputs, **facts):
        output = f"v{len(self.steps)}"
        self.steps.append({"op": op, "name": name, "inputs": inputs, "output": output, **facts})
        return output

    def quantise(self, quantizer, source, shape, name):
        """A fixed-point quantiser on a tensor of that shape (without the batch)."""
        import numpy as np
        from keras import ops

        inner = quantizer.quantizer
        if quantizer.scaler is not None or quantizer.affine is not None or not hasattr(inner, "kif"):
            raise Refusal(f"{name}: a quantiser with a scaler, an affine or floating point; quantisers are fixed-point")
        parts = [
            np.broadcast_to(
                ops.convert_to_numpy(inner.bw_mapper.bw_to_x(ops.convert_to_tensor(part), (1, *shape))), (1, *shape)
            )[0]
            for part in inner.kif
        ]
        k, i, f = (self.array(np.asarray(part, np.float64)) for part in parts)
        return self.add(
            "quantise", name, [source], k=k, i=i, f=f, rounds=inner.round_mode, overflow=inner.overflow_mode
        )


def read(path):
    """Steps of the model. Raises Refusal with every reason."""
    import hgq  # noqa: F401  # registers its layers
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    functional = getattr(model, "_functional", None) or model
    if not hasattr(functional, "operations"):
        raise Refusal(f"{type(model).__name__} is no functional or sequential model; write it as one")
    steps = Steps()
    own = {id(node) for nodes in functional._nodes_by_depth.values() for node in nodes}
    for operation in functional.operations:
        nodes = [node for node in operation._inbound_nodes if id(node) in own]
        if len(nodes) != 1:
            steps.reasons.append(f"{operation.name}: it is used {len(nodes)} times; a layer is used once")
            continue
        sources = nodes[0].arguments.keras_tensors
        inputs = [steps.names.get(id(one), "?") for one in sources]
        shapes = [tuple(one.shape[1:]) for one in sources]
        try:
            output = describe(steps, operation, inputs, shapes, tuple(nodes[0].output_tensors[0].shape[1:]))
        except Refusal as refusal:
            steps.reasons.append(str(refusal))
            output = "?"
        steps.names[id(nodes[0].output_tensors[0])] = output
    if steps.reasons:
        raise Refusal("\n".join(steps.reasons))
    for tensor in functional.outputs:
        steps.add("output", "output", [steps.names[id(tensor)]])
    return steps


def describe(steps, layer, inputs, shapes, out):
    """The name of a layer's output; its steps are added."""
    kind, name = type(layer).__name__, layer.name
    if None in out or any(None in shape for shape in shapes):
        raise Refusal(f"{name}: a shape of {out}; shapes are fixed")
    if kind not in (*_PLAIN, *_DENSE, *_CONV, *_MERGE):
        known = ", ".join((*_PLAIN, *_DENSE, *_CONV, *_MERGE))
        raise Refusal(f"{name}: {kind}; the layers that are read are {known}")
    if kind == "InputLayer":
        return steps.add("input", name, [], shape=out)
    if kind == "Quantizer":
        return steps.quantise(layer, inputs[0], shapes[0], name)
    if kind == "Dropout":
        return inputs[0]
    if getattr(layer, "enable_iq", False):
        quantizers = layer.iq if kind in _MERGE else [layer.iq]
        inputs = [
            steps.quantise(q, source, shape, f"{name}_in{k}")
            for k, (q, source, shape) in enumerate(zip(quantizers, inputs, shapes, strict=True))
        ]
    result = compute(steps, layer, kind, inputs, shapes, out)
    if getattr(layer, "enable_oq", False):
        result = steps.quantise(layer.oq, result, out, f"{name}_out")
    return result


def compute(steps, layer, kind, inputs, shapes, out):
    from keras import ops

    name = layer.name
    if kind in ("Flatten", "Reshape"):
        return steps.add("reshape", name, inputs, shape=out)
    if kind == "ReLU":
        if layer.negative_slope or layer.threshold or layer.max_value is not None:
            raise Refusal(f"{name}: a ReLU with a slope, a threshold or a largest value; a ReLU is plain")
        return steps.add("relu", name, inputs)
    if kind == "Activation":
        return activate(steps, layer.activation, inputs[0], name)
    if kind == "MaxPooling2D":
        if layer.padding != "valid" or layer.data_format != "channels_last":
            raise Refusal(f"{name}: a pool with padding or channels first; pools are valid, channels last")
        return steps.add("max_pool", name, inputs, kernel=list(layer.pool_size), strides=list(layer.strides))
    if kind in _MERGE:
        if len(inputs) != 2 or shapes[0] != shapes[1]:
            raise Refusal(f"{name}: {len(inputs)} branches of shapes {shapes}; two of one shape are merged")
        return steps.add(_MERGE[kind], name, inputs)
    kernel, bias = layer.qkernel, layer.qbias
    if kind == "QBatchNormDense":
        kernel, bias = layer.get_fused_qkernel_and_qbias(layer.moving_mean, layer.moving_variance)
    facts = {"kernel": steps.array(ops.convert_to_numpy(kernel))}
    if bias is not None:
        facts["bias"] = steps.array(ops.convert_to_numpy(bias))
    if kind in _CONV:
        if layer.data_format != "channels_last" or layer.padding not in ("valid", "same"):
            raise Refusal(f"{name}: padding {layer.padding} or channels first; valid or same, channels last")
        facts |= {"strides": list(layer.strides), "dilations": list(layer.dilation_rate), "groups": layer.groups}
        facts["padding"] = layer.padding
    result = steps.add("conv" if kind in _CONV else "dense", name, inputs, **facts)
    return activate(steps, layer.activation, result, name)


def activate(steps, function, source, name):
    kind = getattr(function, "__name__", "linear")
    if function is None or kind == "linear":
        return source
    if kind != "relu":
        raise Refusal(f"{name}: the activation {kind}; activations are relu and linear")
    return steps.add("relu", f"{name}_relu", [source])


def predict(path, samples, out):
    import hgq  # noqa: F401
    import keras
    import numpy as np

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    np.save(out, np.asarray(model.predict(np.load(samples, allow_pickle=False), verbose=0)))


def main(argv):
    import numpy as np

    if argv == ["--probe"]:
        import hgq  # noqa: F401

        print("ok")
        return 0
    if argv[0] == "--predict":
        predict(*argv[1:])
        return 0
    try:
        steps = read(argv[0])
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return REFUSED
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        print(f"Keras does not load it: {text}", file=sys.stderr)
        return REFUSED
    with open(os.path.join(argv[1], "network.json"), "w", encoding="utf-8") as file:
        json.dump(steps.steps, file)
    np.savez(os.path.join(argv[1], "arrays.npz"), **steps.arrays)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
