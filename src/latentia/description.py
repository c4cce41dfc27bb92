"""What a model is, in words: for `latentia info`, a Python prompt and a notebook."""

import base64
import html
import io
from collections.abc import Mapping
from typing import Any

from torch import nn

from latentia.errors import LatentiaError

MOST_NAMES = 12  # classes that are named
LEFT = "style='text-align:left'"
SHOWN = 8  # items that a notebook shows


def described(model: Any) -> dict[str, str]:
    """Parts, conditions, settings and origin of a `LatentModel`, by name."""
    made, names = model.training, model.class_names
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    facts = {
        "makes": f"{model.codec.describe()} from latents of {'×'.join(map(str, model.latent_shape))}",
        "first stage": f"{type(model.first_stage).__name__}, {weights_of(model.first_stage):,} weights",
        "process": str(model.process),
        "denoiser": f"{type(model.denoiser.core).__name__}, {weights_of(model.denoiser):,} weights",
        "snapshot": "" if model.weaker is None else "an early one of the denoiser, for autoguidance",
        "objective": str(model.denoiser.objective),
        "conditions": ", ".join(model.denoiser.known) or "none",
        "classes": f"{len(names)}: {', '.join(names[:MOST_NAMES])}{more}" if names else "none",
        "sampling": ", ".join(f"{name} {value}" for name, value in model.sampling.items() if value),
        "data": data_in_words(made.get("data", {})),
        "training": training_in_words(made),
        "versions": ", ".join(f"{name} {number}" for name, number in made.get("versions", {}).items()),
        "git commit": made.get("git_commit") or "",
    }
    return {name: text for name, text in facts.items() if text}


def data_in_words(data: Mapping[str, Any]) -> str:
    if "name" not in data:
        return "unknown"
    skipped = f", {data['skipped']} skipped" if data.get("skipped") else ""
    return f"{data['name']}, {data.get('count', 'an unknown number of')} items{skipped}"


def training_in_words(made: Mapping[str, Any]) -> str:
    """Recipe, updates, time and machine; "" where nothing is known."""
    recipe, machine = made.get("recipe", {}), made.get("machine", {})
    steps = made.get("updates", recipe.get("training", {}).get("steps"))
    parts = [f"recipe {recipe['name']}" if recipe.get("name") else "", f"{steps} updates" if steps else ""]
    parts += [f"{name.replace('_', ' ')} {seconds / 60:.1f} min" for name, seconds in made.get("seconds", {}).items()]
    if "device" in machine:
        parts.append(f"on {machine['device']} of {machine.get('processor', 'an unknown processor')}")
    return ", ".join(filter(None, parts))


def in_lines(model: Any) -> str:
    """The description on one screen."""
    return "\n".join(["LatentModel", *(f"  {name:<12} {text}" for name, text in described(model).items())])


def in_html(model: Any) -> str:
    """The description as a table, below some items where these are pictures and need nothing to start from."""
    lines = [(html.escape(name), html.escape(text)) for name, text in described(model).items()]
    rows = "".join(f"<tr><th {LEFT}>{name}</th><td {LEFT}>{text}</td></tr>" for name, text in lines)
    return f"{''.join(map(in_page, drawn(model)))}<table>{rows}</table>"


def drawn(model: Any) -> list[Any]:
    """Some PIL pictures of all classes in turn; none of a model of other items, or of one that needs something more."""
    labels = [number % max(1, len(model.class_names)) for number in range(SHOWN)]
    try:
        return list(model.generate(labels, output="pil"))
    except LatentiaError:
        return []


def in_page(picture: Any) -> str:
    """A PIL picture as an element of a page."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f"<img src='data:image/png;base64,{data}' style='height:96px;margin:2px;image-rendering:pixelated'>"


def weights_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
