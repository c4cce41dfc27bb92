"""A modality as a plug-in: sounds of one sine wave each, low or high."""

import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from latentia.config import Loop, config
from latentia.files import atomic_path, write_json, write_text
from latentia.items import Codec, ItemSet
from latentia.latents.first_stage import FirstStage
from latentia.latents.normalise import denormalise, normalise, register_statistics
from latentia.metrics.report import Figure, Report
from latentia.modalities.base import Evaluation, Modality, Say
from latentia.training.first_stage import new_stage, train_first_stage

RATE, LENGTH, PATCH, CYCLES = 8000, 64, 4, {"low": 4, "high": 12}


def sines(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(count, LENGTH) in [-1, 1], of any phase and some noise, and their classes."""
    random, labels = np.random.default_rng(seed), np.arange(count) % len(CYCLES)
    angle = 2 * np.pi * np.array([*CYCLES.values()])[labels, None] * np.arange(LENGTH) / LENGTH
    waves = 0.8 * np.sin(angle + random.uniform(0, 2 * np.pi, (count, 1))) + random.normal(0, 0.02, angle.shape)
    return waves.astype(np.float32), labels.astype(np.int64)


@config
class WaveData:
    name: Annotated[str, Field(description="sines")] = "sines"


@config
class WaveRecipe:
    kind: Literal["WaveAutoencoder"] = "WaveAutoencoder"
    channels: Annotated[int, Field(ge=1, description="channels of the latent")] = 4
    training: Annotated[Loop, Field(description="how the first stage is trained")]


class WaveAutoencoder(FirstStage):
    """(B, 1, T) → latents (B, channels, T / PATCH) and back, by one convolution each."""

    Recipe = WaveRecipe

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.config = {"channels": channels}
        self.down, self.up = nn.Conv1d(1, channels, PATCH, PATCH), nn.ConvTranspose1d(channels, 1, PATCH, PATCH)
        register_statistics(self, channels)

    def latent_shape(self, size: int) -> tuple[int, ...]:
        return self.config["channels"], size // PATCH

    def encode(self, x: Tensor) -> Tensor:
        return normalise(self.down(x), self.latent_mean, self.latent_std)

    def decode(self, z: Tensor) -> Tensor:
        return self.up(denormalise(z, self.latent_mean, self.latent_std))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


@dataclass(frozen=True)
class WaveCodec(Codec):
    size: int = LENGTH

    def describe(self) -> str:
        return f"sounds of {self.size} samples"

    def to_tensor(self, items: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.array(items))[:, None]

    def to_items(self, x: Tensor) -> NDArray[np.float32]:
        return x[:, 0].cpu().numpy()


class Waves(Modality):
    name, plural, ending = "waves", "sounds", ".wav"
    Data, stages = WaveData, {"WaveAutoencoder": WaveAutoencoder}

    def load(self, recipe: Any, folder: Path, first_stage: Path | None) -> ItemSet:
        waves, labels = sines(64, seed=0)
        return ItemSet(
            "sines", "Made by the toy.", f"{len(waves)} sounds", len(waves), LENGTH, f"sines-{len(waves)}", WaveCodec(),
            {"plain": lambda rows: torch.from_numpy(waves[rows])[:, None]}, labels=labels, class_names=tuple(CYCLES),
        )  # fmt: skip

    def train_stage(
        self, recipe: Any, items: ItemSet, folder: Path, accelerator: Any, say: Say, **options: Any
    ) -> FirstStage:
        def loss(network: Callable[..., Any], x: Tensor, rows: Tensor, generator: Any, step: int) -> dict[str, Tensor]:
            return {"loss": (network(x) - x).square().mean()}

        def preview(stage: FirstStage, stem: Path) -> None:
            self.preview(stage.decode(stage.encode(items.tensor(slice(4)))).numpy(), stem)

        stage = new_stage(recipe, WaveAutoencoder, {"channels": recipe.first_stage.channels})
        return train_first_stage(recipe, stage, items, folder, accelerator, loss, preview=preview, say=say)

    def codec(self, config: Mapping[str, Any], folder: Path) -> Codec:
        return WaveCodec(int(config["size"]))

    def save(self, items: NDArray[np.float32], path: Path) -> None:
        """All sounds, one after the other."""
        with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((items.reshape(-1).clip(-1, 1) * 32767).astype("<i2").tobytes())

    def read(self, path: Path, model: Any, fit: bool = False) -> NDArray[np.float32]:
        with wave.open(str(path)) as file:
            return (np.frombuffer(file.readframes(model.codec.size), "<i2") / 32767).astype(np.float32)

    def evaluate(self, model: Any, out: Path, how: Evaluation) -> str:
        def right(sounds: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
            pitch = np.abs(np.fft.rfft(sounds)).argmax(1)
            return float((np.abs(pitch - np.array([*CYCLES.values()])[labels]) <= 1).mean())

        (real, labels), made = sines(how.count, seed=1), np.arange(how.count) % len(CYCLES)
        figure = Figure("right pitch", right(model.generate(made), made), right(real, labels), "higher", how.count)
        report = Report("generated sounds", "as many real sounds", "none", None, (figure,))
        write_json(out / "report.json", report.to_dict())
        write_text(out / "report.md", report.table())
        return report.table()

    def widget(self, **how: Any) -> Any:
        import gradio

        return gradio.Audio(label="Sounds", **how)

    def component_value(self, items: NDArray[np.float32], model: Any) -> Any:
        return RATE, items.reshape(-1)


MODALITY = Waves()
