"""The recipes' loaders on small archives of the real layout, made here, and the errors for archives that are none."""

from __future__ import annotations

import io
import subprocess
import tarfile
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest

from greenedge.errors import GreenedgeError, TargetError
from greenedge.train import load_recipe
from greenedge.train.audio import log_mel, mfcc, read_wav


def wav(samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)


def tar_gz(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


# -- sound -------------------------------------------------------------------------------------------------------------


def test_a_tone_is_loudest_in_its_own_mel_filter():
    mels = log_mel(tone(1000).astype(np.float32), 16_000, 640, 320, 40, 20, 4000)
    assert mels.shape == (49, 40)
    edges = 2595 * np.log10(1 + np.array([20, 1000, 4000]) / 700)
    assert abs(int(mels.mean(0).argmax()) - ((edges[1] - edges[0]) / (edges[2] - edges[0]) * 41 - 1)) <= 1


def test_mfccs_are_the_cosine_transform_of_the_energies(rng):
    from scipy.fft import dct

    samples = rng.normal(size=16_000).astype(np.float32)
    expected = dct(log_mel(samples, 16_000, 640, 320, 40, 20, 4000), norm="ortho")[:, :10]
    assert np.allclose(mfcc(samples, 16_000, 640, 320, 40, 10), expected, atol=1e-4)  # float32 sums of 40 terms


def test_wav_files_are_read_resampled_and_refused():
    sound = tone(440)
    assert np.allclose(read_wav(wav(sound), "a.wav", 16_000), sound, atol=1e-4)  # 16 bits
    stereo = np.stack([sound, -sound], axis=1).ravel()
    assert np.abs(read_wav(wav(stereo, channels=2), "a.wav", 16_000)).max() < 1e-4
    assert len(read_wav(wav(tone(440, 1.0), rate=8_000), "a.wav", 16_000)) == 32_000
    with pytest.raises(GreenedgeError, match=r"^a.wav is no WAV file \("):
        read_wav(b"RIFFnonsense", "a.wav", 16_000)
    with pytest.raises(GreenedgeError) as caught:
        read_wav(wav(np.zeros(130 * 100), rate=100), "a.wav", 16_000)
    assert (
        str(caught.value) == "a.wav has 16 bits, 1 channels and 13,000 frames; 16-bit sounds of up to 120 s are read."
    )


# -- Google Speech Commands --------------------------------------------------------------------------------------------


def speech_archive(path: Path) -> Path:
    files = {
        f"./{word}/{speaker:08x}_nohash_0.wav": wav(tone(300 + 90 * number))
        for number, word in enumerate(("yes", "no", "stop", "marvin"))
        for speaker in range(16)
    }
    files["./_background_noise_/pink_noise.wav"] = wav(np.random.default_rng(0).normal(size=48_000) * 0.1)
    files["./testing_list.txt"] = b"\n".join(
        b"%s/%08x_nohash_0.wav" % (word, k) for word in (b"yes", b"no", b"stop") for k in range(4)
    )
    files["./validation_list.txt"] = b"yes/00000009_nohash_0.wav\n"
    files["./../outside.wav"] = b"never read"
    files["./README.md"] = b"words"
    return tar_gz(path, files)


def test_speech_commands_as_downloaded(repo, tmp_path):
    archive = speech_archive(tmp_path / "speech_commands_v0.02.tar.gz")
    recipe = load_recipe(repo / "flows" / "keywords-dscnn", {"data.archive": str(archive)})
    assert recipe.data_files() == [archive]
    data = recipe.load_data()
    assert data.x_train.shape[1:] == (1, 49, 10) and len(data.x_train) + len(data.x_test) > 48
    counts = np.bincount(data.y_test, minlength=12)
    assert [counts[k] for k in (9, 3, 7)] == [4, 4, 4] and counts[10] >= 1  # yes, no, stop; silence
    trained = np.bincount(data.y_train, minlength=12)
    assert trained[9] == 12 and trained[10] >= 1 and trained[11] < 16  # one in eight of the other words
    assert not list(tmp_path.glob("**/*.wav"))


def test_an_archive_that_is_none(repo, tmp_path):
    path = tmp_path / "s.tar.gz"
    recipe = load_recipe(repo / "flows" / "keywords-dscnn", {"data.archive": str(path)})
    with pytest.raises(TargetError) as caught:
        _ = recipe.digest
    assert str(caught.value) == f"keywords-dscnn: no file {path}; the recipe's README.md says where to get it."
    path.write_bytes(b"\x1f\x8b cut short")
    with pytest.raises(
        TargetError, match=rf"^{path} is no tar.gz archive \(.*\); get speech_commands_v0.02.tar.gz anew.$"
    ):
        recipe.load_data()
    tar_gz(path, {"yes/a.wav": wav(tone(300))})
    with pytest.raises(TargetError) as caught:
        recipe.load_data()
    assert str(caught.value) == (
        f"{path} holds 1 recordings, 0 of noise and 0 lines in testing_list.txt; all are needed: get "
        "speech_commands_v0.02.tar.gz anew."
    )


@pytest.mark.tool("espeak-ng")
def test_spoken_words_of_other_voices_are_the_test(repo):
    settings = {"data.source": "espeak-ng", "data.each": "4"}
    data = load_recipe(repo / "flows" / "keywords-dscnn", settings).load_data()
    assert np.bincount(data.y_train).tolist() == [3] * 12 and np.bincount(data.y_test).tolist() == [1] * 12
    assert np.array_equal(data.x_train, load_recipe(repo / "flows" / "keywords-dscnn", settings).load_data().x_train)


def test_without_espeak_it_says_how_to_get_it_and_what_else_there_is(repo, monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError("espeak-ng")

    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(
        TargetError,
        match=r"^espeak-ng could not speak 'down' \(espeak-ng\); apt install espeak-ng, or --set data.source=tones.$",
    ):
        load_recipe(repo / "flows" / "keywords-dscnn", {"data.source": "espeak-ng", "data.each": "4"}).load_data()


# -- ToyADMOS ----------------------------------------------------------------------------------------------------------


def toyadmos_archive(path: Path) -> Path:
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for part, kind, count in (("train", "normal", 6), ("test", "normal", 3), ("test", "anomaly", 3)):
            for number in range(count):
                sound = tone(200, 1.2) + rng.normal(size=19_200) * 0.02 + (tone(3000, 1.2) if kind == "anomaly" else 0)
                archive.writestr(f"ToyCar/{part}/{kind}_id_01_{number:08d}.wav", wav(sound))
        archive.writestr("ToyCar/train/normal_id_02_00000000.wav", wav(tone(200, 1.2)))
    return path


def test_toyadmos_as_downloaded(repo, tmp_path):
    archive = toyadmos_archive(tmp_path / "dev_data_ToyCar.zip")
    recipe = load_recipe(repo / "flows" / "anomaly-autoencoder", {"data.archive": str(archive), "data.windows": "5"})
    data = recipe.load_data()
    assert data.x_train.shape == (30, 640) and data.x_test.shape == (30, 640)
    assert abs(float(data.x_train.mean())) < 1e-3 and abs(float(data.x_train.std()) - 1) < 1e-3
    assert (
        data.y_test[:, 0].reshape(6, 5).tolist() == [[1] * 5] * 3 + [[0] * 5] * 3
        and len(np.unique(data.y_test[:, 1])) == 6
    )


def test_auc_is_of_recordings_not_of_windows(repo):
    recipe = load_recipe(repo / "flows" / "anomaly-autoencoder")
    errors = np.array([1.0, 3.0, 2.0, 2.5, 0.0, 1.0])  # means 2, 2.25 and 0.5
    y = np.array([[0, 0], [0, 0], [1, 1], [1, 1], [0, 2], [0, 2]])
    assert recipe.score(np.sqrt(errors)[:, None] * np.ones(4), np.zeros((6, 4)), y) == {"auc": 1.0}
    assert recipe.score(np.ones((2, 4)), np.zeros((2, 4)), y[:2]) == {"minus_mean_error": -1.0}


def test_a_zip_that_is_none(repo, tmp_path):
    path = tmp_path / "t.zip"
    path.write_bytes(b"nothing")
    recipe = load_recipe(repo / "flows" / "anomaly-autoencoder", {"data.archive": str(path)})
    with pytest.raises(TargetError, match=rf"^{path} is no zip archive \(.*\); get dev_data_ToyCar.zip anew.$"):
        recipe.load_data()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ToyCar/train/normal_id_01_00000000.wav", wav(tone(200, 1.2)))
    with pytest.raises(TargetError) as caught:
        recipe.load_data()
    assert str(caught.value) == (
        f"{path} holds 1 training and 0 test recordings of machine 1; normal ones to train on and both kinds to "
        "test are needed."
    )


# -- CIFAR-10 ----------------------------------------------------------------------------------------------------------


def cifar_batch(rng: np.random.Generator, count: int) -> bytes:
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = rng.integers(0, 60, (count, 3, 32, 32)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[label % 3, 3 * label : 3 * label + 5] += 150
    return np.concatenate([labels[:, None], images.reshape(count, -1)], axis=1).tobytes()


def cifar_archive(path: Path, train: int = 60, test: int = 20) -> Path:
    rng = np.random.default_rng(0)
    return tar_gz(
        path,
        {
            "cifar-10-batches-bin/data_batch_1.bin": cifar_batch(rng, train),
            "cifar-10-batches-bin/batches.meta.txt": b"cat\n",
            "cifar-10-batches-bin/test_batch.bin": cifar_batch(rng, test),
        },
    )


def test_cifar_as_downloaded(repo, tmp_path):
    archive = cifar_archive(tmp_path / "cifar-10-binary.tar.gz")
    data = load_recipe(repo / "flows" / "cifar-resnet8", {"data.archive": str(archive), "data.test": "15"}).load_data()
    assert (
        data.x_train.shape == (60, 3, 32, 32)
        and data.x_test.shape == (15, 3, 32, 32)
        and data.y_test.tolist() == [*range(10), *range(5)]
    )
    assert data.x_train[4, 1, 12:17].min() >= 150 and data.x_train[4, 0].max() < 60  # red, green, blue, row by row


@pytest.mark.parametrize(
    "files, message",
    [
        (
            {"cifar-10-batches-bin/data_batch_1.bin": b"\0" * 3074, "x/test_batch.bin": b"\0" * 3073},
            "{path}: data_batch_1.bin has 3,074 bytes; a file has 1 to 10,000 records of 3,073: get "
            "cifar-10-binary.tar.gz anew.",
        ),
        (
            {"cifar-10-batches-bin/data_batch_1.bin": b"\x0b" * 3073, "x/test_batch.bin": b"\0" * 3073},
            "{path}: data_batch_1.bin has label 11; labels are 0 to 9: get cifar-10-binary.tar.gz anew.",
        ),
        (
            {"cifar-10-batches-py/data_batch_1": b"\x80\x02pickle"},
            "{path} holds 0 files data_batch_N.bin and 0 test_batch.bin; both are needed: the archive for Python holds "
            "pickles, which are programs, and is not read; get cifar-10-binary.tar.gz anew.",
        ),
    ],
)
def test_an_archive_of_something_else(repo, tmp_path, files, message):
    path = tar_gz(tmp_path / "cifar-10-python.tar.gz", files)
    with pytest.raises(TargetError) as caught:
        load_recipe(repo / "flows" / "cifar-resnet8", {"data.archive": str(path)}).load_data()
    assert str(caught.value) == message.format(path=path)


def test_the_augmentation_of_cifar_mirrors_and_moves(repo):
    import torch

    x = torch.zeros(64, 3, 32, 32)
    x[:, 1, 10, 20] = 7
    moved = load_recipe(repo / "flows" / "cifar-resnet8").augment(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape and (moved[:, 1].flatten(1).sum(1) == 7).all() and moved[:, (0, 2)].sum() == 0
    rows, columns = zip(*(divmod(int(place), 32) for place in moved[:, 1].flatten(1).argmax(1)), strict=True)
    assert set(rows) == set(range(6, 15)) and set(columns) <= set(range(7, 25))
