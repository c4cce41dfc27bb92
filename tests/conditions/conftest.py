"""What tests of conditions share: each kind of condition, random networks that know some, and items to learn from."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from peers import randomised

from latentia.conditions import Condition, Context, Estimate, Label, Length, Prompt, Repair, TrainingData
from latentia.conditions.prompt import PromptCodec
from latentia.denoiser import Denoiser
from latentia.denoiser.denoiser import build_denoiser
from latentia.diffusion import Denoising, Objective, SelfConditioned
from latentia.items import ItemSet
from latentia.language.tokenizer import Tokenizer, train_tokenizer
from latentia.latents.cache import LatentCache
from latentia.modalities.image.items import picture_items
from latentia.modalities.image.pictures import PictureSet

WIDTH, CHANNELS, COUNT, CLASSES = 16, 2, 60, ("a", "b", "c")
SHARES = [[0.2, 0.8, 0.0], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["a red cat", "a blue dog"], 300)


@pytest.fixture
def prompt(tokenizer: Tokenizer) -> Prompt:
    """Prompts of at most 12 tokens."""
    torch.manual_seed(0)
    made = Prompt(WIDTH, tokenizer.vocab_size, max_tokens=12, depth=1, heads=2)
    made.codec = PromptCodec(tokenizer, 12)
    return made


@pytest.fixture
def known(prompt: Prompt) -> dict[str, Condition]:
    """One condition of each kind, for latents of 2 channels and vectors of width 16."""
    return {
        "estimate": Estimate(WIDTH, CHANNELS),
        "label": Label(WIDTH, CLASSES, SHARES),
        "length": Length(WIDTH, 9),
        "context": Context(WIDTH, CHANNELS),
        "repair": Repair(WIDTH, CHANNELS + 1, {"kind": "inpaint", "factor": 4}),
        "prompt": prompt,
    }


@pytest.fixture
def denoiser(known: dict[str, Condition]) -> Callable[..., Denoiser]:
    """denoiser("label", "prompt"): a random one that knows these conditions."""

    def make(*names: str, objective: Objective | None = None) -> Denoiser:
        if objective is None:
            objective = SelfConditioned() if "estimate" in names else Denoising()
        arguments = {"in_channels": CHANNELS, "grid": (4, 4), "width": WIDTH, "depth": 1, "heads": 2}
        own = {name: known[name] for name in names if name != "estimate"}
        return randomised(build_denoiser("DiT", arguments, own, objective))

    return make


@pytest.fixture
def items() -> Callable[..., ItemSet]:
    """items(captions=None): 60 pictures with classes and two captions each, but for what is given."""

    def make(**changes: object) -> ItemSet:
        images = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 1), dtype=np.uint8)
        captions = tuple(f"red cat\nblue dog {number}" for number in range(COUNT))
        given = {"labels": np.arange(COUNT) % 3, "class_names": CLASSES, "captions": captions} | changes
        return picture_items(PictureSet(images, name="made", source="Made here.", **given))

    return make


@pytest.fixture
def data() -> Callable[[ItemSet], TrainingData]:
    """The items with latents of a kind: each number says its row, and its view in thousands."""

    def make(of: ItemSet) -> TrainingData:
        numbers = np.arange(len(of), dtype=np.float32)[:, None] + 1000 * (1 + np.arange(len(of.views)))
        latents = np.broadcast_to(numbers[:, :, None, None, None], (*numbers.shape, CHANNELS, 4, 4))
        return TrainingData(of, LatentCache(np.ascontiguousarray(latents), list(of.views)))

    return make
