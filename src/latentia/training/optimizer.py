"""The optimizers and their learning rate."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from latentia.training.muon import Muon


def rate_factor(step: int, *, warmup: int, steps: int, decay: float | None = None) -> float:
    """The factor on the learning rate of update `step` = 0, 1…: linear warm-up to 1, then half a cosine to 0.

    The cosine takes the last `decay` of the updates, and the factor is 1 before it: warm-up, stable, decay (Hu et al.
    2024; Hägele et al. 2024). None is all updates after the warm-up.
    """
    if step < warmup:
        return (step + 1) / warmup
    start = warmup if decay is None else max(warmup, round((1 - decay) * steps))
    done = min(1.0, max(0.0, (step - start) / max(1, steps - start)))
    return 0.5 * (1 + math.cos(math.pi * done))


def build_optimizers(
    module: nn.Module, *, kind: Literal["adamw", "muon"], learning_rate: float, weight_decay: float, beta2: float = 0.99
) -> list[Optimizer]:
    """AdamW on everything, or Muon (Jordan 2024) on the matrices inside the blocks and AdamW on the rest.

    Embeddings, the output layer, vectors and convolutions stay with AdamW, as Jordan advises. Muon is PyTorch's own on
    an accelerator and for sharded matrices, and that of `latentia.training.muon` on a CPU; both scale the update alike.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    matrices = {
        name for name, parameter in named if kind == "muon" and parameter.ndim == 2 and ".blocks." in f".{name}"
    }
    rest = (parameter for name, parameter in named if name not in matrices)
    optimizers: list[Optimizer] = [
        AdamW(rest, lr=learning_rate, betas=(0.9, beta2), weight_decay=weight_decay, fused=True)
    ]
    if matrices:
        inner = [parameter for name, parameter in named if name in matrices]
        if any(parameter.device.type != "cpu" or isinstance(parameter, DTensor) for parameter in inner):
            muon: Optimizer = torch.optim.Muon(
                inner, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        else:
            muon = Muon(inner, lr=learning_rate, weight_decay=weight_decay)
        optimizers.append(muon)
    return optimizers


def set_learning_rate(optimizers: Iterable[Optimizer], learning_rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
