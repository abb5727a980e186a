"""Post-training quantisation: the scales of a float network's activations from a few samples, and nothing trained."""

from __future__ import annotations

import numpy as np

from greenedge._warnings import quiet

_BATCH = 256


def calibrate(model, x: np.ndarray):
    """Sets every activation's scale in a network that `quantise` made from what x (N, *shape) gives there, by Brevitas'
    calibration (99.999th percentile, mean over batches of 256); the network is left in eval mode and returned."""
    import torch

    with quiet():
        from brevitas.graph.calibrate import calibration_mode

        model.eval()
        with torch.no_grad(), calibration_mode(model):
            for part in torch.from_numpy(np.ascontiguousarray(x)).split(_BATCH):
                model(part)
    return model.eval()
