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
static int device[4]; static unsigned count = 1, mig; static int counter_fault; static char *other_name;
void stub_leave(void) { count = 0; }
void stub_shape(unsigned n, int no_counter, unsigned slices, char *name) {
  count = n; counter_fault = no_counter; mig = slices; other_name = name; }
void stub_set(unsigned long long e, unsigned p, int f) { energy_mj = e; power_mw = p; fault = f; }
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned f) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int r) { return r == 3 ? "Not Supported" : r == 4 ? "Insufficient Permissions"
                                                                          : "Unknown Error"; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { if (i >= count) return 2; *h = &device[i]; return 0; }
int nvmlDeviceGetName(void *h, char *t, unsigned n) {
  strcpy(t, other_name && h != device ? other_name : "Stub 100"); return 0; }
int nvmlDeviceGetUUID(void *h, char *t, unsigned n) {
  strcpy(t, "GPU-0aa"); t[4] += (int *)h - device; return 0; }
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *next) { *now = *next = mig; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *e) {
  if (fault || counter_fault) return fault ? fault : counter_fault;
  *e = energy_mj * (1 + ((int *)h - device)); return 0; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *p) {
  if (fault) return fault; *p = power_mw * (1 + ((int *)h - device)); return 0; }
int nvmlDeviceGetFieldValues(void *h, int n, Field *f) {
  for (int i = 0; i < n; i++) {
    f[i].nvmlReturn = f[i].fieldId == 186 && fault != 3 ? 0 : 3;
    f[i].value.ui = power_mw * (1 + ((int *)h - device)); }
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


def device_tree(root: Path, model: str, *compatible: str) -> None:
    """/proc/device-tree of a board; each word ends with NUL."""
    folder = root / "proc/device-tree"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model").write_bytes(model.encode() + b"\0")
    (folder / "compatible").write_bytes(b"".join(word.encode() + b"\0" for word in compatible))


def dmi(root: Path, vendor: str, product: str, chassis: str) -> None:
    """The DMI tables of a PC, laptop (chassis 10) or server (23)."""
    folder = root / "sys/class/dmi/id"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("sys_vendor", vendor), ("product_name", product), ("chassis_type", chassis)):
        (folder / name).write_text(text + "\n")


PI = ("Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b", "brcm,bcm2712")
