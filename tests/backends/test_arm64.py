"""The same file gives the same integers on an emulated Cortex-A72."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.tool("qemu-aarch64-static")
def test_x86_and_arm64_give_the_same_hashes(repo):
    done = subprocess.run(
        [sys.executable, "benchmarks/arm64.py"], cwd=repo, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0 and done.stdout.strip().endswith("identical"), (done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.tool("qemu-aarch64-static")
@pytest.mark.parametrize("kind, differs", [("ADD", False), ("MUL constant", True)])
def test_operators_on_arm64(repo, kind, differs):
    """XNNPACK's additions are x86's; its products by a constant are another function there, and that is seen."""
    argv = [sys.executable, "benchmarks/arm64_operators.py", "--only", kind]
    done = subprocess.run(argv, cwd=repo, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == int(differs), (done.stdout, done.stderr)
    counts = {line.split()[-3]: int(line.split()[-1].replace(",", "")) for line in done.stdout.splitlines()[-2:]}
    assert (counts["xnnpack"] > 0) == differs and counts["reference"] == 0


def test_a_run_without_a_deploy_folder_is_refused(repo, tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/arm64.py", str(tmp_path)],
        cwd=repo,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (
        1,
        f"{tmp_path} has no 4-build/deploy; give a finished run for an edge target.",
    )
