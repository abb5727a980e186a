"""A build folder with a board around a small core, for tests: the running sums of six elements of 5 bits."""

from pathlib import Path

import numpy as np

from greenedge.hdl.board_shell import CoreInfo, shell
from greenedge.target import load_target

MODEL = "5a" * 31 + "7e"
SOURCE = {
    "name": "input",
    "edge": "input",
    "bits": 5,
    "signed": False,
    "elements": 2,
    "beats": 3,
    "shape": (6,),
    "offset": (),
}
OUTPUT = {
    "name": "sums",
    "edge": "sums",
    "bits": 9,
    "signed": False,
    "elements": 1,
    "beats": 6,
    "shape": (6,),
    "offset": (),
}
CORE = Path(__file__).resolve().parents[1] / "rtl" / "ge_standin.sv"


def build_standin(folder: Path, target: str = "ulx3s-85f", model: str = MODEL, **options):
    """Writes the folder; returns the shell."""
    core = CoreInfo("ge_standin", SOURCE, OUTPUT, model, ("ge_standin.sv",))
    made = shell(core, load_target(target), **options)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**made.files, "ge_standin.sv": CORE.read_bytes()}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return made


def samples(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers in and out."""
    x = rng.integers(0, 32, (n, 6))
    return x, np.cumsum(x, axis=1)
