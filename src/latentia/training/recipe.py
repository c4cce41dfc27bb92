"""The recipe: one validated tree that describes a whole run, from the data to the sampler."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from latentia.conditions import OWN as OWN_CONDITIONS
from latentia.conditions import conditions
from latentia.config import Loop, Section, check_field, checked, config, described, fault, plain
from latentia.denoiser import PRESETS
from latentia.denoiser.denoiser import make_objective
from latentia.denoiser.dit import DiTConfig
from latentia.denoiser.unet import UNetConfig
from latentia.diffusion import PROCESSES, Sampling
from latentia.errors import LatentiaError, first_line
from latentia.modalities.registry import first_stages, modalities, modality_of_stage
from latentia.model import model_folder

FREE_SECTIONS = ("name", "description", "minutes", "sampling", "compute")
FREE_FIELDS = ("log_every", "checkpoint_every", "preview_every", "keep", "learning_rate", "every")
STEPS = "training.steps"  # may become more, or fewer, than a run began with
PRESET = f"a size that fills what is not given: {', '.join(PRESETS)}"


@config
class DiT(DiTConfig):
    kind: Literal["DiT"] = "DiT"
    preset: Annotated[str | None, Field(description=PRESET)] = None


@config
class UNet(UNetConfig):
    kind: Literal["UNet"] = "UNet"
    preset: Annotated[str | None, Field(description=PRESET)] = None


class Task(Section):
    kind: Literal["inpaint", "super_resolution"] = Field(description="what the denoiser repairs, given what is left")
    factor: int = Field(4, ge=2, description="super_resolution: how many times fewer pixels a side are given")


class Prompt(Section):
    vocab_size: int = Field(4096, ge=300, le=2**18, description="entries of the byte-level BPE that is learned")
    max_tokens: int = Field(32, ge=2, le=1024, description="tokens that are read of a prompt, its end counted")
    depth: int = Field(2, ge=1, le=64, description="layers of the transformer that reads it")
    encoder: str | None = Field(
        None,
        description="all-MiniLM-L6-v2, or the folder of a BERT or BART model: its frozen encoder reads the prompt "
        "before that transformer does, and its vocabulary is used",
    )


def _no(value: Any) -> Any:
    """YAML 1.1 reads the word no as false."""
    return "no" if value is False else value


class Held(Section):
    share: float = Field(
        0.02, ge=0, le=0.5, description="share of the items that the denoiser never learns, 128 at most; 0: none"
    )
    every: int | None = Field(
        None, ge=1, description="updates between two validations; null: 20 times, or as 2 % of the time allows"
    )


class Compute(Section):
    mixed_precision: Annotated[Literal["auto", "no", "bf16"], BeforeValidator(_no)] = Field(
        "auto", description="auto: bf16 on GPUs that have it, else no"
    )
    compile: bool = Field(False, description="torch.compile the networks; needs a C++ compiler on the CPU")
    microbatches: int = Field(1, ge=1, description="parts into which a process cuts its batch, to save memory")
    trackers: list[str] = Field(
        ["csv", "tensorboard"], description="where losses and previews go: also wandb, mlflow, comet_ml, aim, …"
    )
    weights_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="type of the saved weights; with the latter two a snapshot has 8 bits a weight"
    )


class Recipe(Section):
    """One validated tree. The parts that have several kinds are objects of the kinds' own configurations."""

    name: str = Field("run", description="name of the run")
    description: str = Field("", description="what the recipe is for")
    seed: int = Field(0, ge=0, description="seed of everything random")
    minutes: float | None = Field(
        None, gt=0, description="time that the run may take: the denoiser makes as many updates as fit; null: any"
    )
    data: Any = Field(None, description="the examples")
    first_stage: Any = Field(description="the autoencoder")
    process: Any = Field(description="the diffusion process")
    denoiser: Any = Field(description="the denoiser")
    objective: dict[str, Any] | None = Field(
        None, description="kind and fields of what the denoiser learns; null: that of the modality"
    )
    conditions: dict[str, dict[str, Any]] = Field(
        {}, description="conditions of plug-ins by name, each with the fields of its section"
    )
    prompt: Prompt | None = Field(
        None, description="captioned items and a DiT only: learn to draw from words; null: captions are not read"
    )
    task: Task | None = Field(None, description="pictures only: train for a repair; null: to draw")
    init: str | None = Field(
        None,
        description="model (a folder, hf:NAME, emoji) whose first stage is used and whose denoiser is trained further",
    )
    lora: int | None = Field(
        None, ge=1, le=1024, description="with init: the rank of adapters that learn in place of the denoiser's weights"
    )
    clusters: int = Field(
        0, ge=0, description="pictures only: clusters of look-alikes in each class that the denoiser knows; 0: none"
    )
    label_dropout: float = Field(
        0.1, ge=0, le=1, description="share of the examples of which each condition says nothing, for guidance"
    )
    context_share: float = Field(
        0.25, ge=0, le=1, description="texts only: share trained to complete a beginning or to fill a gap"
    )
    training: Loop = Field(description="how the denoiser is trained")
    snapshot: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the denoiser's updates after which its averaged weights are kept, for autoguidance; "
        "null: not at all",
    )
    validation: Held = Field(Held(), description="how the denoiser is measured while it is trained")
    sampling: Sampling = Field(Sampling(), description="defaults of `latentia sample` for this model")
    compute: Compute = Field(Compute(), description="device, precision and memory")

    @model_validator(mode="before")
    @classmethod
    def resolve(cls, values: Any) -> Any:
        """Turns the parts that have several kinds into objects. Raises LatentiaError that names the field."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name, kinds in {"first_stage": stage_kinds, "process": lambda: PROCESSES, "denoiser": core_kinds}.items():
            if name in values and not dataclasses.is_dataclass(values[name]):
                values[name] = chosen(name, section(name, values[name]), kinds())
        if "first_stage" in values and not dataclasses.is_dataclass(values.get("data")):
            own = modality_of_stage(values["first_stage"].kind).Data
            others = [modality.Data for modality in modalities().values() if modality.Data is not own]
            data = section("data", values.get("data") or {})
            values["data"] = checked(own, without_foreign(data, own, others), "data", ".")
        if values.get("objective") is not None:
            make_objective(section("objective", values["objective"]))  # refuses what it does not know, before any work
        added = conditions().keys() - OWN_CONDITIONS.keys()
        if unknown := sorted(section("conditions", values.get("conditions") or {}).keys() - added):
            known = ", ".join(sorted(added)) or "none: no installed package adds any"
            raise LatentiaError(f"conditions: {unknown[0]!r} is no plug-in's condition, expected one of {known}")
        return values

    @field_validator("init")
    @classmethod
    def model_of(cls, folder: str | None) -> str | None:
        """A model folder, also of that of a run. Raises LatentiaError where the run has no model yet."""
        return None if folder is None else str(model_folder(Path(folder)))

    @model_validator(mode="after")
    def adapts_something(self) -> Self:
        """Raises LatentiaError where adapters would be beside weights that have learned nothing."""
        if self.lora is not None and self.init is None:
            raise LatentiaError("lora: adapters change a trained model: name one by init")
        return self

    @model_validator(mode="after")
    def keeps_a_snapshot(self) -> Self:
        """Raises LatentiaError where autoguidance would have nothing to lead away from."""
        if self.sampling.guidance_kind == "autoguidance" and self.snapshot is None:
            raise LatentiaError("sampling.guidance_kind: autoguidance needs a snapshot: set snapshot=0.125 or so")
        return self

    @field_serializer("data", "first_stage", "process", "denoiser")
    def plain_part(self, part: Any) -> dict[str, Any]:
        values = plain(part)
        if part is self.data:
            return values
        return {"kind": values.pop("kind", type(part).__name__), **values}

    @property
    def core_arguments(self) -> dict[str, Any]:
        """The denoiser's own sizes, as the constructor of its core takes them."""
        return {name: value for name, value in plain(self.denoiser).items() if name not in ("kind", "preset")}

    def fields(self) -> dict[str, Any]:
        """Every field by its dotted name."""
        return dict(_flat(self.model_dump(mode="json"), ""))

    def hash(self, *sections: str) -> str:
        """A hash of what decides the result in the named sections: a run is continued only where it is the same."""
        fields = {name: value for name, value in self.fields().items() if name.split(".")[0] in sections}
        fields = {name: value for name, value in fields.items() if value is not None}  # a later version may have more
        deciding = {name: value for name, value in fields.items() if not may_change(name) and name != STEPS}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]

    def require_resumable(self, changed: "Recipe") -> None:
        """Raises LatentiaError, naming the fields, where a run of this recipe cannot be continued with another."""
        before, after = self.fields(), changed.fields()
        wrong = [
            f"{name} from {before.get(name)!r} to {after.get(name)!r}"
            for name in {**before, **after}
            if before.get(name) != after.get(name) and not may_change(name) and name != STEPS
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
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a bundled recipe by name or a YAML file by path, and applies overrides such as `denoiser.depth=8`.

    Raises LatentiaError naming the field and what it expects.
    """
    path = bundled_recipes().get(name, Path(name))
    if not path.is_file():
        raise LatentiaError(
            f"{name} is neither a recipe file nor one of the bundled recipes: {', '.join(bundled_recipes())}"
        )
    return read_recipe(path, str(path), overrides)


def read_recipe(source: Path | StringIO, path: str, overrides: Sequence[str] = ()) -> Recipe:
    """`load_recipe` of YAML in a file or in memory, called `path` in errors."""
    for override in overrides:
        if "=" not in override:
            raise LatentiaError(f"--set {override}: expected field=value, such as denoiser.depth=8")
    try:
        tree = OmegaConf.load(source)
        for override in overrides:
            apply(tree, override)
        if foreign := next(environment(OmegaConf.to_container(tree, resolve=False)), None):
            raise LatentiaError(f"{foreign}: a recipe takes nothing from the environment")
        return Recipe.model_validate(OmegaConf.to_container(tree, resolve=True))
    except ValidationError as error:
        raise LatentiaError(f"{path}: {fault(error)}") from None
    except LatentiaError as error:
        raise LatentiaError(f"{path}: {error}") from None
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, TypeError) as error:
        raise LatentiaError(f"{path} is not a recipe: {in_one_line(error)}") from None


def apply(tree: Any, override: str) -> None:
    """Sets a field of a recipe to what field=value says. Raises LatentiaError that names it."""
    field, text = override.split("=", 1)
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload,index]
        OmegaConf.update(tree, field, value, merge=False)  # a section given as a whole replaces the old one
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise LatentiaError(f"--set {override:.200}: {in_one_line(error)}") from None


def in_one_line(error: Exception) -> str:
    """What is wrong, and where, with a piece of YAML."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"
    return first_line(error)


def environment(tree: Any) -> Iterator[str]:
    """The texts in a recipe that would be replaced by what the machine, or its user, has."""
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for value in values:
        yield from environment(value)
    if isinstance(tree, str) and re.search(r"\$\{\s*oc\.", tree):
        yield tree


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML."""
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def chosen(place: str, values: Mapping[str, Any], kinds: Mapping[str, type[Any]]) -> Any:
    """The configuration of the kind that `values` name. Raises LatentiaError that names the field."""
    kind = values.get("kind", next(iter(kinds)))
    if not isinstance(kind, str) or kind not in kinds:
        raise LatentiaError(f"{place}.kind: {kind!r} is unknown, expected one of {', '.join(kinds)}")
    own = kinds[kind]
    named = "kind" in {field.name for field in dataclasses.fields(own)}
    given = {**values, "kind": kind} if named else {name: v for name, v in values.items() if name != "kind"}
    given = with_preset(place, given) if given.get("preset") else given
    others = [other for other in kinds.values() if other is not own]
    related = {name for other in others if akin(own, other) for name in described(other)} - described(own).keys()
    for name in related & given.keys():  # it is not used, but what is wrong there is not passed over either
        check_field(next(other for other in others if name in described(other)), name, given[name], place)
    given = {name: value for name, value in given.items() if name not in related}
    return checked(own, without_foreign(given, own, others), place, ".")


def akin(own: type[Any], other: type[Any]) -> bool:
    """Whether two kinds extend one configuration: a recipe may hold the fields of both, so that its kind can change."""
    return len({*own.__mro__} & {*other.__mro__}) > 1  # all share `object`


def section(place: str, values: Any) -> dict[str, Any]:
    """Raises LatentiaError unless the values are a section with names."""
    if not isinstance(values, dict):
        raise LatentiaError(f"{place}: expected a section of fields (got {values!r:.100})")
    return values


def without_foreign(values: Mapping[str, Any], own: type[Any], others: Sequence[type[Any]]) -> dict[str, Any]:
    """The values without default fields of other kinds: recipes of Latentia 0.1 had the fields of all."""
    mine = described(own).keys()
    foreign = {name: default for other in others for name, (default, _) in described(other).items() if name not in mine}
    return {
        name: value
        for name, value in values.items()
        if name not in foreign or (tuple(value) if isinstance(value, list) else value) != foreign[name]
    }


def with_preset(place: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, after those of the preset that they name."""
    name = values["preset"]
    if not isinstance(name, str) or name not in PRESETS:
        raise LatentiaError(f"{place}.preset: {name!r} is unknown, expected one of {', '.join(PRESETS)}")
    preset = dict(PRESETS[name])
    kind = preset.pop("_class_name")
    if kind != values.get("kind", kind):
        raise LatentiaError(f"{place}.preset: {name!r} is a {kind}, not a {values['kind']}")
    return {**preset, **values}


def stage_kinds() -> dict[str, type[Any]]:
    """The recipe sections of all first stages."""
    return {name: stage.Recipe for name, stage in first_stages().items() if hasattr(stage, "Recipe")}


def core_kinds() -> dict[str, type[Any]]:
    return {"DiT": DiT, "UNet": UNet}


def describe_fields() -> list[tuple[str, str, str]]:
    """Every field of a recipe as (dotted name, default, description), sub-sections in place, every kind of them."""
    kinds: dict[str, Mapping[str, type[Any]]] = {
        "data": {modality.name: modality.Data for modality in modalities().values()},
        "first_stage": stage_kinds(),
        "process": PROCESSES,
        "denoiser": core_kinds(),
    }
    rows = []
    for name, field in Recipe.model_fields.items():
        default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
        parts = [*kinds.get(name, {}).items(), *(("", part) for part in _sections(field.annotation))]
        rows.append((name, "" if parts else default, field.description or ""))
        for kind, part in parts:
            rows += [(f"{name}.kind", kind, "and its fields:")] if kind else []
            rows += _described(part, f"{name}.")
    return rows


def _described(part: type[Any], prefix: str) -> list[tuple[str, str, str]]:
    if dataclasses.is_dataclass(part):
        found = {name: value for name, value in described(part).items() if name != "kind"}
        types = get_type_hints(part)
    else:
        found = {
            name: (dataclasses.MISSING if field.is_required() else field.get_default(), field.description or "")
            for name, field in part.model_fields.items()
        }
        types = {name: field.annotation for name, field in part.model_fields.items()}
    rows = []
    for name, (default, description) in found.items():
        sections = _sections(types[name])
        text = "required" if default is dataclasses.MISSING else str(default)
        rows.append((prefix + name, "" if sections else text, description))
        for section in sections:
            rows += _described(section, f"{prefix}{name}.")
    return rows


def _sections(annotation: Any) -> list[type[Any]]:
    candidates = get_args(annotation) or (annotation,)
    kinds = [part for part in candidates if isinstance(part, type)]
    return [part for part in kinds if issubclass(part, BaseModel) or dataclasses.is_dataclass(part)]
