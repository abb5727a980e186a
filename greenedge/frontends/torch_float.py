"""A torch module without quantisers as a float ONNX file, by torch's own exporter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from greenedge._warnings import quiet
from greenedge.errors import GreenedgeError
from greenedge.frontends.samples import read_arguments

if TYPE_CHECKING:
    from torch import nn


def export_float(model: nn.Module, samples: Path, path: Path) -> None:
    """Writes `model` in eval mode, with a batch of one, to `path`; its mode afterwards is that of before.

    samples     .npy of float32 (N, *shape), or .npz with an array for each argument of its forward
    Raises GreenedgeError where torch cannot export it.
    """
    import torch

    arguments = tuple(torch.from_numpy(array[:1].astype("float32")) for array in read_arguments(samples, model.forward))
    was_training = model.training
    model.eval()
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(model, arguments, str(path), dynamo=True, external_data=False, verbose=False)
    except Exception as error:  # torch's exporter has no common class; the first line names what it cannot export
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise GreenedgeError(
            f"torch cannot export {type(model).__name__} to ONNX: {lines[0].strip()}; replace the module it names, or "
            "export it yourself and give the file."
        ) from error
    finally:
        model.train(was_training)
