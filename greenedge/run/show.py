"""The layers of a model file for a person: a table, and a drawing. Nothing is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from greenedge.decoder.source import is_decoder_file
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.frontends.load import refuse_language_models
from greenedge.frontends.source import Source, read_model
from greenedge.frontends.tflite import describe_kind
from greenedge.frontends.tflite.file import File, Operator, Tensor, is_tflite, read_file


@dataclass(frozen=True)
class Layer:
    """One layer: which layers or inputs it reads, the shape and the type of what it gives, the numbers that it
    holds."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    shape: tuple[int | None, ...]
    type: str
    parameters: int


def list_layers(path: Path) -> tuple[str, list[Layer]]:
    """(what kind of file it is, its layers in order of execution, inputs first).

    Raises GreenedgeError for a file that is none, damaged, or of a language model.
    """
    if is_decoder_file(path):
        raise GreenedgeError(
            f"{path} is a language model, which has no layers to draw: let it write with `greenedge chat`."
        )
    refuse_language_models(path)
    if path.is_file() and is_tflite(path):
        file = read_file(path)
        return describe_kind(file), _list_tflite(file)
    source = read_model(path)
    return source.kind, _list_onnx(source)


def _list_tflite(file: File) -> list[Layer]:
    makers: dict[int, str] = {}
    layers = []
    for number in file.inputs:
        tensor = file.tensors[number]
        makers[number] = tensor.name or f"input_{number}"
        layers.append(Layer(makers[number], "INPUT", (), tensor.shape, _describe_type(tensor), 0))
    for operator in file.operators:
        if not operator.outputs:
            continue
        layers.append(_describe_operator(file, operator, makers))
        makers |= dict.fromkeys(operator.outputs, operator.name)
    return layers


def _describe_operator(file: File, operator: Operator, makers: dict[int, str]) -> Layer:
    out = file.tensors[operator.outputs[0]]
    constants = [file.tensors[number] for number in operator.inputs if number >= 0 and file.tensors[number].is_constant]
    inputs = tuple(dict.fromkeys(makers[number] for number in operator.inputs if number in makers))
    parameters = sum(tensor.elements for tensor in constants if len(tensor.scales) or "FLOAT" in tensor.kind)
    return Layer(operator.name, operator.kind, inputs, out.shape, _describe_type(out), parameters)


def _describe_type(tensor: Tensor) -> str:
    kind = tensor.kind.lower()
    if not len(tensor.scales):
        return kind
    if len(tensor.scales) > 1:
        return f"{kind}, {len(tensor.scales)} scales"
    return f"{kind}, scale {tensor.scales[0]:.4g}, zero point {tensor.zeros[0]}"


def _list_onnx(source: Source) -> list[Layer]:
    makers = {name: name for name in source.inputs}
    shapes = {**source.shapes, **source.inputs, **source.outputs}
    layers = [
        Layer(name, "Input", (), shape, source.annotations.get(name, "float32").lower(), 0)
        for name, shape in source.inputs.items()
    ]
    for node in source.nodes:
        inputs = tuple(dict.fromkeys(makers[name] for name in node.inputs if name in makers))
        parameters = sum(math.prod(source.constants[name].shape) for name in node.inputs if name in source.constants)
        out = node.outputs[0] if node.outputs else ""
        kind = source.annotations.get(out, "int8" if node.op == "QuantizeLinear" else "float32").lower()
        layers.append(Layer(node.module or node.name, node.op, inputs, shapes.get(out, ()), kind, parameters))
        makers |= dict.fromkeys(filter(None, node.outputs), node.module or node.name)
    return layers


def draw_layers(layers: Sequence[Layer], path: Path) -> None:
    """Writes the drawing of a network as SVG. Raises GreenedgeError for more layers than anybody looks at."""
    from greenedge.report.drawing import MAX_BOXES, Box, draw

    if len(layers) > MAX_BOXES:
        raise GreenedgeError(
            f"{len(layers):,} layers are no drawing; at most {MAX_BOXES:,} are drawn: leave --svg out."
        )
    boxes = [Box(one.name, " ".join((one.operator, _show_shape(one.shape))), one.inputs) for one in layers]
    with atomic_write(path) as temporary:
        temporary.write_text(draw(boxes))


def _show_shape(shape: Sequence[int | None]) -> str:
    return " × ".join("?" if size is None else str(size) for size in shape)


HEADINGS = ["layer", "output", "parameters", "type, scale, zero point"]


def make_rows(layers: Sequence[Layer]) -> list[list[str]]:
    """The table's rows under HEADINGS, for a screen of 80 columns."""
    return [
        [
            one.name if one.operator.lower() in one.name.lower() else f"{one.name} ({one.operator})",
            _show_shape(one.shape),
            f"{one.parameters:,}" if one.parameters else "",
            one.type.replace("scale ", "").replace("zero point ", ""),
        ]
        for one in layers
    ]
