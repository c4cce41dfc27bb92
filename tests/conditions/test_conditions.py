"""Conditions together: what says nothing, how often training leaves one out, any of them at once, and plug-ins."""

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import randomised
from torch import Tensor

from latentia import conditions as room
from latentia.conditions import Condition, Label, Length, Request
from latentia.conditions.base import without
from latentia.conditions.prompt import PromptCodec
from latentia.denoiser import Denoiser
from latentia.denoiser.denoiser import build_denoiser
from latentia.diffusion import Denoising, Guidance, RectifiedFlow, SelfConditioned
from latentia.errors import LatentiaError
from latentia.items import ItemSet
from latentia.language.tokenizer import Tokenizer
from latentia.modalities.image.items import mirrored
from latentia.modalities.image.repair_task import RepairTask, with_damage
from latentia.training.step import Batches

WIDTH, CHANNELS, COUNT, CLASSES = 16, 2, 60, ("a", "b", "c")
SIZE = 30_000  # of a batch: shares are known to a hundredth
X, TIME = torch.randn(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 700.0])


def test_these_are_the_conditions_in_the_order_of_their_channels(known) -> None:
    assert [*room.OWN] == [*known] == ["estimate", "label", "length", "context", "repair", "prompt"]


@pytest.mark.parametrize("name", room.OWN)
def test_null_is_what_the_network_sees_when_a_condition_is_left_out(name: str, denoiser) -> None:
    model = denoiser(name)
    null = model.known[name].null(X)
    assert set(null) == set(model.known[name].inputs)
    assert all(len(value) == len(X) for value in null.values())
    assert torch.equal(model(X, TIME), model(X, TIME, **null))


def test_what_says_nothing_is_the_last_number_zeros_and_the_empty_prompt(known, tokenizer) -> None:
    assert known["label"].null(X)["label"].tolist() == [12, 12]  # after 3 classes and 9 clusters
    assert known["length"].null(X)["length"].tolist() == [9, 9]
    for name, value, channels in (("estimate", "estimate", 2), ("context", "context", 2), ("repair", "remains", 3)):
        null = known[name].null(X)[value]
        assert null.shape == (2, channels, 4, 4)
        assert not null.any()
    empty = PromptCodec(tokenizer, 12).to_ids(["", ""])
    null = known["prompt"].null(X)
    assert torch.equal(null["prompt"], empty["prompt"])
    assert torch.equal(null["emphasis"], empty["emphasis"])


@pytest.mark.parametrize("name", room.OWN)
def test_null_follows_the_latents_device_and_a_config_makes_the_condition_again(name: str, known) -> None:
    condition = known[name]
    assert all(value.device.type == "meta" for value in condition.null(X.to("meta")).values())
    again = type(condition)(WIDTH, **condition.config)
    assert again.config == condition.config
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in condition.state_dict().items()
    }
    assert again.grid_channels == condition.grid_channels


def test_a_request_without_options_is_null_where_nothing_must_be_given(known) -> None:
    for name, condition in known.items():
        if name == "repair":
            with pytest.raises(LatentiaError, match="trained for inpaint and needs what it repairs"):
                condition.request(Request(2), X)
            continue
        own, against = condition.request(Request(2), X)
        null = condition.null(X)
        assert set(own) == set(against) == (set() if name == "estimate" else set(null))
        assert all(torch.equal(own[key], null[key]) and torch.equal(against[key], null[key]) for key in own)


@pytest.mark.parametrize("size", range(1, 6))
def test_any_conditions_go_together(size: int, denoiser) -> None:
    """Each combination is built, bound with guidance, and each of its values still counts."""
    options = {
        "label": {"labels": [0, 2]},
        "length": {"lengths": [3, 4]},
        "context": {"context": ["", ""]},
        "repair": {"remains": torch.ones(2, CHANNELS + 1, 4, 4)},
        "prompt": {"prompts": ["red", "a (blue:2) dog"]},
    }
    for names in itertools.combinations(options, size):
        for objective in (Denoising(), SelfConditioned()):
            model = denoiser(*names, objective=objective)
            asked = {key: value for name in names for key, value in options[name].items()}
            request = Request(2, asked, 0, encode=lambda context: torch.ones_like(X))
            values, null = model.request(request, X)
            assert values.keys() == null.keys()
            assert all(values[key].shape == null[key].shape for key in values)
            process, t = RectifiedFlow(), torch.tensor(0.5)
            with torch.no_grad():
                plain = model.bind(values, null, process)(X, t)
                guided = model.bind(values, null, process, Guidance(2.0))(X, t)
                nothing = model.bind(null, null, process)(X, t)
            torch.testing.assert_close(guided, nothing + 2 * (plain - nothing), atol=1e-4, rtol=1e-4)
            free = set(names) - {"repair"}  # what is to be repaired both halves know
            assert bool((plain - nothing).abs().max() > 1e-4) == bool(free)


