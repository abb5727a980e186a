"""Programs in containers: the argv of `docker run` for the programs that docker/ has an image of.

The image has the libraries that a program needs; AMD's licence forbids distributing its tools, so they are mounted from
this machine. The work folder is mounted at its own path, so that paths in arguments and logs are valid on both sides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from greenedge.errors import ToolError

XILINX = "GREENEDGE_XILINX"  # where AMD's tools are installed on this machine
_XILINX_DEFAULT = "/tools/Xilinx"


@dataclass(frozen=True)
class Image:
    """An image of docker/: its tag with the pinned version, the folder of its Dockerfile, the devices and tools that it
    needs from this machine."""

    tag: str
    folder: str
    devices: tuple[str, ...] = ()
    xilinx: bool = False


_LOADER = Image("greenedge/openfpgaloader:1.1.1.0", "docker/openfpgaloader", ("/dev/bus/usb",))
_FINN = Image("greenedge/finn-vivado:2024.2", "docker/finn-vivado", xilinx=True)
_HLS = Image("greenedge/hls4ml-vitis:2024.2", "docker/hls4ml-vitis", xilinx=True)
IMAGES = {"openFPGALoader": _LOADER, "vivado": _FINN, "vitis-run": _HLS, "vitis_hls": _HLS, "v++": _HLS}


def docker_argv(program: str, words: Sequence[str], folder: Path, writable: bool = True) -> list[str]:
    """`docker run …` for `program` with the arguments `words`, in the work folder `folder`, without a network.

    Raises ToolError: no image has that program, or AMD's tools are not where GREENEDGE_XILINX says.
    """
    if program not in IMAGES:
        raise ToolError(f"no image has {program}; images have: {', '.join(sorted(IMAGES))}.")
    image, work = IMAGES[program], folder.resolve()
    argv = [
        "docker",
        "run",
        "--rm",
        "--init",
        "--network",
        "none",
        *(word for device in image.devices for word in ("--device", device)),
        "--mount",
        _mount(work, work, writable),
        "--workdir",
        str(work),
    ]
    if not image.devices:  # a loader needs access to the USB device; the files of all others must belong to the user
        argv += ["--user", f"{os.getuid()}:{os.getgid()}", "--env", "HOME=/tmp"]
    if image.xilinx:
        home = Path(os.environ.get(XILINX, _XILINX_DEFAULT))
        if not home.is_dir():
            raise ToolError(f"AMD's tools are not in {home}; install them there, or say where they are in {XILINX}.")
        argv += ["--mount", _mount(home.resolve(), Path(_XILINX_DEFAULT), False)]
        argv += ["--env", "LM_LICENSE_FILE"] if "LM_LICENSE_FILE" in os.environ else []
    return [*argv, image.tag, program, *words]


def _mount(source: Path, target: Path, writable: bool) -> str:
    for path in (source, target):
        if re.search(r'[,"]', str(path)):
            raise ToolError(
                f"docker cannot mount {path}: commas and quotes in a path mean something else to it; choose another "
                "folder."
            )
    return f"type=bind,source={source},target={target}" + ("" if writable else ",readonly")


def why_not(program: str, text: str) -> str | None:
    """The cure where docker itself failed; None where the program in it did."""
    image = IMAGES[program]
    if re.search(r"Unable to find image|pull access denied|No such image", text):
        return f"docker has no image {image.tag}: docker build -t {image.tag} {image.folder}."
    if re.search(
        r"Cannot connect to the Docker daemon|failed to connect to the docker API|permission denied.*docker\.sock", text
    ):
        return (
            "docker does not answer: start it (sudo systemctl start docker), and be a member of its group "
            "(sudo usermod -aG docker $USER, then log in again)."
        )
    return None
