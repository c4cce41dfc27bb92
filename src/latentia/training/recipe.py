"""The recipe: one validated tree that describes a whole run, from the pictures to the sampler."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from latentia.denoiser import PRESETS
from latentia.errors import LatentiaError
from latentia.language.frozen_encoder import encoder_config
from latentia.modalities.image.pictures import parse_size

RECIPE_NAME = "recipe.yaml"  # in the folder of a run
FREE_SECTIONS = ("name", "description", "sampling", "compute")
FREE_FIELDS = ("log_every", "checkpoint_every", "preview_every")
GROWING = "training.steps"  # a finished run trains on


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    name: str = Field(
        "auto",
        description="fashion-mnist, digits, cifar10, hf:NAME, or the path of a folder of pictures, a parquet file or "
        "an archive; auto takes fashion-mnist where it can be had and digits elsewhere; for texts wordnet, hf:NAME, or "
        "the path of a .txt or .jsonl file or of a folder of .txt files",
    )
    root: str | None = Field(None, description="folder that holds the files of a named set")
    size: int | None = Field(
        None, ge=4, le=2048, description="side in pixels: resize and centre-crop; null keeps the set's own"
    )
    more_sizes: tuple[str, ...] = Field(
        (),
        description="WIDTHxHEIGHT of other sizes than the square: the denoiser learns each picture in that of them all "
        "whose aspect ratio is nearest to its own",
    )
    on_corrupt: Literal["refuse", "skip"] = Field("refuse", description="what to do about examples that cannot be read")
    on_long: Literal["refuse", "truncate", "skip"] = Field(
        "refuse", description="what to do about texts of more tokens than first_stage.max_tokens"
    )
    flips: bool = Field(False, description="train on left-right mirrored pictures as well")

    def sizes(self, side: int) -> tuple[tuple[int, int], ...]:
        """Height and width of the square and of `more_sizes`. Raises LatentiaError for what is no size."""
        return (side, side), *(parse_size("data.more_sizes", text) for text in self.more_sizes)


class Loop(Section):
    steps: int = Field(ge=1, description="updates of the weights")
    batch_size: int = Field(ge=1, description="examples an update, over all processes")
    learning_rate: float = Field(gt=0, description="peak learning rate")
    warmup: int = Field(100, ge=0, description="updates of linear warm-up, before the cosine down to zero")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: Muon on the blocks' matrices, AdamW on the rest"
    )
    beta2: float = Field(0.99, gt=0, lt=1, description="AdamW's second-moment decay")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema_decay: float | None = Field(
        None, ge=0, lt=1, description="constant decay of the EMA; null: power function (EDM2)"
    )
    ema_sigma_rel: float = Field(0.1, gt=0, lt=0.28, description="relative width of the power-function EMA")
    log_every: int = Field(20, ge=1, description="updates between two rows of the log")
    checkpoint_every: int = Field(200, ge=1, description="updates between two checkpoints")
    preview_every: int = Field(1000, ge=1, description="updates between two previews")


class Discriminator(Section):
    start: int = Field(0, ge=0, description="update from which the discriminator joins")
    weight: float = Field(0.5, ge=0, description="factor on the adaptive weight of the adversarial loss")
    width: int = Field(32, ge=4, description="channels of its first layer")
    layers: int = Field(2, ge=1, le=4, description="strided layers: the receptive field of a patch")
    learning_rate: float = Field(2e-4, gt=0, description="learning rate of the discriminator")


class FirstStage(Section):
    kind: Literal["AutoencoderKL", "AutoencoderVQ"] = Field(
        "AutoencoderKL", description="how the latent is regularised"
    )
    latent_channels: int = Field(4, ge=1, le=256, description="channels of the latent")
    channels: tuple[int, ...] = Field(
        (32, 64, 64), min_length=1, description="width by level; each level after the first halves the grid"
    )
    blocks: int = Field(1, ge=1, le=8, description="residual blocks a level")
    patch: int = Field(1, ge=1, le=16, description="side of the space-to-depth stem; multiplies the downsampling")
    attention: bool = Field(False, description="one self-attention layer in the middle")
    codebook_size: int = Field(512, ge=2, le=65536, description="entries of the codebook (VQ)")
    commitment: float = Field(0.25, ge=0, description="weight of the commitment loss (VQ)")
    reconstruction: Literal["l1", "l2"] = Field("l1", description="pixel loss")
    kl_weight: float = Field(
        1e-6, ge=0, description="weight of the KL, summed over the latent, beside the mean pixel loss (KL)"
    )
    discriminator: Discriminator | None = Field(None, description="patch discriminator of VQGAN; null: none")
    training: Loop = Field(description="how the first stage is trained")

    def arguments(self, in_channels: int) -> dict[str, Any]:
        """The constructor's arguments."""
        shared = {"latent_channels", "channels", "blocks", "patch", "attention"}
        own = {"codebook_size", "commitment"} if self.kind == "AutoencoderVQ" else set()
        return {"in_channels": in_channels, **self.model_dump(include=shared | own)}


