"""Everything a board must show, on a real cable: `make board-test BOARD=ulx3s-85f PORT=/dev/ttyUSB0`.

The record says what was tested and measured, on which day; send it in with a request for the board's row in the README.
"""

import json

import pytest

from greenedge.boards.acceptance import accept_run, write_record


@pytest.mark.board("any")
def test_a_board(board):
    run, port, soak = board
    record = accept_run(run, port, None, soak)
    print(f"record: {write_record(record, run.parent)}")
    assert record["passed"], json.dumps(record, indent=1)
    assert record["samples"]["different"] == 0 and record["soak"]["wrong"] == record["soak"]["twice"] == 0
