"""The self-test that users attach to a report: the harness on simulated sources of known energy, and all live
sources."""

from __future__ import annotations

from pathlib import Path

from greenedge.energy import liveness, results
from greenedge.energy.clock import VirtualClock
from greenedge.energy.liveness import Load
from greenedge.energy.measurement import measure_sources, probe
from greenedge.energy.method import Method
from greenedge.energy.simulate import FAULTS, FakeCounter, FakeMachine, MachineWorkload
from greenedge.progress import ProgressFn, no_progress


def selftest(
    root: Path = Path("/"),
    load: Load | None = None,
    seconds: float = 1.0,
    progress: ProgressFn = no_progress,
) -> dict:
    """{"ok", "checks": [{name, ok, figure}], "sources": […], "environment"}; `ok` is False where any check fails."""
    checks = [_energy(), _wrap(), *_faults()]
    sources = [
        {
            "id": p.id,
            "scope": p.scope,
            "covers": p.covers,
            "state": p.live.state,
            "reason": p.live.reason,
            "update_period_s": p.live.period_s,
        }
        for p in probe(root, load=load, seconds=seconds, progress=progress)
    ]
    return {
        "schema": "greenedge-energy-selftest/1",
        "ok": all(check["ok"] for check in checks),
        "checks": checks,
        "sources": sources,
        "environment": results.environment(),
    }


def simulate_document(start_j: float = 100.0, seed: int = 0, names: tuple[str, ...] = ("fake",)) -> dict:
    """A session on the simulated machine: 20 W idle, 30 W busy, 4 ms a call (0.12 J total, 0.04 J net)."""
    clock = VirtualClock()
    machine = FakeMachine(clock)
    source = FakeCounter(machine, start_j=start_j)
    workloads = [MachineWorkload(machine, 0.004 * (i + 1), name) for i, name in enumerate(names)]
    return measure_sources(workloads, [source], method=Method(warm_up_s=12), clock=clock, seed=seed)


def _energy() -> dict:
    row = simulate_document()["rows"][0]
    total, net = results.require_figure(row, "total").value, results.require_figure(row, "net").value
    off = max(abs(total / 0.12 - 1), abs(net / 0.04 - 1))
    return {"name": "a known load", "ok": off < 0.005, "figure": f"worst error {off:.3%}, 0.5 % allowed"}


def _wrap() -> dict:
    row = simulate_document(start_j=262143.328850 - 1500)["rows"][0]
    worst = max(abs(rep["energy_simulated_j"] / 0.12 - 1) for rep in row["repetitions"])
    return {
        "name": "a counter that wraps in the run",
        "ok": worst < 0.01,
        "figure": f"worst error {worst:.3%}, 1 % allowed",
    }


def _faults() -> list[dict]:
    checks = []
    for fault in FAULTS:
        clock = VirtualClock()
        machine = FakeMachine(clock)
        found = liveness.check(FakeCounter(machine, fault=fault), clock, machine.load)
        checks.append(
            {
                "name": f"a counter with the fault {fault!r}",
                "ok": not found.ok,
                "figure": f"{found.state}: {found.reason}",
            }
        )
    return checks
