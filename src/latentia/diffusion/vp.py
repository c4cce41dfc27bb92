"""The variance-preserving process of DDPM and latent diffusion, in discrete steps."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from latentia.config import STRICT
from latentia.diffusion.protocol import expand, require_choice, require_number
from latentia.errors import LatentiaError

SCHEDULES = ("linear", "scaled_linear", "cosine")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
MAX_TIMESTEPS = 100_000  # a guard against a hostile config that would have us allocate gigabytes


@dataclass(frozen=True)
class VP:
    """The variance-preserving process in discrete steps, α² + σ² = 1.

    t = 0, ..., timesteps − 1 are the steps of DDPM (Ho et al. 2020, §2); t = −1 is clean. Between steps log σ/α is
    linear in t (as k-diffusion's sigma_to_t); below t = 0, where it tends to −∞, σ/α itself is, and above the last but
    one step of a zero-terminal-SNR schedule α/σ is. Times outside [−1, timesteps − 1] count as the nearest end.

    schedule: "linear" (Ho et al. 2020, §4), "scaled_linear" (linear in √β; latent diffusion, Rombach et al. 2022) or
    "cosine" (Nichol & Dhariwal 2021, eq. 17, β ≤ 0.999; it ignores beta_start and beta_end).
    prediction_type: "epsilon" (ε), "sample" (z) or "v_prediction" (α ε − σ z; Salimans & Ho 2022, §4).
    min_snr_gamma: γ of the min-SNR-γ loss weight (Hang et al. 2023, §3.4); None weighs all times alike.
    zero_terminal_snr: rescales the schedule so that α = 0 at the last step (Lin et al. 2024, Alg. 1).
    Raises LatentiaError for unknown names, numbers out of range, and for "epsilon" with zero_terminal_snr, since ε then
    says nothing about z at the last step.
    """

    schedule: Annotated[Literal["linear", "scaled_linear", "cosine"], Field(description="noise schedule")] = "cosine"
    timesteps: Annotated[int, Field(description="discrete timesteps")] = 1000
    prediction_type: Annotated[
        Literal["epsilon", "sample", "v_prediction"], Field(description="what the network predicts")
    ] = "v_prediction"
    beta_start: Annotated[float, Field(description="first β of the linear schedules")] = 1e-4
    beta_end: Annotated[float, Field(description="last β of the linear schedules")] = 0.02
    min_snr_gamma: Annotated[float | None, Field(description="γ of the min-SNR-γ loss weight; null: none")] = None
    zero_terminal_snr: Annotated[
        bool, Field(description="rescale the schedule so that the last timestep is pure noise")
    ] = False

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        require_choice("VP schedule", self.schedule, SCHEDULES)
        require_choice("VP prediction_type", self.prediction_type, PREDICTION_TYPES)
        if type(self.timesteps) is not int or not 3 <= self.timesteps <= MAX_TIMESTEPS:
            raise LatentiaError(
                f"VP timesteps is {self.timesteps!r}, expected a whole number from 3 to {MAX_TIMESTEPS}"
            )
        require_number("VP beta_start", self.beta_start, above=0, below=1)
        require_number("VP beta_end", self.beta_end, above=0, below=1)
        if self.min_snr_gamma is not None:
            require_number("VP min_snr_gamma", self.min_snr_gamma, above=0)
        if type(self.zero_terminal_snr) is not bool:
            raise LatentiaError(f"VP zero_terminal_snr is {self.zero_terminal_snr!r}, expected true or false")
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise LatentiaError(
                'VP prediction_type "epsilon" cannot go with zero_terminal_snr; use "v_prediction" or "sample"'
            )

    @property
    def clean_time(self) -> float:
        return -1.0

    @property
    def cleanest_time(self) -> float:
        return 0.0

    @property
    def noisiest_time(self) -> float:
        return self.timesteps - 1.0

    def _nodes(self, like: Tensor) -> Tensor:
        """The finite log σ/α at t = 0, 1, ... (all steps, or all but the last where that has zero SNR)."""
        args = (self.schedule, self.timesteps, self.beta_start, self.beta_end, self.zero_terminal_snr)
        return _log_sigma_over_alpha(*args, device=like.device, dtype=like.dtype)

    def log_sigma_over_alpha(self, t: Tensor) -> Tensor:
        """log σ/α at t: −∞ at −1, and +∞ at the last step of a zero-terminal-SNR schedule."""
        t = t if t.is_floating_point() else t.to(torch.get_default_dtype())
        nodes = self._nodes(t)
        last = len(nodes) - 1
        low = t.floor().clamp(0, last - 1)
        index = low.long()
        inner = torch.lerp(nodes[index], nodes[index + 1], (t - low).clamp(0, 1))
        result = torch.where(t < 0, nodes[0] + torch.log((t + 1).clamp(min=0)), inner)
        if self.zero_terminal_snr:
            result = torch.where(t > last, nodes[last] - torch.log((last + 1 - t).clamp(min=0)), result)
        return result

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-2 * self.log_sigma_over_alpha(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sigmoid(2 * self.log_sigma_over_alpha(t)).sqrt()

    def time_of_sigma(self, sigma_over_alpha: Tensor) -> Tensor:
        nodes = self._nodes(sigma_over_alpha)
        last = len(nodes) - 1
        value = sigma_over_alpha.log().contiguous()
        low = (torch.searchsorted(nodes, value, right=True) - 1).clamp(0, last - 1)
        inner = low + ((value - nodes[low]) / (nodes[low + 1] - nodes[low])).clamp(0, 1)
        result = torch.where(value < nodes[0], sigma_over_alpha / nodes[0].exp() - 1, inner)
        if self.zero_terminal_snr:
            result = torch.where(value > nodes[last], last + 1 - nodes[last].exp() / sigma_over_alpha, result)
        return result

    def clock(self, t: Tensor) -> Tensor:
        return t

    def time_of_clock(self, clock: Tensor) -> Tensor:
        return clock

    def sample_times(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.timesteps, (n,), generator=generator, device=generator.device).float()

    def noise(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return expand(self.alpha(t), z) * z + expand(self.sigma(t), z) * eps

    def target(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return eps
        if self.prediction_type == "sample":
            return z
        return expand(self.alpha(t), z) * eps - expand(self.sigma(t), z) * z

    def denoised(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        if self.prediction_type == "sample":
            return output
        alpha, sigma = expand(self.alpha(t), z_t), expand(self.sigma(t), z_t)
        if self.prediction_type == "epsilon":
            return (z_t - sigma * output) / alpha
        return alpha * z_t - sigma * output

    def weight(self, t: Tensor) -> Tensor:
        """min(SNR, γ) on the error of z (Hang et al. 2023), in terms of the error of what the network predicts."""
        log_ratio = self.log_sigma_over_alpha(t)
        if self.min_snr_gamma is None:
            return torch.ones_like(log_ratio)
        if self.prediction_type == "epsilon":  # error of z = error of ε / SNR
            return (self.min_snr_gamma * torch.exp(2 * log_ratio)).clamp(max=1)
        snr = torch.exp(-2 * log_ratio)
        clamped = snr.clamp(max=self.min_snr_gamma)
        return clamped if self.prediction_type == "sample" else clamped / (snr + 1)

    def input_scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def network_time(self, t: Tensor) -> Tensor:
        return t


@lru_cache(maxsize=32)
def _log_sigma_over_alpha(
    schedule: str,
    timesteps: int,
    beta_start: float,
    beta_end: float,
    zero_terminal_snr: bool,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """The finite log σ/α of the steps 0, 1, ..., computed in float64."""
    with torch.inference_mode(False):  # a cached tensor must serve training too
        if schedule == "linear":
            betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
        elif schedule == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2
        else:
            u = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
            alpha_bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
        alphas = torch.cumprod(1 - betas, 0).sqrt()
        if zero_terminal_snr:  # Lin et al. 2024, Alg. 1
            alphas = ((alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1]))[:-1]
        return (0.5 * torch.log((1 - alphas**2) / alphas**2)).to(device=device, dtype=dtype)