def test_a_unet_takes_all_but_prompts(known) -> None:
    arguments = {"in_channels": CHANNELS, "grid": (4, 4), "width": 4, "blocks": 1, "heads": 2}
    own = {name: condition for name, condition in known.items() if name not in ("estimate", "prompt")}
    model = randomised(build_denoiser("UNet", arguments, own, SelfConditioned()))
    assert [*model.known] == ["estimate", *own]
    assert model(X, TIME, remains=torch.ones(2, 3, 4, 4)).shape == X.shape


def test_dropped_examples_lose_their_value_and_others_keep_it() -> None:
    dropped = torch.tensor([True, False])
    values = {"ids": torch.tensor([[5, 6, 2], [7, 2, 0]]), "grid": torch.ones(2, 1, 2)}
    null = {"ids": torch.tensor([[2], [2]]), "grid": torch.zeros(2, 1, 2)}
    found = without(values, null, dropped)
    assert found["ids"].tolist() == [[2, 0, 0], [7, 2, 0]]
    assert found["grid"].tolist() == [[[0, 0]], [[1, 1]]]
    wide = without({"ids": values["ids"]}, {"ids": torch.tensor([[2, 0, 0, 0, 0]] * 2)}, dropped)
    assert wide["ids"].tolist() == found["ids"].tolist()


class EachRow:
    """Every row equally often."""

    def batch(self, step: int) -> Tensor:
        return torch.arange(SIZE) % COUNT


@pytest.fixture
def batches(data) -> Callable[..., Batches]:
    def make(known: dict[str, Condition], of: ItemSet, mine: slice = slice(None), dropout: float = 0.1) -> Batches:
        return Batches(data(of), known, EachRow(), 7, SIZE, mine, dropout)

    return make


def share(of: Tensor) -> float:
    return float(of.double().mean())


def test_each_condition_is_dropped_by_itself_and_as_often_all_at_once(known, prompt, items, batches) -> None:
    known = {"label": Label(WIDTH, CLASSES), "prompt": prompt, "repair": known["repair"]}
    z, values, chance = batches(known, with_damage(items(), RepairTask("inpaint")))(3)
    no_label, no_prompt = values["label"] == 3, values["prompt"][:, 0] == Tokenizer.eos_id
    # p alone, and p for both: 1 − 0.9² of either; both are lost by the common draw, or by both of their own.
    assert share(no_label) == pytest.approx(0.19, abs=0.01)
    assert share(no_prompt) == pytest.approx(0.19, abs=0.01)
    assert share(no_label & no_prompt) == pytest.approx(0.1 + 0.9 * 0.1**2, abs=0.01)
    rows = torch.arange(SIZE) % COUNT
    assert torch.equal(values["label"][~no_label], (rows % 3)[~no_label])
    assert (values["remains"][:, 0, 0, 0] > 1000).all()  # never left out
    assert 0 <= chance < 1
    assert len(z) == SIZE


def test_one_condition_alone_is_dropped_as_often_as_asked(items, batches) -> None:
    for dropout in (0.0, 0.1, 1.0):
        _, values, _ = batches({"label": Label(WIDTH, CLASSES)}, items(), dropout=dropout)(3)
        assert share(values["label"] == 3) == pytest.approx(dropout, abs=0.01)


