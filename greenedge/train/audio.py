"""Sound for recipes: WAV bytes in, log-mel energies or MFCCs out, in numpy; nothing is unpacked to disk.

The usual formulas: periodic Hann windows, |FFT|² per frame, triangular filters equally spaced on the mel
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
    """Samples -1…1, float32 (N,), of a 16-bit PCM file at `rate` Hz; several channels are averaged.

    A file with another rate is resampled by linear interpolation. Raises GreenedgeError for any other file, and for one
    of more than 120 s; `name` is for its message.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            frames = min(file.getnframes(), len(data))  # the header of a stream may give more than the file has
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
            own_rate = file.getframerate()
    except (wave.Error, EOFError, ValueError) as error:
        raise GreenedgeError(f"{name} is no WAV file ({error}).") from None
    samples = raw.mean(axis=1).astype(np.float32) / 32768
    if own_rate == rate:
        return samples
    places = np.arange(int(len(samples) * rate / own_rate)) * (own_rate / rate)
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
    """(frames, mels) float32: ln(mel energies + floor) of samples (N,).

    rate, low and high in Hz, high None for rate / 2; window and hop in samples. A last partial frame is left out.
    """
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
    """(frames, count) float32: the first `count` cepstral coefficients of each frame; arguments as for log_mel."""
    energies = log_mel(samples, rate, window, hop, mels, low, high)
    return (energies @ _dct(mels)[:count].T).astype(np.float32)


@cache
def _filters(rate: int, size: int, mels: int, low: float, high: float) -> np.ndarray:
    """(mels, size/2 + 1) triangular filters over the bins of an FFT of `size`."""
    edges = _mel_to_hz(np.linspace(_hz_to_mel(low), _hz_to_mel(high), mels + 2))
    bins = np.arange(size // 2 + 1) * rate / size
    rising = (bins - edges[:-2, None]) / (edges[1:-1, None] - edges[:-2, None])
    falling = (edges[2:, None] - bins) / (edges[2:, None] - edges[1:-1, None])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _hz_to_mel(hz: float) -> float:
    return 2595 * np.log10(1 + hz / 700)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


@cache
def _dct(size: int) -> np.ndarray:
    """(size, size): the orthonormal DCT-II, coefficient by row."""
    k, n = np.arange(size)[:, None], np.arange(size)
    matrix = np.sqrt(2 / size) * np.cos(np.pi * k * (2 * n + 1) / (2 * size))
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)
