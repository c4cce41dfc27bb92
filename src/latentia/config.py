"""A component's configuration, written once: its constructor arguments, its `config.json` and its recipe section."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from latentia.errors import LatentiaError

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Kind = TypeVar("Kind")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


class Section(BaseModel):
    """A section of a recipe that configures no component."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """True is no number: Python alone takes it for 1."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)} and bool not in get_args(kind):
            raise ValueError("expected a number")
        return value


class Loop(Section):
    """How a network is trained."""

    steps: int = Field(ge=1, description="updates of the weights")
    batch_size: int = Field(ge=1, description="examples an update, over all processes")
    learning_rate: float = Field(gt=0, description="peak learning rate")
    warmup: int = Field(100, ge=0, description="updates of linear warm-up of the learning rate")
    decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the updates, the last, in which the learning rate falls to zero along a cosine; null: "
        "all after the warm-up. With 0.3 or so a run loses nothing that goes on with more, or fewer, updates",
    )
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
    keep: int = Field(3, ge=1, description="checkpoints that are kept until the end, in case the training diverges")
    preview_every: int = Field(1000, ge=1, description="updates between two previews")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(kind: type[Kind]) -> type[Kind]:
    """A frozen dataclass whose fields `checked` validates; `Annotated[int, Field(ge=1, description=…)]` says how."""
    kind.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(kind)


def checked(kind: type[Kind], values: Mapping[str, Any], owner: str, joint: str = ": ") -> Kind:
    """The dataclass of these values. Raises LatentiaError that names `owner`, field, expectation and value."""
    try:
        made: Kind = _adapter(kind).validate_json(json.dumps(dict(values)), strict=True)  # of JSON: lists become tuples
    except TypeError as error:
        raise LatentiaError(f"{owner}: {error}") from None
    except ValidationError as error:
        raise LatentiaError(f"{owner}{joint}{fault(error)}") from None
    return made


def check_field(kind: type[Any], name: str, value: Any, place: str) -> None:
    """Raises LatentiaError that names the field where the value is none for this field of a configuration."""
    try:
        _adapter(get_type_hints(kind, include_extras=True)[name]).validate_json(json.dumps(value), strict=True)
    except TypeError as error:
        raise LatentiaError(f"{place}.{name}: {error}") from None
    except ValidationError as error:
        raise LatentiaError(f"{place}.{name}{fault(error)}") from None


def fault(error: ValidationError) -> str:
    """The first fault of a validation, in one line: the dotted field, what it expects, what it got."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']} (got {repr(first.get('input'))[:200]})"


def plain(value: Any) -> dict[str, Any]:
    """A configuration as plain JSON values; the inverse of `checked`."""
    values: dict[str, Any] = _adapter(type(value)).dump_python(value, mode="json")
    return values


def located(*named: str) -> BeforeValidator:
    """For a field that names data: a path that exists becomes absolute, and a recipe goes with any working folder.

    The names of sets that are no paths, `named`, stay.
    """

    def locate(value: Any) -> Any:
        path = Path(value).expanduser() if isinstance(value, str) and value and value not in named else None
        try:
            return os.path.abspath(path) if path is not None and path.exists() else value
        except (OSError, ValueError):  # no path
            return value

    return BeforeValidator(locate)


def part_of(settings: Any, kind: type[Any]) -> dict[str, Any]:
    """The fields of `settings` that `kind` has too, as plain JSON values."""
    values = plain(settings)
    return {field.name: values[field.name] for field in dataclasses.fields(kind)}


def described(kind: type[Any]) -> dict[str, tuple[Any, str]]:
    """Default (`dataclasses.MISSING` for none) and description of each field."""
    types = get_type_hints(kind, include_extras=True)
    return {
        field.name: (
            field.default,
            next((part.description or "" for part in get_args(types[field.name]) if isinstance(part, FieldInfo)), ""),
        )
        for field in dataclasses.fields(kind)
    }


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Returns `value`. Raises LatentiaError where it is not an integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise LatentiaError(f"{name} is {value!r:.60}, expected an integer from {low} to {high}")
    return value
