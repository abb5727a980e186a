"""Ten spoken words, silence and the rest: MLPerf Tiny's keyword spotting with its DS-CNN.

Three sources of sound: Google Speech Commands as downloaded; the same words spoken by espeak-ng, a small set that is
made in seconds; and tones, without any speech, for use where neither is available.
"""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import TargetError
from greenedge.train import Data, setting
from greenedge.train.audio import mfcc, read_wav

if TYPE_CHECKING:
    from torch import nn

WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
SILENCE, UNKNOWN = len(WORDS), len(WORDS) + 1
OTHERS = ("bed", "bird", "cat", "dog", "happy", "house", "marvin", "tree", "wow", "zero")
RATE = 16_000
_MAX_BYTES = 1 << 20  # of one recording of one second; a larger file is not of the data set
_MAX_NOISE_BYTES = 64 << 20
_Samples = list[tuple[np.ndarray, int]]  # (MFCCs (1, 49, 10), class)


@dataclass(frozen=True)
class DataSettings:
    """source: "speech-commands" reads `archive`; "espeak-ng" and "tones" make `each` sounds of every class.

    archive: speech_commands_v0.02.tar.gz, a path from where greenedge is started. seed: of random numbers.
    """

    source: str = setting(choices=("speech-commands", "espeak-ng", "tones"))
    archive: str = setting("speech_commands_v0.02.tar.gz")
    each: int = setting(40, least=4, most=1000)
    seed: int = setting(0, least=0)


@dataclass(frozen=True)
class ModelSettings:
    """channels of every layer (64 in MLPerf Tiny), blocks of depthwise and pointwise convolution (4)."""

    channels: int = setting(64, least=1, most=1024)
    blocks: int = setting(4, least=1, most=16)


def data_files(settings: DataSettings) -> list[Path]:
    """The archive, where `source` reads it."""
    return [Path(settings.archive)] if settings.source == "speech-commands" else []


def load_data(settings: DataSettings) -> Data:
    """MFCCs (1, 49, 10) of one second: 40 ms windows every 20 ms, 40 mel filters of 20 to 4,000 Hz, 10 coefficients."""
    load = {"speech-commands": _read_speech_commands, "espeak-ng": _make_speech, "tones": _make_tones}[settings.source]
    train, test = load(settings)
    return Data(*_stack(train), *_stack(test))


