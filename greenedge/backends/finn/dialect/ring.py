"""How many pixels a sliding window stores."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WindowGeometry:
    """A window over an image in numbers. Pairs are (vertical, horizontal), `pads` is (top, left, bottom, right)."""

    height: int
    width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def span(self) -> tuple[int, int]:
        """Rows and columns of the image that one patch reaches over."""
        rows, columns = ((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        return rows, columns

    @property
    def out(self) -> tuple[int, int]:
        """Output rows and columns."""
        size = (self.height + self.pads[0] + self.pads[2], self.width + self.pads[1] + self.pads[3])
        rows, columns = ((n - k) // s + 1 for n, k, s in zip(size, self.span, self.strides, strict=True))
        return rows, columns

    def ring_pixels(self, channels: int, pe: int) -> int:
        """Pixels that ge_window.sv stores, `pe` of `channels` in a beat: the sum of its localparams, LEAD + MARGIN +
        SLACK."""
        (span_h, span_w), (rows, columns) = self.span, self.out
        taps = self.kernel[0] * self.kernel[1]
        column, row = self.strides[1], self.strides[0] * self.width - (columns - 1) * self.strides[1]
        sample = (self.height - (rows - 1) * self.strides[0]) * self.width - (columns - 1) * self.strides[1]

        def reach(column: int, row: int, sample: int) -> int:
            part = max(0, (columns - 1) * column)
            within = row + 2 * part + max(0, (rows - 2) * ((columns - 1) * column + row)) if rows > 1 else part
            ends = max(part, (columns - 1) * column + within - part) if rows > 1 else part
            return max(part, within, 2 * ends + sample)

        ahead, behind = reach(column - taps, row - taps, sample - taps), reach(taps - column, taps - row, taps - sample)
        far = max(column, row if rows > 1 else 0, sample)
        fewer_taps = rows * columns * taps < self.height * self.width
        margin = taps + behind if fewer_taps else taps + ahead if ahead > 0 else far
        return (span_h - 1) * self.width + span_w + margin + 3 + 10 * pe // channels
