"""The judge: an independent language model that measures how likely a text is by its perplexity.

It predicts texts token by token and shares nothing with a latent diffusion model but the tokenizer.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from latentia.errors import LatentiaError
from latentia.files import cache_dir, cached_part
from latentia.language.tokenizer import Tokenizer, check_ids, token_matrix
from latentia.modalities.text.texts import TextSet
from latentia.progress import progress as progress_bar
from latentia.training.order import SortedOrder

PAD, BOS, EOS, MASK = Tokenizer.pad_id, Tokenizer.bos_id, Tokenizer.eos_id, Tokenizer.mask_id

STEPS, BATCH_SIZE = 2000, 64
LEARNING_RATE, WEIGHT_DECAY, BETAS, CLIP = 1e-3, 0.1, (0.9, 0.95), 1.0
WARMUP = 0.1  # of all steps
AT_ONCE = 256  # rows of a pass without gradients

Ids = NDArray[np.integer[Any]] | Tensor  # (N, T): each row is tokens, then eos, then padding


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each on normalised input and added to it (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) → the same shape."""
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class JudgeLM(nn.Module):
    """A decoder-only transformer with learned positions; its output layer is the embedding (Press & Wolf 2017).

    Reads rows of at most `max_tokens` ids, eos counted, below `vocab_size`. Raises LatentiaError for sizes that do not
    fit each other.
    """

    def __init__(self, vocab_size: int, width: int = 256, depth: int = 4, heads: int = 4, max_tokens: int = 64) -> None:
        super().__init__()
        self.config = {
            "vocab_size": vocab_size,
            "width": width,
            "depth": depth,
            "heads": heads,
            "max_tokens": max_tokens,
        }
        if min(width, depth, heads, max_tokens) < 1 or width % heads or vocab_size <= max(PAD, BOS, EOS, MASK):
            raise LatentiaError(f"these sizes make no judge (width must divide by heads): {self.config}")
        self.embed = nn.Embedding(vocab_size, width)
        self.position = nn.Parameter(torch.zeros(max_tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # GPT-2: the 2 · depth summands of the residual stream start smaller
                added = name.endswith(("out.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if added else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs int64 (B, T), bos first → logits (B, T, vocab_size) of the token that follows each."""
        return self.logits(self.hidden(inputs))

    def hidden(self, inputs: Tensor) -> Tensor:
        """Last activations (B, T, width)."""
        x = self.embed(inputs) + self.position[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed.weight)

    def losses(self, ids: Tensor) -> Tensor:
        """-log p of each token and eos, row after row and without padding: float (M,) for checked int64 ids (B, T)."""
        inputs = torch.cat([torch.full_like(ids[:, :1], BOS), ids[:, :-1]], dim=1)
        scored = ids != PAD
        return F.cross_entropy(self.logits(self.hidden(inputs)[scored]), ids[scored], reduction="none")


def checked_rows(name: str, ids: Ids, vocab_size: int, max_tokens: int) -> tuple[Tensor, Tensor]:
    """The ids as int64 (N, T) and the number of tokens and eos (N,) of each row, or what `check_ids` raises."""
    rows = torch.as_tensor(ids)
    rows = rows if rows.is_floating_point() else rows.long()
    check_ids(name, rows, max_tokens, vocab_size)
    return rows, (rows != PAD).sum(1)


def train_judge(
    ids: Ids,
    vocab_size: int,
    *,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
    **sizes: int,
) -> JudgeLM:
    """Trains a judge by AdamW under one learning-rate cycle (Smith & Topin 2019) and returns it in eval mode.

    `ids` is integer (N, T): tokens, eos, padding, as `token_matrix` makes them; the judge reads up to T tokens.
    `sizes` are the width, depth and heads of `JudgeLM`. A batch holds rows of similar length and is cut to its longest;
    each token weighs the same, whatever the batch it is in.
    The same arguments give the same weights on one machine; no global random state is read or changed.
    Raises LatentiaError for an empty row or an id out of range, sizes that do not fit, or steps or batch_size below 1.
    """
    if min(steps, batch_size) < 1:
        raise LatentiaError(f"a judge needs steps and batch_size of at least 1, got {steps} and {batch_size}")
    rows, lengths = checked_rows("texts to train a judge on", ids, vocab_size, ids.shape[-1])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # as ever: figures are compared over versions
        judge = JudgeLM(vocab_size, **sizes, max_tokens=rows.shape[1])
    judge.to(device).train()
    optimizer = torch.optim.AdamW(
        judge.parameters(), lr=learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=WARMUP, cycle_momentum=False
    )
    order = SortedOrder(lengths, batch_size, seed)
    expected = batch_size * float(lengths.float().mean())  # tokens of a batch
    bar = progress_bar(range(steps), shown=progress, desc="judge", unit="step")
    for step in bar:
        index = order.batch(step)
        losses = judge.losses(rows[index, : int(lengths[index].max())].to(device))
        loss = losses.sum() / expected
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(judge.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        if progress and step % 20 == 0:  # reading a loss makes a GPU wait
            bar.set_postfix(loss=f"{float(losses.detach().mean()):.3f}", refresh=False)
    return judge.eval()


def trained_judge(
    train: TextSet,
    tokenizer: Tokenizer,
    *,
    max_tokens: int = 64,
    steps: int = STEPS,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> JudgeLM:
    """`train_judge` on a set of texts, kept in `cache_dir()/judges` for these texts and settings.

    Texts of more than `max_tokens` tokens are left out. A kept judge that is damaged or incomplete is trained anew.
    Raises LatentiaError where no text is short enough.
    """
    recipe = [train.fingerprint, tokenizer.fingerprint, max_tokens, steps, BATCH_SIZE, 0]
    recipe += [LEARNING_RATE, WEIGHT_DECAY, BETAS, CLIP, WARMUP]

    def make() -> JudgeLM:
        ids = token_matrix(tokenizer, train.texts, max_tokens, on_long="skip").ids
        return train_judge(ids, tokenizer.vocab_size, steps=steps, device=device, progress=progress)

    return cached_part(cache_dir() / "judges", recipe, JudgeLM, make).to(device).eval()


@torch.inference_mode()
def perplexity(judge: JudgeLM, ids: Ids) -> float:
    """exp of the mean -log p of a token, over all rows: eos counts, padding and bos do not.

    `ids` is integer (N, T): tokens, eos, padding. Only perplexities under one judge and one tokenizer can be compared.
    Raises LatentiaError where a row is empty or too long, or an id is out of range.
    """
    rows, lengths = checked_rows("texts to judge", ids, judge.config["vocab_size"], judge.config["max_tokens"])
    judge.eval()
    total = 0.0
    for index in torch.split(lengths.argsort(stable=True), AT_ONCE):
        batch = rows[index, : int(lengths[index].max())].to(judge.embed.weight.device)
        total += float(judge.losses(batch).double().sum())
    return math.exp(total / int(lengths.sum()))
