"""Sound for recipes: WAV bytes in, log-mel energies or MFCCs out. Plain numpy, no file is ever unpacked to disk.

The formulas are the usual ones: periodic Hann windows, |FFT|² per frame, triangular filters equally spaced on the mel
scale 2595·log10(1 + f/700), natural logarithm, orthonormal DCT-II (Davis and Mermelstein, 1980).
"""

from __future__ import annotations

import io
import wave
from functools import cache

import numpy as np

from greenedge.errors import GreenedgeError

_MOST_SECONDS = 120


def read_wav(data: bytes, name: str, rate: int) -> np.ndarray:
    """Samples -1…1, float32 (N,), of a 16-bit PCM file with this rate; several channels are averaged.

    A file of another rate is resampled along straight lines. Raises GreenedgeError for what is no such file.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            frames = min(file.getnframes(), len(data))  # a header of a stream may promise more than there is
            if (
                file.getsampwidth() != 2
                or not 1 <= file.getnchannels() <= 16
                or frames > _MOST_SECONDS * file.getframerate()
            ):
                raise GreenedgeError(
                    f"{name} has {8 * file.getsampwidth()} bits, {file.getnchannels()} channels and {frames:,} frames; "
                    f"16-bit sounds of up to {_MOST_SECONDS} s are read."
                )
            raw = np.frombuffer(file.readframes(frames), "<i2").reshape(-1, file.getnchannels())
            found = file.getframerate()
    except (wave.Error, EOFError, ValueError) as error:
        raise GreenedgeError(f"{name} is no WAV file ({error}).") from None
    samples = raw.mean(axis=1).astype(np.float32) / 32768
    if found == rate:
        return samples
    places = np.arange(int(len(samples) * rate / found)) * (found / rate)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def log_mel(
    samples: np.ndarray,
    rate: int,
    window: int,
    hop: int,
    mels: int,
    low: float = 0.0,
    high: float | None = None,
    floor: float = 1e-6,
) -> np.ndarray:
    """(frames, mels) float32: ln(mel energies + floor); window and hop in samples, a last partial frame left out."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    size = 1 << (window - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * hann, size)).astype(np.float32) ** 2 / size
    return np.log(power @ _filters(rate, size, mels, low, high or rate / 2).T + floor).astype(np.float32)


def mfcc(
    samples: np.ndarray,
    rate: int,
    window: int,
    hop: int,
    mels: int,
    count: int,
    low: float = 20.0,
    high: float = 4000.0,
) -> np.ndarray:
    """(frames, count) float32: the first cepstral coefficients of each frame."""
    energies = log_mel(samples, rate, window, hop, mels, low, high)
    return (energies @ _dct(mels)[:count].T).astype(np.float32)


@cache
def _filters(rate: int, size: int, mels: int, low: float, high: float) -> np.ndarray:
    """(mels, size/2 + 1) triangles."""
    to_mel, from_mel = (lambda f: 2595 * np.log10(1 + f / 700)), (lambda m: 700 * (10 ** (m / 2595) - 1))
    edges = from_mel(np.linspace(to_mel(low), to_mel(high), mels + 2))
    bins = np.arange(size // 2 + 1) * rate / size
    rising = (bins - edges[:-2, None]) / (edges[1:-1, None] - edges[:-2, None])
    falling = (edges[2:, None] - bins) / (edges[2:, None] - edges[1:-1, None])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


@cache
def _dct(size: int) -> np.ndarray:
    """The orthonormal DCT-II as a matrix."""
    k, n = np.arange(size)[:, None], np.arange(size)
    matrix = np.sqrt(2 / size) * np.cos(np.pi * k * (2 * n + 1) / (2 * size))
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)
