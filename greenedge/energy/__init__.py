"""Joules per inference on CPU, GPU and FPGA by one method, in which an estimate can never pass for a measurement.

    measure(workloads, source_ids)     a checked document (see results)
    compare(one, other)                the ratio with its interval and verdict
    CallableWorkload(call, name)       what is measured
    with window("epoch") as w: …       any code, measured or estimated: w.joules, w.joules_estimate
    Monitor(sources)                   … with begin and end, several sources
    save_windows(monitor, path)        … as JSON, CSV or OpenMetrics (.prom)

numpy and scipy are the only dependencies, and importing this package loads neither: each name is loaded when it is
asked for.
"""

from __future__ import annotations

import importlib

_HOME = {
    "CallableWorkload": "workloads",
    "CommandWorkload": "workloads",
    "EnergyWindow": "monitor",
    "Method": "method",
    "Monitor": "monitor",
    "PipeWorkload": "workloads",
    "SerialWorkload": "workloads",
    "Workload": "workloads",
    "compare": "comparison",
    "measure": "measurement",
    "save_windows": "monitor_files",
    "window": "monitor",
}
_NAMED = {"save_windows": "save"}

__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), _NAMED.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
