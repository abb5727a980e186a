"""Post-training quantisation: the scales of a float network's activations from a few samples, and nothing trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from greenedge._warnings import quiet

if TYPE_CHECKING:
    from torch import fx

_BATCH = 256


def calibrate(model: fx.GraphModule, x: np.ndarray) -> fx.GraphModule:
    """Sets the scale of every activation in a network that `quantise` made from x (N, *shape).

    Brevitas' calibration: the 99.999th percentile, mean over batches of 256. Returns the network, in eval mode.
    """
    import torch

    with quiet():
        from brevitas.graph.calibrate import calibration_mode

        model.eval()
        with torch.no_grad(), calibration_mode(model):
            for part in torch.from_numpy(np.ascontiguousarray(x)).split(_BATCH):
                model(part)
    model.eval()
    return model
