"""Spacings: n + 1 times, from noisiest_time down to clean_time, at which a sampler that takes n steps stops."""

from collections.abc import Callable

import torch
from torch import Tensor

from latentia.diffusion.protocol import Process
from latentia.errors import LatentiaError

# Where σ/α has no bound, Karras' ramp starts here: above it latents are noise to within 1 %. It lies just over the
# largest σ/α of the linear DDPM schedule (157), which thus keeps its own.
KARRAS_SIGMA_MAX = 160.0


def uniform(n: int, process: Process) -> Tensor:
    """n equal steps of the process's clock from noisiest_time to cleanest_time, both included, then clean_time.

    Equal steps in t for VP, in t before the shift for RectifiedFlow, in σ^(1/7) for EDM. Float64 (n + 1,), decreasing.
    Raises LatentiaError where n < 1.
    """
    return _on_clock(process, process.cleanest_time, n, n)


def trailing(n: int, process: Process) -> Tensor:
    """n + 1 equal steps of the process's clock from noisiest_time to clean_time (Lin et al. 2024, Table 2, "trailing").

    Float64 (n + 1,), decreasing. Raises LatentiaError where n < 1.
    """
    return _on_clock(process, process.clean_time, n + 1, n)


def karras(n: int, process: Process) -> Tensor:
    """n equal steps of (σ/α)^(1/7) from noisiest_time to cleanest_time, then clean_time (Karras et al. 2022, eq. 5).

    Where σ/α exceeds 160 at noisiest_time, the ramp starts there and its first time is moved to noisiest_time.
    Float64 (n + 1,), decreasing. Raises LatentiaError where n < 1.
    """
    ends = torch.tensor([process.noisiest_time, process.cleanest_time], dtype=torch.float64)
    ends = (process.sigma(ends) / process.alpha(ends)).clamp(max=KARRAS_SIGMA_MAX) ** (1 / 7)
    times = process.time_of_sigma(_ramp(ends, n, n) ** 7)
    return _with_ends(times, process)


def cut_times(times: Tensor, process: Process, stop_sigma: float) -> Tensor:
    """`times` down to where σ/α is `stop_sigma`, the last of them, at which a sampler then stops.

    Raises LatentiaError where nothing is left, or `stop_sigma` is negative.
    """
    stop = process.time_of_sigma(torch.tensor([stop_sigma], dtype=torch.float64))
    kept = times[times > stop]
    if not stop_sigma >= 0 or not len(kept):
        raise LatentiaError(f"stop_sigma is {stop_sigma!r}, expected 0 or more and less than the first noise")
    return torch.cat([kept, stop])


SPACINGS: dict[str, Callable[[int, Process], Tensor]] = {"uniform": uniform, "trailing": trailing, "karras": karras}


def _on_clock(process: Process, last_time: float, points: int, n: int) -> Tensor:
    """The first n of `points` equal steps of the clock from noisiest_time to last_time, then clean_time."""
    ends = process.clock(torch.tensor([process.noisiest_time, last_time], dtype=torch.float64))
    return _with_ends(process.time_of_clock(_ramp(ends, n, points)), process)


def _ramp(ends: Tensor, n: int, points: int) -> Tensor:
    """The first n of `points` equal steps between two numbers. Raises LatentiaError where n < 1."""
    if n < 1:
        raise LatentiaError(f"the number of sampling steps is {n!r}, expected 1 or more")
    return torch.linspace(float(ends[0]), float(ends[1]), points, dtype=torch.float64)[:n]


def _with_ends(times: Tensor, process: Process) -> Tensor:
    """`times` followed by clean_time, its first exactly noisiest_time in spite of rounding."""
    first, clean = (torch.tensor([t], dtype=torch.float64) for t in (process.noisiest_time, process.clean_time))
    return torch.cat([first, times[1:], clean])
