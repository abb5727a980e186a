"""A network as an SVG drawing: a box a layer, from top to bottom, a line for what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 250, 44, 24, 26, 16
_LONGEST = 38  # characters of a line in a box
MAX_BOXES = 5_000


@dataclass(frozen=True)
class Box:
    """One box: its name, a second line of text, and the names of the boxes that it reads."""

    name: str
    text: str
    inputs: tuple[str, ...]


def draw(boxes: Sequence[Box]) -> str:
    """The SVG of boxes in order of execution; a box lies below everything that it reads."""
    rows, columns = _place(boxes)
    wide, high = max(columns, default=0) + 1, max(rows, default=0) + 1
    width = 2 * _MARGIN + wide * _WIDTH + (wide - 1) * _GAP_X
    height = 2 * _MARGIN + high * _HEIGHT + (high - 1) * _GAP_Y
    corners = [
        (_MARGIN + c * (_WIDTH + _GAP_X), _MARGIN + r * (_HEIGHT + _GAP_Y)) for r, c in zip(rows, columns, strict=True)
    ]
    places = dict(zip((box.name for box in boxes), corners, strict=True))
    lines = [
        f'<path d="M{places[name][0] + _WIDTH // 2} {places[name][1] + _HEIGHT} L{x + _WIDTH // 2} {y}"/>'
        for box, (x, y) in zip(boxes, corners, strict=True)
        for name in box.inputs
        if name in places
    ]
    drawn = [_draw_box(box, x, y) for box, (x, y) in zip(boxes, corners, strict=True)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">\n'
        f'<g stroke="#667" fill="none">{"".join(lines)}</g>\n{"".join(drawn)}\n</svg>\n'
    )


def _place(boxes: Sequence[Box]) -> tuple[list[int], list[int]]:
    """(row, column) of every box: the row below its lowest input, the first column free there."""
    row_of: dict[str, int] = {}
    taken: dict[int, int] = {}
    columns = []
    for box in boxes:
        row = 1 + max((row_of[name] for name in box.inputs if name in row_of), default=-1)
        row_of[box.name] = row
        columns.append(taken.get(row, 0))
        taken[row] = columns[-1] + 1
    return [row_of[box.name] for box in boxes], columns


def _draw_box(box: Box, x: int, y: int) -> str:
    middle = x + _WIDTH // 2
    return (
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="#eef2f7" stroke="#667"/>'
        f'<text x="{middle}" y="{y + 18}" text-anchor="middle" font-weight="bold">{escape(_shorten(box.name))}</text>'
        f'<text x="{middle}" y="{y + 34}" text-anchor="middle">{escape(_shorten(box.text))}</text>'
    )


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
