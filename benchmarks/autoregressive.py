"""The autoregressive peer: draws texts from a language model of the judge's kind, token by token."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from latentia.errors import LatentiaError
from latentia.modalities.text.metrics.judge import AT_ONCE, BOS, EOS, MASK, PAD, JudgeLM

SHRINK_BELOW = 0.75  # share of unfinished rows at which the finished ones are dropped from the batch


@torch.inference_mode()
def generate(
    judge: JudgeLM, count: int, max_tokens: int | None = None, temperature: float = 1.0, *, generator: torch.Generator
) -> NDArray[np.int32]:
    """Draws `count` rows of ids, int32 (count, max_tokens): tokens, then eos, then padding.

    Each token is drawn from softmax(logits / temperature) over all ids but pad, bos and mask. A row that has not ended
    by itself has no eos. `max_tokens` None means as many as the judge reads. The keys and values of earlier tokens are
    kept, so a token costs one pass over itself alone. Raises LatentiaError for count < 1, temperature ≤ 0 or max_tokens
    out of range.
    """
    longest = judge.config["max_tokens"]
    max_tokens = longest if max_tokens is None else max_tokens
    if count < 1 or not 1 <= max_tokens <= longest or not temperature > 0:
        raise LatentiaError(
            f"cannot draw {count} texts of at most {max_tokens} tokens at temperature {temperature}: this judge needs "
            f"count ≥ 1, 1 ≤ max_tokens ≤ {longest} and temperature > 0"
        )
    judge.eval()
    sizes = [min(AT_ONCE, count - start) for start in range(0, count, AT_ONCE)]
    rows = [_draw(judge, size, max_tokens, temperature, generator) for size in sizes]
    return torch.cat(rows).int().cpu().numpy()


def _draw(judge: JudgeLM, count: int, max_tokens: int, temperature: float, generator: torch.Generator) -> Tensor:
    device, width, heads = judge.embed.weight.device, judge.config["width"], judge.config["heads"]
    ids = torch.full((count, max_tokens), PAD, device=device)
    memory = [torch.empty(2, count, heads, max_tokens, width // heads, device=device) for _ in judge.blocks]
    going = torch.arange(count, device=device)  # the rows that are in the batch
    token = torch.full((count, 1), BOS, device=device)
    for place in range(max_tokens):
        logits = judge.logits(_hidden(judge, token, memory, place)[:, 0]).double() / temperature
        logits[:, [PAD, BOS, MASK]] = -math.inf
        chance = logits.softmax(1).cumsum(1)
        # One number for every row, ended or not: a row does not depend on when others are dropped.
        uniform = torch.rand(count, 1, dtype=torch.float64, generator=generator, device=generator.device)
        level = uniform.to(device)[going] * chance[:, -1:]
        token = torch.searchsorted(chance, level, right=True).clamp_(max=logits.shape[1] - 1)
        ended = (ids[going] == EOS).any(1)
        ids[going, place] = torch.where(ended, PAD, token[:, 0])
        ended |= token[:, 0] == EOS
        if bool(ended.all()):
            break
        if float((~ended).double().mean()) < SHRINK_BELOW:
            going, token, memory = going[~ended], token[~ended], [part[:, ~ended] for part in memory]
    return ids


def _hidden(judge: JudgeLM, token: Tensor, memory: list[Tensor], place: int) -> Tensor:
    """Last activations (B, 1, width) of the token (B, 1) at `place`; a memory (2, B, heads, places, width / heads) for
    each block keeps its keys and values."""
    x = judge.embed(token) + judge.position[place : place + 1]
    for block, kept in zip(judge.blocks, memory, strict=True):
        q, k, v = block.qkv(block.attention_norm(x)).unflatten(2, (3, block.heads, -1)).permute(2, 0, 3, 1, 4)
        kept[0, :, :, place : place + 1], kept[1, :, :, place : place + 1] = k, v
        y = F.scaled_dot_product_attention(q, *kept[:, :, :, : place + 1])
        x = x + block.out(y.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.mlp_norm(x))
    return judge.norm(x)
