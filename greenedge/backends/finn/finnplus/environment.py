"""FINN+'s own environment (greenedge.tools.own_environment).

FINN+ cannot share an environment with current torch (its pins contradict), and of what it asks for our road needs a
tenth.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from greenedge.tools import own_environment

__all__ = ["FINN", "environment_folder", "finn_packages", "finn_python", "finn_version", "pins", "sys"]

PINS = Path(__file__).with_name("requirements.txt")
WORKER = Path(__file__).with_name("worker.py")
FINN = own_environment.Environment("FINN+", "finn", PINS, WORKER, 100)


def environment_folder() -> Path:
    """Where the environment for these pins and this Python lies, whether it exists or not."""
    return own_environment.environment_folder(FINN)


def pins() -> list[str]:
    """The pinned packages, one `name==version` each."""
    return own_environment.pins(FINN)


def finn_version() -> str:
    """The version of FINN+ that is pinned."""
    return next(pin.partition("==")[2] for pin in pins() if pin.startswith("finn-plus=="))


def finn_python(progress: Callable[[str], None]) -> Path:
    """The Python that FINN+ runs in; makes or mends its environment first. Raises ToolError when it cannot be had."""
    return own_environment.own_python(FINN, progress)


def finn_packages(progress: Callable[[str], None]) -> Path:
    """The folder of FINN+'s installed packages; makes or mends the environment first. Raises as `finn_python`."""
    finn_python(progress)
    return next((environment_folder() / "lib").glob("python*/site-packages"))
