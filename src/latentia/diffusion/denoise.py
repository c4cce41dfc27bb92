"""From a network to a `Denoise` function and to a loss, and the noise that sampling starts from."""

from collections.abc import Callable

import torch
from torch import Tensor

from latentia.diffusion.protocol import Process, expand
from latentia.errors import LatentiaError
from latentia.randomness import Generators, normal

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(z_t (B, ...), t of shape (B,) or ()) → E[z | z_t] (B, ...)."""


def denoise_with(network: Callable[..., Tensor], process: Process) -> Callable[..., Tensor]:
    """`denoise(z_t, t, **conditions)` → E[z | z_t] from `network(x, time, **conditions)`.

    With no condition the result is a `Denoise`; with one it is what `classifier_free` takes. `time` is (B,), float32
    or the latents' dtype where that is wider. The network is called once.
    """

    def denoise(z_t: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        time = process.network_time(t).to(device=z_t.device, dtype=torch.promote_types(z_t.dtype, torch.float32))
        output = network(expand(process.input_scale(t), z_t) * z_t, time.expand(len(z_t)), **conditions)
        return process.denoised(output.to(z_t.dtype), z_t, t)

    return denoise


def training_loss(
    network: Callable[[Tensor, Tensor], Tensor], z: Tensor, eps: Tensor, t: Tensor, process: Process
) -> Tensor:
    """(B,) weighted mean squared error of `network(x, time)` against the process's target.

    z, eps: (B, ...) latents and standard normal noise; t: (B,) times. The error is taken in the dtype of `z`, also if
    the network answers in a lower precision. Raises LatentiaError where the answer has another shape than `z`.
    """
    t = t.to(z.device)  # times may have been drawn on the CPU
    x = expand(process.input_scale(t), z) * process.noise(z, eps, t)
    output = network(x, process.network_time(t))
    if output.shape != z.shape:
        raise LatentiaError(f"the network answered {tuple(output.shape)} to latents {tuple(z.shape)}; they must agree")
    error = (output.to(z.dtype) - process.target(z, eps, t)) ** 2
    return process.weight(t).to(z.dtype) * error.flatten(1).mean(1)


def initial_noise(process: Process, shape: tuple[int, ...], generator: Generators) -> Tensor:
    """Float32 latents of `shape` at noisiest_time, on the generators' device: normal with deviation √(α² + σ²).

    That is the marginal of latents of mean 0 and variance 1: 1 for VP and RectifiedFlow, about sigma_max for EDM.
    """
    t = torch.tensor(process.noisiest_time, dtype=torch.float64)
    std = float(torch.hypot(process.alpha(t), process.sigma(t)))
    return std * normal(shape, generator)
