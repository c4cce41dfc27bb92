"""A frozen pretrained encoder that reads texts beside the tokens, as in LD4LG (Lovelace et al. 2023, §4.1)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentia.data import Tokenizer, adopt_tokenizer
from latentia.errors import LatentiaError
from latentia.files import read_json, read_tensors
from latentia.first_stage.autoencoder import check_integer

SIZES = {  # of BART's config: bounds that keep a hostile one from costing time and memory before any weight is read
    "vocab_size": 2**20,
    "d_model": 8192,
    "encoder_layers": 64,
    "encoder_attention_heads": 128,
    "encoder_ffn_dim": 2**16,
    "max_position_embeddings": 2**16,
}
CHOICES = {"activation_function": ("gelu", "relu"), "scale_embedding": (False, True)}  # the first are BART's own


class FrozenEncoder(nn.Module):
    """The encoder half of a BART model (Lewis et al. 2020), never trained. Needs the library transformers.

    `config` is BART's own, of which `encoder_config` keeps what matters; `source_ids` (vocab_size,), kept with the
    weights, are BART's ids of our tokens. Raises LatentiaError where a size is out of range.
    """

    source_ids: Tensor

    def __init__(self, vocab_size: int, max_tokens: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        if not isinstance(config, Mapping):
            raise LatentiaError(f"encoder is {config!r:.60}, expected the config of a BART model")
        sizes = {name: check_integer(f"encoder {name}", config.get(name, 0), 1, most) for name, most in SIZES.items()}
        if sizes["d_model"] % sizes["encoder_attention_heads"]:
            raise LatentiaError("the encoder's d_model does not split into its encoder_attention_heads")
        if max_tokens >= sizes["max_position_embeddings"]:
            raise LatentiaError(
                f"the encoder reads {sizes['max_position_embeddings'] - 1} tokens, max_tokens is {max_tokens}"
            )
        chosen: dict[str, Any] = {name: config.get(name, values[0]) for name, values in CHOICES.items()}
        if unknown := [name for name, values in CHOICES.items() if chosen[name] not in values]:
            raise LatentiaError(f"encoder {unknown[0]} is {chosen[unknown[0]]!r:.60}, expected {CHOICES[unknown[0]]}")
        try:
            from transformers import BartConfig
            from transformers.models.bart.modeling_bart import BartEncoder
        except ImportError as error:
            raise LatentiaError(
                f"a pretrained encoder needs transformers ({error}): pip install 'latentia[text]'"
            ) from None
        self.encoder = BartEncoder(BartConfig(**{**sizes, **chosen}, pad_token_id=0))
        self.register_buffer("source_ids", torch.zeros(vocab_size, dtype=torch.int64))
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stays in evaluation mode: no dropout."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """Our ids (B, T) → (B, T, d_model)."""
        ids = nn.functional.pad(ids, (1, 0), value=Tokenizer.bos_id)
        read = self.encoder(input_ids=self.source_ids[ids], attention_mask=(ids != Tokenizer.pad_id).long())
        out: Tensor = read.last_hidden_state[:, 1:]
        return out

    def load(self, folder: Path) -> None:
        """Takes the weights and the ids of a BART folder. Raises LatentiaError where they are missing or do not fit."""
        path = folder / "model.safetensors"
        tensors = read_tensors(path)
        state = {}
        for name in self.encoder.state_dict():
            shared = ("shared.weight",) if name == "embed_tokens.weight" else ()
            found = [key for part in (f"encoder.{name}", *shared) for key in (f"model.{part}", part) if key in tensors]
            if not found:
                raise LatentiaError(f"{path} holds no encoder.{name}; it is no BART model")
            state[name] = tensors[found[0]].float()
        try:
            self.encoder.load_state_dict(state)
        except RuntimeError as error:
            raise LatentiaError(f"{path} does not fit its config.json: {str(error).splitlines()[-1].strip()}") from None
        self.source_ids.copy_(torch.tensor(adopt_tokenizer(folder)[1]))


def encoder_config(folder: Path) -> dict[str, Any]:
    """The part of a BART folder's `config.json` that describes its encoder. Raises LatentiaError for another model."""
    config = read_json(folder / "config.json")
    if config.get("model_type") != "bart":
        raise LatentiaError(f"{folder} holds a model of type {config.get('model_type')!r}, expected 'bart'")
    return {name: config[name] for name in (*SIZES, *CHOICES) if name in config}
