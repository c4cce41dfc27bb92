"""The text autoencoder: tokens ↔ a short sequence of latent vectors that still decodes under noise."""

import math
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from latentia.config import Loop, checked, config, plain
from latentia.errors import LatentiaError
from latentia.language.frozen_encoder import FrozenEncoder
from latentia.language.tokenizer import Tokenizer, check_ids
from latentia.latents.first_stage import FirstStage, Reconstruction
from latentia.latents.normalise import denormalise, normalise, register_statistics
from latentia.randomness import Generators, choose_rows, exponential

PAD, BOS, EOS, MASK = Tokenizer.pad_id, Tokenizer.bos_id, Tokenizer.eos_id, Tokenizer.mask_id
MAX_WEIGHTS = 2**28
ALIKE, DECODED = 64, 256  # texts of like lengths that are encoded, and decoded, together
PRE_NORM: Any = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
WITHOUT_CLASS = 0.1  # share of texts in training whose class the decoder does not see


class Memory(NamedTuple):
    """The input of the decoder: vectors (B, latents, width), their places (B, latents · patch, width), and the logits
    (B, max_tokens + 1) of the length."""

    vectors: Tensor
    places: Tensor
    length: Tensor


@config
class TextConfig:
    """The sizes of a `TextAutoencoder`."""

    max_tokens: Annotated[int, Field(ge=2, le=8192, description="tokens of the longest text, its end counted")] = 64
    latents: Annotated[int, Field(ge=1, le=4096, description="latent vectors of a text")] = 16
    latent_channels: Annotated[int, Field(ge=2, le=4096, description="channels of a latent vector")] = 64
    patch: Annotated[int, Field(ge=1, le=64, description="places of the text that share a latent vector")] = 4
    width: Annotated[int, Field(ge=8, le=8192, description="channels of a token")] = 256
    depth: Annotated[int, Field(ge=1, le=64, description="layers of the encoder and of its resampler each")] = 2
    decoder_depth: Annotated[int, Field(ge=1, le=64, description="layers of the decoder")] = 2
    heads: Annotated[int, Field(ge=1, le=128, description="attention heads")] = 4
    noise: Annotated[float, Field(ge=0, description="largest noise on the latents of size 1 in training")] = 1.5
    masking: Annotated[float, Field(ge=0, lt=1, description="largest share of tokens hidden in training")] = 0.2


@config
class TextArguments(TextConfig):
    """The arguments of a `TextAutoencoder`."""

    vocab_size: Annotated[int, Field(ge=MASK + 2, le=2**20)]
    classes: Annotated[int, Field(ge=0, le=2**20)] = 0
    encoder: dict[str, Any] | None = None


@config
class TextRecipe(TextConfig):
    """A recipe's section for a `TextAutoencoder`."""

    kind: Literal["TextAutoencoder"] = "TextAutoencoder"
    vocab_size: Annotated[int, Field(ge=300, le=2**20, description="entries of the BPE that is learned")] = 8192
    encoder: Annotated[str | None, Field(description="folder of a BART model whose frozen encoder reads too")] = None
    training: Annotated[Loop, Field(description="how the first stage is trained")]


