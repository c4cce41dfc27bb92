"""Trains a first stage of texts: cross-entropy of length and tokens through noisy latents."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from latentia.config import part_of
from latentia.files import write_text
from latentia.items import ItemSet
from latentia.language.frozen_encoder import encoder_config
from latentia.latents.first_stage import FirstStage
from latentia.modalities.text.autoencoder import TextAutoencoder, token_loss
from latentia.training.first_stage import new_stage, train_first_stage
from latentia.training.order import SortedOrder
from latentia.training.recipe import Recipe
from latentia.training.speed import Say


def train_text_stage(
    recipe: Recipe, texts: ItemSet, folder: Path, accelerator: Accelerator, *, say: Say = print
) -> FirstStage:
    """Trains, or continues, a text autoencoder; see `train_first_stage`. A batch holds texts of like lengths."""
    settings = recipe.first_stage
    encoder = None if settings.encoder is None else encoder_config(Path(settings.encoder), "bart")
    sizes = part_of(settings, TextAutoencoder.Config)
    stage = new_stage(recipe, TextAutoencoder, {**texts.arguments, **sizes, "encoder": encoder})
    stage.latent_shape(texts.size)
    if settings.encoder is not None and isinstance(stage, TextAutoencoder) and stage.frozen is not None:
        stage.frozen.load(Path(settings.encoder))
    order = SortedOrder(torch.from_numpy(texts.values["length"]), settings.training.batch_size, recipe.seed)

    def loss(
        network: Callable[..., Any], ids: Tensor, rows: Tensor, generator: torch.Generator, step: int
    ) -> dict[str, Tensor]:
        labels = None if texts.labels is None else torch.from_numpy(texts.labels[rows.numpy()]).to(ids.device)
        result = network(ids, generator, labels)
        return {"loss": token_loss(result.x, ids) + result.regulariser, **result.stats}

    def preview(trained: FirstStage, stem: Path) -> None:
        ids = texts.tensor(slice(16)).to(accelerator.device)
        again = trained.decode(trained.encode(ids))
        if accelerator.is_main_process:
            pairs = zip(texts.codec.to_items(ids), texts.codec.to_items(again), strict=True)
            write_text(stem.with_suffix(".txt"), "".join(f"{x}\n  {y}\n" for x, y in pairs))

    return train_first_stage(recipe, stage, texts, folder, accelerator, loss, preview=preview, order=order, say=say)