class TextStage(Section):
    kind: Literal["TextAutoencoder"] = "TextAutoencoder"
    vocab_size: int = Field(8192, ge=300, le=2**20, description="entries of the byte-level BPE that is learned")
    max_tokens: int = Field(64, ge=2, le=8192, description="tokens of the longest text, its end counted")
    latents: int = Field(16, ge=1, le=4096, description="latent vectors of a text")
    latent_channels: int = Field(64, ge=2, le=4096, description="channels of a latent vector")
    patch: int = Field(4, ge=1, le=64, description="places of the text that share a latent vector")
    width: int = Field(256, ge=8, le=8192, description="channels of a token")
    depth: int = Field(2, ge=1, le=64, description="transformer layers of the encoder and of its resampler each")
    decoder_depth: int = Field(2, ge=1, le=64, description="transformer layers of the decoder")
    heads: int = Field(4, ge=1, le=128, description="attention heads")
    noise: float = Field(
        1.5, ge=0, description="largest noise on the latents in training, whose own size is 1; most get far less"
    )
    masking: float = Field(0.2, ge=0, lt=1, description="largest share of tokens hidden from the encoder in training")
    encoder: str | None = Field(
        None,
        description="folder of a BART model, whose frozen encoder reads the texts too and whose vocabulary is used",
    )
    training: Loop = Field(description="how the first stage is trained")

    def arguments(self, vocab_size: int, classes: int = 0) -> dict[str, Any]:
        """The constructor's arguments, for the size that the vocabulary really has and the classes of the texts."""
        encoder = None if self.encoder is None else encoder_config(Path(self.encoder), "bart")
        own = self.model_dump(exclude={"kind", "training"})
        return {**own, "vocab_size": vocab_size, "classes": classes, "encoder": encoder}


class VP(Section):
    kind: Literal["VP"] = "VP"
    schedule: Literal["linear", "cosine", "scaled_linear"] = Field("cosine", description="noise schedule")
    timesteps: int = Field(1000, ge=2, le=100_000, description="discrete timesteps")
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = Field(
        "v_prediction", description="what the network predicts"
    )
    beta_start: float = Field(1e-4, gt=0, lt=1, description="first β of the linear schedules")
    beta_end: float = Field(0.02, gt=0, lt=1, description="last β of the linear schedules")
    min_snr_gamma: float | None = Field(None, gt=0, description="γ of the min-SNR-γ loss weight; null: none")
    zero_terminal_snr: bool = Field(False, description="rescale the schedule so that the last timestep is pure noise")


class RectifiedFlow(Section):
    kind: Literal["RectifiedFlow"] = "RectifiedFlow"
    logit_mean: float = Field(0.0, description="mean of the logit-normal training times")
    logit_std: float | None = Field(1.0, gt=0, description="their standard deviation; null: uniform times")
    shift: float = Field(1.0, gt=0, description="resolution shift: above 1 spends more on noise")


class EDM(Section):
    kind: Literal["EDM"] = "EDM"
    sigma_data: float = Field(1.0, gt=0, description="standard deviation of the latents")
    p_mean: float = Field(-0.4, description="mean of ln σ in training")
    p_std: float = Field(1.2, gt=0, description="standard deviation of ln σ in training")
    sigma_min: float = Field(0.002, gt=0, description="smallest σ in sampling")
    sigma_max: float = Field(80.0, gt=0, description="largest σ in sampling")


class Task(Section):
    kind: Literal["inpaint", "super_resolution"] = Field(description="what the denoiser repairs, given what is left")
    factor: int = Field(4, ge=2, description="super_resolution: how many times fewer pixels a side are given")


