"""Noising processes z_t = α(t) z + σ(t) ε: what a network is asked for, and how its answer becomes E[z | z_t].

Every process is a frozen dataclass whose constructor arguments are plain JSON values; `Process` documents its methods.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from latentia.config import STRICT, checked, fault
from latentia.diffusion.protocol import Process, expand
from latentia.errors import LatentiaError

MAX_TIMESTEPS = 100_000  # a guard against a hostile config that would have us allocate gigabytes


Prediction = Literal["epsilon", "sample", "v_prediction"]


class Checked:
    """Checks the fields of a process. Raises LatentiaError where a field is not as its annotation says."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, adapter in _adapters(kind).items():
            try:
                adapter.validate_python(getattr(self, name), strict=True)
            except ValidationError as error:
                raise LatentiaError(f"{kind.__name__} {name}{fault(error)}") from None


@cache
def _adapters(kind: Any) -> dict[str, TypeAdapter[Any]]:
    """What validates each field of a dataclass."""
    types = get_type_hints(kind, include_extras=True)
    return {field.name: TypeAdapter(types[field.name], config=STRICT) for field in fields(kind)}


@dataclass(frozen=True)
class VP(Checked, Process):
    """The variance-preserving process in discrete steps, α² + σ² = 1.

    t = 0, ..., timesteps − 1 are the steps of DDPM (Ho et al. 2020, §2); t = −1 is clean. Between steps log σ/α is
    linear in t (as k-diffusion's sigma_to_t); below t = 0, where it tends to −∞, σ/α itself is, and above the last but
    one step of a zero-terminal-SNR schedule α/σ is. Times outside [−1, timesteps − 1] count as the nearest end.

    schedule: "linear" (Ho et al. 2020, §4), "scaled_linear" (linear in √β; latent diffusion, Rombach et al. 2022) or
    "cosine" (Nichol & Dhariwal 2021, eq. 17, β ≤ 0.999; it ignores beta_start and beta_end).
    prediction_type: "epsilon" (ε), "sample" (z) or "v_prediction" (α ε − σ z; Salimans & Ho 2022, §4).
    min_snr_gamma: γ of the min-SNR-γ loss weight (Hang et al. 2023, §3.4); None weighs all times alike.
    zero_terminal_snr: rescales the schedule so that α = 0 at the last step (Lin et al. 2024, Alg. 1).
    Raises LatentiaError for unknown names, numbers out of range, and for "epsilon" with zero_terminal_snr: at the last
    step ε does not determine z.
    """

    schedule: Annotated[Literal["linear", "scaled_linear", "cosine"], Field(description="noise schedule")] = "cosine"
    timesteps: Annotated[int, Field(ge=3, le=MAX_TIMESTEPS, description="discrete timesteps")] = 1000
    prediction_type: Annotated[Prediction, Field(description="what the network predicts")] = "v_prediction"
    beta_start: Annotated[float, Field(gt=0, lt=1, description="first β of the linear schedules")] = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1, description="last β of the linear schedules")] = 0.02
    min_snr_gamma: Annotated[float | None, Field(gt=0, description="γ of the min-SNR-γ loss weight; null: none")] = None
    zero_terminal_snr: Annotated[bool, Field(description="make the last timestep pure noise")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise LatentiaError('VP prediction_type "epsilon" has no zero_terminal_snr; use "v_prediction" or "sample"')

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
        return _log_sigma_over_alpha(self, like.device, like.dtype)

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

    def sample_times(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.timesteps, (n,), generator=generator, device=generator.device).float()

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

    def network_time(self, t: Tensor) -> Tensor:
        return t


@lru_cache(maxsize=32)
def _log_sigma_over_alpha(vp: VP, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The finite log σ/α of the steps 0, 1, ..., computed in float64."""
    with torch.inference_mode(False):  # a cached tensor must serve training too
        if vp.schedule == "linear":
            betas = torch.linspace(vp.beta_start, vp.beta_end, vp.timesteps, dtype=torch.float64)
        elif vp.schedule == "scaled_linear":
            betas = torch.linspace(vp.beta_start**0.5, vp.beta_end**0.5, vp.timesteps, dtype=torch.float64) ** 2
        else:
            u = torch.arange(vp.timesteps + 1, dtype=torch.float64) / vp.timesteps
            alpha_bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
        alphas = torch.cumprod(1 - betas, 0).sqrt()
        if vp.zero_terminal_snr:  # Lin et al. 2024, Alg. 1
            alphas = ((alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1]))[:-1]
        return (0.5 * torch.log((1 - alphas**2) / alphas**2)).to(device=device, dtype=dtype)


@dataclass(frozen=True)
class RectifiedFlow(Checked, Process):
    """The straight path z_t = (1 − t) z + t ε for t in [0, 1], whose velocity v = ε − z the network predicts.

    Liu et al. 2023; training times as in Esser et al. 2024: logit-normal with logit_mean and logit_std (eq. 19), or
    uniform where logit_std is None, then shifted towards noise, t → s t / (1 + (s − 1) t) with s = shift (eq. 23). The
    shift holds for the spacings too. The network gets 1000 t. Raises LatentiaError for numbers out of range.
    """

    logit_mean: Annotated[float, Field(description="mean of the logit-normal training times")] = 0.0
    logit_std: Annotated[float | None, Field(gt=0, description="their standard deviation; null: uniform times")] = 1.0
    shift: Annotated[float, Field(gt=0, description="resolution shift: above 1 spends more on noise")] = 1.0

    @property
    def cleanest_time(self) -> float:
        return float(self.time_of_clock(torch.tensor(1e-3, dtype=torch.float64)))

    @property
    def noisiest_time(self) -> float:
        return 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_of_sigma(self, sigma_over_alpha: Tensor) -> Tensor:
        return 1 / (1 + 1 / sigma_over_alpha)  # in this form 0 and ∞ map to 0 and 1

    def clock(self, t: Tensor) -> Tensor:
        return t / (self.shift + (1 - self.shift) * t)

    def time_of_clock(self, clock: Tensor) -> Tensor:
        return self.shift * clock / (1 + (self.shift - 1) * clock)

    def sample_times(self, n: int, generator: torch.Generator) -> Tensor:
        if self.logit_std is None:
            clock = torch.rand(n, generator=generator, device=generator.device)
        else:
            normal = torch.randn(n, generator=generator, device=generator.device)
            clock = torch.sigmoid(self.logit_mean + self.logit_std * normal)
        return self.time_of_clock(clock)

    def target(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return eps - z

    def denoised(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        return z_t - expand(t, z_t) * output

    def network_time(self, t: Tensor) -> Tensor:
        return 1000 * t


@dataclass(frozen=True)
class EDM(Checked, Process):
    """The variance-exploding process z_σ = z + σ ε, whose time is σ, with EDM's preconditioning.

    Karras et al. 2022, eq. 7 and Table 1: D(z_σ; σ) = c_skip z_σ + c_out F(c_in z_σ, c_noise), σ_data the standard
    deviation of the latents. ln σ is normal with p_mean, p_std in training. The network F gets the time 250 ln σ
    (`time_scale` · c_noise), which runs over about −1550 ... 1100. Its loss weight is 1, for λ c_out² = 1 (Table 1).
    Equal steps of the clock are equal steps of σ^(1/7) (eq. 5). Raises LatentiaError for numbers out of range.
    """

    sigma_data: Annotated[float, Field(gt=0, description="standard deviation of the latents")] = 1.0
    p_mean: Annotated[float, Field(description="mean of ln σ in training")] = -0.4
    p_std: Annotated[float, Field(gt=0, description="standard deviation of ln σ in training")] = 1.2
    sigma_min: Annotated[float, Field(gt=0, description="smallest σ in sampling")] = 0.002
    sigma_max: Annotated[float, Field(gt=0, description="largest σ in sampling")] = 80.0
    time_scale: Annotated[float, Field(gt=0, description="times c_noise is the time that the network gets")] = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            raise LatentiaError(f"EDM sigma_min is {self.sigma_min!r}, expected less than sigma_max {self.sigma_max!r}")

    @property
    def cleanest_time(self) -> float:
        return float(self.sigma_min)

    @property
    def noisiest_time(self) -> float:
        return float(self.sigma_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_of_sigma(self, sigma_over_alpha: Tensor) -> Tensor:
        return sigma_over_alpha.clamp(max=self.sigma_max)

    def clock(self, t: Tensor) -> Tensor:
        return t ** (1 / 7)

    def time_of_clock(self, clock: Tensor) -> Tensor:
        return clock**7

    def sample_times(self, n: int, generator: torch.Generator) -> Tensor:
        normal = torch.randn(n, generator=generator, device=generator.device)
        return torch.exp(self.p_mean + self.p_std * normal)

    def target(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """(z − c_skip z_σ) / c_out, simplified so that it is finite at σ = 0."""
        norm = self.sigma_data * torch.sqrt(t**2 + self.sigma_data**2)
        return expand(t / norm, z) * z - expand(self.sigma_data**2 / norm, z) * eps

    def denoised(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        total = t**2 + self.sigma_data**2
        c_skip, c_out = self.sigma_data**2 / total, t * self.sigma_data / total.sqrt()
        return expand(c_skip, z_t) * z_t + expand(c_out, z_t) * output

    def input_scale(self, t: Tensor) -> Tensor:
        return torch.rsqrt(t**2 + self.sigma_data**2)

    def network_time(self, t: Tensor) -> Tensor:
        return self.time_scale / 4 * torch.log(t)


PROCESSES: dict[str, type[VP] | type[RectifiedFlow] | type[EDM]] = {
    "VP": VP,
    "RectifiedFlow": RectifiedFlow,
    "EDM": EDM,
}


def process_from_config(config: Mapping[str, Any]) -> VP | RectifiedFlow | EDM:
    """The process named by `_class_name`, with the other values as its arguments. Raises LatentiaError for bad ones."""
    name, arguments = config.get("_class_name"), {key: value for key, value in config.items() if key != "_class_name"}
    if not isinstance(name, str) or name not in PROCESSES:
        raise LatentiaError(f"the process is named {name!r:.60}, expected one of {', '.join(PROCESSES)}")
    return checked(PROCESSES[name], arguments, name)


def process_config(process: VP | RectifiedFlow | EDM) -> dict[str, Any]:
    """The plain-JSON inverse of `process_from_config`."""
    return {"_class_name": type(process).__name__, **asdict(process)}