class TextAutoencoder(FirstStage):
    """Tokens → transformer → `latents` vectors → transformer → tokens, one after the other.

    As in LD4LG (Lovelace et al. 2023, §4.1) queries draw a fixed number of vectors from the encoder's output (Perceiver
    resampler, Jaegle et al. 2021) and the decoder is autoregressive. Here the queries start from the tokens at their
    own share of the text, `patch` places a vector, and the decoder's places from the vectors at theirs: attention
    need not learn the order of a text, and a short text uses all vectors. Every vector holds the text's length,
    and the decoder reads it from them first. Each vector is scaled to a root mean square of 1 and, in training, gets
    noise of standard deviation `noise` · u², u uniform for each text, and from half of the texts up to `masking` of the
    tokens are hidden (COSMOS, Meshchaninov et al. 2025, §3): near latents decode to near texts. Noise well above 1
    leaves a vague idea of the text, and the decoder learns to write one from that, as a language model: diffusion may
    then stop early (`stop_sigma` in sampling) and leave the words to the decoder.

    With `classes` the decoder sees the class of a text, or, in a tenth of training, none: noisy latents need not hold
    it. With `encoder`, the config of a BART encoder, that reads the text as well, as in LD4LG (see `FrozenEncoder`).

    Texts are ids (B, T ≤ max_tokens) int64: tokens, eos, then pad. Latents are (B, latent_channels, latents).
    Raises LatentiaError where an argument is out of range.
    """

    latent_mean: Tensor
    latent_std: Tensor

    Config, Recipe = TextConfig, TextRecipe
    at_once = 2048  # so that there are many of each length

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        c = checked(TextArguments, arguments, "a first stage")
        self.config, vocab_size, classes = plain(c), c.vocab_size, c.classes
        width, patch, latents, channels = c.width, c.patch, c.latents, c.latent_channels
        max_tokens, heads, depth, decoder_depth = c.max_tokens, c.heads, c.depth, c.decoder_depth
        layer = width, heads, 4 * width
        if width % heads or width % patch:
            raise LatentiaError(f"width {width} does not split into {heads} heads and into a patch of {patch} places")
        if (vocab_size + classes) * width + (28 * depth + 16 * decoder_depth + 12 + 2 * patch) * width**2 > MAX_WEIGHTS:
            raise LatentiaError(
                f"width {width}, depths {depth}, {decoder_depth} and vocab_size {vocab_size} are too large"
            )
        self.noise, self.masking = c.noise, c.masking

        self.embed = nn.Embedding(vocab_size, width)
        self.frozen = FrozenEncoder(vocab_size, max_tokens, c.encoder) if c.encoder else None
        self.adapter = nn.Linear(self.frozen.width, width) if self.frozen is not None else None
        self.positions = nn.Parameter(0.3 * torch.randn(max_tokens, width))
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(*layer, **PRE_NORM) for _ in range(depth))
        self.queries = nn.Parameter(0.3 * torch.randn(latents, width))
        self.fold = nn.Linear(patch * width, width)
        self.resampler = nn.ModuleList(nn.TransformerDecoderLayer(*layer, **PRE_NORM) for _ in range(depth))
        self.latent_norm = nn.LayerNorm(width)
        self.to_latent = nn.Linear(width, channels)

        self.from_latent = nn.Linear(channels, width)
        self.noise_embed = nn.Linear(1, width)
        self.class_embed = nn.Embedding(classes + 1, width)  # the last is no class
        self.latent_positions = nn.Parameter(0.3 * torch.randn(latents, width))
        self.mixer = nn.TransformerEncoderLayer(*layer, **PRE_NORM)
        self.length_embed = nn.Embedding(max_tokens + 1, width)
        self.length_norm = nn.LayerNorm(width)
        self.unfold = nn.Linear(width, patch * width)
        self.slots = nn.Parameter(0.3 * torch.randn(max_tokens, width))
        self.previous = nn.Linear(width, width)
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(*layer, **PRE_NORM) for _ in range(decoder_depth))
        self.norm = nn.LayerNorm(width)
        self.initialise()
        register_statistics(self, channels)

    def initialise(self) -> None:
        """Starts as a copier: layers that add nothing, and a projection to the latent that is undone after it."""
        width, channels, patch = (self.config[name] for name in ("width", "latent_channels", "patch"))
        for embed in (self.embed, self.length_embed):  # of unit size as input and as logits alike
            nn.init.normal_(embed.weight, std=width**-0.5)
        for module in self.modules():  # BART's layers are of other classes
            if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                nn.init.zeros_(module.linear2.weight)
                nn.init.zeros_(module.linear2.bias)
            elif isinstance(module, nn.MultiheadAttention):
                nn.init.zeros_(module.out_proj.weight)
        nn.init.orthogonal_(self.to_latent.weight)
        nn.init.orthogonal_(self.previous.weight)  # the previous token must not look like the next one
        with torch.no_grad():
            down, fold = self.to_latent.weight, self.fold.weight.zero_()
            for place, share in enumerate(fold.chunk(patch)):  # each place gets its share of a vector
                nn.init.orthogonal_(share[:, place * width : (place + 1) * width])
            self.from_latent.weight.copy_(down.T * math.sqrt(max(1.0, width / channels)))
            self.unfold.weight.copy_(fold.T * math.sqrt(patch))
        nn.init.zeros_(self.noise_embed.weight)
        nn.init.normal_(self.class_embed.weight, std=0.5)  # of a size with the latents, or noise drowns it for long
        for linear in (self.fold, self.to_latent, self.from_latent, self.noise_embed, self.unfold, self.previous):
            nn.init.zeros_(linear.bias)
        if self.adapter is not None:
            nn.init.zeros_(self.adapter.weight)

    def latent_shape(self, max_tokens: int) -> tuple[int, int]:
        """(latent_channels, latents). Raises LatentiaError where texts of `max_tokens` are too long."""
        if max_tokens > self.config["max_tokens"]:
            raise LatentiaError(f"texts have up to {max_tokens} tokens, the model takes {self.config['max_tokens']}")
        return self.config["latent_channels"], self.config["latents"]

    def unit_latents(self, ids: Tensor) -> Tensor:
        """(B, T) → (B, latents, latent_channels), each vector of root mean square 1."""
        padding = ids == PAD
        h = self.embed(ids) * math.sqrt(self.config["width"]) + self.positions[: ids.shape[1]]
        if self.frozen is not None and self.adapter is not None:
            h = h + self.adapter(self.frozen(ids))
        for layer in self.encoder:
            h = layer(h, src_key_padding_mask=padding)
        lengths = (~padding).sum(1)
        patch = self.config["patch"]
        places = len(self.queries) * patch
        spread = stretch(lengths, torch.full_like(lengths, places), ids.shape[1], places)
        q = self.queries + self.fold((spread.to(h.dtype) @ h).unflatten(1, (-1, patch)).flatten(2))
        q = q + self.length_embed(lengths)[:, None] * math.sqrt(self.config["width"]) / 2
        for layer in self.resampler:
            q = layer(q, h, memory_key_padding_mask=padding)
        return F.rms_norm(self.to_latent(self.latent_norm(q)).float(), (self.config["latent_channels"],), eps=1e-6)

    def memory(self, latents: Tensor, labels: Tensor | None = None) -> Memory:
        """Unit latents (B, latents, latent_channels), noisy or not, and classes (B,) → the input of the decoder.

        Without labels none has a class. The size of a text's latents, which are scaled to 1, measures their noise.
        """
        size = latents.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-3)
        if labels is None:
            labels = torch.full((len(latents),), self.config["classes"], device=latents.device)
        known = self.noise_embed(size.log()) + self.class_embed(labels)[:, None] + self.latent_positions
        vectors = self.mixer(self.from_latent(latents / size) + known)
        places = self.unfold(vectors).unflatten(2, (self.config["patch"], -1)).flatten(1, 2)
        return Memory(vectors, places, F.linear(self.length_norm(vectors.mean(1)), self.length_embed.weight))

    def starts(self, memory: Memory, lengths: Tensor, count: int) -> Tensor:
        """The initial states (B, count, width) of the first `count` places of texts of lengths (B,), eos counted."""
        most = memory.places.shape[1]
        spread = stretch(torch.full_like(lengths, most), lengths, most, count)
        return self.slots[:count] + spread.to(memory.places.dtype) @ memory.places

    def hidden(self, memory: Memory, lengths: Tensor, before: Tensor) -> Tensor:
        """Memory, lengths (B,), eos counted, and the tokens before each of the first P places → (B, P, width)."""
        count = before.shape[1]
        h = self.starts(memory, lengths, count) + self.previous_tokens(before)
        causal = torch.ones(count, count, dtype=torch.bool, device=h.device).triu(1)
        for layer in self.decoder:
            h = layer(h, memory.vectors, tgt_mask=causal, tgt_is_causal=True)
        out: Tensor = self.norm(h)
        return out

    def previous_tokens(self, before: Tensor) -> Tensor:
        """The tokens before each place, as the place sees them: (B, P) → (B, P, width)."""
        out: Tensor = self.previous(self.embed(before) * math.sqrt(self.config["width"]))
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) → (..., vocab_size), with the weights of the embedding (Press & Wolf 2017)."""
        return F.linear(hidden, self.embed.weight)

    def encode(self, ids: Tensor) -> Tensor:
        """Normalised latents (B, latent_channels, latents) of ids (B, T) of any lengths."""
        check_ids("texts", ids, self.config["max_tokens"], self.config["vocab_size"])
        lengths = (ids != PAD).sum(1)
        latents = self.latent_std.new_empty(len(ids), len(self.queries), self.config["latent_channels"])
        for rows in by_length(lengths, ALIKE):
            latents[rows] = self.unit_latents(ids[rows, : int(lengths[rows].max())])
        return normalise(latents.transpose(1, 2), self.latent_mean, self.latent_std)

    def decode(
        self,
        z: Tensor,
        begin: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        temperature: float = 0.0,
        generator: Generators | None = None,
    ) -> Tensor:
        """Ids (B, max_tokens) int64 of normalised latents; after the first eos all is pad.

        `begin` (B, P ≤ max_tokens) are up to max_tokens - 2 tokens, then pad, with which the texts begin.
        `labels` (B,) are their classes, `classes` for none; None is none for all.
        At temperature 0 each token and the length are the likeliest, else they are drawn by `generator`, one or B
        of them, on the CPU. Raises LatentiaError where the latents do not fit, or the temperature is negative.
        """
        expected = (self.config["latent_channels"], self.config["latents"])
        if z.shape[1:] != expected:
            raise LatentiaError(f"latents have shape {tuple(z.shape)}, expected (batch, {expected[0]}, {expected[1]})")
        if not 0 <= temperature < math.inf:
            raise LatentiaError(f"temperature is {temperature!r}, expected 0 or more")
        latents = denormalise(z, self.latent_mean, self.latent_std).transpose(1, 2)
        memory = self.memory(latents, labels)
        lengths = draw(memory.length[:, 2:], temperature, generator) + 2  # a token and eos at least
        ids = torch.full((len(z), self.config["max_tokens"]), PAD, device=z.device)
        if begin is not None:
            ids[:, : begin.shape[1]] = begin
        lengths = torch.maximum(lengths, (ids != PAD).sum(1) + 2)
        for rows in by_length(lengths, DECODED):
            longest = int(lengths[rows].max())
            part = Memory(*(values[rows] for values in memory))
            own = None if generator is None else choose_rows(generator, rows)
            ids[rows, :longest] = self.write(part, lengths[rows], ids[rows, :longest], temperature, own)
        return ids

    def write(
        self, memory: Memory, lengths: Tensor, begin: Tensor, temperature: float, generator: Generators | None
    ) -> Tensor:
        """Memory, lengths (B,) and `begin` (B, longest) → ids (B, longest).

        Each token that is pad in `begin` is drawn. The keys and values of those before it are kept, so that it costs
        one pass over itself alone; `hidden` computes the same for a whole text at once.
        """
        count = begin.shape[1]
        starts = self.starts(memory, lengths, count)
        layers = cast(list[nn.TransformerDecoderLayer], list(self.decoder))
        latents = [keys_values(layer.multihead_attn, memory.vectors) for layer in layers]
        earlier = [read.new_empty(*read.shape[:3], count, read.shape[4]) for read in latents]
        ids = torch.empty_like(begin)
        token = torch.full_like(begin[:, :1], BOS)
        for place in range(count):
            h = starts[:, place : place + 1] + self.previous_tokens(token)
            for layer, kept, read in zip(layers, earlier, latents, strict=True):
                x = layer.norm1(h)
                kept[:, :, :, place : place + 1] = keys_values(layer.self_attn, x)
                h = h + attend(layer.self_attn, x, kept[:, :, :, : place + 1])
                h = h + attend(layer.multihead_attn, layer.norm2(h), read)
                h = h + layer.linear2(layer.activation(layer.linear1(layer.norm3(h))))
            scores = self.logits(self.norm(h[:, 0]))[:, MASK + 1 :]  # no special token is text
            drawn = draw(scores, temperature, generator) + MASK + 1
            ids[:, place] = torch.where(begin[:, place] == PAD, drawn, begin[:, place])
            token = ids[:, place : place + 1]
        places = torch.arange(count, device=ids.device)
        ids = ids.masked_fill(places == lengths[:, None] - 1, EOS)
        return ids.masked_fill(places >= lengths[:, None], PAD)

    def forward(self, ids: Tensor, generator: torch.Generator, labels: Tensor | None = None) -> Reconstruction:
        """Logits (M, vocab_size) of the M tokens and eos, without pad, from noisy latents; randomness from `generator`.

        `labels` (B,) are the classes of the texts. The regulariser is the cross-entropy of the length (the noise itself
        regularises the latents). `stats` has the accuracies of the tokens and of the lengths.
        """

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=generator.device).to(ids.device)

        check_ids("texts", ids, self.config["max_tokens"], self.config["vocab_size"])
        ids = ids[:, : int((ids != PAD).sum(1).max())]  # padding at the end of all rows costs time only
        rate = self.masking * uniform(len(ids), 1) * (uniform(len(ids), 1) < 0.5)
        hidden = (uniform(*ids.shape) < rate) & (ids > MASK)
        latents = self.unit_latents(ids.masked_fill(hidden, MASK))
        sigma = self.noise * uniform(len(ids), 1, 1) ** 2
        noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(ids.device)
        expected = ids != PAD
        lengths = expected.sum(1)
        if labels is not None:
            labels = labels.masked_fill(uniform(len(ids)) < WITHOUT_CLASS, self.config["classes"])
        memory = self.memory(latents + sigma * noise, labels)
        before = F.pad(ids[:, :-1], (1, 0), value=BOS)
        logits = self.logits(self.hidden(memory, lengths, before)[expected])
        stats = {
            "token_accuracy": (logits.detach().argmax(-1) == ids[expected]).float().mean(),
            "length_accuracy": (memory.length.detach().argmax(-1) == lengths).float().mean(),
        }
        return Reconstruction(logits, F.cross_entropy(memory.length.float(), lengths), stats)


def keys_values(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """The attention's keys and values (2, B, heads, T, width / heads) of x (B, T, width)."""
    width = attention.embed_dim
    both = F.linear(x, attention.in_proj_weight[width:], attention.in_proj_bias[width:])
    return both.view(*x.shape[:2], 2, attention.num_heads, -1).permute(2, 0, 3, 1, 4)


