"""A small transformer that reads the tokens of prompts, trained with the denoiser."""

from typing import Any

import torch
from torch import Tensor, nn

from latentia.conditions.base import Tokens
from latentia.errors import LatentiaError
from latentia.language.frozen_encoder import FrozenEncoder

PAD = 0  # the id that fills short prompts, as the tokenizer has it


class PromptEncoder(nn.Module):
    """A transformer over the token ids of prompts, trained with the denoiser (as LDM's, Rombach et al. 2022, §4.3.1).

    With the config of an `encoder` (see `FrozenEncoder`) that one, never trained, reads the ids first, and what it says
    of each token is what the transformer starts from (as in Imagen, Saharia et al. 2022, §2.1). Raises LatentiaError
    for sizes that do not fit each other.
    """

    def __init__(
        self, vocab_size: int, max_tokens: int, width: int, depth: int, heads: int, encoder: Any = None
    ) -> None:
        super().__init__()
        if min(vocab_size, max_tokens, depth) < 1 or vocab_size * width > 2**28 or max_tokens > 4096 or depth > 64:
            raise LatentiaError(
                f"a prompt encoder of {vocab_size} tokens, {max_tokens} places and depth {depth} is empty or too large"
            )
        self.vocab_size, self.max_tokens = vocab_size, max_tokens
        self.frozen = FrozenEncoder(vocab_size, max_tokens, encoder) if encoder is not None else None
        self.embed = nn.Embedding(vocab_size, width) if self.frozen is None else nn.Linear(self.frozen.width, width)
        self.positions = nn.Parameter(torch.zeros(max_tokens, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        if self.frozen is None:
            nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, ids: Tensor, emphasis: Tensor | None = None) -> Tokens:
        """ids (B, L ≤ max_tokens) int64, pad at the end, none empty; `emphasis` (B, L or more) scales the vectors.

        Raises LatentiaError where shape, type or, on the CPU, an id does not fit.
        """
        if ids.ndim != 2 or ids.dtype != torch.int64 or not 1 <= ids.shape[1] <= self.max_tokens:
            raise LatentiaError(
                f"prompts are {ids.dtype} {tuple(ids.shape)}, expected int64 (batch, 1 to {self.max_tokens} tokens)"
            )
        if ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in ids.aminmax())
            if low < 0 or high >= self.vocab_size or bool((ids[:, 0] == PAD).any()):
                raise LatentiaError(
                    f"prompt ids run from {low} to {high}, expected 0 to {self.vocab_size - 1}, none empty"
                )
        mask = ids != PAD
        h = self.embed(ids if self.frozen is None else self.frozen(ids)) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=~mask)
        h = self.norm(h)
        if emphasis is not None:
            h = h * emphasis[:, : ids.shape[1], None].to(h.dtype)
        return Tokens(h, mask)
