"""A prompt in words: a transformer reads its tokens, the network attends to them, their mean joins the time."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentia.conditions.base import Condition, Plan, Request, Signals, TrainingData, Values
from latentia.conditions.prompt_encoder import PromptEncoder
from latentia.conditions.prompt_ids import CaptionIds, PromptCodec
from latentia.errors import LatentiaError
from latentia.language.frozen_encoder import encoder_config, encoder_folder, encoder_tokenizer
from latentia.language.tokenizer import Tokenizer, train_tokenizer

TOKENIZER_NAME = "tokenizer/tokenizer.json"  # in the folder of a model or a run


class Prompt(Condition):
    """Prompts of at most `max_tokens` ids of a vocabulary, read by `PromptEncoder` of `depth` layers.

    `encoder` is the configuration of a frozen pretrained encoder that reads them first, or None. `codec` turns words
    into ids: it is set by `of` in training and by `load_files` with a model.
    """

    inputs, options = ("prompt", "emphasis"), ("prompts", "negative_prompt")
    chances, tokens = 1, True

    def __init__(
        self,
        width: int,
        vocab_size: int,
        max_tokens: int,
        depth: int,
        heads: int,
        encoder: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "vocab_size": vocab_size,
            "max_tokens": max_tokens,
            "depth": depth,
            "heads": heads,
            "encoder": encoder,
        }
        self.encoder = PromptEncoder(vocab_size, max_tokens, width, depth, heads, encoder)
        self.mean = nn.Linear(width, width)
        nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)
        self.codec: PromptCodec | None = None
        self._captions: CaptionIds | None = None

    @classmethod
    def of(cls, plan: Plan, **settings: Any) -> "Prompt | None":
        section = plan.recipe.prompt
        if section is None:
            return None
        codec = kept_codec(plan)
        encoder = None if section.encoder is None else encoder_config(encoder_folder(section.encoder))
        prompt = cls(plan.width, codec.tokenizer.vocab_size, codec.size, section.depth, plan.heads, encoder)
        prompt.codec = codec
        if section.encoder is not None and prompt.encoder.frozen is not None:
            prompt.encoder.frozen.load(encoder_folder(section.encoder))
        return prompt

    def draw(self, data: TrainingData, rows: Tensor, chance: Tensor) -> Values:
        """One of the captions of each item, without the padding that all share."""
        if self._captions is None:
            assert data.items.captions is not None
            self._captions = CaptionIds.of(data.items.captions, self._words())
        ids = without_padding(self._captions.draw(rows.numpy(), chance[:, 0].numpy()))
        return {"prompt": ids, "emphasis": torch.ones(ids.shape)}

    def request(self, request: Request, like: Tensor) -> tuple[Values, Values]:
        asked = request.options.get("prompts", [""] * request.count)
        if isinstance(asked, str) or len(asked) != request.count:
            raise LatentiaError(f"there are {len(asked)} prompts for {request.count} items")
        negative = self._words().to_ids([request.options.get("negative_prompt", "")])
        against = (value.expand(request.count, -1) for value in negative)
        asked_ids = self._words().to_ids(asked)
        return dict(zip(self.inputs, asked_ids, strict=True)), dict(zip(self.inputs, against, strict=True))

    def null(self, like: Tensor) -> Values:
        ids = torch.full((len(like), self.config["max_tokens"]), Tokenizer.pad_id, device=like.device)
        ids[:, 0] = Tokenizer.eos_id
        return {"prompt": ids, "emphasis": torch.ones(ids.shape, device=like.device)}

    def forward(self, values: Values) -> Signals:
        """prompt (B, L) token ids, emphasis (B, L or more) factors of them."""
        tokens = self.encoder(values["prompt"], values["emphasis"])
        weight = tokens.mask.to(tokens.vectors.dtype)[..., None]
        mean = (tokens.vectors * weight).sum(1) / weight.sum(1)
        return Signals(vector=self.mean(mean), tokens=tokens)

    def save_files(self, folder: Path) -> None:
        self._words().tokenizer.save(folder / TOKENIZER_NAME)

    def load_files(self, folder: Path) -> None:
        """Reads the tokenizer of a model folder. Raises LatentiaError where it does not fit the weights."""
        self.codec = PromptCodec.load(folder / TOKENIZER_NAME, self.config["max_tokens"])
        if self.codec.tokenizer.vocab_size != self.config["vocab_size"]:
            raise LatentiaError(f"{folder}: denoiser and tokenizer do not fit each other")

    def take_files(self, other: Condition) -> None:
        assert isinstance(other, Prompt)
        self.codec = other.codec

    @property
    def vocabulary(self) -> str:
        """How words become numbers, as text."""
        return str(self._words().tokenizer.backend.to_str())

    def _words(self) -> PromptCodec:
        if self.codec is None:
            raise LatentiaError("this prompt condition has no tokenizer; load the whole model folder")
        return self.codec


def kept_codec(plan: Plan) -> PromptCodec:
    """What reads the prompts of a run: the tokenizer kept in its folder, else that of the model to start from, of the
    pretrained encoder, or one learned from the captions.

    Raises LatentiaError where the items have no captions.
    """
    settings, captions = plan.recipe.prompt, plan.items.captions
    if captions is None:
        raise LatentiaError(f"{plan.items.name} has no captions to learn prompts from: set prompt=null")
    path = plan.folder / TOKENIZER_NAME
    start = None if plan.recipe.init is None else Path(plan.recipe.init) / TOKENIZER_NAME
    if not path.exists():
        if start is not None and start.is_file():  # its denoiser knows words by these numbers
            PromptCodec.load(start, settings.max_tokens).tokenizer.save(path)
        elif settings.encoder is None:
            lines = (line for caption in captions for line in caption.splitlines())
            train_tokenizer(lines, settings.vocab_size).save(path)
        else:
            encoder_tokenizer(encoder_folder(settings.encoder))[0].save(path)
    return PromptCodec.load(path, settings.max_tokens)


def without_padding(ids: Tensor) -> Tensor:
    """Token ids (B, L) without the columns that are all padding; a multiple of 8 is left, so that shapes repeat."""
    longest = int((ids != Tokenizer.pad_id).sum(1).max())
    return ids[:, : -(-longest // 8) * 8]