class Preset(Section):
    preset: str | None = Field(None, description=f"a size that fills what is not given: {', '.join(PRESETS)}")

    @model_validator(mode="before")
    @classmethod
    def fill_from_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, dict) else None
        if name is None:
            return values
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}, expected one of {', '.join(PRESETS)}")
        preset = dict(PRESETS[name])
        kind = preset.pop("_class_name")
        if kind != values.get("kind", kind):
            raise ValueError(f"preset {name!r} is a {kind}, not a {values['kind']}")
        return {**preset, **values}


class DiT(Preset):
    kind: Literal["DiT"] = "DiT"
    patch: int = Field(1, ge=1, description="side of a token in latent cells")
    width: int = Field(192, ge=8, description="channels of a token")
    depth: int = Field(8, ge=1, description="blocks")
    heads: int = Field(3, ge=1, description="attention heads")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden width of the MLP over the token's")
    rope: bool = Field(True, description="rotary position embedding; false: fixed sin-cos")
    swiglu: bool = Field(True, description="SwiGLU instead of GELU")
    qk_norm: bool = Field(True, description="normalise queries and keys")
    rms_norm: bool = Field(True, description="RMSNorm instead of LayerNorm")
    shared_modulation: bool = Field(
        True, description="one modulation for all blocks (PixArt-α); false: adaLN-Zero in each block"
    )


class UNet(Preset):
    kind: Literal["UNet"] = "UNet"
    width: int = Field(64, ge=8, description="channels of the first level")
    multipliers: tuple[int, ...] = Field(
        (1, 2), min_length=1, description="width by level, in multiples; each level halves the grid"
    )
    blocks: int = Field(2, ge=1, description="residual blocks a level")
    attention_levels: tuple[int, ...] = Field((1,), description="levels with self-attention")
    heads: int = Field(4, ge=1, description="attention heads")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in the residual blocks")


class Prompt(Section):
    vocab_size: int = Field(4096, ge=300, le=2**18, description="entries of the byte-level BPE that is learned")
    max_tokens: int = Field(32, ge=2, le=1024, description="tokens that are read of a prompt, its end counted")
    depth: int = Field(2, ge=1, le=64, description="layers of the transformer that reads it")
    encoder: str | None = Field(
        None,
        description="all-MiniLM-L6-v2, or the folder of a BERT or BART model: its frozen encoder reads the prompt "
        "before that transformer does, and its vocabulary is used",
    )


class Sampling(Section):
    sampler: Literal["ddpm", "ddim", "euler", "heun", "dpm_solver_2m", "unipc_2"] = Field(
        "dpm_solver_2m", description="solver"
    )
    steps: int = Field(20, ge=1, description="steps of the solver")
    spacing: Literal["karras", "uniform", "trailing"] = Field("uniform", description="how the timesteps are spread")
    guidance_scale: float = Field(1.0, ge=0, description="classifier-free guidance; 1: none")
    guidance_interval: tuple[float, float] | None = Field(
        None, description="σ/α between which guidance acts; null: everywhere"
    )
    guidance_rescale: float = Field(0.0, ge=0, le=1, description="share of the rescaling against over-exposure")
    stop_sigma: float = Field(
        0.0, ge=0, description="texts: σ/α at which diffusion stops, for the decoder to word what it has; 0: at the end"
    )
    temperature: float = Field(0.0, ge=0, description="texts: of the decoder's draws; 0: the likeliest tokens")


def _no(value: Any) -> Any:
    """YAML 1.1 reads the word no as false."""
    return "no" if value is False else value


class Compute(Section):
    mixed_precision: Annotated[Literal["auto", "no", "bf16"], BeforeValidator(_no)] = Field(
        "auto", description="auto: bf16 on GPUs that have it, else no"
    )
    compile: bool = Field(False, description="torch.compile the networks; needs a C++ compiler on the CPU")
    microbatches: int = Field(1, ge=1, description="parts into which a process cuts its batch, to save memory")
    weights_dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="type of the saved weights")


