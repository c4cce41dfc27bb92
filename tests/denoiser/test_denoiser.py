"""A denoiser: its folder brings it back, also one of an earlier version; `bind` guides; misfits are refused."""

import json
from pathlib import Path

import pytest
import torch
from peers import randomised
from torch import Tensor

from latentia.conditions import Context, Estimate, Label, Length, Prompt, Repair, Request
from latentia.denoiser import CORES, Denoiser, DiT, UNet, load_denoiser
from latentia.denoiser.denoiser import build_denoiser
from latentia.diffusion import (
    EDM,
    VP,
    Denoising,
    Guidance,
    Process,
    RectifiedFlow,
    SelfConditioned,
    denoise_with,
    initial_noise,
    uniform,
)
from latentia.diffusion.samplers import euler
from latentia.errors import LatentiaError
from latentia.files import read_json, read_tensors, save_part, write_json, write_tensors

TRAINED = Path(__file__).parents[1] / "trained"
CLASSES = ("a", "b", "c")
SIZES = {
    "DiT": {"in_channels": 2, "grid": (3, 5), "width": 16, "depth": 1, "heads": 2},
    "UNet": {"in_channels": 2, "width": 8, "blocks": 1, "heads": 2},
}
X, TIME = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 700.0])


def by_class(kind: str = "DiT", seed: int = 0, **sizes) -> Denoiser:
    core = CORES[kind](**{**SIZES[kind], **sizes})
    return randomised(Denoiser(core, {"label": Label(core.signal_width, CLASSES)}), seed=seed)


def of_everything(objective=None) -> Denoiser:
    """A denoiser that knows all there is to know, but the prompts as a UNet."""
    parts = {
        "prompt": Prompt(16, vocab_size=20, max_tokens=6, depth=1, heads=2),
        "repair": Repair(16, 3, {"kind": "inpaint", "factor": 4}),
        "context": Context(16, 2),
        "length": Length(16, 9),
        "label": Label(16, CLASSES, [[0.5, 0.5]] * 3),
    }
    return randomised(build_denoiser("DiT", SIZES["DiT"], parts, objective or SelfConditioned(share=0.25)))


@pytest.mark.parametrize("kind", SIZES)
def test_a_saved_denoiser_comes_back(kind: str, tmp_path: Path) -> None:
    model = by_class(kind)
    save_part(tmp_path, model, model.config)
    loaded = load_denoiser(tmp_path)
    assert type(loaded.core) is CORES[kind]
    assert loaded.config == model.config == json.loads(json.dumps(model.config))
    label = torch.tensor([1, 3])
    assert torch.equal(loaded(X, TIME, label=label), model(X, TIME, label=label))
    assert model(X, TIME, label=label).any()


def test_a_denoiser_of_many_conditions_comes_back(tmp_path: Path) -> None:
    model = of_everything()
    assert [*model.known] == ["estimate", "label", "length", "context", "repair", "prompt"]
    assert model.core.concat_channels == 2 + 2 + 3
    save_part(tmp_path, model, model.config)
    loaded = load_denoiser(tmp_path)
    assert loaded.config == model.config == json.loads(json.dumps(model.config))
    assert loaded.objective == SelfConditioned(share=0.25)
    values = {"remains": torch.randn(2, 3, 3, 5), "label": torch.tensor([0, 8])}
    values |= {"prompt": torch.tensor([[5, 2], [7, 2]]), "length": torch.tensor([4, 9])}
    assert torch.equal(loaded(X, TIME, **values), model(X, TIME, **values))


