"""Noising processes z_t = α(t) z + σ(t) ε: what a network is asked for, and how its answer becomes E[z | z_t].

Every process is a frozen dataclass whose constructor arguments are plain JSON values; `Process` documents its methods.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from latentia.config import STRICT, checked
from latentia.diffusion.protocol import expand, require_number
from latentia.diffusion.vp import VP
from latentia.errors import LatentiaError


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path z_t = (1 − t) z + t ε for t in [0, 1], whose velocity v = ε − z the network predicts.

    Liu et al. 2023; training times as in Esser et al. 2024: logit-normal with logit_mean and logit_std (eq. 19), or
    uniform where logit_std is None, then shifted towards noise, t → s t / (1 + (s − 1) t) with s = shift (eq. 23). The
    shift holds for the spacings too. The network gets 1000 t. Raises LatentiaError for numbers out of range.
    """

    logit_mean: Annotated[float, Field(description="mean of the logit-normal training times")] = 0.0
    logit_std: Annotated[float | None, Field(description="their standard deviation; null: uniform times")] = 1.0
    shift: Annotated[float, Field(description="resolution shift: above 1 spends more on noise")] = 1.0

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        require_number("RectifiedFlow logit_mean", self.logit_mean)
        if self.logit_std is not None:
            require_number("RectifiedFlow logit_std", self.logit_std, above=0)
        require_number("RectifiedFlow shift", self.shift, above=0)

    @property
    def clean_time(self) -> float:
        return 0.0

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

    def noise(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return expand(1 - t, z) * z + expand(t, z) * eps

    def target(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return eps - z

    def denoised(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        return z_t - expand(t, z_t) * output

    def weight(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def input_scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def network_time(self, t: Tensor) -> Tensor:
        return 1000 * t


@dataclass(frozen=True)
class EDM:
    """The variance-exploding process z_σ = z + σ ε, whose time is σ, with EDM's preconditioning.

    Karras et al. 2022, eq. 7 and Table 1: D(z_σ; σ) = c_skip z_σ + c_out F(c_in z_σ, c_noise), σ_data the standard
    deviation of the latents. ln σ is normal with p_mean, p_std in training. The network F gets the time 250 ln σ
    (1000 c_noise), which runs over about −1550 ... 1100. Its loss weight is 1, for λ c_out² = 1 (Table 1).
    Equal steps of the clock are equal steps of σ^(1/7) (eq. 5). Raises LatentiaError for numbers out of range.
    """

    sigma_data: Annotated[float, Field(description="standard deviation of the latents")] = 1.0
    p_mean: Annotated[float, Field(description="mean of ln σ in training")] = -0.4
    p_std: Annotated[float, Field(description="standard deviation of ln σ in training")] = 1.2
    sigma_min: Annotated[float, Field(description="smallest σ in sampling")] = 0.002
    sigma_max: Annotated[float, Field(description="largest σ in sampling")] = 80.0

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        require_number("EDM sigma_data", self.sigma_data, above=0)
        require_number("EDM p_mean", self.p_mean)
        require_number("EDM p_std", self.p_std, above=0)
        require_number("EDM sigma_max", self.sigma_max, above=0)
        require_number("EDM sigma_min", self.sigma_min, above=0, below=self.sigma_max)

    @property
    def clean_time(self) -> float:
        return 0.0

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

    def noise(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return z + expand(t, z) * eps

    def target(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """(z − c_skip z_σ) / c_out, simplified so that it is finite at σ = 0."""
        norm = self.sigma_data * torch.sqrt(t**2 + self.sigma_data**2)
        return expand(t / norm, z) * z - expand(self.sigma_data**2 / norm, z) * eps

    def denoised(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        total = t**2 + self.sigma_data**2
        c_skip, c_out = self.sigma_data**2 / total, t * self.sigma_data / total.sqrt()
        return expand(c_skip, z_t) * z_t + expand(c_out, z_t) * output

    def weight(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def input_scale(self, t: Tensor) -> Tensor:
        return torch.rsqrt(t**2 + self.sigma_data**2)

    def network_time(self, t: Tensor) -> Tensor:
        return 250 * torch.log(t)


PROCESSES: dict[str, type[VP] | type[RectifiedFlow] | type[EDM]] = {
    "VP": VP,
    "RectifiedFlow": RectifiedFlow,
    "EDM": EDM,
}


def process_from_config(config: Mapping[str, Any]) -> VP | RectifiedFlow | EDM:
    """The process named by `_class_name`, with the other values as its arguments. Raises LatentiaError for bad ones."""
    name, arguments = config.get("_class_name"), {key: value for key, value in config.items() if key != "_class_name"}
    if not isinstance(name, str) or name not in PROCESSES:
        raise LatentiaError(f"the process is named {name!r}, expected one of {', '.join(PROCESSES)}")
    return checked(PROCESSES[name], arguments, name)


def process_config(process: VP | RectifiedFlow | EDM) -> dict[str, Any]:
    """The plain-JSON inverse of `process_from_config`."""
    return {"_class_name": type(process).__name__, **asdict(process)}
