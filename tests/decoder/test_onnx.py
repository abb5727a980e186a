"""The ONNX model of integer operators gives numpy's logits, all of them, in ONNX Runtime."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from greenedge.decoder.execute import StepDecoder, _look_up_root
from greenedge.decoder.onnx_file import _Writer, write_onnx
from greenedge.decoder.onnx_operators import finish, name_tensor
from greenedge.decoder.record import ROOT_LIMIT, Decoder
from tests.decoder.models import random_decoder

onnxruntime = pytest.importorskip("onnxruntime")
from greenedge.runtimes.onnx_decoder import OnnxDecoder  # noqa: E402

_INTEGER = {"INT64", "INT32", "UINT8", "INT8", "BOOL"}


def count_differing(decoder: Decoder, tokens: list[int], model: onnx.ModelProto | None = None) -> int:
    theirs, ours = OnnxDecoder(model or write_onnx(decoder)), StepDecoder(decoder)
    return sum(int((theirs.step(token) != ours.step(token)).sum()) for token in tokens)


@pytest.mark.parametrize("form", ["table", "root"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [{}, {"heads": 6, "kv_heads": 1, "head_dim": 2, "hidden": 33, "layers": 1}])
def test_every_logit_is_numpys(rng, form, bits, shape):
    decoder = random_decoder(rng, norm_form=form, weight_bits=bits, **shape)
    tokens = rng.integers(0, decoder.vocabulary, decoder.context).tolist()
    assert count_differing(decoder, tokens) == 0


def test_extremes_do_not_saturate(rng):
    """All weights and all levels at their ends: products of 8 bits that a runtime adds up in 16 would differ."""
    decoder = random_decoder(rng, weight_bits=8, norm_form="table", head_dim=16, context=20)

    def push(array, most):
        return np.where(array >= 0, most, -most).astype(array.dtype)

    def push_layer(layer):
        matrices = {
            name: dataclasses.replace(one, weights=push(one.weights, 127)) for name, one in layer.projections.items()
        }
        return dataclasses.replace(layer, **matrices, context_numerator=(1 << 30) - 1)

    extreme = dataclasses.replace(
        decoder,
        embedding=push(decoder.embedding, 127),
        head=push(decoder.head, 127),
        exponential=np.full(256, 255, np.uint8),
        layers=tuple(push_layer(layer) for layer in decoder.layers),
    )
    assert count_differing(extreme, rng.integers(0, decoder.vocabulary, 20).tolist()) == 0


def test_a_residual_of_zero_and_of_the_limit(rng):
    decoder = random_decoder(rng, norm_form="table", layers=1)
    for value, shift in ((0, 4), (127, 8)):
        edge = dataclasses.replace(decoder, embedding=np.full_like(decoder.embedding, value), residual_shift=shift)
        assert count_differing(edge, [0, 1, 2]) == 0


def test_the_tables_root_at_every_border(rng):
    """Sums of squares at, and one beside, each power of four where the mantissa begins anew."""
    writer, constant = _Writer(random_decoder(rng, norm_form="table")), 1 << 57
    root = writer._look_up_root("squares", constant)
    ends = [name_tensor(name, onnx.TensorProto.INT64, ["n", 1]) for name in ("squares", "root")]
    model = finish(writer.graph, "root", ends[:1], {root: ends[1]})
    powers = 256 * 4 ** np.arange(19)
    squares = np.concatenate([[1, 255], powers - 1, powers, powers + 1])[:, None]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = np.minimum(session.run(None, {"squares": squares})[0], ROOT_LIMIT)
    assert (found == _look_up_root(squares, constant)).all() and len(np.unique(found)) > 10


def test_another_weight_gives_other_logits(rng):
    decoder = random_decoder(rng, norm_form="table")
    layer = decoder.layers[0]
    weights = layer.up.weights.copy()
    weights[0] = -weights[0]
    up = dataclasses.replace(layer.up, weights=weights)
    other = dataclasses.replace(decoder, layers=(dataclasses.replace(layer, up=up), *decoder.layers[1:]))
    assert count_differing(decoder, [1, 2, 3, 4], write_onnx(other))


def test_numbers_are_integers(rng):
    """Of the table's form no operator gives a float."""
    model = onnx.shape_inference.infer_shapes(write_onnx(random_decoder(rng, norm_form="table")))
    kinds = {onnx.TensorProto.DataType.Name(one.type.tensor_type.elem_type) for one in model.graph.value_info}
    kinds |= {onnx.TensorProto.DataType.Name(one.data_type) for one in model.graph.initializer}
    assert kinds <= _INTEGER


@pytest.mark.slow
def test_the_trained_model(shared, rng):
    """stories260K, quantised by calibration: 40 tokens."""
    pytest.importorskip("torch")
    from greenedge.frontends.llama2c import read_llama2c
    from greenedge.train.decoder.calibrate import calibrate
    from greenedge.train.decoder.export import export_decoder
    from greenedge.train.decoder.float_network import FloatNetwork
    from greenedge.train.decoder.network import QuantisedNetwork

    floats = read_llama2c(shared / "models" / "stories260K.bin")
    network, texts = QuantisedNetwork(floats, 4, "table"), FloatNetwork(floats).write(2, 40, 0)
    calibrate(network, texts)
    assert count_differing(export_decoder(network), texts[0].tolist()) == 0
