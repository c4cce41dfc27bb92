"""Training speed per picture: one denoiser architecture in the latent space and on the pixels.

    python benchmarks/latent_vs_pixel.py [--batch 32] [--repeats 5]

The same DiT (width, depth, heads, so the same FLOPs a token) takes every cell of the grid as a token: 7×7 latents of
the `fashion-mnist` recipe's first stage, or 28×28 pixels. A UNet of equal settings is timed too. The encoder's cost,
which the cache pays once for a whole training, stands beside it. Time does not depend on what the pictures show.
"""

import argparse

import torch
from peers import in_turn, machine, ratio
from torch import nn

from latentia.conditions import Label
from latentia.config import part_of
from latentia.denoiser import Denoiser, DiT, UNet
from latentia.diffusion import RectifiedFlow, training_loss
from latentia.modalities.image.first_stage.kl import AutoencoderKL
from latentia.training import load_recipe


def trainer(network: nn.Module, shape: tuple[int, ...], batch: int):
    process, generator = RectifiedFlow(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters())
    z, eps = torch.randn(2, batch, *shape, generator=generator)
    label = torch.randint(10, (batch,), generator=generator)

    def step() -> None:
        t = process.sample_times(batch, generator)
        loss = training_loss(lambda x, time: network(x, time, label=label), z, eps, t, process).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def labelled(core: DiT | UNet) -> Denoiser:
    """The network, conditioned on ten classes."""
    return Denoiser(core, {"label": Label(core.signal_width, "0123456789")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(machine())
    stage = load_recipe("fashion-mnist").first_stage
    encoder = AutoencoderKL(1, **part_of(stage, AutoencoderKL.Config))
    latent = encoder.latent_shape(28)
    pixels = (1, 28, 28)
    dit = {"width": 128, "depth": 4, "heads": 4}
    unet = {"width": 64, "multipliers": (1, 2), "blocks": 1}
    networks = {
        "DiT": lambda shape: labelled(DiT(in_channels=shape[0], grid=shape[1:], **dit)),
        "UNet": lambda shape: labelled(UNet(in_channels=shape[0], **unet)),
    }
    x = torch.rand(arguments.batch, *pixels) * 2 - 1

    @torch.inference_mode()
    def encode() -> torch.Tensor:
        return encoder.encode(x)

    for name, build in networks.items():
        runs = {
            "pixel": trainer(build(pixels), pixels, arguments.batch),
            "latent": trainer(build(latent), latent, arguments.batch),
            "encoder": encode,
        }
        seconds = in_turn(runs, arguments.repeats)
        each = {key: 1000 * min(values) / arguments.batch for key, values in seconds.items()}
        print(
            f"{name}: a training step takes {each['pixel']:.2f} ms a picture on {pixels} pixels, {each['latent']:.2f} "
            f"on {latent} latents: ratio {ratio(seconds, 'pixel', 'latent'):.1f} "
            f"(encoding, once: {each['encoder']:.2f} ms)"
        )


if __name__ == "__main__":
    main()
