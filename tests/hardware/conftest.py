"""Which board is on the cable: `make board-test` says it."""

from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--board-run", type=Path, help="folder of a run that was built for the board and programmed")
    parser.addoption("--board-port", default="/dev/ttyUSB0", help="the board's serial port, or `virtual`")
    parser.addoption("--board-soak", type=int, default=2000, help="inferences of the soak")


@pytest.fixture
def board(request) -> tuple[Path, str | None, int]:
    """(the run's folder, the port or None for the virtual board, inferences of the soak)."""
    run, port = request.config.getoption("--board-run"), request.config.getoption("--board-port")
    if run is None:
        pytest.fail("say which run is on the board: make board-test BOARD=…", pytrace=False)
    return run, None if port == "virtual" else port, request.config.getoption("--board-soak")
