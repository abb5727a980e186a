"""The virtual board: the top level with its pins under Verilator, its UART as a pseudo-terminal for any program.

Simulation and terminal exist for the `with` block; the process also ends after `limit_s`, and when its parent ends.
There is no PLL: the clock pin runs at the core's frequency, so simulated time is cycles / clock_hz. While the line to
the board is silent the simulation waits `wait_us` of real time for the host before every 512 cycles, so that in
simulated time a host answers almost at once.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from greenedge.errors import GreenedgeError, ToolError
from greenedge.files.json_file import read_table
from greenedge.files.scratch import scratch_folder
from greenedge.hdl.board_shell import simulation_sources
from greenedge.tools.capture import end_with_parent

HARNESS = Path(__file__).with_name("virtual.cpp")
_ANSWER_S = 30
_PINS = {"led": 1, "marker": 1}  # outputs that a board may lack


class VirtualBoard:
    """A simulated board. `port` is the path of its terminal, which unplugging and plugging does not change.

    Raises ToolError where the simulator cannot be compiled, ends or does not answer.
    """

    def __init__(
        self,
        folder: Path,
        seed: int = 1,
        limit_s: int = 600,
        wait_us: int = 1000,
        progress: Callable[[str], None] = lambda line: None,
    ):
        self.folder = Path(folder)
        self.board = read_board(self.folder)
        self._settings = {
            "clock_hz": self.board["clock_hz"],
            "baud": self.board["baud"],
            "seed": seed,
            "limit_s": limit_s,
            "wait_us": wait_us,
            "button_low": int("button" in self.board["active_low"]),
        }
        self._progress = progress

    def __enter__(self) -> VirtualBoard:
        model = compile_board(self.folder, self.board, self._progress)
        self._scratch = ExitStack()
        work = self._scratch.enter_context(scratch_folder("board"))
        self.port = str(work / "tty")
        description = work / "board.txt"
        description.write_text("".join(f"{key} {value}\n" for key, value in self._settings.items()))
        self._process = subprocess.Popen(
            [str(model), str(description)],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=end_with_parent,
        )
        assert self._process.stdin is not None and self._process.stdout is not None, "started with pipes"
        self._orders, self._answers = self._process.stdin, self._process.stdout
        try:
            self.plug()
        except GreenedgeError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):  # a dead simulation has lines that it never read
            self._orders.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._scratch.close()

    def noise(self, corrupt: float, drop: float) -> None:
        """From now on these shares of the bytes are changed or dropped, in both directions."""
        self._order(f"noise {round(corrupt * 1e6)} {round(drop * 1e6)}")

    def glitch(self, share: float) -> None:
        """In this share of the cycles the line to the board is inverted."""
        self._order(f"glitch {round(share * 1e6)}")

    def reset(self) -> None:
        """Presses the reset button."""
        self._order("reset")

    def unplug(self) -> None:
        """Removes the port, as pulling the cable does."""
        os.unlink(self.port)
        self._order("unplug")

    def plug(self) -> None:
        """Creates the port again. Raises ToolError on a machine without pseudo-terminals."""
        name = self._order("plug")["terminal"]
        if name == "-":
            raise ToolError("this machine gives no pseudo-terminal; is /dev/pts mounted?")
        os.symlink(name, self.port)

    def status(self) -> dict:
        """Counts: cycles, active (cycles with activity), bytes to and from the board, faults, resets; led, marker,
        terminal."""
        return self._order("stat")

    def _order(self, text: str) -> dict:
        try:
            self._orders.write(text + "\n")
            self._orders.flush()
        except BrokenPipeError:
            raise self._explain_end() from None
        if not select.select([self._answers], [], [], _ANSWER_S)[0]:
            raise ToolError(f"the virtual board of {self.folder} does not answer within {_ANSWER_S} s.")
        said = ""
        while not (line := self._answers.readline()).startswith("cycles "):
            if not line:
                raise self._explain_end(said)
            said += line
        words = line.split()
        pairs = zip(words[::2], words[1::2], strict=True)
        return {key: value if key == "terminal" else int(value) for key, value in pairs}

    def _explain_end(self, said: str = "") -> ToolError:
        """The error of a simulation that has ended: the stream that broke its protocol, or its time limit."""
        from greenedge.hdl.axi_stream.simulation import find_broken_stream

        broken = find_broken_stream(said + self._answers.read())
        why = f"stopped: {broken}" if broken else f"has ended; its time limit is {self._settings['limit_s']} s"
        return ToolError(f"the virtual board of {self.folder} {why}.")


def read_board(folder: Path) -> dict:
    """board.json of a build folder. Raises GreenedgeError where it is absent or damaged."""
    path = Path(folder) / "board.json"
    try:
        board = read_table(path)
    except FileNotFoundError:
        raise GreenedgeError(
            f"{path} is missing: what was built there has no host interface; build it for a board."
        ) from None
    except ValueError as error:
        raise GreenedgeError(f"{path} is damaged ({error}); run the build stage again.") from None
    if board.get("format") != "greenedge-board/1":
        raise GreenedgeError(f"{path} has format {board.get('format')!r}; this greenedge reads greenedge-board/1.")
    return board


def compile_board(folder: Path, board: Mapping, progress: Callable[[str], None]) -> Path:
    """The simulator of the board in a build folder, from the cache where its sources are unchanged. Raises
    ToolError."""
    from greenedge.hdl.axi_stream.simulation import compile_model

    if board["link"] != "uart":
        raise GreenedgeError(f"{folder}: the virtual board has a UART and this one is reached by {board['link']}.")
    sources = {name: (folder / name).read_bytes() for name in simulation_sources(board)}
    top = sources["board/board.sv"].decode()
    return compile_model({**sources, "sim_top.sv": sim_top(top).encode()}, progress, HARNESS)


def sim_top(top: str) -> str:
    """A wrapper that gives every board the same pins; a LED or marker that the board lacks is constant 0."""
    header = top[top.index("module board (") : top.index(");")]
    missing = "".join(f"    assign {pin} = 1'b0;\n" for pin in _PINS if f"logic {pin}" not in header)
    pins = ", ".join(
        f".{pin}" for pin in ("clk", "uart_rx", "uart_tx", "led", "button", "marker") if f"logic {pin}" in header
    )
    return f"""// Simulation only: the board's pins.
`default_nettype none
module sim_top (
    input  logic clk,
    input  logic uart_rx,
    output logic uart_tx,
    output logic led,
    input  logic button,
    output logic marker,
    output logic busy
);
    board board ({pins});
    assign busy = board.busy;  // no pin: tells the simulator that a silent board is at work
{missing}endmodule
`default_nettype wire
"""
