"""Denoisers of earlier versions, whose networks held their conditions, in today's form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentia.conditions.label import MAX_LABELS
from latentia.errors import LatentiaError
from latentia.files import CONFIG_NAME, read_json

INDEX_NAME = "model_index.json"
KINDS = ("DiT", "UNet", "DiffusersUNet")
OWN = ("num_classes", "hint_channels", "lengths", "prompt_vocab", "prompt_tokens", "prompt_depth", "prompt_encoder")
RENAMED = {
    "label_embed.table.": "conditions.label.table.",
    "length_embed.table.": "conditions.length.table.",
    "prompt_encoder.": "conditions.prompt.encoder.",
    "prompt_mean.": "conditions.prompt.mean.",
}


def upgraded(folder: Path, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a `denoiser` folder of Latentia 0.1 as a `Denoiser` takes them.

    Class names, clusters and task are in the model's index, one folder up. Raises LatentiaError for another file.
    """
    old = read_json(folder / CONFIG_NAME)
    kind = old.pop("_class_name", None)
    if kind not in KINDS:
        raise LatentiaError(f"{folder / CONFIG_NAME} names class {kind!r}, expected Denoiser")
    path = folder.parent / INDEX_NAME
    index = read_json(path) if path.is_file() else {}
    try:
        config = _config(str(kind), old, index)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LatentiaError(f"{folder / CONFIG_NAME} lacks or garbles a field: {error}") from None
    weights = {_renamed(name): value for name, value in state.items()}
    if kind == "DiffusersUNet":  # its own table has no row for "no class"
        table = weights.pop("core.unet.class_embedding.weight", None)
        width = config["core"]["unet"]["block_out_channels"][0] * 4
        null = torch.zeros(1, width)
        weights["conditions.label.table.weight"] = null if table is None else torch.cat([table.float(), null])
    return config, weights


def _config(kind: str, old: Mapping[str, Any], index: Mapping[str, Any]) -> dict[str, Any]:
    beside, channels = old.get("hint_channels", 0), old["in_channels"]
    clusters = index.get("clusters")
    count, dims = old["num_classes"], old.get("dims", 2)
    if not 0 <= count <= MAX_LABELS or dims not in (1, 2):
        raise ValueError(f"num_classes is {count}, expected at most {MAX_LABELS}; dims is {dims}, expected 1 or 2")
    names = index["class_names"] if "class_names" in index else [str(number) for number in range(count)]
    parts: dict[str, Any] = {"label": {"class_names": names, "clusters": clusters}}
    objective = {"kind": "denoising"}
    if "max_tokens" in index or old.get("lengths"):
        parts = {"estimate": {"channels": channels}, **parts, "length": {"longest": old["lengths"]}}
        parts["context"] = {"channels": beside - channels}
        objective = {"kind": "self_conditioned"}
    elif beside:
        parts["repair"] = {"channels": beside, "task": index.get("task", {"kind": "inpaint"})}
    if old.get("prompt_vocab"):
        parts["prompt"] = {
            "vocab_size": old["prompt_vocab"],
            "max_tokens": old["prompt_tokens"],
            "depth": old["prompt_depth"],
            "heads": old["heads"],
            "encoder": old.get("prompt_encoder"),
        }
    core = {name: value for name, value in old.items() if name not in OWN}
    if kind == "DiffusersUNet":
        parts["label"]["nullable"] = False
    else:
        core |= {"concat_channels": beside, "tokens": bool(old.get("prompt_vocab"))}
    if kind == "UNet":
        core.pop("dims", None)
        core["grid"] = [1] * dims  # of a UNet only the number of axes matters
    return {"core": {"_class_name": kind, **core}, "conditions": parts, "objective": objective}


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return f"core.{name}"