@pytest.mark.parametrize("name", ["estimate", "label", "length", "context", "remains", "prompt"])
def test_each_value_matters(name: str) -> None:
    model = of_everything()
    value = {"label": torch.tensor([1, 4]), "length": torch.tensor([3, 4]), "prompt": torch.tensor([[5, 2], [6, 2]])}
    value |= {kind: torch.ones(2, 3 if kind == "remains" else 2, 3, 5) for kind in ("estimate", "context", "remains")}
    assert (model(X, TIME, **{name: value[name]}) - model(X, TIME)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "change"), [("DiT", {"heads": 3}), ("UNet", {"heads": 3}), ("DiT", {"many heads": 8})]
)
def test_a_folder_with_a_wrong_config_is_refused(kind: str, change: dict, tmp_path: Path) -> None:
    model = by_class(kind)
    save_part(tmp_path, model, {**model.config, "core": {**model.config["core"], **change}})
    with pytest.raises(LatentiaError, match="heads"):
        load_denoiser(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "Denoisers"}, "names class 'Denoisers'"),
        ({"core": {"_class_name": "os.system"}}, "core is 'os.system', expected one of DiT, UNet, DiffusersUNet"),
        ({"core": 7}, "does not describe"),
        ({"conditions": {"mood": {}}}, "condition 'mood', expected one of estimate, label"),
        ({"conditions": {"label": {"class_names": ["one"]}}}, "does not fit"),
        ({"conditions": {"label": {"names": []}}}, "names"),
        ({"conditions": {}}, "does not fit"),
        ({"objective": {"kind": "luck"}}, "objective is 'luck', expected one of denoising, self_conditioned"),
        ({"objective": {"kind": "self_conditioned", "share": 2.0}}, "share: Input should be less than or equal to 1"),
        ({"objective": {"kind": "self_conditioned"}}, "no condition"),
        ({"objective": None}, "expected one of denoising"),
        ({"objective": {"kind": []}}, "expected one of denoising"),
        ({"core": {"_class_name": "DiT", "in_channels": 10**30, "grid": [4, 4]}}, "does not describe"),
    ],
)
def test_tampered_configs_are_one_line(change: dict, message: str, tmp_path: Path) -> None:
    model = by_class()
    save_part(tmp_path, model, model.config)
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json") | change)
    with pytest.raises(LatentiaError, match=message) as caught:
        load_denoiser(tmp_path)
    assert "\n" not in str(caught.value)


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    core = DiT(**SIZES["DiT"])
    with pytest.raises(LatentiaError, match="takes 0 channels beside the latent, its conditions give 2"):
        Denoiser(core, {"context": Context(16, 2)})
    with pytest.raises(LatentiaError, match="takes 2 channels beside the latent, its conditions give 0"):
        Denoiser(DiT(**SIZES["DiT"], concat_channels=2), {})
    prompt = Prompt(16, vocab_size=20, max_tokens=6, depth=1, heads=2)
    with pytest.raises(LatentiaError, match="attends to none"):
        Denoiser(core, {"prompt": prompt})
    with pytest.raises(LatentiaError, match="prompts need a DiT"):
        build_denoiser("UNet", SIZES["UNet"], {"prompt": prompt}, Denoising())
    with pytest.raises(LatentiaError, match="no condition"):
        Denoiser(core, {}, SelfConditioned())


def test_what_no_condition_knows_is_refused() -> None:
    model = by_class()
    with pytest.raises(LatentiaError, match="does not know mood"):
        model(X, TIME, mood=torch.zeros(2))
    with pytest.raises(LatentiaError, match="the model takes no mood, only labels"):
        model.request(Request(2, {"mood": 1}), X)
    with pytest.raises(LatentiaError, match="the model takes no labels, only noise"):
        Denoiser(DiT(**SIZES["DiT"]), {}).request(Request(2, {"labels": [0, 1]}), X)


MIDDLE = [(RectifiedFlow(), 0.5), (VP(), 400.0), (EDM(), 1.5)]