def make_model(settings: ModelSettings) -> nn.Module:
    """Convolution 10×4 with stride 2; blocks of depthwise 3×3 and pointwise 1×1; mean; dense. Zhang et al., 2017."""
    from torch import nn

    width = settings.channels
    layers: list[nn.Module] = [
        nn.Conv2d(1, width, (10, 4), stride=2, padding=(5, 1), bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    for _ in range(settings.blocks):
        layers += [
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, len(WORDS) + 2, bias=False))


def _compute_features(samples: np.ndarray) -> np.ndarray:
    """MFCCs (1, 49, 10) of the first second, zeros where the sound is shorter."""
    second = np.zeros(RATE, np.float32)
    second[: min(RATE, len(samples))] = samples[:RATE]
    return mfcc(second, RATE, 640, 320, 40, 10)[None]


def _stack(pairs: _Samples) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([x for x, _ in pairs]).astype(np.float32), np.array([y for _, y in pairs], np.int64)


# -- Google Speech Commands --------------------------------------------------------------------------------------------


def _read_speech_commands(settings: DataSettings) -> tuple[_Samples, _Samples]:
    """Reads the archive in one pass, without unpacking it; testing_list.txt names the test's recordings, speaker-wise.

    One in eight recordings of unknown words is used, and silence is cut from the recordings of noise, so that both are
    about as frequent as a word.
    """
    path = Path(settings.archive)
    listed: set[str] = set()
    sounds: list[tuple[str, np.ndarray, int]] = []
    noises: list[np.ndarray] = []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                folder, _, file = name.partition("/")
                content = archive.extractfile(member) if member.isfile() else None
                if content is None or member.size > _MAX_NOISE_BYTES:
                    continue
                if name == "testing_list.txt":
                    listed = set(content.read().decode("utf-8").split())
                elif folder == "_background_noise_" and file.endswith(".wav"):
                    noises.append(read_wav(content.read(), name, RATE))
                elif file.endswith(".wav") and member.size <= _MAX_BYTES:
                    label = WORDS.index(folder) if folder in WORDS else UNKNOWN
                    if label != UNKNOWN or hash_name(file) % 8 == 0:
                        sounds.append((name, _compute_features(read_wav(content.read(), name, RATE)), label))
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise TargetError(f"{path} is no tar.gz archive ({error}); get speech_commands_v0.02.tar.gz anew.") from None
    if not listed or not sounds or not noises:
        raise TargetError(
            f"{path} holds {len(sounds)} recordings, {len(noises)} of noise and {len(listed)} lines in "
            "testing_list.txt; all are needed: get speech_commands_v0.02.tar.gz anew."
        )
    silence = _cut_silence(noises, max(2, len(sounds) // 11), np.random.default_rng(settings.seed))
    count = max(1, len(silence) // 10)  # for the test
    train = [(x, y) for name, x, y in sounds if name not in listed] + silence[count:]
    return train, [(x, y) for name, x, y in sounds if name in listed] + silence[:count]


def hash_name(name: str) -> int:
    """A number that depends on the file's name alone."""
    import zlib

    return zlib.crc32(name.encode())


def _cut_silence(noises: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> _Samples:
    """Seconds of noise at random places and volumes, of the class SILENCE."""
    silence = []
    for number in range(count):
        noise = noises[number % len(noises)]
        start = int(rng.integers(max(1, len(noise) - RATE)))
        silence.append((_compute_features(noise[start : start + RATE] * rng.uniform(0, 1)), SILENCE))
    return silence


# -- made sounds -------------------------------------------------------------------------------------------------------


def _make_speech(settings: DataSettings) -> tuple[_Samples, _Samples]:
    """Words in espeak-ng's English voices, at many speeds and pitches; the test uses the last quarter of the voices."""
    voices = [
        f"en{accent}+{kind}"
        for kind in ("m1", "f1", "m2", "f2", "m3", "f3", "m4", "f4", "m5", "f5", "m6", "m7")
        for accent in ("", "-us", "-gb-scotland")
    ]
    rng = np.random.default_rng(settings.seed)
    for_test = max(1, settings.each // 4)
    train: _Samples = []
    test: _Samples = []
    for label in range(len(WORDS) + 2):
        for number in range(settings.each):
            late = number >= settings.each - for_test
            group = voices[-len(voices) // 4 :] if late else voices[: -len(voices) // 4]
            voice, speed, pitch = group[number % len(group)], int(rng.integers(120, 220)), int(rng.integers(30, 70))
            word = WORDS[label] if label < len(WORDS) else OTHERS[int(rng.integers(len(OTHERS)))]
            spoken = np.zeros(0, np.float32) if label == SILENCE else _speak(word, voice, speed, pitch)
            (test if late else train).append((_compute_features(_place_in_second(spoken, rng)), label))
    return train, test


def _speak(word: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    argv = ("espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word)
    try:
        done = subprocess.run(argv, capture_output=True, timeout=30, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise TargetError(
            f"espeak-ng could not speak {word!r} ({error}); apt install espeak-ng, or --set data.source=tones."
        ) from None
    return read_wav(done.stdout, f"espeak-ng's {word!r}", RATE)


def _place_in_second(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sound at a random place in one second, with a little noise."""
    sound = sound[:RATE]
    second = np.zeros(RATE, np.float32)
    start = int(rng.integers(RATE - len(sound) + 1))
    second[start : start + len(sound)] = sound * rng.uniform(0.5, 1)
    return second + rng.normal(0, 0.003, RATE).astype(np.float32)


def _make_tones(settings: DataSettings) -> tuple[_Samples, _Samples]:
    """Each class is a pair of tones of its own, one after the other, in noise; silence has none."""
    rng = np.random.default_rng(settings.seed)
    for_test = max(1, settings.each // 4)
    train: _Samples = []
    test: _Samples = []
    for label in range(len(WORDS) + 2):
        for number in range(settings.each):
            t = np.arange(RATE // 2) / RATE
            first, second = 250 + 130 * label, 1700 - 110 * label
            tones = [np.sin(2 * np.pi * f * rng.uniform(0.98, 1.02) * t) for f in (first, second)]
            sound = (0.2 * np.concatenate(tones) * (label != SILENCE)).astype(np.float32)
            (test if number >= settings.each - for_test else train).append(
                (_compute_features(_place_in_second(sound, rng)), label)
            )
    return train, test
