"""A picture model as a pipeline of diffusers, which loads it with `DiffusionPipeline.from_pretrained`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from torch import Tensor, nn

from latentia.errors import LatentiaError
from latentia.files import read_json, write_json, write_text
from latentia.model import INDEX_NAME, LatentModel, load


class LatentiaModel(ModelMixin):  # type: ignore[misc]
    """A model folder as a component: `model` is the LatentModel, whose networks move with this module."""

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model
        self.parts = nn.ModuleList(model.parts.values())

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> "LatentiaModel":
        """Loads a model folder of ours, in float32; `to` moves it and changes its type."""
        return cls(load(folder))

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        self.model.save(folder)


class LatentiaPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Draws what `LatentModel.generate` draws, called as diffusers' pipelines are."""

    model: LatentiaModel

    def __init__(self, model: LatentiaModel) -> None:
        super().__init__()
        self.register_modules(model=model)  # type: ignore[attr-defined]

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Also writes the line of code by which diffusers, which has no such pipeline, finds this one."""
        super().save_pretrained(folder, **options)  # type: ignore[misc]
        index, kind = Path(folder) / INDEX_NAME, type(self)
        write_text(Path(folder) / "pipeline.py", f"from {kind.__module__} import {kind.__name__}  # noqa: F401\n")
        write_json(index, read_json(index) | {"_class_name": ["pipeline", kind.__name__]})

    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | None = None,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str = "",
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Pictures by class names or numbers, or by prompts, each `num_images_per_prompt` times.

        `generator` gives the seed that it was made with, modulo 2³²: `torch.Generator().manual_seed(0)` draws what
        `latentia sample --seed 0` draws, however often. `latents` are the noise instead, (N, *latent_shape). Steps and
        guidance of None are the model's own. `output_type` is "pil", or "np" for float32 (N, H, W, C) in [0, 1].
        Raises LatentiaError for what does not fit the model.
        """
        model = self.model.model
        if output_type not in ("pil", "np"):
            raise LatentiaError(f"output_type is {output_type!r}, expected 'pil' or 'np'")
        times = range(num_images_per_prompt)
        names = [class_labels] if isinstance(class_labels, int | str) else class_labels
        labels = None if names is None else [model.class_index(name) for name in names for _ in times]
        asked = [prompt] if isinstance(prompt, str) else prompt
        prompts = None if asked is None else [text for text in asked for _ in times]
        pictures = model.generate(
            (len(times) if prompts is None else len(prompts)) if labels is None else labels,
            prompts=prompts,
            negative_prompt=negative_prompt or None,
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=0 if generator is None else generator.initial_seed() % 2**32,
            latents=latents,
            progress=not getattr(self, "_progress_bar_config", {}).get("disable", False),
        )
        images: Any = model.codec.to_pil(pictures) if output_type == "pil" else pictures.astype("float32") / 255
        return ImagePipelineOutput(images=images) if return_dict else (images,)