@pytest.mark.parametrize(("process", "time"), MIDDLE, ids=lambda value: type(value).__name__)
def test_bind_is_guidance_of_the_network_by_hand(process: Process, time: float) -> None:
    model, t = by_class(), torch.tensor(time)
    values, null = model.request(Request(2, {"labels": [0, 2]}), X)
    assert values["label"].tolist() == [0, 2]
    assert null["label"].tolist() == [3, 3]
    plain = denoise_with(model, process)
    with torch.no_grad():
        own, away = (plain(X, t, label=torch.tensor(label)) for label in ([0, 2], [3, 3]))
        torch.testing.assert_close(model.bind(values, null, process)(X, t), own)
        torch.testing.assert_close(model.bind(values, null, process, Guidance(3.0))(X, t), away + 3 * (own - away))
        assert (own - away).abs().max() > 1e-3
        torch.testing.assert_close(model.bind(null, null, process, Guidance(3.0))(X, t), away)


@pytest.mark.parametrize(("process", "time"), MIDDLE, ids=lambda value: type(value).__name__)
def test_autoguidance_leads_away_from_a_weaker_denoiser_of_the_same_condition(process: Process, time: float) -> None:
    """Karras et al. 2024, eq. 5: D_w + w (D − D_w), under one condition; guided away from itself it is as it was."""
    model, weaker, t = by_class(), by_class(seed=1, width=24, heads=2), torch.tensor(time)
    values, null = model.request(Request(2, {"labels": [0, 2]}), X)
    with torch.no_grad():
        own, away = (denoise_with(network, process)(X, t, **values) for network in (model, weaker))
        guided = model.bind(values, null, process, Guidance(2.5, weaker=weaker))(X, t)
        torch.testing.assert_close(guided, away + 2.5 * (own - away))
        assert (own - away).abs().max() > 1e-2
        torch.testing.assert_close(model.bind(values, null, process, Guidance(2.5, weaker=model))(X, t), own)
        torch.testing.assert_close(model.bind(values, null, process, Guidance(1.0, weaker=weaker))(X, t), own)


def test_autoguidance_also_guides_without_a_condition() -> None:
    """Where nothing is asked for there is nothing to lead away from but the weaker denoiser."""
    model, weaker, process, t = by_class(), by_class(seed=1), RectifiedFlow(), torch.tensor(0.5)
    null = model.request(Request(2, {}), X)[1]
    with torch.no_grad():
        own, away = (denoise_with(network, process)(X, t) for network in (model, weaker))
        found = model.bind(null, null, process, Guidance(2.0, weaker=weaker))(X, t)
    torch.testing.assert_close(found, 2 * own - away)


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(2.0), Guidance(2.0, weaker="itself")])
def test_a_self_conditioned_denoiser_samples_from_its_last_estimate(guidance: Guidance) -> None:
    """Two steps by hand; of a batch that is bound again nothing is remembered."""
    parts, process = {"label": Label(16, CLASSES)}, RectifiedFlow()
    model = randomised(build_denoiser("DiT", SIZES["DiT"], parts, SelfConditioned()))
    if guidance.weaker:
        guidance = Guidance(2.0, weaker=model)
    values, null = model.request(Request(2, {"labels": [0, 2]}), X)
    denoise, times = denoise_with(model, process), (torch.tensor(0.9), torch.tensor(0.4))

    def by_hand(t: Tensor, estimate: Tensor) -> Tensor:
        own, away = (denoise(X, t, estimate=estimate, **given) for given in (values, null))
        scale = 1.0 if guidance.weaker else guidance.scale  # away from itself is nowhere
        return away + scale * (own - away)

    with torch.no_grad():
        bound = model.bind(values, null, process, guidance)
        first = by_hand(times[0], torch.zeros_like(X))
        torch.testing.assert_close(bound(X, times[0]), first)
        torch.testing.assert_close(bound(X, times[1]), by_hand(times[1], first))
        assert (by_hand(times[1], first) - by_hand(times[1], torch.zeros_like(X))).abs().max() > 1e-3
        again = model.bind(values, null, process, guidance)
        torch.testing.assert_close(again(X, times[0]), first)


