"""The stream gives the batch's features, however the samples arrive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.audio import mel
from common.audio.batch import BatchFrontEnd
from common.audio.front_end import FrontEnd, LogMel, Mfcc, Psd
from common.audio.mel import Array
from common.audio.stream import StreamFrontEnd

TOLERANCE = 1e-4
ODD = LogMel(window=64, hop=100, bands=8)  # its hop leaves samples that belong to no frame
FRONT_ENDS: tuple[FrontEnd, ...] = (LogMel(), Mfcc(), Psd(), ODD)
every_front_end = pytest.mark.parametrize("config", FRONT_ENDS, ids=["log-mel", "mfcc", "psd", "odd"])


def noise(samples: int, level_db: float) -> Array:
    values = np.random.default_rng(samples).standard_normal(samples) * 10.0 ** (level_db / 20.0)
    return values.astype(np.float32)


def batch(config: FrontEnd, samples: Array) -> Array:
    features: Array = BatchFrontEnd(config)(torch.from_numpy(samples)[None])[0].numpy()
    return features


def streamed(stream: StreamFrontEnd, samples: Array, cuts: list[int]) -> Array:
    return np.concatenate([stream.feed(piece) for piece in np.split(samples, cuts)])


@every_front_end
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_equals_batch_for_any_chunking_length_and_level(config: FrontEnd, data: st.DataObject) -> None:
    samples = noise(
        data.draw(st.integers(0, 16_000), "samples"), data.draw(st.sampled_from([-80, -40, 0]), "dB")
    )
    silent = data.draw(st.integers(0, len(samples)), "leading zeros")
    samples[:silent] = 0.0
    cuts = sorted(data.draw(st.lists(st.integers(0, len(samples)), max_size=60), "cuts"))
    expected = batch(config, samples)
    found = streamed(StreamFrontEnd(config), samples, cuts)
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (config.frames(len(samples)), config.features)
    assert np.abs(found - expected).max(initial=0.0) < TOLERANCE


@every_front_end
@pytest.mark.parametrize("size", [37, 160, 1000, 1_000_000])
def test_equals_batch_on_recordings(config: FrontEnd, recording: Array, size: int) -> None:
    found = streamed(StreamFrontEnd(config), recording, list(range(size, len(recording), size)))
    assert np.abs(found - batch(config, recording)).max() < TOLERANCE


def test_equals_batch_sample_by_sample() -> None:
    samples = noise(1500, -20.0)
    found = streamed(StreamFrontEnd(LogMel()), samples, list(range(1, 1500)))
    assert np.abs(found - batch(LogMel(), samples)).max() < TOLERANCE


@every_front_end
def test_equals_batch_on_a_tone_whose_other_bands_are_nearly_empty(config: FrontEnd) -> None:
    samples = (0.9 * np.sin(2 * np.pi * 1000.0 * np.arange(32_000) / 16_000)).astype(np.float32)
    assert np.abs(StreamFrontEnd(config).feed(samples) - batch(config, samples)).max() < TOLERANCE


@every_front_end
def test_reset_forgets_everything(config: FrontEnd) -> None:
    stream = StreamFrontEnd(config)
    stream.feed(noise(5003, 0.0))
    stream.reset()
    samples = noise(4000, -60.0)
    assert np.array_equal(stream.feed(samples), StreamFrontEnd(config).feed(samples))


@every_front_end
def test_state_does_not_grow(config: FrontEnd) -> None:
    def size() -> int:
        return sum(value.nbytes for value in vars(stream).values() if isinstance(value, np.ndarray))

    stream = StreamFrontEnd(config)
    stream.feed(noise(10 * config.window + 1, -20.0))
    before = size()
    for _ in range(50):
        stream.feed(noise(16_000 + config.hop, -20.0))
    assert size() <= before + 4 * config.window


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf, 3e38])
def test_a_fault_of_the_source_fades(fault: float) -> None:
    samples = noise(16_000 * 30, -20.0)
    expected = StreamFrontEnd(LogMel()).feed(samples)
    samples[5000] = fault
    found = StreamFrontEnd(LogMel()).feed(samples)
    assert np.isfinite(found).all()
    assert np.abs(found[-100:] - expected[-100:]).max() < 0.01


def test_integer_samples_are_taken_as_they_are() -> None:
    samples = np.arange(1000, dtype=np.int16)
    found = StreamFrontEnd(LogMel()).feed(samples)
    assert np.array_equal(found, StreamFrontEnd(LogMel()).feed(samples.astype(np.float32)))


def test_a_block_of_many_frames_is_smoothed_as_one_stream() -> None:
    samples = noise(160 * 5 * mel.BLOCK, -20.0)
    whole = StreamFrontEnd(LogMel()).feed(samples)
    halves = streamed(StreamFrontEnd(LogMel()), samples, [160 * mel.BLOCK // 2 + 7])
    assert np.abs(whole - halves).max() < 1e-5
