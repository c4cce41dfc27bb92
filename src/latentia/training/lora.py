"""Low-rank adapters (Hu et al. 2022): few weights learn beside frozen matrices and are added to them in the end."""

import re
from collections.abc import Mapping
from typing import TypeVar, cast

from torch import Tensor, nn

from latentia.errors import LatentiaError

Network = TypeVar("Network", bound=nn.Module)

CORE = "core."  # of a denoiser: its conditions keep what they have learned
BASE, DOWN, UP = ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"  # names by peft


def with_adapters(denoiser: Network, rank: int) -> Network:
    """Freezes a denoiser and gives each matrix and convolution of its core an adapter of that rank, which does nothing
    yet.

    Raises LatentiaError where peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise LatentiaError("lora needs the library peft: pip install 'latentia[lora]'") from None
    chosen = [
        name
        for name, module in denoiser.named_modules()
        if name.startswith(CORE) and isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]
    pattern = "|".join(map(re.escape, chosen))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=f"({pattern})")
    return cast(Network, inject_adapter_in_model(config, denoiser))


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a denoiser with the adapters' products added, under the names that it has without adapters."""
    made = {}
    for name, value in weights.items():
        if DOWN in name or UP in name:
            continue
        if name.endswith(BASE):
            stem = name.removesuffix(BASE)
            down, up = weights[stem + DOWN].flatten(1), weights[stem + UP].flatten(1)
            value = value + (up @ down).view_as(value)
        made[name.replace(".base_layer.", ".")] = value
    return made