class Recipe(Section):
    name: str = Field("run", description="name of the run")
    description: str = Field("", description="what the recipe is for")
    seed: int = Field(0, ge=0, description="seed of everything random")
    data: Data = Field(Data(), description="the examples")
    first_stage: Annotated[FirstStage | TextStage, Field(discriminator="kind", description="the autoencoder")]
    process: Annotated[VP | RectifiedFlow | EDM, Field(discriminator="kind", description="the diffusion process")]
    denoiser: Annotated[DiT | UNet, Field(discriminator="kind", description="the denoiser")]
    prompt: Prompt | None = Field(
        None, description="captioned pictures and a DiT only: learn to draw from words; null: captions are not read"
    )
    task: Task | None = Field(None, description="pictures only: train for a repair; null: to draw")
    init: str | None = Field(
        None, description="model folder whose first stage is used and from whose denoiser training starts"
    )
    clusters: int = Field(
        0, ge=0, description="pictures only: clusters of look-alikes in each class, told the denoiser; 0: none"
    )
    label_dropout: float = Field(
        0.1, ge=0, le=1, description="share of labels replaced by the null class, for guidance"
    )
    context_share: float = Field(
        0.25, ge=0, le=1, description="texts only: share trained to complete a beginning or to fill a gap"
    )
    training: Loop = Field(description="how the denoiser is trained")
    sampling: Sampling = Field(Sampling(), description="defaults of `latentia sample` for this model")
    compute: Compute = Field(Compute(), description="device, precision and memory")

    def fields(self) -> dict[str, Any]:
        """Every field by its dotted name."""
        return dict(_flat(self.model_dump(mode="json"), ""))

    def hash(self, *sections: str) -> str:
        """A hash of what decides the result in the named sections, to tell whether a run can be continued."""
        fields = {name: value for name, value in self.fields().items() if name.split(".")[0] in sections}
        deciding = {name: value for name, value in fields.items() if not may_change(name) and name != GROWING}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]

    def require_resumable(self, changed: "Recipe") -> None:
        """Raises LatentiaError, naming the fields, where a run of this recipe cannot be continued with another."""
        before, after = self.fields(), changed.fields()
        wrong = [
            f"{name} from {before.get(name)!r} to {after.get(name)!r}"
            for name in {**before, **after}
            if before.get(name) != after.get(name)
            and not may_change(name)
            and not (name == GROWING and after[name] > before[name])
        ]
        if wrong:
            raise LatentiaError(
                f"the run cannot go on with other settings than it has: {'; '.join(wrong)}. "
                "Leave these out (and the recipe's name: the run has its own), or train into another folder"
            )


def may_change(field: str) -> bool:
    """Whether a field, by its dotted name, may be another when a run is resumed: what it learns stays the same."""
    return field.split(".")[0] in FREE_SECTIONS or field.split(".")[-1] in FREE_FIELDS


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def bundled_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files("latentia") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a bundled recipe by name or a YAML file by path, and applies overrides such as `denoiser.depth=8`.

    Raises LatentiaError naming the field and what it expects.
    """
    path = bundled_recipes().get(name, Path(name))
    if not path.is_file():
        raise LatentiaError(
            f"{name} is neither a recipe file nor one of the bundled recipes: {', '.join(bundled_recipes())}"
        )
    for override in overrides:
        if "=" not in override:
            raise LatentiaError(f"--set {override}: expected field=value, such as denoiser.depth=8")
    try:
        tree = OmegaConf.load(path)
        for override in overrides:
            field, text = override.split("=", 1)
            value = OmegaConf.from_dotlist([f"value={text}"])["value"]
            OmegaConf.update(tree, field, value, merge=False)  # a section given as a whole replaces the old one
        return Recipe.model_validate(OmegaConf.to_container(tree, resolve=True))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise LatentiaError(f"{path}: {place}: {first['msg']} (got {first.get('input')!r})") from None
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, TypeError) as error:
        raise LatentiaError(f"{path} is not a recipe: {str(error).splitlines()[0]}") from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML."""
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def describe_fields(section: type[BaseModel] = Recipe, prefix: str = "") -> list[tuple[str, str, str]]:
    """Every field of a recipe as (dotted name, default, description), sub-sections in place."""
    rows = []
    for name, field in section.model_fields.items():
        default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
        parts = _sections(field.annotation)
        rows.append((prefix + name, "" if parts else default, field.description or ""))
        for part in parts:
            rows += describe_fields(part, f"{prefix}{name}.")
    return rows


def _sections(annotation: Any) -> list[type[BaseModel]]:
    from typing import get_args

    candidates = get_args(annotation) or (annotation,)
    return [part for part in candidates if isinstance(part, type) and issubclass(part, BaseModel)]
