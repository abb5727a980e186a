"""Trees, ports and libraries for the tests of the energy harness."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from greenedge.energy.clock import VirtualClock
from greenedge.energy.simulate import FakeCounter, FakeMachine

NVML_STUB = r"""
#include <string.h>
typedef struct { unsigned fieldId, scopeId; long long timestamp, latencyUsec; int valueType; int nvmlReturn;
                 union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long ll; } value;
} Field;
static unsigned long long energy_mj; static unsigned power_mw; static int fault;
static int device; static unsigned count = 1;
void stub_leave(void) { count = 0; }
void stub_set(unsigned long long e, unsigned p, int f) { energy_mj = e; power_mw = p; fault = f; }
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned f) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int r) { return r == 3 ? "Not Supported" : r == 4 ? "Insufficient Permissions"
                                                                          : "Unknown Error"; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { if (i) return 2; *h = &device; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *e) {
  if (fault) return fault; *e = energy_mj; return 0; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *p) {
  if (fault) return fault; *p = power_mw; return 0; }
int nvmlDeviceGetFieldValues(void *h, int n, Field *f) {
  for (int i = 0; i < n; i++) { f[i].nvmlReturn = f[i].fieldId == 186 ? 0 : 3; f[i].value.ui = power_mw; }
  return 0; }
"""


def setup(period_s: float = 976e-6, **options) -> tuple[VirtualClock, FakeMachine, FakeCounter]:
    clock = VirtualClock()
    machine = FakeMachine(clock, **{k: options.pop(k) for k in ("idle_w", "busy_w", "extra") if k in options})
    return clock, machine, FakeCounter(machine, period_s=period_s, **options)


def ar1(rng: np.random.Generator, sessions: int, n: int, tau: float) -> np.ndarray:
    """(sessions, n) AR(1) noise of unit variance; `tau` in samples."""
    keep = np.exp(-1 / tau)
    out = rng.standard_normal((sessions, n))
    out[:, 1:] *= np.sqrt(1 - keep**2)
    for i in range(1, n):
        out[:, i] += keep * out[:, i - 1]
    return out


def hwmon_chip(root: Path, number: int, name: str, **files: str) -> Path:
    folder = root / f"sys/class/hwmon/hwmon{number}"
    folder.mkdir(parents=True)
    for key, text in {"name": name, **files}.items():
        (folder / key).write_text(text + "\n")
    return folder
