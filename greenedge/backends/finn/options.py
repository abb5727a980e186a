"""What --set build.NAME may say to finn, read and checked; the objective and the board's request that follow."""

from __future__ import annotations

from typing import Any

from greenedge.backends.finn import amd
from greenedge.backends.finn.objective import Objective
from greenedge.backends.interface import Options
from greenedge.errors import TargetError
from greenedge.target import Target

OPTIONS = ("fps", "latency", "queue", "finn_plus", "clock_hz", "baud", "link", "seed", "seeds", "synthesis")
GOALS = ("fps", "latency")  # what the folding is searched for
_WORDS: dict[str, tuple[str | int, ...]] = {"synthesis": ("vivado",), "finn_plus": (0, 1)}
_NO_MODEL = "0" * 64


def check_options(options: Options) -> None:
    """Raises TargetError for an option, or a word as its value, that is none of ours."""
    if unknown := [key for key in options if key not in OPTIONS]:
        raise TargetError(f"finn has no option build.{unknown[0]}; it has: {', '.join(OPTIONS)}.")
    for key, words in _WORDS.items():
        if options.get(key, words[0]) not in words:
            raise TargetError(
                f"--set build.{key}={options[key]}: it must be {' or '.join(map(str, words))}, or be left out."
            )


def read_whole(options: Options, name: str, default: int | None = None) -> int | None:
    """A whole number above 0, which may be written with an exponent (50e6). Raises TargetError for anything else."""
    value = options.get(name, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise TargetError(f"--set build.{name}={value}: it must be a whole number above 0.")
    return value


def read_number(options: Options, name: str) -> float | None:
    """A number above 0. Raises TargetError for anything else."""
    value = options.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise TargetError(f"--set build.{name}={value}: it must be a number above 0.")
    return value


def read_objective(target: Target, options: Options) -> Objective:
    """What the options ask for, in cycles."""
    clock_hz = board_request(target, options)["clock_hz"]
    fps, latency_s = read_number(options, "fps"), read_number(options, "latency")
    return Objective(
        None if fps is None else int(clock_hz / fps),
        None if latency_s is None else int(clock_hz * latency_s),
        read_whole(options, "queue"),
    )


def describe_objective(options: Options) -> str:
    """The speed that is asked for, in words; "" where none is."""
    fps, latency_s = read_number(options, "fps"), read_number(options, "latency")
    asked = [] if fps is None else [f"{fps:,.0f} inferences per second"]
    asked += [] if latency_s is None else [f"a latency of {1e6 * latency_s:,.4g} µs"]
    return " and ".join(asked)


def board_request(target: Target, options: Options, model: str = _NO_MODEL) -> dict[str, Any]:
    """The board's shell as the options want it, for the model of this digest.

    Raises TargetError with every reason why the board cannot have it.
    """
    if target.device.family in amd.DSP:
        return amd.request(target, model, read_whole(options, "clock_hz"), read_number(options, "fps"))
    from greenedge.hdl.board_shell import shell_request

    link = str(options.get("link") or "uart")
    return shell_request(target, model, read_whole(options, "clock_hz"), read_whole(options, "baud"), link)