def test_batches_are_those_of_their_step_and_shares_of_a_batch_make_the_whole(prompt, items, batches) -> None:
    known = {"label": Label(WIDTH, CLASSES), "prompt": prompt}
    of = mirrored(items())
    whole, again, other = (batches(known, of)(step) for step in (3, 3, 4))
    halves = [batches(known, of, mine)(3) for mine in (slice(SIZE // 2), slice(SIZE // 2, None))]
    for name, value in whole.values.items():
        assert torch.equal(value, again.values[name])
        assert torch.equal(value, torch.cat([half.values[name] for half in halves]))
    assert torch.equal(whole.z, torch.cat([half.z for half in halves]))
    assert whole.chance == again.chance == halves[0].chance == halves[1].chance != other.chance
    assert not torch.equal(whole.values["label"], other.values["label"])
    mirror = whole.z[:, 0, 0, 0] >= 2000
    assert share(mirror) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(whole.z[:, 0, 0, 0] % 1000, (torch.arange(SIZE) % COUNT).float())


def test_views_dropout_and_draws_do_not_depend_on_each_other(prompt, items, batches) -> None:
    """One random number a decision: correlations between any two of them are those of chance."""
    of = replace(mirrored(items()), values={"length": np.full(COUNT, 4)})
    z, values, _ = batches({"length": Length(WIDTH, 9), "prompt": prompt}, of)(5)
    prompts, second = values["prompt"], prompt.codec.to_ids(["blue dog 1"])["prompt"][0, 0]
    kept = prompts[:, 0] != Tokenizer.eos_id
    mirror, no_length, last = z[:, 0, 0, 0] >= 2000, values["length"] == 9, prompts[:, 0] == second
    assert share(last[kept]) == pytest.approx(0.5, abs=0.02)  # either of two captions
    chosen = torch.stack([mirror, no_length, last])[:, kept].double()
    assert (torch.corrcoef(chosen) - torch.eye(3)).abs().max() < 0.03


PLUGIN = """
import torch
from torch import nn
from latentia.conditions import Condition, Signals

class Loudness(Condition):
    inputs, options = ("loudness",), ("loudness",)

    def __init__(self, width):
        super().__init__()
        self.config, self.embed = {}, nn.Linear(1, width, bias=False)

    def null(self, like):
        return {"loudness": like.new_zeros(len(like), 1)}

    def request(self, request, like):
        asked = request.options.get("loudness")
        return (self.null(like) if asked is None else {"loudness": torch.tensor(asked)[:, None]}), self.null(like)

    def forward(self, values):
        return Signals(vector=self.embed(values["loudness"]))
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a condition, as pip leaves an installed one; returns the condition's name."""
    (tmp_path / "loud_plugin.py").write_text(PLUGIN)
    info = tmp_path / "loud_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[latentia.conditions]\nloudness = loud_plugin:Loudness\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    room.conditions.cache_clear()
    yield "loudness"
    room.conditions.cache_clear()
    sys.modules.pop("loud_plugin", None)


def test_a_condition_of_another_package_is_found_by_its_entry_point(plugin: str) -> None:
    kind = room.conditions()[plugin]
    assert [*room.conditions()] == [*room.OWN, plugin]
    arguments = {"in_channels": CHANNELS, "grid": (4, 4), "width": WIDTH, "depth": 1, "heads": 2}
    known = {plugin: kind(WIDTH), "label": Label(WIDTH, CLASSES)}
    model = randomised(build_denoiser("DiT", arguments, known, Denoising()))
    assert [*model.known] == ["label", plugin]
    again = Denoiser.from_config(model.config)
    again.load_state_dict(model.state_dict())
    values, null = again.request(Request(2, {"loudness": [1.0, -2.0], "labels": [0, 1]}), X)
    assert values["loudness"].tolist() == [[1.0], [-2.0]]
    with torch.no_grad():
        denoise = [network.bind(values, null, RectifiedFlow(), Guidance(2.0)) for network in (model, again)]
        answers = [each(X, torch.tensor(0.5)) for each in denoise]
        quiet = model.bind(null | {"label": values["label"]}, null, RectifiedFlow(), Guidance(2.0))
        assert (answers[0] - quiet(X, torch.tensor(0.5))).abs().max() > 1e-3
    torch.testing.assert_close(*answers)


def test_without_its_package_a_condition_is_named(denoiser) -> None:
    config = denoiser("label").config
    config["conditions"]["loudness"] = {}
    with pytest.raises(LatentiaError, match="condition 'loudness', expected one of estimate, label"):
        Denoiser.from_config(config)
