"""A masked-diffusion language model, the peer of the text benchmark (Sahoo et al. 2024, "MDLM")."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from latentia.language.tokenizer import Tokenizer
from latentia.training.order import SortedOrder

PAD, EOS, MASK = Tokenizer.pad_id, Tokenizer.eos_id, Tokenizer.mask_id


class MaskedLM(nn.Module):
    """A bidirectional transformer that says which tokens are behind the masks; output tied to the embedding.

    Without a timestep, which a masked text shows anyway (Sahoo et al. 2024, §3.5 and App. E.5).
    """

    def __init__(self, vocab_size: int, width: int, depth: int, heads: int, max_tokens: int) -> None:
        super().__init__()
        self.config = {
            "vocab_size": vocab_size,
            "width": width,
            "depth": depth,
            "heads": heads,
            "max_tokens": max_tokens,
        }
        self.embed = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(max_tokens, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        nn.init.normal_(self.embed.weight, std=0.02)

    def hidden(self, ids: Tensor) -> Tensor:
        """ids (B, T) → (B, T, width)."""
        h = self.embed(ids) + self.positions[: ids.shape[1]]
        out: Tensor = self.body(h, src_key_padding_mask=ids == PAD)
        return out


def loss(model: MaskedLM, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Negative ELBO a token under the log-linear schedule: cross-entropy of masked tokens over t (their eq. 10).

    ids (B, T): tokens and eos, then pad. Times are spread evenly over (0, 1], as in their §3.5.
    """
    t = (torch.rand((), generator=generator) + torch.arange(len(ids)) / len(ids)) % 1
    t = t.clamp(min=1e-3)[:, None].to(ids.device)
    text = ids != PAD
    masked = text & (torch.rand(ids.shape, generator=generator).to(ids.device) < t)
    logits = F.linear(model.hidden(ids.masked_fill(masked, MASK))[masked], model.embed.weight)
    errors = F.cross_entropy(logits.float(), ids[masked], reduction="none") / t.expand_as(ids)[masked]
    return errors.sum() / text.sum()


def train(model: MaskedLM, ids: Tensor, *, steps: int, batch_size: int, learning_rate: float, seed: int = 0) -> None:
    """AdamW under one cosine cycle with warm-up, on batches of like lengths."""
    lengths = (ids != PAD).sum(1)
    order = SortedOrder(lengths, batch_size, seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1, cycle_momentum=False)
    device = model.embed.weight.device
    bar = tqdm(range(steps), desc="masked diffusion", unit="step", dynamic_ncols=True)
    for step in bar:
        rows = order.batch(step)
        value = loss(model, ids[rows, : int(lengths[rows].max())].to(device), generator)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{float(value.detach()):.3f}", refresh=False)


@torch.inference_mode()
def generate(model: MaskedLM, lengths: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Ids (B, longest) of texts with so many tokens, eos counted: ancestral sampling (their eq. 6) in `steps` steps."""
    device = model.embed.weight.device
    places = torch.arange(int(lengths.max()))
    ids = torch.where(places < lengths[:, None], MASK, PAD)
    ids[places == lengths[:, None] - 1] = EOS
    ids = ids.to(device)
    for step in range(steps):
        logits = F.linear(model.hidden(ids), model.embed.weight).float()
        logits[..., [PAD, Tokenizer.bos_id, EOS, MASK]] = -math.inf
        noise = torch.rand(logits.shape, generator=generator).to(device).clamp(min=1e-20)
        drawn = (logits - (-noise.log()).log()).argmax(-1)  # Gumbel's trick: a draw from the softmax
        shown = torch.rand(ids.shape, generator=generator).to(device) < 1 / (steps - step)  # (t − s) / t
        ids = torch.where((ids == MASK) & shown, drawn, ids)
    return ids