def test_what_is_bound_is_for_a_sampler() -> None:
    model, process = of_everything(), RectifiedFlow()
    remains = torch.randn(2, 3, 3, 5)
    request = Request(2, {"labels": [0, 1], "remains": remains, "lengths": [3, 4]}, seed=0)
    del model.conditions["prompt"]  # which has no tokenizer here
    values, null = model.request(request, X)
    assert set(values) == set(null) == {"label", "length", "context", "remains"}
    noise = initial_noise(process, X.shape, torch.Generator().manual_seed(0))
    with torch.no_grad():
        denoise = model.bind(values, null, process, Guidance(2.0))
        z = euler(denoise, noise, uniform(4, process), process, generator=torch.Generator())
    assert z.isfinite().all()


@pytest.mark.parametrize("name", ["digits/model", "flags", "inpainter", "enlarger", "squares"])
def test_folders_of_an_earlier_version_load(name: str, tmp_path: Path) -> None:
    """Every weight goes to its place under today's name, and a folder written today holds the same denoiser."""
    folder = TRAINED / name / "denoiser"
    old, index = read_json(folder / "config.json"), read_json(folder.parent / "model_index.json")
    state = read_tensors(folder / "diffusion_pytorch_model.safetensors")
    model = load_denoiser(folder)
    assert old["_class_name"] == "DiT"
    assert isinstance(model.core, DiT)
    own = dict(model.state_dict())
    assert len(own) == len(state)
    for theirs, ours in {
        "label_embed.table.weight": "conditions.label.table.weight",
        "prompt_encoder.embed.weight": "conditions.prompt.encoder.embed.weight",
        "prompt_mean.weight": "conditions.prompt.mean.weight",
        "time_embed.hidden.weight": "core.time_embed.hidden.weight",
        "blocks.0.attention.qkv.weight": "core.blocks.0.attention.qkv.weight",
    }.items():
        assert (theirs in state) == (ours in own)
        assert theirs not in state or torch.equal(own[ours], state[theirs].float())
    assert sorted(value.double().sum().item() for value in own.values()) == pytest.approx(
        sorted(value.double().sum().item() for value in state.values())
    )
    assert model.known["label"].class_names == tuple(index["class_names"])
    kinds = {"label", *(["repair"] if "task" in index else []), *(["prompt"] if old["prompt_vocab"] else [])}
    assert {*model.known} == kinds
    assert "task" not in index or model.known["repair"].task == index["task"]
    save_part(tmp_path, model, model.config)
    again = load_denoiser(tmp_path)
    assert again.config == model.config
    x = torch.randn(2, model.core.in_channels, *model.core.config["grid"])
    assert torch.equal(again(x, TIME), model(x, TIME))
    assert model(x, TIME).any()


def as_before(folder: Path, model: Denoiser, config: dict, renamed: dict[str, str]) -> None:
    """Writes a denoiser as an earlier version did."""
    state = {name.removeprefix("core."): value for name, value in model.state_dict().items()}
    for ours, theirs in renamed.items():
        state = {theirs + name.removeprefix(ours) if name.startswith(ours) else name: v for name, v in state.items()}
    write_json(folder / "denoiser" / "config.json", config)
    write_tensors(folder / "denoiser" / "diffusion_pytorch_model.safetensors", state)


def test_a_text_denoiser_of_an_earlier_version_loads(tmp_path: Path) -> None:
    """Its last estimate and its context were one tensor of hints, twice as wide as the latent."""
    parts = {"label": Label(16, CLASSES), "length": Length(16, 9), "context": Context(16, 2)}
    sizes = {"in_channels": 2, "grid": (6,), "width": 16, "depth": 1, "heads": 2, "shared_modulation": False}
    model = randomised(build_denoiser("DiT", sizes, parts, SelfConditioned()))
    core = {name: value for name, value in model.core.config.items() if name not in ("concat_channels", "tokens")}
    config = {"_class_name": "DiT", **core, "num_classes": 3, "hint_channels": 4, "lengths": 9, "prompt_vocab": 0}
    config |= {"prompt_tokens": 32, "prompt_depth": 2, "prompt_encoder": None}
    as_before(tmp_path, model, config, {"conditions.label.": "label_embed.", "conditions.length.": "length_embed."})
    write_json(tmp_path / "model_index.json", {"max_tokens": 9, "class_names": list(CLASSES)})
    loaded = load_denoiser(tmp_path / "denoiser")
    assert loaded.config == model.config
    x, values = torch.randn(2, 2, 6), {"label": torch.tensor([0, 3]), "length": torch.tensor([5, 9])}
    values |= {"estimate": torch.randn(2, 2, 6), "context": torch.randn(2, 2, 6)}
    assert torch.equal(loaded(x, TIME, **values), model(x, TIME, **values))