def attend(attention: nn.MultiheadAttention, x: Tensor, read: Tensor) -> Tensor:
    """The attention of x (B, T, width) to keys and values as `keys_values` makes them."""
    width = attention.embed_dim
    queries = F.linear(x, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
    queries = queries.view(*x.shape[:2], attention.num_heads, -1).transpose(1, 2)
    attended = F.scaled_dot_product_attention(queries, read[0], read[1])
    out: Tensor = attention.out_proj(attended.transpose(1, 2).flatten(2))
    return out


def draw(logits: Tensor, temperature: float, generator: Generators | None) -> Tensor:
    """One index (B,) for each row of logits (B, N): the likeliest at temperature 0, else by softmax(logits / t).

    The largest of the logits plus Gumbel noise is such a draw (Gumbel 1954; Jang et al. 2017, eq. 1).
    """
    if temperature:
        gumbel = -exponential(logits.shape, generator or torch.default_generator).log()
        logits = logits + temperature * gumbel.to(logits.device)
    return logits.argmax(-1)


def by_length(lengths: Tensor, count: int) -> tuple[Tensor, ...]:
    """Row numbers, `count` at a time and of like lengths (B,): padding costs as much as text."""
    return torch.split(lengths.argsort(stable=True), count)


def token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the tokens and eos of ids (B, T); logits (M, vocab_size) as of `forward`."""
    return F.cross_entropy(logits.float(), ids[ids != PAD])


def stretch(sources: Tensor, targets: Tensor, most_sources: int, most_targets: int) -> Tensor:
    """Weights (B, most_targets, most_sources) that stretch or shrink `sources` (B,) points to `targets` (B,) points.

    Both sequences cover the same stretch evenly. A target takes the sources around its place by a triangle as wide as
    the coarser spacing, as antialiased linear resizing does; each row of a target sums to 1.
    """
    scale = (sources / targets)[:, None, None]
    place = (torch.arange(most_targets, device=sources.device)[:, None] + 0.5) * scale - 0.5
    source = torch.arange(most_sources, device=sources.device)
    weight = (1 - (source - place).abs() / scale.clamp(min=1)).clamp(min=0)
    weight = weight * (source < sources[:, None, None])
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-6)
