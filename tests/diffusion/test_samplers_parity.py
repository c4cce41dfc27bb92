"""Samplers against diffusers' schedulers, fed by the same function in place of a network."""

import diffusers
import pytest
import torch
from torch import Tensor

from latentia.diffusion import EDM, VP, RectifiedFlow, denoise_with, heun
from latentia.diffusion.samplers import ddim, ddpm, dpm_solver_2m, euler, unipc_2
from latentia.diffusion.times import karras

F64 = torch.float64
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LATENTS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=F64)


def network(x: Tensor, time: Tensor) -> Tensor:
    """Smooth and nonlinear, and about as large as ε."""
    level = (time.to(x.dtype) / 1000).reshape(-1, 1, 1, 1)
    return torch.sin(1.3 * x + level) + 0.3 * x * torch.cos(3 * level)


def vp(prediction_type: str = "epsilon") -> VP:
    return VP("scaled_linear", 1000, prediction_type, 0.00085, 0.012)


def scheduler_of(kind: type, n: int, prediction_type: str = "epsilon", **options: object):
    """A scheduler of diffusers set to n steps, with our float64 table in place of its float32 one."""
    scheduler = kind(**BETAS, prediction_type=prediction_type, **options)
    scheduler.alphas_cumprod = vp().alpha(torch.arange(1000, dtype=F64)) ** 2
    scheduler.set_timesteps(n)
    return scheduler


def run_theirs(scheduler, z: Tensor, **options: object) -> Tensor:
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(z, t)
        z = scheduler.step(network(x, t.expand(len(x))), t, z, **options).prev_sample
    return z


def our_times(scheduler) -> Tensor:
    return torch.cat([scheduler.timesteps.to(F64), torch.tensor([-1.0], dtype=F64)])


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert (ours - LATENTS).abs().max() > 0.1  # that something happened
    torch.testing.assert_close(ours, theirs.to(F64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(eta: float, spacing: str, prediction_type: str):
    options = {"clip_sample": False, "timestep_spacing": spacing}
    scheduler = scheduler_of(diffusers.DDIMScheduler, 20, prediction_type, **options)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=F64)
    theirs = run_theirs(scheduler, LATENTS, eta=eta, generator=torch.Generator().manual_seed(7))
    process, times = vp(prediction_type), our_times(scheduler)
    generator = torch.Generator().manual_seed(7)
    close(ddim(denoise_with(network, process), LATENTS, times, process, eta=eta, generator=generator), theirs, 1e-9)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddpm(prediction_type: str):
    scheduler = scheduler_of(diffusers.DDPMScheduler, 50, prediction_type, clip_sample=False)
    scheduler.one = torch.tensor(1.0, dtype=F64)
    theirs = run_theirs(scheduler, LATENTS, generator=torch.Generator().manual_seed(7))
    process = vp(prediction_type)
    generator = torch.Generator().manual_seed(7)
    ours = ddpm(denoise_with(network, process), LATENTS, our_times(scheduler), process, generator=generator)
    close(ours, theirs, 1e-9)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_euler_for_vp(prediction_type: str):
    """Their latents are z/α, and are held in float32 within a step."""
    scheduler = scheduler_of(diffusers.EulerDiscreteScheduler, 10, prediction_type, timestep_spacing="linspace")
    process = vp(prediction_type)
    times = process.time_of_sigma(scheduler.sigmas.to(F64))
    theirs = run_theirs(scheduler, LATENTS / process.alpha(times[0]))
    close(euler(denoise_with(network, process), LATENTS, times, process), theirs, 1e-5)


def test_heun_in_their_variance_exploding_coordinates():
    """HeunDiscreteScheduler integrates z/α over σ/α: our Heun over a process with α = 1."""
    scheduler = scheduler_of(diffusers.HeunDiscreteScheduler, 10)
    sigmas = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1:-1:2], scheduler.sigmas[-1:]]).to(F64)
    scheduler.sigmas = scheduler.sigmas.to(F64)
    process, scale = vp(), float(sigmas[0])
    table = dict(zip(sigmas.tolist(), [scheduler.timesteps[0], *scheduler.timesteps[1::2]], strict=False))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        time = table[float(sigma)].expand(len(x))
        return x - sigma * network(x / torch.sqrt(sigma**2 + 1), time)

    theirs = run_theirs(scheduler, LATENTS * scale)
    close(heun(denoise, LATENTS * scale, sigmas, EDM(sigma_max=scale)), theirs, 1e-9)
    # For VP itself, the trapezoid in α and σ differs, and agrees in the limit of many steps.
    scheduler = scheduler_of(diffusers.HeunDiscreteScheduler, 300)
    process_times = process.time_of_sigma(
        torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1:-1:2], scheduler.sigmas[-1:]]).to(F64)
    )
    theirs = run_theirs(scheduler, LATENTS / process.alpha(process_times[0]))
    close(heun(denoise_with(network, process), LATENTS, process_times, process), theirs, 1e-2)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("n", [1, 2, 8, 20])