def test_a_unet_with_clusters_of_an_earlier_version_loads(tmp_path: Path) -> None:
    core = UNet(**SIZES["UNet"], grid=(1, 1))
    model = randomised(Denoiser(core, {"label": Label(core.signal_width, CLASSES, [[0.25, 0.75]] * 3)}))
    sizes = {name: value for name, value in core.config.items() if name not in ("grid", "concat_channels", "tokens")}
    config = {"_class_name": "UNet", **sizes, "dims": 2, "num_classes": 9, "hint_channels": 0}
    as_before(tmp_path, model, config, {"conditions.label.": "label_embed."})
    write_json(tmp_path / "model_index.json", {"clusters": [[0.25, 0.75]] * 3, "class_names": list(CLASSES)})
    loaded = load_denoiser(tmp_path / "denoiser")
    assert loaded.config == model.config
    label = torch.tensor([2, 8])
    assert torch.equal(loaded(X, TIME, label=label), model(X, TIME, label=label))


@pytest.mark.parametrize("classes", [0, 5])
def test_a_unet_of_diffusers_of_an_earlier_version_loads(classes: int, tmp_path: Path) -> None:
    import diffusers

    torch.manual_seed(0)
    sizes = {"in_channels": 2, "out_channels": 2, "block_out_channels": [8], "layers_per_block": 1}
    sizes |= {"norm_num_groups": 4, "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    theirs = diffusers.UNet2DModel(**sizes, num_class_embeds=classes or None).eval()
    config = {"_class_name": "DiffusersUNet", "in_channels": 2, "num_classes": classes, "unet": {**sizes}}
    write_json(tmp_path / "config.json", config)  # alone, as the import of a denoiser writes it
    state = {f"unet.{name}": value for name, value in theirs.state_dict().items()}
    write_tensors(tmp_path / "diffusion_pytorch_model.safetensors", state)
    loaded, x, label = load_denoiser(tmp_path), torch.randn(2, 2, 4, 4), torch.tensor([1, 4])
    assert loaded.known["label"].class_names == tuple(map(str, range(classes)))
    with torch.no_grad():
        if not classes:
            torch.testing.assert_close(loaded(x, TIME), theirs(x, TIME).sample)
            return
        torch.testing.assert_close(loaded(x, TIME, label=label), theirs(x, TIME, label).sample)
        with pytest.raises(LatentiaError, match="by class only"):
            loaded(x, TIME)


@pytest.mark.parametrize(
    "change", [{"num_classes": None}, {"hint_channels": "three"}, {"in_channels": -1}, {"heads": []}]
)
def test_a_damaged_folder_of_an_earlier_version_is_one_line(change: dict, tmp_path: Path) -> None:
    folder = TRAINED / "digits" / "model" / "denoiser"
    config = read_json(folder / "config.json") | change
    write_json(tmp_path / "config.json", config)
    write_tensors(tmp_path / "diffusion_pytorch_model.safetensors", {})
    with pytest.raises(LatentiaError, match=r"config\.json") as caught:
        load_denoiser(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_estimate_is_taken_where_the_objective_gives_one() -> None:
    model = build_denoiser("DiT", SIZES["DiT"], {}, SelfConditioned())
    assert isinstance(model.known["estimate"], Estimate)
    assert not build_denoiser("DiT", SIZES["DiT"], {}, Denoising()).known
