"""Networks that see a noisy latent, a time and conditions: network(x, time, **values) → (B, C_out, *grid)."""

from typing import Any

from torch import nn

from latentia.denoiser.denoiser import CORES, Denoiser, load_denoiser
from latentia.denoiser.diffusers_unet import DiffusersUNet
from latentia.denoiser.dit import DiT
from latentia.denoiser.unet import UNet

__all__ = ["CORES", "PRESETS", "Denoiser", "DiT", "DiffusersUNet", "UNet", "count_parameters", "load_denoiser"]

# Sizes only: what depends on the data (channels, grid, patch, classes) is for the caller to add.
PRESETS: dict[str, dict[str, Any]] = {
    "DiT-Mini": {"_class_name": "DiT", "width": 128, "depth": 4, "heads": 4, "shared_modulation": True},
    "DiT-Ti": {"_class_name": "DiT", "width": 192, "depth": 12, "heads": 3, "shared_modulation": True},
    # Peebles & Xie 2023, table 1
    "DiT-S": {"_class_name": "DiT", "width": 384, "depth": 12, "heads": 6},
    "DiT-B": {"_class_name": "DiT", "width": 768, "depth": 12, "heads": 12},
    "DiT-L": {"_class_name": "DiT", "width": 1024, "depth": 24, "heads": 16},
    "DiT-XL": {"_class_name": "DiT", "width": 1152, "depth": 28, "heads": 16},
    "UNet-Mini": {"_class_name": "UNet", "width": 32, "multipliers": (1, 2), "blocks": 1},
    "UNet-S": {"_class_name": "UNet", "width": 64, "multipliers": (1, 2), "blocks": 2},
    "UNet-M": {"_class_name": "UNet", "width": 128, "multipliers": (1, 2, 2), "attention_levels": (1, 2)},
    "UNet-L": {"_class_name": "UNet", "width": 192, "multipliers": (1, 2, 3), "attention_levels": (1, 2), "heads": 6},
    "UNet-XL": {
        "_class_name": "UNet",
        "width": 256,
        "multipliers": (1, 2, 4),
        "attention_levels": (1, 2),
        "heads": 8,
    },
}


def count_parameters(module: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
