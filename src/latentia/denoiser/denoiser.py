"""A denoiser: a network, the conditions that it knows, and the objective by which it was trained."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from latentia.conditions import Condition, Estimate, Request, Signals, Values, conditions
from latentia.config import checked, plain
from latentia.denoiser.diffusers_unet import DiffusersUNet
from latentia.denoiser.dit import DiT, unpatchify
from latentia.denoiser.legacy import upgraded
from latentia.denoiser.network import Network
from latentia.denoiser.unet import UNet
from latentia.diffusion import Denoise, Denoising, Guidance, Objective, Process, classifier_free, guide
from latentia.diffusion.objectives import objectives
from latentia.errors import LatentiaError
from latentia.files import CONFIG_NAME, WEIGHTS_NAME, build_part, read_json, read_tensors

CORES: dict[str, type[Network]] = {"DiT": DiT, "UNet": UNet, "DiffusersUNet": DiffusersUNet}


class Denoiser(nn.Module):
    """network(x, time, **values): conditions turn their values into `Signals`, the core sees these and the latent.

    `bind` is the only way from here to a sampler. Conditions are known by name, in the order in which their channels
    follow the latent's. What a call leaves out counts as nothing. Raises LatentiaError for parts that do not fit.
    """

    def __init__(self, core: Network, conditions: Mapping[str, Condition], objective: Objective | None = None) -> None:
        super().__init__()
        self.core, self.objective = core, objective or Denoising()
        self.conditions = nn.ModuleDict(conditions)
        self.head = alignment_head(core) if getattr(self.objective, "aligns", False) else None
        check_parts(self.core, self.known, self.objective)

    @property
    def known(self) -> dict[str, Condition]:
        """The conditions by name."""
        return dict(self.conditions.items())  # type: ignore[arg-type]

    @property
    def config(self) -> dict[str, Any]:
        kind = next(name for name, kind in objectives().items() if kind is type(self.objective))
        return {
            "core": {"_class_name": type(self.core).__name__, **self.core.config},
            "conditions": {name: condition.config for name, condition in self.known.items()},
            "objective": {"kind": kind, **plain(self.objective)},
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Raises LatentiaError for an unknown part, or an argument that is wrong."""
        arguments = dict(config["core"])
        name = arguments.pop("_class_name", None)
        if name not in CORES:
            raise LatentiaError(f"the denoiser's core is {name!r:.60}, expected one of {', '.join(CORES)}")
        core, known, parts = CORES[name](**arguments), conditions(), {}
        for kind, settings in dict(config["conditions"]).items():
            if kind not in known:
                raise LatentiaError(f"the denoiser has the condition {kind!r:.60}, expected one of {', '.join(known)}")
            parts[kind] = known[kind](core.signal_width, **settings)
        return cls(core, parts, make_objective(config["objective"]))

    def forward(self, x: Tensor, time: Tensor, observe: bool = False, **values: Tensor) -> Any:
        """x (B, C, *grid), time (B,) in about 0..1000 → (B, C_out, *grid), or `Observed`, if `observe`.

        Raises LatentiaError for unknown values.
        """
        signals = []
        for condition in self.known.values():
            own = {name: values.pop(name) for name in condition.inputs if name in values}
            signals.append(condition(own if len(own) == len(condition.inputs) else condition.null(x) | own))
        if values:
            raise LatentiaError(f"the denoiser does not know {', '.join(values)}")
        if not observe:
            return self.core(x, time, join(signals))
        seen: list[Tensor] = []
        block = self.core.get_submodule(self.core.early)
        with block.register_forward_hook(lambda _block, _inputs, features: seen.append(features)):
            out = self.core(x, time, join(signals))
        tokens, patch = self.core.tokens(seen[0]), self.core.patch
        grid = tuple(side // patch for side in x.shape[2:])
        return Observed(out, tokens, None if self.head is None else unpatchify(self.head(tokens), grid, patch))

    def request(self, request: Request, like: Tensor) -> tuple[Values, Values]:
        """What a request gives the network, and what guidance leads away from, on the CPU; `like` (B, C, *grid).

        Raises LatentiaError for an option that no condition knows, or that does not fit.
        """
        offered = {option for condition in self.known.values() for option in condition.options}
        if unknown := [option for option in request.options if option not in offered]:
            known = ", ".join(sorted(offered)) or "noise"
            raise LatentiaError(f"the model takes no {', '.join(unknown)}, only {known}")
        values: Values = {}
        null: Values = {}
        for condition in self.known.values():
            own, against = condition.request(request, like)
            values, null = values | own, null | against
        return values, null

    def bind(self, values: Values, null: Values, process: Process, guidance: Guidance | None = None) -> Denoise:
        """E[z | z_t] under these values, guided away from `null` or a weaker denoiser, for one batch of samples."""
        denoise, guided_by = self.objective.denoise(self, process), guidance or Guidance()
        if guided_by.weaker is not None:
            weaker: Denoiser = guided_by.weaker
            away = weaker.objective.denoise(weaker, process)

            def guided(z_t: Tensor, t: Tensor, **more: Tensor) -> Tensor:
                own, other = (partial(call, **values, **more) for call in (denoise, away))
                return guide(own, other, guided_by, process)(z_t, t)

            return self.objective.sampling(guided)
        if all(torch.equal(value, null[name]) for name, value in values.items()):
            guided_by = Guidance()
        return self.objective.sampling(classifier_free(denoise, values, null, guided_by, process))


class Observed(NamedTuple):
    """What a network answers, features of its early block (B, tokens, width), and the latent that its head makes of
    them."""

    out: Tensor
    tokens: Tensor
    guess: Tensor | None


def alignment_head(core: Network) -> nn.Module:
    """From the tokens of an early block to patches of a latent. Raises LatentiaError for a core that shows none."""
    if not core.early:
        raise LatentiaError("the objective sees features of an early block, and this denoiser shows none")
    width, out = core.early_width, core.in_channels * core.patch**core.axes
    return nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, out))


