"""What a run looks like: a bar on a terminal, plain lines elsewhere, and no text that turns into markup."""

import io

from rich.console import Console

from greenedge.run.progress import Screen


def _screen(terminal: bool) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=terminal, width=100, highlight=False, color_system=None, legacy_windows=False
    )
    return Screen("[bold]net[/bold] → board", console), out


def test_plain_lines():
    screen, out = _screen(terminal=False)
    with screen.stage("build") as tell:
        tell(0, 0, "yosys: something")
    screen.end_stage("build", "done", 12.34, "top.bit 1.9 MB [x]")
    screen.end_stage("lower", "unchanged", 0.5, "5 integer operations")
    screen.end_stage("train", "copied", 9.0, "")
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "[bold]net[/bold] → board",
        "  … build",
        "  ✓ build      12.3 s  top.bit 1.9 MB [x]",
        "  · lower   unchanged  5 integer operations",
        "  ✓ train      copied",
    ]


def test_elsewhere_a_long_stage_speaks_now_and_then():
    out, now = io.StringIO(), [0.0]
    console = Console(file=out, force_terminal=False, width=100, color_system=None)
    with Screen(console=console, clock=lambda: now[0]).stage("build") as tell:
        for second in range(31):
            now[0] = second
            tell(0, 0, f"line {second}")
    assert [line.strip() for line in out.getvalue().splitlines()] == ["… build", "line 10", "line 20", "line 30"]


def test_a_bar_on_a_terminal_shows_what_it_is_told():
    screen, out = _screen(terminal=True)
    with screen.stage("train") as tell:
        tell(3, 60, "epoch 3 [loss] 0.5")
    assert "epoch 3 [loss] 0.5" in out.getvalue()
