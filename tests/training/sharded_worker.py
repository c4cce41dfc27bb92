"""Run by two processes: trains a sharded denoiser, saves, restores into a fresh one, and compares with a plain one."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from latentia.conditions import Label
from latentia.denoiser import Denoiser, DiT
from latentia.training.checkpoint import Checkpoint, Trainee
from latentia.training.ema import EMA
from latentia.training.optimizer import build_optimizers


def trainee(shard: bool) -> Trainee:
    torch.manual_seed(0)
    core = DiT(in_channels=2, grid=(4, 4), width=16, depth=2, heads=2)
    module: nn.Module = Denoiser(core, {"label": Label(16, "abc")})
    if shard:
        for block in core.blocks:
            fully_shard(block)
        fully_shard(module)
    optimizers = build_optimizers(module, kind="adamw", learning_rate=0.01, weight_decay=0.0)
    return Trainee(module, optimizers, EMA(module, decay=0.5, sigma_rel=0.1))


def train(subject: Trainee, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, 2, 4, 4, generator=generator)
        out = subject.module(x, torch.full((4,), 500.0), label=torch.tensor([0, 1, 2, 3]))
        (out - 1).square().mean().backward()
        for optimizer in subject.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        assert subject.ema is not None
        subject.ema.update(step + 1)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    plain, sharded, again = trainee(False), trainee(True), trainee(True)
    train(plain, range(3))
    train(sharded, range(2))
    path = folder / "checkpoint.safetensors"
    Checkpoint(path, {"it": sharded}, "same").save(2, write=dist.get_rank() == 0)
    dist.barrier()
    assert Checkpoint(path, {"it": again}, "same").restore() == 2
    train(again, range(2, 3))
    expected, found = plain.averaged_weights(), again.averaged_weights()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
