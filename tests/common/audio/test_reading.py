"""Sound files of every kind, whole and broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from common.audio.mel import Array
from common.audio.reading import iterate_audio, read_audio
from common.errors import AudioError

SECONDS = 1.5
HERTZ, AMPLITUDE = 440.0, 0.25

FORMATS = [
    ("wav", "PCM_U8"),
    ("wav", "PCM_16"),
    ("wav", "PCM_24"),
    ("wav", "FLOAT"),
    ("flac", "PCM_16"),
    ("flac", "PCM_24"),
    ("ogg", "VORBIS"),
    ("mp3", "MPEG_LAYER_III"),
]


def tone(rate: int, seconds: float = SECONDS) -> Array:
    return (AMPLITUDE * np.sin(2 * np.pi * HERTZ * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def code(path: Path, **limits: float) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path, **limits)
    return caught.value.code


@pytest.mark.parametrize(("extension", "subtype"), FORMATS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_tone_keeps_length_frequency_and_level(
    tmp_path: Path, extension: str, subtype: str, rate: int, channels: int
) -> None:
    path = tmp_path / f"tone.{extension}"
    soundfile.write(path, np.repeat(tone(rate)[:, None], channels, axis=1), rate, subtype=subtype)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - 16_000 * SECONDS) <= 1
    middle = samples[4_000:20_000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() == round(HERTZ)  # one second: bins of 1 Hz
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(AMPLITUDE / np.sqrt(2), rel=0.02)
    spectrum[:20] = 0.0  # 8-bit files carry half a step of direct current
    spectrum[400:480] = 0.0
    assert spectrum.max() < 0.03 * AMPLITUDE * len(middle) / 4


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(16_000), np.full(24_000, 0.5, np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right, right], axis=1), 16_000, subtype="FLOAT")
    assert np.allclose(read_audio(tmp_path / "a.wav"), (left + 2 * right) / 3, atol=1e-6)


def test_16_bit_samples_at_16_khz_are_exact(tmp_path: Path) -> None:
    integers = np.random.default_rng(0).integers(-(2**15), 2**15, 5_000, dtype=np.int16)
    soundfile.write(tmp_path / "a.flac", integers, 16_000)
    assert np.array_equal(read_audio(tmp_path / "a.flac") * 2**15, integers)


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
def test_what_lies_above_8_khz_does_not_fold_back(tmp_path: Path, rate: int) -> None:
    high = np.sin(2 * np.pi * 10_000 * np.arange(rate) / rate)
    soundfile.write(tmp_path / "a.wav", high, rate, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "a.wav")[1_000:-1_000]).max() < 2e-4


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_a_file_of_several_reads_is_resampled_as_one(tmp_path: Path, rate: int) -> None:
    samples = tone(rate, seconds=700_000 / rate)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    found = read_audio(tmp_path / "a.wav")
    common = int(np.gcd(16_000, rate))
    expected = resample_poly(samples, 16_000 // common, rate // common)  # another low-pass, the same tone
    assert len(found) == len(expected)
    assert np.abs(found - expected)[500:-500].max() < 2e-3


def test_an_odd_rate_keeps_time_to_a_millionth(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(44_056, seconds=16.0), 44_056, subtype="FLOAT")
    found = read_audio(tmp_path / "a.wav")
    phase = 2 * np.pi * HERTZ * 16.0
    assert np.abs(found - tone(16_000, seconds=17.0)[: len(found)])[:-500].max() < AMPLITUDE * phase * 1e-6


@pytest.mark.parametrize(("extension", "subtype"), FORMATS)
def test_blocks_are_the_whole(tmp_path: Path, extension: str, subtype: str) -> None:
    path = tmp_path / f"a.{extension}"
    noise = np.random.default_rng(0).standard_normal(300_000) * 0.1
    soundfile.write(path, noise, 44_100, subtype=subtype)
    blocks = list(iterate_audio(path, 320))
    assert {len(block) for block in blocks[:-1]} == {320}
    assert 0 < len(blocks[-1]) <= 320
    assert np.array_equal(np.concatenate(blocks), read_audio(path))


@pytest.mark.parametrize("extension", ["mp3", "ogg", "flac"])
def test_several_reads_of_a_compressed_file_join_without_a_seam(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, tone(16_000, seconds=40.0), 16_000)
    samples = read_audio(path)
    at_once, _ = soundfile.read(path, dtype="float32")
    assert np.abs(samples - at_once).max() < 1e-6


def test_one_sample(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.5]), 8_000)
    assert len(read_audio(tmp_path / "a.wav")) == 2


def test_originals_at_44_1_khz_give_the_16_khz_copies(shared_data: Path) -> None:
    originals = sorted((shared_data / "esc10/original_samples").rglob("*.ogg"))
    assert len(originals) == 5
    for original in originals:
        samples = read_audio(original)
        copy = read_audio(shared_data / "esc10" / original.parent.name / f"{original.stem}.flac")
        assert len(samples) == len(copy)
        assert np.corrcoef(samples, copy)[0, 1] > 0.99


def test_originals_at_8_khz_give_the_16_khz_copies(shared_data: Path) -> None:
    originals = sorted((shared_data / "fsdd/original_samples").rglob("*.wav"))
    assert len(originals) == 10
    for original in originals:
        samples = read_audio(original)
        copy = read_audio(shared_data / "fsdd/recordings" / f"{original.stem}.flac")
        assert len(samples) == len(copy)
        assert np.corrcoef(samples, copy)[0, 1] > 0.999


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert code(tmp_path / "none.wav") == "FA-1001"
    assert code(tmp_path) == "FA-1001"


def test_empty_file_and_file_without_samples(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert code(tmp_path / "a.wav") == "FA-1002"
    soundfile.write(tmp_path / "b.wav", np.empty(0), 16_000)
    assert code(tmp_path / "b.wav") == "FA-1002"


@pytest.mark.parametrize("name", ["notes.txt", "notes.wav", "notes.mp3", "notes.raw", "notes"])
def test_not_audio(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("These are words. " * 500)
    assert code(tmp_path / name) == "FA-1003"


def test_a_format_not_read_here(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.aiff", tone(16_000), 16_000)
    assert code(tmp_path / "a.aiff") == "FA-1003"


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_flac(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).standard_normal(50_000) * 0.1, 16_000)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert code(path) == "FA-1004"


def test_truncated_wav_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16_000), 16_000)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 10_000])
    assert np.allclose(read_audio(path), tone(16_000)[:10_000], atol=1e-4)


def test_too_long(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(8_000, seconds=2.0), 8_000)
    assert code(tmp_path / "a.wav", max_seconds=1.99) == "FA-1005"
    assert len(read_audio(tmp_path / "a.wav", max_seconds=2.0)) == 32_000


@pytest.mark.parametrize(
    ("announced", "expected"), [((1 << 36) - 1, "FA-1005"), (200_000, "FA-1004"), (100, 100), (0, 24_000)]
)
def test_a_header_that_lies_about_the_length(tmp_path: Path, announced: int, expected: str | int) -> None:
    """STREAMINFO ends in a 36-bit count of samples (RFC 9639, 8.2); 0 stands for an unknown length."""
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(16_000), 16_000)
    data = bytearray(path.read_bytes())
    field = int.from_bytes(data[18:26], "big") >> 36 << 36 | announced
    data[18:26] = field.to_bytes(8, "big")
    path.write_bytes(data)
    if isinstance(expected, int):
        assert len(read_audio(path)) == expected
    else:
        assert code(path) == expected


def test_an_unknown_length_is_limited_too(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(16_000), 16_000)
    data = bytearray(path.read_bytes())
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert len(read_audio(path)) == 24_000
    assert code(path, max_seconds=1.0) == "FA-1005"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("channels", [1, 2])
def test_values_that_are_no_sound(tmp_path: Path, value: float, channels: int) -> None:
    samples = np.zeros((1_000, channels), np.float32)
    samples[500, 0] = value
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert code(tmp_path / "a.wav") == "FA-1006"


@pytest.mark.parametrize("rate", [1, 999, 192_001, 2_000_000_000])
def test_absurd_sampling_rate(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), rate)
    assert code(tmp_path / "a.wav") == "FA-1007"


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    files = {}
    for extension in ("wav", "flac", "ogg", "mp3"):
        path = folder / f"a.{extension}"
        soundfile.write(path, tone(16_000, seconds=1.0), 16_000)
        files[extension] = path.read_bytes()
    return files


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_ends_in_an_error_or_a_sound(
    tmp_path: Path, whole_files: dict[str, bytes], extension: str, data: st.DataObject
) -> None:
    content = bytearray(whole_files[extension])
    positions = st.one_of(st.integers(0, 100), st.integers(0, len(content) - 1))
    for position, value in data.draw(st.lists(st.tuples(positions, st.integers(0, 255)), max_size=20)):
        content[position] = value
    path = tmp_path / f"a.{extension}"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        samples = read_audio(path)
    except AudioError as error:
        assert error.code in {f"FA-100{digit}" for digit in range(2, 8)}  # noqa: PT017
    else:
        assert np.isfinite(samples).all()
        assert 0 < len(samples) <= 600 * 16_000
