"""Waveforms to features, many at a time and differentiable: the front end of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.audio import mel
from common.audio.front_end import FrontEnd, Mfcc, Psd
from common.audio.torchaudio_import import import_torchaudio


class BatchFrontEnd(nn.Module):
    """Features of whole clips. Formulas and reasons are in `mel.py`, the streaming twin is in `stream.py`.

    Frames are not centred: frame i covers samples [i*hop, i*hop + window), and its features depend on
    frames 0..i only.

    Args:
        config: which front end.

    Raises:
        AudioError: FA-1008, mel bands too narrow for the window.
    """

    weights: Tensor
    carry: Tensor
    filters: Tensor | None
    cosines: Tensor | None

    def __init__(self, config: FrontEnd) -> None:
        super().__init__()
        self.config = config
        self.spectrum: nn.Module = import_torchaudio().transforms.Spectrogram(
            n_fft=config.window,
            hop_length=config.hop,
            window_fn=lambda size: torch.from_numpy(mel.hann(size)),
            power=None,
            center=False,
        )
        weights, carry = mel.smoother()
        filters = None if isinstance(config, Psd) else torch.from_numpy(mel.filterbank(config))
        cosines = torch.from_numpy(mel.dct(config)) if isinstance(config, Mfcc) else None
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)
        self.register_buffer("carry", torch.from_numpy(carry), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("cosines", cosines, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Features (B, T, features) of samples (B, S) at 16 kHz; T = `config.frames(S)`, which may be 0."""
        return self.normalise(self.energies(waveform))

    def energies(self, waveform: Tensor) -> Tensor:
        """Linear band powers (B, T, bands) of samples (B, S).

        A full-scale sine gives (window / 4)^2 in its bin.
        """
        clips, frames = waveform.shape[0], self.config.frames(waveform.shape[1])
        if not clips or not frames:
            return self.weights.new_zeros(clips, frames, self.config.bands)
        # Clip by clip: the spectra of one fit a processor's cache, which halves the time of sixteen.
        return torch.cat([self._clip_energies(clip) for clip in torch.split(waveform, 1)])

    def _clip_energies(self, waveform: Tensor) -> Tensor:
        spectrum: Tensor = self.spectrum(waveform.double()).to(self.weights.dtype.to_complex())
        # Not abs(): the square root it takes, only to be squared again, costs more than the DFT.
        power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)
        return power if self.filters is None else power @ self.filters

    def normalise(self, energies: Tensor) -> Tensor:
        """Features (B, T, features) of band powers (B, T, bands): causal, level-invariant and always finite.

        Leading frames of zeros give the features of silence and leave the rest as it would be without them.
        """
        level = self._running_mean(energies) + mel.EPSILON
        if isinstance(self.config, Psd):
            return 10.0 * (energies / level + mel.RATIO_FLOOR).log10()
        if self.cosines is not None:
            return (energies / level + mel.RATIO_FLOOR).log() @ self.cosines
        gain = (level.log() * -mel.GAIN).exp()  # pow() takes twice as long
        return (energies * gain + mel.BIAS).pow(mel.ROOT) - mel.SILENCE

    def _running_mean(self, energies: Tensor) -> Tensor:
        """M of `mel.py`, (B, T, bands)."""
        heard = energies.detach().amax(2) > 0
        start = heard & (heard.cumsum(1) == 1)
        energies = torch.where(start[:, :, None], energies / mel.SMOOTHING, energies)
        last = energies.new_zeros(energies.shape[0], 1, energies.shape[2])
        means = []
        for block in torch.split(energies, mel.BLOCK, dim=1):
            frames = block.shape[1]
            mean = self.weights[:frames, :frames] @ block + self.carry[:frames] * last
            last = mean[:, -1:]
            means.append(mean)
        return torch.cat(means, dim=1)
