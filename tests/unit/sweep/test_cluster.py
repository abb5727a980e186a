"""Workers that a cluster starts: Dask over TCP with hosts that are killed and cut off, SLURM's script and its array."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fakes
import pytest
import studies

from greenedge.errors import GreenedgeError, TargetError, ToolError
from greenedge.sweep import dask_workers, slurm
from greenedge.sweep.sweep import Sweep

WAIT_S = 60.0


def _sweep(folder: Path, points: int) -> Sweep:
    """The sleeping sweep, of a file that is there."""
    return replace(studies.make_sweep(points), source=str(fakes.write_model(folder / "small.onnx")))


def _start(folder: Path, name: str, *words: str) -> subprocess.Popen[bytes]:
    """A process of Dask's in a group of its own, with a log."""
    with open(folder / f"{name}.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *words], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def _read_address(path: Path) -> str:
    """The scheduler's address. The file is there before its content is: it is read until it ends as JSON does."""
    end = time.monotonic() + WAIT_S
    while not (path.is_file() and path.read_text().rstrip().endswith("}")):
        assert time.monotonic() < end, f"no address in {path}"
        time.sleep(0.05)
    return json.loads(path.read_text())["address"]


@pytest.fixture
def hosts(tmp_path):
    """(address of a scheduler on TCP, its two worker processes); each stands for a host."""
    address_file = tmp_path / "scheduler.json"
    scheduler = _start(
        tmp_path, "scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
        "--scheduler-file", str(address_file),
    )  # fmt: skip
    started = [scheduler]
    try:
        address = _read_address(address_file)
        started += [
            _start(tmp_path, f"host{k}", "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
            for k in range(2)
        ]
        yield address, started[1:]
    finally:
        for process in started:
            for number in (signal.SIGCONT, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    break
            process.wait()


def _run(tmp_path, monkeypatch, address, points, script, meanwhile):
    """The sweep by Dask, while `meanwhile` acts in a thread once a trial has begun."""
    import threading

    folder = tmp_path / "s"
    monkeypatch.setattr(dask_workers, "worker_command", lambda sweep, study, track: script)

    def act():
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if (folder / "events.log").is_file() and (folder / "events.log").read_text().count("begin") >= 3:
                return meanwhile()
            time.sleep(0.02)

    thread = threading.Thread(target=act)
    thread.start()
    lines: list[str] = []
    found = dask_workers.run_on_dask(_sweep(tmp_path, points), folder, address, 2, (), lines.append)
    thread.join()
    assert len(found["rows"]) == len(lines) == points
    study = studies.make_study(folder, points)
    again = Counter(trial.params["a"] for trial in study.trials() if "row" in trial.user_attrs)
    assert again == {str(k): 1 for k in range(points)}
    assert not any(trial.state.name in ("RUNNING", "WAITING") for trial in study.trials())
    return study


@pytest.mark.slow
def test_a_host_that_dies(tmp_path, monkeypatch, hosts):
    address, workers = hosts
    script = studies.worker_script(tmp_path / "s", 24, 0.3)
    _run(tmp_path, monkeypatch, address, 24, script, lambda: os.killpg(workers[0].pid, signal.SIGKILL))


@pytest.mark.slow
def test_a_host_that_is_cut_off_and_comes_back(tmp_path, monkeypatch, hosts):
    address, workers = hosts
    folder = tmp_path / "s"
    script = studies.worker_script(folder, 24, 0.3, lease_s=2.0)
    study = _run(tmp_path, monkeypatch, address, 24, script, lambda: os.killpg(workers[0].pid, signal.SIGSTOP))
    rows = study.rows()
    os.killpg(workers[0].pid, signal.SIGCONT)  # its trial was given to another: what it found now counts for nothing
    time.sleep(2.0)
    assert studies.make_study(folder, 24).rows() == rows


@pytest.mark.slow
def test_dask_on_this_machine(tmp_path, monkeypatch):
    script = studies.worker_script(tmp_path / "s", 6, 0.05)
    _run(tmp_path, monkeypatch, "local", 6, script, lambda: None)


def test_addresses_that_are_none(tmp_path):
    with pytest.raises(TargetError) as caught:
        with dask_workers.connect("localhost", 1):
            raise AssertionError
    assert str(caught.value) == (
        "--dask 'localhost' is not understood; write tcp://HOST:PORT, or one of: local, slurm, kubernetes."
    )
    with pytest.raises(ToolError, match=r"^--dask kubernetes needs dask-kubernetes: pip install dask-kubernetes.$"):
        with dask_workers.connect("kubernetes", 1):
            raise AssertionError


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(dask_workers, "_CONNECT_S", "1s")
    with pytest.raises(
        ToolError, match=r"^no Dask scheduler answers at tcp://127.0.0.1:9 \(.*\); start one with `dask s"
    ):
        with dask_workers.connect("tcp://127.0.0.1:9", 1):
            raise AssertionError


# -- SLURM -------------------------------------------------------------------------------------------------------------

# Starts the array of a script as processes, as sbatch's does: reads --array and --output, sets SLURM_ARRAY_TASK_ID.
SBATCH = """#!{python}
import os, re, subprocess, sys
script = sys.argv[-1]
text = open(script).read()
first, last = map(int, re.search(r"--array=(\\d+)-(\\d+)", text).groups())
log = re.search(r'--output="(.*)"', text).group(1)
for task in range(first, last + 1):
    path = log.replace("%A", "7").replace("%a", str(task))
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(task)}}
    with open(path, "wb") as file:
        subprocess.Popen(["bash", script], stdout=file, stderr=file, env=environment)
print("Submitted batch job 7")
"""


def _wait_for_rows(folder: Path, count: int) -> dict:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = json.loads((folder / "sweep.json").read_text())
        if len(found["rows"]) == count:
            return found
        time.sleep(0.2)
    raise AssertionError([path.read_text() for path in (folder / "slurm").iterdir()])


def _submit(tmp_path: Path, monkeypatch, points: int = 6) -> Path:
    folder = tmp_path / "a study"
    script = studies.worker_script(folder, points, 0.1)
    monkeypatch.setattr(slurm, "worker_command", lambda sweep, study, track: script)
    told = slurm.write_script(_sweep(tmp_path, points), folder, 2)
    assert told.splitlines()[0] == f"{points} points wait in {folder}; 2 workers start with: sbatch '{folder}/slurm.sh'"
    return folder


def test_the_array_of_a_script_ends_the_study(tmp_path, monkeypatch):
    folder = _submit(tmp_path, monkeypatch)
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(SBATCH.format(python=sys.executable))
    sbatch.chmod(0o755)
    done = subprocess.run([sbatch, folder / "slurm.sh"], capture_output=True, text=True, check=True)
    assert done.stdout == "Submitted batch job 7\n"
    assert [row["name"] for row in _wait_for_rows(folder, 6)["rows"]] == [f"a={k}" for k in range(6)]
    assert sorted(path.name for path in (folder / "slurm").iterdir()) == ["7_0.log", "7_1.log"]


@pytest.fixture
def slurm_cluster(tmp_path, monkeypatch):
    """SLURM on this machine as a cluster of one node, all in a folder of its own: Debian's slurm-wlm and munge."""
    needed = ("munged", "slurmctld", "slurmd", "sbatch")
    if os.geteuid() or not all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in needed):
        pytest.skip("slurm-wlm is not installed, or this is not root")
    place = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's name must be short
    (place / "key").write_bytes(os.urandom(128))
    (place / "key").chmod(0o400)
    node = subprocess.run(["hostname", "-s"], capture_output=True, text=True, check=True).stdout.strip()
    ports = [_free_port(), _free_port()]
    (place / "slurm.conf").write_text(
        f"ClusterName=bench\nSlurmctldHost={node}(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n"
        f"AuthType=auth/munge\nAuthInfo=socket={place}/munge\nSlurmctldPort={ports[0]}\nSlurmdPort={ports[1]}\n"
        f"StateSaveLocation={place}/state\nSlurmdSpoolDir={place}/spool\nSlurmctldPidFile={place}/ctld.pid\n"
        f"SlurmdPidFile={place}/d.pid\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n"
        "SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nReturnToService=2\nMpiDefault=none\n"
        "JobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none\n"
        f"NodeName={node} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN\n"
        f"PartitionName=all Nodes={node} Default=YES MaxTime=INFINITE State=UP\n"
    )
    for name in ("state", "spool"):
        (place / name).mkdir()
    monkeypatch.setenv("SLURM_CONF", str(place / "slurm.conf"))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    commands = (
        ["munged", "--foreground", "--force", f"--key-file={place}/key", f"--socket={place}/munge",
         f"--pid-file={place}/munge.pid", f"--seed-file={place}/seed", f"--log-file={place}/munge.log"],
        ["slurmctld", "-D", "-L", f"{place}/ctld.log"],
        ["slurmd", "-D", "-N", node, "-L", f"{place}/d.log"],
    )  # fmt: skip
    started = []
    try:
        for command in commands:
            with open(place / f"{command[0]}.out", "wb") as out:
                started.append(subprocess.Popen(command, stdout=out, stderr=out, cwd=place))
            time.sleep(1.0)
        end = time.monotonic() + WAIT_S
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout:
            assert time.monotonic() < end, [path.read_text()[-600:] for path in place.glob("*.[lo][ou]*")]
            time.sleep(0.3)
        yield place
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(20)
        shutil.rmtree(place, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.mark.slow
def test_slurm_itself(tmp_path, monkeypatch, slurm_cluster):
    folder = _submit(tmp_path, monkeypatch)
    told = subprocess.run(["sbatch", str(folder / "slurm.sh")], capture_output=True, text=True)
    assert told.stdout.startswith("Submitted batch job "), told.stderr
    assert [row["name"] for row in _wait_for_rows(folder, 6)["rows"]] == [f"a={k}" for k in range(6)]
    assert {path.name.partition("_")[2] for path in (folder / "slurm").iterdir()} <= {"0.log", "1.log"}


def test_the_script(tmp_path):
    sweep = _sweep(tmp_path, 2)
    text = slurm.write_script(sweep, tmp_path / "s", 3, ("tensorboard",), dry_run=True)
    assert text.splitlines() == [
        "#!/bin/bash",
        "#SBATCH --job-name=greenedge-small",
        "#SBATCH --array=0-2",
        f'#SBATCH --output="{tmp_path}/s/slurm/%A_%a.log"',
        "#SBATCH --requeue",
        "#SBATCH --signal=TERM@30",
        "# Each is a worker of one study: it takes points until none is left. More of them may join at any time.",
        f"exec {sys.executable} -m greenedge.cli sweep {sweep.source} --study {tmp_path}/s --worker "
        "--track tensorboard",
    ]
    assert not (tmp_path / "s").exists()
    with pytest.raises(GreenedgeError, match=r"^SLURM takes no quotes, .* in .*a%b; choose another --study.$"):
        slurm.write_script(sweep, tmp_path / "a%b", 3, dry_run=True)