def check_parts(core: Network, known: Mapping[str, Condition], objective: Objective) -> None:
    """Raises LatentiaError where a network does not take what conditions give, or an objective lacks its condition."""
    taken, made = core.concat_channels, sum(condition.grid_channels for condition in known.values())
    if taken != made:
        raise LatentiaError(f"the network takes {taken} channels beside the latent, its conditions give {made}")
    if any(condition.tokens for condition in known.values()) and not core.config.get("tokens"):
        raise LatentiaError("a condition gives tokens to a network that attends to none")
    if objective.estimates and "estimate" not in known:
        raise LatentiaError("the objective gives the network its last estimate, for which it has no condition")


def join(signals: list[Signals]) -> Signals:
    """The sum of vectors, all grids one behind the other, and the tokens of all conditions in one row."""
    vectors = [signal.vector for signal in signals if signal.vector is not None]
    grids = [signal.grid for signal in signals if signal.grid is not None]
    tokens = [signal.tokens for signal in signals if signal.tokens is not None]
    vector = sum(vectors[1:], start=vectors[0]) if vectors else None
    row = tokens[0] if tokens else None
    if len(tokens) > 1:
        row = type(tokens[0])(torch.cat([t.vectors for t in tokens], 1), torch.cat([t.mask for t in tokens], 1))
    return Signals(vector, row, torch.cat(grids, 1) if grids else None)


def make_objective(config: Mapping[str, Any]) -> Objective:
    """The objective of a config {"kind": …, …}. Raises LatentiaError for an unknown kind or a wrong field."""
    kind, known = config.get("kind") if isinstance(config, Mapping) else config, objectives()
    if not isinstance(kind, str) or kind not in known:
        raise LatentiaError(f"the objective is {kind!r:.60}, expected one of {', '.join(known)}")
    made: Objective = checked(known[kind], {name: value for name, value in config.items() if name != "kind"}, str(kind))
    return made


def build_denoiser(
    core: str, arguments: Mapping[str, Any], parts: Mapping[str, Condition], objective: Objective
) -> Denoiser:
    """A new denoiser whose core takes what its conditions and its objective give; `arguments` are the core's own."""
    if objective.estimates:
        parts = {"estimate": Estimate(0, arguments["in_channels"]), **parts}
    parts = {name: parts[name] for name in conditions() if name in parts}
    needs: dict[str, Any] = {
        "concat_channels": sum(part.grid_channels for part in parts.values()),
        "tokens": any(part.tokens for part in parts.values()),
    }
    return Denoiser(CORES[core](**arguments, **needs), parts, objective)


def load_denoiser(folder: Path) -> Denoiser:
    """The denoiser of a model's `denoiser` folder, in float32, also of one that an earlier version wrote.

    Raises LatentiaError where a part is unknown, an argument is wrong, or weights are missing, extra or misshapen.
    """
    config, state = read_json(folder / CONFIG_NAME), read_tensors(folder / WEIGHTS_NAME)
    if config.pop("_class_name", None) != "Denoiser":
        config, state = upgraded(folder, state)
    return build_part(folder, lambda: Denoiser.from_config(config), state)
