"""What `greenedge quantise` costs: points lost on held-out digits by float CNNs of ordinary PyTorch code.

At 8, 4 and mixed bits, with the 95 % interval of the paired difference; and the seconds it takes for a network of a
million weights.

    python benchmarks/post_training.py [--nets plain,mobile,residual,million] [--seeds 3] [--epochs 20]

Each float network is trained on the half of the digits that `quantise` calibrates on, and compared on the other half.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from greenedge._warnings import quiet
from greenedge.frontends.quantise_float import QuantiseOptions
from greenedge.frontends.torch_float import export_float
from greenedge.progress import no_progress
from greenedge.run.quantise import quantise_model, split_samples

WAYS = {
    "8 bits": QuantiseOptions(),
    "4 bits": QuantiseOptions("4"),
    "mixed": QuantiseOptions("mixed"),
    "4 bits, fine-tuned": QuantiseOptions("4", finetune=True),
    "4 bits, activations of 4, fine-tuned": QuantiseOptions("4", 4, finetune=True),
}
_BATCH, _RATE = 64, 3e-3


def unit(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1, act: type = nn.ReLU) -> nn.Module:
    """Convolution, batch norm, activation."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), act())


class Inverted(nn.Module):
    """MobileNetV2's block: a wide depthwise layer between two narrow ends."""

    def __init__(self, inputs: int, outputs: int, stride: int, factor: int = 4) -> None:
        super().__init__()
        self.is_added, wide = stride == 1 and inputs == outputs, inputs * factor
        ends = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.layers = nn.Sequential(
            unit(inputs, wide, 1, act=nn.ReLU6), unit(wide, wide, 3, stride, wide, nn.ReLU6), *ends
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.is_added else self.layers(x)


class Residual(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = unit(inputs, outputs, 3, stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.beside = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(self.first(x)) + self.beside(x))


def head(width: int) -> list[nn.Module]:
    """From an image to ten scores."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]


NETS = {
    "plain": lambda: nn.Sequential(
        unit(1, 16), nn.MaxPool2d(2), unit(16, 32), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)
    ),
    "mobile": lambda: nn.Sequential(
        unit(1, 16, act=nn.ReLU6), Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1), *head(24)
    ),
    "residual": lambda: nn.Sequential(unit(1, 16), Residual(16, 16), Residual(16, 32, 2), *head(32)),
    "million": lambda: nn.Sequential(
        unit(1, 64), unit(64, 128), nn.MaxPool2d(2), unit(128, 256), unit(256, 256), *head(256)
    ),
}


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """(N, 1, 8, 8) in 0…1, and the classes, of the digits in scikit-learn."""
    from sklearn import datasets

    x, y = datasets.load_digits(return_X_y=True)
    return (x / 16).astype(np.float32).reshape(-1, 1, 8, 8), y.astype(np.int64)


def train(net: nn.Module, x: np.ndarray, y: np.ndarray, epochs: int) -> nn.Module:
    """In float, on images that are moved by a pixel."""
    images, classes = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.AdamW(net.parameters(), _RATE)
    steps = len(x) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=epochs * steps)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for step in range(steps):
            picked = order[step * _BATCH : (step + 1) * _BATCH]
            row, column = torch.randint(0, 3, (2,)).tolist()
            moved = F.pad(images[picked], (1, 1, 1, 1))[..., row : row + 8, column : column + 8]
            loss = F.cross_entropy(net(moved), classes[picked])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default="plain,mobile,residual,million")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--ways", default=",".join(WAYS).replace(", ", " "))
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y = load_digits()
    seen, unseen = split_samples(len(x))
    for name in given.nets.split(","):
        for seed in range(1 if name == "million" else given.seeds):
            torch.manual_seed(seed)
            net = train(NETS[name](), x[seen], y[seen], 4 if name == "million" else given.epochs)
            parameters = sum(one.numel() for one in net.parameters())
            with tempfile.TemporaryDirectory() as folder, quiet():
                place = Path(folder)
                np.save(place / "x.npy", x)
                np.save(place / "y.npy", y)
                export_float(net, place / "x.npy", place / "net.onnx")
                for way, options in WAYS.items():
                    if way.replace(", ", " ") not in given.ways.split(","):
                        continue
                    began = time.monotonic()
                    files = place / "net.onnx", place / "q.onnx", place / "x.npy", place / "y.npy"
                    found = quantise_model(*files, no_progress, options)
                    lost = found["lost"]
                    print(
                        f"{name}, seed {seed}, {parameters:,} parameters, {way}: {found['correct']} of {len(unseen)} "
                        f"right, float {found['float_correct']}; {lost['points']:.2f} points lost "
                        f"({lost['low']:.2f} … {lost['high']:.2f}), {time.monotonic() - began:.0f} s",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
