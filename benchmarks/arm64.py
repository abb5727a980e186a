"""One .tflite on x86 and on an emulated Cortex-A72: the same output hashes, on XNNPACK and on the reference kernels?

    python benchmarks/arm64.py [RUN]        RUN is a run for an edge target; a small one is built where it is left out

Needs Debian's apt-get, dpkg-deb and qemu-user-static (the emulator). An arm64 Python and LiteRT's arm64 wheel are
fetched once into the cache folder; nothing is installed on the system. The emulator is a Cortex-A72: with -cpu max it
computes some vector instructions wrong. LiteRT reads /proc/cpuinfo and dies on an x86 one, so the emulated root has one
of a Cortex-A72. Emulated time is no latency; none is printed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

EMULATOR = "qemu-aarch64-static"
PYTHON = "3.11"
_DEBS = (
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libssl3",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "libsqlite3-0",
    "libncursesw6",
    "libtinfo6",
    "libreadline8",
    "libdb5.3",
    "libnsl2",
    "libtirpc3",
    "libcrypt1",
    "libcom-err2",
    "libgssapi-krb5-2",
    "libkrb5-3",
    "libk5crypto3",
    "libkrb5support0",
    "libkeyutils1",
    f"python{PYTHON}",
    f"python{PYTHON}-minimal",
    f"libpython{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
)
_WHEELS = ("ai-edge-litert", "numpy")
_CPUINFO = "".join(
    f"""processor\t: {core}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
    for core in range(4)
)
_STEP_S = 600


def main(run: Path | None) -> int:
    """Prints the hashes; 1 where two of them differ."""
    if run and not (run / "4-build" / "deploy").is_dir():
        sys.exit(f"{run} has no 4-build/deploy; give a finished run for an edge target.")
    with tempfile.TemporaryDirectory(prefix="greenedge-arm64-") as scratch:
        deploy = (run / "4-build" / "deploy") if run else _small(Path(scratch))
        root = arm64_root(Path(platformdirs.user_cache_dir("greenedge")) / f"arm64-{PYTHON}")
        print(f"{'kernels':10}  {'machine':10}  self-test")
        equal = True
        for kernels in ("xnnpack", "reference"):
            said = {
                "x86-64": _selftest([sys.executable], deploy, kernels),
                "arm64": _selftest(emulator_argv(root), deploy, kernels),
            }
            for machine, text in said.items():
                print(f"{kernels:10}  {machine:10}  {text}")
            equal &= len(set(said.values())) == 1 and " 0 differ" in said["arm64"]
    print("identical" if equal else "DIFFERENT")
    return 0 if equal else 1


def emulator_argv(root: Path) -> list[str]:
    """The argv that runs the arm64 Python."""
    return [
        EMULATOR,
        "-cpu",
        "cortex-a72",
        "-L",
        str(root),
        "-E",
        f"PYTHONHOME={root / 'usr'}",
        "-E",
        f"PYTHONPATH={root / 'site'}",
        str(root / "usr" / "bin" / f"python{PYTHON}"),
    ]


def arm64_root(root: Path) -> Path:
    """The folder with an arm64 Python and its packages; made once."""
    if (root / ".ready").is_file():
        return root
    print("fetching an arm64 Python and LiteRT (once) …", flush=True)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="greenedge-arm64-apt-") as scratch:
        _debs(Path(scratch), root)
        _wheels(Path(scratch), root / "site")
    for name, content in (
        ("proc/cpuinfo", _CPUINFO),
        ("sys/devices/system/cpu/possible", "0-3\n"),
        ("sys/devices/system/cpu/present", "0-3\n"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / ".ready").touch()
    return root


def _debs(scratch: Path, root: Path) -> None:
    """Debian's packages, by a package database of our own for arm64."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (scratch / name).mkdir(parents=True)
    (scratch / "state" / "status").touch()
    apt = [
        "apt-get",
        "-qq",
        "-o",
        "APT::Architecture=arm64",
        "-o",
        "APT::Architectures=arm64",
        "-o",
        f"Dir::State={scratch / 'state'}",
        "-o",
        f"Dir::State::status={scratch / 'state' / 'status'}",
        "-o",
        f"Dir::Cache={scratch / 'cache'}",
        "-o",
        "APT::Sandbox::User=root",
    ]
    _call([*apt, "update"], scratch)
    _call([*apt, "download", *_DEBS], scratch)
    for deb in sorted(scratch.glob("*.deb")):
        _call(["dpkg-deb", "-x", str(deb), str(root)], scratch)


def _wheels(scratch: Path, site: Path) -> None:
    pins = Path(__file__).resolve().parent.parent / "constraints.txt"
    _call(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--disable-pip-version-check",
            "-c",
            str(pins),
            "--only-binary",
            ":all:",
            "--python-version",
            PYTHON,
            "--platform",
            "manylinux_2_27_aarch64",
            "--platform",
            "manylinux_2_17_aarch64",
            "--platform",
            "manylinux2014_aarch64",
            "--platform",
            "manylinux_2_28_aarch64",
            "-d",
            str(scratch / "wheels"),
            *_WHEELS,
        ],
        scratch,
    )
    for wheel in sorted((scratch / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def _selftest(python: list[str], deploy: Path, kernels: str) -> str:
    done = subprocess.run(
        [*python, "run.py", "--selftest", "--kernels", kernels],
        cwd=deploy,
        capture_output=True,
        text=True,
        timeout=_STEP_S,
        check=False,
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    for line in lines[1:] if done.returncode == 0 else []:  # floats are near each other, not equal
        print(f"{kernels:10}  {'arm64' if python[0] == EMULATOR else 'x86-64':10}  {line}")
    return lines[0 if done.returncode == 0 else -1] if lines else f"exit status {done.returncode}"


def _call(argv: list[str], cwd: Path) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=_STEP_S, check=False)
    if done.returncode != 0:
        sys.exit(f"{argv[0]} ended with exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")


def _small(folder: Path) -> Path:
    """The deploy folder of a small random network with convolutions, a residual addition and a pool."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import numpy as np

    from greenedge.backends.int8 import tflite
    from greenedge.target import load_target
    from greenedge.tools.run import execute
    from tests.backends.graphs import Sketch

    net = Sketch(np.random.default_rng(1), (3, 12, 12))
    first = net.step(net.conv("x", 8, (3, 3), pads=(1, 1, 1, 1)), "u4", axis=0)
    branch = net.step(net.conv(first, 8, (3, 3), pads=(1, 1, 1, 1), groups=8), "u4", axis=0)
    joined = net.max_pool(net.step(net.add(first, branch), "u4", axis=0, per_channel=False), (2, 2))
    graph = net.graph(net.step(net.dense(net.reshape(joined, 288), 10), "s8"))
    execute(tflite.plan(graph, load_target("linux-arm64"), {}), folder / "build")
    return folder / "build" / "deploy"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
