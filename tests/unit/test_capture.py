"""Programs whose words are wanted: their outputs as text, a limit, and no life beyond ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from greenedge.tools.capture import capture


def test_what_a_program_said(tmp_path):
    code = (
        "import os, sys; print(os.getcwd(), os.environ['A'], sys.stdin.read() == ''); sys.stderr.buffer.write(b'\\xff')"
    )
    done = capture([sys.executable, "-c", code + "; sys.exit(3)"], 60, cwd=tmp_path, env={"A": "b"})
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path} b True\n", "\ufffd")


def test_what_does_not_end_is_ended(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        capture([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    with pytest.raises(OSError, match="none"):
        capture([tmp_path / "none"], 1)


def test_it_ends_with_its_parent(tmp_path):
    """Also where that is killed and can tell nobody."""
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"import sys; from greenedge.tools.capture import capture; capture([sys.executable, '-c', {child!r}], 60)"
    parent = subprocess.Popen([sys.executable, "-c", code])
    pid = _wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert _wait_for(lambda: not _runs(int(pid)))


def _wait_for(found):
    for _ in range(200):
        if value := found():
            return value
        time.sleep(0.05)
    return None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