@pytest.mark.parametrize("ours", [dpm_solver_2m, unipc_2], ids=["dpm_solver_2m", "unipc_2"])
def test_multistep_for_vp(ours, n: int, prediction_type: str):
    """Below and above 15 steps, where the last step's order changes."""
    kind = diffusers.DPMSolverMultistepScheduler if ours is dpm_solver_2m else diffusers.UniPCMultistepScheduler
    scheduler = scheduler_of(kind, n, prediction_type, solver_order=2, final_sigmas_type="zero")
    process, times = vp(prediction_type), our_times(scheduler)
    scheduler.sigmas = process.sigma(times) / process.alpha(times)
    tolerance = 1e-5 if ours is dpm_solver_2m else 1e-9  # their DPM-Solver holds latents in float32 within a step
    close(ours(denoise_with(network, process), LATENTS, times, process), run_theirs(scheduler, LATENTS), tolerance)


def test_multistep_that_ends_above_zero():
    """With 15 steps and more and a last σ above 0, the last step of DPM-Solver++(2M) is of second order."""
    process = vp()
    for n in (10, 20):
        scheduler = scheduler_of(diffusers.DPMSolverMultistepScheduler, n, final_sigmas_type="sigma_min")
        times = torch.cat([scheduler.timesteps.to(F64), torch.zeros(1, dtype=F64)])
        scheduler.sigmas = process.sigma(times) / process.alpha(times)
        ours = dpm_solver_2m(denoise_with(network, process), LATENTS, times, process)
        close(ours, run_theirs(scheduler, LATENTS), 1e-5)


@pytest.mark.parametrize("kind", ["Euler", "Heun"])
def test_rectified_flow(kind: str):
    scheduler = getattr(diffusers, f"FlowMatch{kind}DiscreteScheduler")(shift=3.0)
    scheduler.set_timesteps(12)
    process = RectifiedFlow(shift=3.0)
    times = scheduler.sigmas if kind == "Euler" else torch.cat([scheduler.sigmas[:-1:2], scheduler.sigmas[-1:]])
    theirs = LATENTS
    for t in scheduler.timesteps:
        theirs = scheduler.step(network(theirs, t.expand(len(theirs))), t, theirs).prev_sample
    sampler = euler if kind == "Euler" else heun
    close(sampler(denoise_with(network, process), LATENTS, times, process), theirs, 1e-5)


@pytest.mark.parametrize("ours", [euler, dpm_solver_2m], ids=["euler", "dpm_solver_2m"])
@pytest.mark.parametrize("n", [10, 18])
def test_edm(ours, n: int):
    kind = diffusers.EDMEulerScheduler if ours is euler else diffusers.EDMDPMSolverMultistepScheduler
    process = EDM(sigma_data=0.5)
    scheduler = kind(sigma_data=0.5, sigma_max=80.0)
    scheduler.set_timesteps(n)
    times = karras(n, process)
    z = theirs = 80 * LATENTS
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(theirs, t)
        theirs = scheduler.step(network(x, 1000 * t.expand(len(x))), t, theirs).prev_sample
    close(ours(denoise_with(network, process), z, times, process), theirs, 1e-5)
