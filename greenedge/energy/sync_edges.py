"""Maps the host's times to those of an external meter's recording: by GPIO edges in it, or by load patterns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.energy.source import SourceFault, Trace

Times = Sequence[float] | np.ndarray  # (n,) s
_FIX = "repeat the run; check the wire and that the meter records before the first and after the last marker"


@dataclass(frozen=True)
class Sync:
    """t_meter = offset_s + (1 + drift) · t_host; `residual_s` is the rms of what the fit leaves."""

    offset_s: float
    drift: float
    residual_s: float

    def to_meter(self, host: float) -> float:
        """A time of the host in s, on the meter's clock."""
        return self.offset_s + (1 + self.drift) * host

    def energy_u(self, watts: float) -> float:
        """Standard uncertainty in J that the residual adds to a window's energy (two boundaries)."""
        return self.residual_s * abs(watts) * 2**0.5


def logic_edges(trace: Trace) -> np.ndarray:
    """Times at which the marker line changed (half-way between samples). Raises SourceFault without a marker line."""
    if trace.markers is None:
        raise SourceFault(
            "markers", "absent", "the trace has no marker line", "wire the GPIO to the meter's logic input"
        )
    level = np.asarray(trace.markers).astype(bool)
    change = np.flatnonzero(level[1:] != level[:-1])
    return (trace.t[change] + trace.t[change + 1]) / 2


def match_edges(meter: Times, host: Times, max_drift: float = 1e-3) -> Sync:
    """Pairs the k-th edge of the meter with the k-th of the host.

    Least squares for offset and drift. Raises SourceFault: counts differ, drift beyond `max_drift`, or an edge off the
    line by more than half the shortest distance between edges.
    """
    m, h = np.asarray(meter, dtype=float), np.asarray(host, dtype=float)
    if len(m) != len(h) or len(h) < 2:
        raise SourceFault(
            "markers", "gap", f"the meter saw {len(m)} edges, the host made {len(h)}: one is lost or extra", _FIX
        )
    drift, offset = np.polyfit(h - h[0], m, 1)
    residual = m - (offset + drift * (h - h[0]))
    if abs(drift - 1) > max_drift or np.max(np.abs(residual)) > np.min(np.diff(h)) / 2:
        raise SourceFault(
            "markers",
            "gap",
            f"the edges do not lie on one line: drift {(drift - 1) * 1e6:.0f} ppm, "
            f"greatest distance {np.max(np.abs(residual)) * 1e3:.3g} ms",
            _FIX,
        )
    return Sync(float(offset - drift * h[0]), float(drift - 1), float(np.sqrt(np.mean(residual**2))))


def match_pattern(trace: Trace, groups: Sequence[Sequence[float]], search_s: float = 2.0) -> Sync:
    """Offset and drift from load patterns: each group has the host's times of its load edges, up and down in turn.

    Takes at least two groups (before and after the run). Each is located by cross-correlation within ±`search_s`, then
    each edge to a fraction of a sample by the energy around it. Raises SourceFault where a pattern is not in the trace.
    """
    if len(groups) < 2:
        raise SourceFault(
            "markers", "gap", f"there are {len(groups)} load patterns", "two are needed, before and after"
        )
    found: list[float] = []
    host: list[float] = []
    shift = 0.0
    for number, group in enumerate(groups):
        edges = np.asarray(group, dtype=float)
        # After the first pattern the offset is known except for drift.
        shift = _correlate(trace, edges, shift, search_s if number == 0 else min(search_s, 0.2))
        found += [_locate_edge(trace, edges, k, shift) for k in range(len(edges))]
        host += list(edges)
    return match_edges(found, host)


def _correlate(trace: Trace, edges: np.ndarray, centre: float, search_s: float) -> float:
    """The shift in s that fits best: on a coarse grid over the whole search, then to one sample around it."""
    step, shortest = float(np.median(np.diff(trace.t))), float(np.min(np.diff(edges)))
    coarse = max(step, shortest / 50)
    shift = _best_shift(trace, edges, centre, search_s, coarse)
    return shift if coarse == step else _best_shift(trace, edges, shift, 3 * coarse, step)


def _best_shift(trace: Trace, edges: np.ndarray, centre: float, search_s: float, step: float) -> float:
    """The shift in centre ± search_s with the greatest normalised correlation. Raises SourceFault below 0.7."""
    margin = float(np.min(np.diff(edges)))
    span = np.arange(edges[0] - margin, edges[-1] + margin, step)
    template = (np.searchsorted(edges, span, side="right") % 2).astype(float)
    template -= template.mean()
    count = 2 * int(np.ceil(search_s / step)) + 1
    grid = span[0] + centre + (np.arange(count + len(span) - 1) - count // 2) * step
    watts = np.interp(grid, trace.t, trace.watts)
    watts -= watts.mean()
    # Correlation by FFT, standard deviation by running sums: memory grows with the trace, not with the shifts.
    size = 1 << (len(watts) + len(span)).bit_length()
    scores = np.fft.irfft(np.fft.rfft(watts, size) * np.conj(np.fft.rfft(template, size)), size)[:count]
    sums, squares = (np.concatenate([[0.0], np.cumsum(watts**power)]) for power in (1, 2))
    means = (sums[len(span) :] - sums[: -len(span)]) / len(span)
    spread = np.maximum((squares[len(span) :] - squares[: -len(span)]) / len(span) - means**2, 0.0) ** 0.5
    scores /= np.maximum(spread * template.std() * len(span), 1e-30)
    best = int(np.argmax(scores))
    if scores[best] < 0.7:
        raise SourceFault(
            "markers",
            "gap",
            f"the load pattern is not in the trace (best correlation {scores[best]:.2f}, 0.7 is needed)",
            _FIX,
        )
    return float(grid[best] - span[0])


def _locate_edge(trace: Trace, edges: np.ndarray, k: int, shift: float) -> float:
    """The time of edge k on the meter's clock: the ideal step with the same energy as the trace around it.

    With plateaus p before and q after, ∫P over [a, b] = p·(x − a) + q·(b − x), solved for x; noise averages out
    over the stretch. Raises SourceFault for too few samples.
    """
    reach = float(np.min(np.diff(edges))) * 0.45
    x = edges[k] + shift
    t, watts = trace.t, trace.watts
    step = float(np.median(np.diff(t)))
    low = watts[(t > x - reach) & (t < x - 3 * step)]
    high = watts[(t > x + 3 * step) & (t < x + reach)]
    if len(low) < 3 or len(high) < 3:
        raise SourceFault(
            "markers",
            "gap",
            f"edge {k} of a pattern has too few samples around it",
            "make the pulses longer than 20 samples",
        )
    p, q = float(np.mean(low)), float(np.mean(high))
    near = (t >= x - 3 * step) & (t <= x + 3 * step)
    a, b = t[near][0] - step / 2, t[near][-1] + step / 2
    energy = float(np.sum(watts[near])) * (b - a) / int(np.sum(near))
    return float((energy + p * a - q * b) / (p - q))
