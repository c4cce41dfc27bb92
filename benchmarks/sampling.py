"""Sampling speed against diffusers: one set of DiT weights, the same steps, both in this process.

    python benchmarks/sampling.py [--batch 16] [--steps 20] [--repeats 5]

Peer: `DiTTransformer2DModel` with `DDIMScheduler` or `DPMSolverMultistepScheduler`, driven as DiTPipeline does, with
classifier-free guidance from one doubled batch. Prints the largest difference of the latents, to show that both did the
same work, and the ratio of times (above 1: we are faster).
"""

import argparse

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, DPMSolverMultistepScheduler
from peers import in_turn, machine, randomised, ratio

from latentia.diffusion import SAMPLERS, VP, Guidance, classifier_free, denoise_with
from latentia.interchange import dit_from_diffusers

SCHEDULERS = {"ddim": DDIMScheduler, "dpm_solver_2m": DPMSolverMultistepScheduler}
GUIDANCE = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=16, help="side of the latent")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(machine())

    torch.manual_seed(0)
    theirs = DiTTransformer2DModel(
        num_attention_heads=6, attention_head_dim=64, in_channels=4, out_channels=4, num_layers=12,
        sample_size=arguments.size, patch_size=2, num_embeds_ada_norm=10, norm_eps=1e-6,
    )  # fmt: skip
    theirs = randomised(theirs, scale=0.02)
    ours = dit_from_diffusers(theirs).eval().to(device)
    theirs = theirs.to(device)
    label = torch.arange(arguments.batch, device=device) % 10
    null = torch.full_like(label, 10)
    noise = torch.randn(arguments.batch, 4, arguments.size, arguments.size, generator=torch.Generator().manual_seed(1))
    noise = noise.to(device)
    process = VP(schedule="linear", prediction_type="epsilon")
    denoise = denoise_with(ours, process)

    for name, scheduler_class in SCHEDULERS.items():
        settings = {"timestep_spacing": "trailing"}
        if name == "ddim":
            settings |= {"clip_sample": False, "set_alpha_to_one": True}
        else:
            settings |= {"final_sigmas_type": "zero"}
        scheduler = scheduler_class(num_train_timesteps=1000, beta_schedule="linear", **settings)
        scheduler.set_timesteps(arguments.steps)
        times = torch.tensor([*scheduler.timesteps.tolist(), -1], dtype=torch.float64)

        @torch.inference_mode()
        def peer(scheduler=scheduler):
            scheduler.set_timesteps(arguments.steps)
            z = noise
            for t in scheduler.timesteps:
                both = scheduler.scale_model_input(torch.cat([z, z]), t)
                time = t.expand(len(both)).to(device)
                out = theirs(both, timestep=time, class_labels=torch.cat([label, null])).sample
                conditional, unconditional = out.chunk(2)
                z = scheduler.step(unconditional + GUIDANCE * (conditional - unconditional), t, z).prev_sample
            return z

        @torch.inference_mode()
        def latentia(name=name, times=times):
            return SAMPLERS[name](
                classifier_free(denoise, {"label": label}, {"label": null}, Guidance(GUIDANCE), process),
                noise,
                times,
                process,
            )

        difference = (peer() - latentia()).abs().max() / peer().abs().max()
        seconds = in_turn({"diffusers": peer, "latentia": latentia}, arguments.repeats)
        best = {key: min(values) for key, values in seconds.items()}
        print(
            f"{name}: {arguments.batch} latents of 4×{arguments.size}×{arguments.size}, {arguments.steps} steps, "
            f"DiT-S/2, guidance {GUIDANCE}: diffusers {best['diffusers']:.2f} s, latentia {best['latentia']:.2f} s, "
            f"ratio {ratio(seconds, 'diffusers', 'latentia'):.2f}, relative difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
