"""Joules per inference on CPU, GPU and FPGA by one method, in which an estimate can never pass for a measurement.

    measure(workloads, source_ids)     a checked document (see results)
    compare(one, other)                the ratio with its interval and verdict
    CallableWorkload(call, name)       what is measured

numpy is the only dependency, and importing this package loads not even that: each name is loaded when it is asked for.
"""

from __future__ import annotations

import importlib

_HOME = {
    "CallableWorkload": "workloads",
    "CommandWorkload": "workloads",
    "Method": "method",
    "PipeWorkload": "workloads",
    "SerialWorkload": "workloads",
    "Workload": "workloads",
    "compare": "comparison",
    "measure": "measurement",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
