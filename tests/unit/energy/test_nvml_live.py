"""NVML in real time, from the shell: a stub library on LD_LIBRARY_PATH, the real pynvml, the real sampling process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# 60 W, and 240 W more while somebody holds the lock; a counter and an average that a thread updates every 20 ms.
STUB = r"""
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>
typedef struct { unsigned fieldId, scopeId; long long timestamp, latencyUsec; int valueType; int nvmlReturn;
                 union { double d; unsigned ui; unsigned long long ull; } value; } Field;
static volatile unsigned long long energy_uj; static volatile unsigned power_mw = 60000; static int device;
static void *run(void *unused) {
  int fd = open(getenv("STUB_LOCK"), O_RDWR | O_CREAT, 0600);
  struct timespec last, now; clock_gettime(CLOCK_MONOTONIC, &last);
  for (;;) {
    double busy = 0, all = 0;
    for (int i = 0; i < 4; i++) {
      usleep(5000); clock_gettime(CLOCK_MONOTONIC, &now);
      double dt = (now.tv_sec - last.tv_sec) + 1e-9 * (now.tv_nsec - last.tv_nsec); last = now;
      int free = flock(fd, LOCK_EX | LOCK_NB) == 0; if (free) flock(fd, LOCK_UN);
      all += dt; busy += free ? 0 : dt;
    }
    energy_uj += (unsigned long long)(1e6 * (60 * all + 240 * busy));
    power_mw = (unsigned)(1000 * (60 + 240 * busy / all) * POWER_FACTOR);
  }
}
int nvmlInit_v2(void) { pthread_t t; static int once; if (!once++) pthread_create(&t, 0, run, 0);
                          usleep(250000); return 0; }
int nvmlInitWithFlags(unsigned f) { return nvmlInit_v2(); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int r) { return "Not Supported"; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = &device; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *e) { *e = energy_uj / 1000; return 0; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *p) { *p = power_mw; return 0; }
int nvmlDeviceGetFieldValues(void *h, int n, Field *f) {
  for (int i = 0; i < n; i++) { f[i].nvmlReturn = f[i].fieldId == 186 ? 0 : 3; f[i].value.ui = power_mw; }
  return 0; }
"""


def _greenedge(tmp_path, *words: str) -> subprocess.CompletedProcess:
    pytest.importorskip("pynvml")
    (tmp_path / "stub.c").write_text(STUB)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", "-DPOWER_FACTOR=1.12", "-o", library, tmp_path / "stub.c", "-lpthread"],
        check=True,
    )
    env = os.environ | {
        "LD_LIBRARY_PATH": str(tmp_path),
        "STUB_LOCK": str(tmp_path / "lock"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    argv = [sys.executable, "-c", "from greenedge.cli import main; main()", "energy", *words]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=400, check=False)


@pytest.mark.tool("g++")
@pytest.mark.slow
def test_a_gpu_is_proved_and_measured(tmp_path):
    """A command of 300 W for 2 s: 600 J total, 480 J net; a power that says 12 % more than the counter is flagged."""
    work = ["--", "flock", "--no-fork", str(tmp_path / "lock"), "sleep", "2"]
    quick = ("--warm-up", "25", "--max-reps", "2", "--window", "4")
    done = _greenedge(tmp_path, "measure", "--source", "nvml:0", "--json", *quick, *work)
    assert done.returncode == 0, done.stderr
    rows = {row["source"]["id"]: row for row in json.loads(done.stdout)["rows"]}
    assert set(rows) == {"nvml:0:energy", "nvml:0:power"}, "the counter is never read alone"
    figures = rows["nvml:0:energy"]["figures"]
    # Starting a process takes some milliseconds of each run's two seconds.
    assert figures["total"]["energy_j"] == pytest.approx(600, rel=0.05)
    assert figures["net"]["energy_j"] == pytest.approx(480, rel=0.05)
    flagged = [any("counter and integrated power differ" in flag for flag in row["flags"]) for row in rows.values()]
    assert flagged == [True, True], [row["flags"] for row in rows.values()]
