"""The model folder: a trained first stage, process and denoiser, saved and loaded as one.

Layout, as in diffusers: `model_index.json`, one folder a part with `config.json` and safetensors weights, and
`training.json`, which says how the model came to be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from latentia.data import class_index, to_float, to_uint8
from latentia.denoiser import DENOISERS
from latentia.diffusion import (
    EDM,
    SAMPLERS,
    SPACINGS,
    VP,
    RectifiedFlow,
    batched_guidance,
    denoise_with,
    initial_noise,
    process_config,
    process_from_config,
)
from latentia.errors import LatentiaError
from latentia.files import CONFIG_NAME, load_part, read_json, save_part, write_json
from latentia.first_stage import FIRST_STAGES, FirstStage
from latentia.version import __version__

INDEX_NAME, TRAINING_NAME = "model_index.json", "training.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class LatentModel:
    """A first stage, a process and a denoiser that belong together.

    `sampling` holds the defaults of `generate` (sampler, steps, spacing, guidance_scale, guidance_interval,
    guidance_rescale); `training` says how the model was made.
    """

    first_stage: FirstStage
    process: VP | RectifiedFlow | EDM
    denoiser: nn.Module
    image_size: int
    class_names: tuple[str, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.first_stage.latent_mean.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.first_stage.latent_shape(self.image_size)

    def to(self, device: str | torch.device) -> "LatentModel":
        self.first_stage.to(device)
        self.denoiser.to(device)
        return self

    def class_index(self, name_or_number: str | int) -> int:
        """The label of a class. Raises LatentiaError naming the classes there are."""
        return class_index(self.class_names, name_or_number, "the model")

    @torch.no_grad()
    def encode(self, images: NDArray[np.uint8]) -> Tensor:
        """Pictures uint8 (B, H, W, C) → normalised latents float32 (B, *latent_shape)."""
        return self.first_stage.encode(to_float(images).to(self.device))

    @torch.no_grad()
    def decode(self, z: Tensor) -> NDArray[np.uint8]:
        """Latents (B, *latent_shape) → pictures uint8 (B, H, W, C)."""
        return to_uint8(self.first_stage.decode(z.to(self.device)))

    def generate(
        self,
        labels: Sequence[int] | NDArray[np.int64] | int,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float | None = None,
        seed: int = 0,
        batch_size: int = 256,
        progress: bool = False,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> NDArray[np.uint8]:
        """Draws one picture for each label: uint8 (N, H, W, C).

        Args:
            labels: class numbers, with `len(class_names)` for no class; or a count, to draw that many without a class.
            sampler, steps, spacing, guidance_scale, guidance_interval, guidance_rescale: None takes the model's own.
            seed: the same seed, labels and batch_size give the same pictures on the same machine.
            callback: called as callback(step, z_t, denoised) after each network evaluation of each batch.

        Raises LatentiaError for an unknown sampler or spacing, a label out of range, or settings that do not fit.
        """
        null = len(self.class_names)
        wanted = np.full(labels, null) if isinstance(labels, int) else np.asarray(labels, dtype=np.int64)
        if wanted.ndim != 1 or len(wanted) == 0:
            raise LatentiaError(
                f"labels have shape {wanted.shape}, expected a list of one or more, or a positive count"
            )
        if wanted.min() < 0 or wanted.max() > null:
            raise LatentiaError(f"labels run from {wanted.min()} to {wanted.max()}, expected 0 to {null}")
        given = {
            "sampler": sampler,
            "steps": steps,
            "spacing": spacing,
            "guidance_scale": guidance_scale,
            "guidance_interval": guidance_interval,
            "guidance_rescale": guidance_rescale,
        }
        chosen = DEFAULT_SAMPLING | self.sampling | {name: value for name, value in given.items() if value is not None}
        solve = _choose("sampler", chosen["sampler"], SAMPLERS)
        times = _choose("spacing", chosen["spacing"], SPACINGS)(chosen["steps"], self.process)
        interval = None if chosen["guidance_interval"] is None else tuple(chosen["guidance_interval"])
        denoise = denoise_with(self.denoiser, self.process)

        pictures = np.empty((len(wanted), *self._picture_shape()), dtype=np.uint8)
        bar = tqdm(total=len(wanted), desc="sampling", unit="picture", disable=not progress, dynamic_ncols=True)
        with bar, torch.inference_mode():
            for start in range(0, len(wanted), batch_size):
                label = torch.from_numpy(wanted[start : start + batch_size]).to(self.device)
                generator = torch.Generator().manual_seed(seed * 1_000_003 + start)  # on the CPU: one seed, any device
                z = initial_noise(self.process, (len(label), *self.latent_shape), generator).to(self.device)
                guided = batched_guidance(
                    denoise,
                    label,
                    torch.full_like(label, null),
                    chosen["guidance_scale"] if null else 1.0,
                    self.process,
                    interval=interval,
                    rescale=chosen["guidance_rescale"],
                )
                z = solve(guided, z, times, self.process, generator=generator, callback=callback)
                pictures[start : start + len(label)] = self.decode(z)
                bar.update(len(label))
        return pictures

    def save(self, folder: str | Path, *, dtype: str = "float32") -> None:
        """Writes the model folder, its index last: a folder without one is not a model.

        `dtype` ("float32", "float16" or "bfloat16") is the type of the weights on disk.
        """
        folder = Path(folder)
        (folder / INDEX_NAME).unlink(missing_ok=True)
        save_part(folder / "first_stage", self.first_stage, self.first_stage.config)  # small, and the cache's key
        save_part(folder / "denoiser", self.denoiser, _config(self.denoiser), DTYPES[dtype])
        write_json(folder / "process" / CONFIG_NAME, process_config(self.process))
        write_json(folder / TRAINING_NAME, self.training)
        index = {
            "_class_name": "LatentModel",
            "_latentia_version": __version__,
            "first_stage": ["latentia", type(self.first_stage).__name__],
            "process": ["latentia", type(self.process).__name__],
            "denoiser": ["latentia", type(self.denoiser).__name__],
            "image_size": self.image_size,
            "class_names": list(self.class_names),
            "sampling": self.sampling,
        }
        write_json(folder / INDEX_NAME, index)

    def _picture_shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, self.first_stage.config["in_channels"]


DEFAULT_SAMPLING: dict[str, Any] = {
    "sampler": "dpm_solver_2m",
    "steps": 20,
    "spacing": "uniform",
    "guidance_scale": 1.0,
    "guidance_interval": None,
    "guidance_rescale": 0.0,
}


def load(folder: str | Path, device: str | torch.device = "cpu") -> LatentModel:
    """Loads a model folder onto `device`, in evaluation mode and float32.

    Raises LatentiaError where the folder is no model, a part is missing or damaged, or parts do not fit each other.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX_NAME)
    if index.get("_class_name") != "LatentModel":
        raise LatentiaError(f"{folder / INDEX_NAME} describes {index.get('_class_name')!r}, expected a LatentModel")
    try:
        size, names, sampling = int(index["image_size"]), tuple(map(str, index["class_names"])), dict(index["sampling"])
    except (KeyError, TypeError, ValueError) as error:
        raise LatentiaError(f"{folder / INDEX_NAME} lacks or garbles a field: {error}") from None
    model = LatentModel(
        first_stage=load_part(folder / "first_stage", FIRST_STAGES),
        process=process_from_config(read_json(folder / "process" / CONFIG_NAME)),
        denoiser=load_part(folder / "denoiser", DENOISERS),
        image_size=size,
        class_names=names,
        sampling=sampling,
        training=read_json(folder / TRAINING_NAME),
    )
    config, shape = _config(model.denoiser), model.latent_shape
    if (config["in_channels"], config["num_classes"]) != (shape[0], len(names)):
        raise LatentiaError(
            f"{folder}: the denoiser takes {config['in_channels']} channels and {config['num_classes']} classes, "
            f"the first stage gives {shape[0]} and the index names {len(names)}"
        )
    for part in (model.first_stage, model.denoiser):
        part.eval().requires_grad_(False)
    return model.to(device)


def _config(denoiser: nn.Module) -> dict[str, Any]:
    config: dict[str, Any] = denoiser.config  # type: ignore[assignment]
    return config


def _choose(kind: Literal["sampler", "spacing"], name: str, choices: dict[str, Any]) -> Any:
    if name not in choices:
        raise LatentiaError(f"unknown {kind} {name!r}, expected one of {', '.join(choices)}")
    return choices[name]
