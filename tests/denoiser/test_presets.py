"""Presets have the sizes they claim; a denoiser's folder brings it back."""

import json

import pytest
import torch

from latentia.denoiser import DENOISERS, PRESETS, DiT, UNet, count_parameters
from latentia.errors import LatentiaError
from latentia.files import load_part, save_part

CLASSIC = {"rope": False, "swiglu": False, "qk_norm": False, "rms_norm": False}
TINY = {
    "DiT": {"in_channels": 2, "grid": (3, 5), "width": 16, "depth": 1, "heads": 2, "num_classes": 3},
    "UNet": {"in_channels": 2, "width": 8, "blocks": 1, "heads": 2, "num_classes": 3},
}


def build(name, **arguments):
    """A preset without memory for its weights."""
    sizes = dict(PRESETS[name])
    denoiser = DENOISERS[sizes.pop("_class_name")]
    if denoiser is DiT:
        arguments = {"grid": (32, 32), "patch": 2, **arguments}
    with torch.device("meta"):
        return denoiser(in_channels=4, **sizes, **arguments)


@pytest.mark.parametrize(("name", "millions"), [("DiT-S", 33), ("DiT-B", 130), ("DiT-L", 458), ("DiT-XL", 675)])
def test_classic_presets_have_the_parameters_of_the_paper(name, millions):
    """Peebles & Xie 2023, table 1 (patch 2, ImageNet classes, learned variances)."""
    model = build(name, num_classes=1000, out_channels=8, **CLASSIC)
    assert count_parameters(model) == pytest.approx(1e6 * millions, rel=0.01)


@pytest.mark.parametrize("name", ["DiT-S", "DiT-B"])
def test_the_modern_block_costs_no_more_than_the_classic(name):
    assert count_parameters(build(name)) == pytest.approx(count_parameters(build(name, **CLASSIC)), rel=0.005)


def test_presets_run_from_about_a_million_parameters_upwards():
    for family in ("DiT", "UNet"):
        counts = [count_parameters(build(name)) for name in PRESETS if name.startswith(f"{family}-")]
        assert counts == sorted(counts)
        assert 0.5e6 < counts[0] < 1.5e6
        assert counts[-1] > 250e6


def test_count_parameters_leaves_out_what_is_frozen():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert count_parameters(model) == 6


@pytest.mark.parametrize("name", TINY)
def test_a_saved_part_comes_back(name, tmp_path):
    torch.manual_seed(0)
    model = DENOISERS[name](**TINY[name])
    torch.nn.init.normal_(model.final.weight)
    save_part(tmp_path, model, model.config)
    loaded = load_part(tmp_path, DENOISERS)
    assert type(loaded) is DENOISERS[name]
    assert loaded.config == model.config == json.loads(json.dumps(model.config))
    x, time, label = torch.randn(2, 2, 3, 5), torch.tensor([3.0, 700.0]), torch.tensor([1, 3])
    assert torch.equal(loaded(x, time, label), model(x, time, label))
    assert model(x, time, label).any()


@pytest.mark.parametrize(("denoiser", "change"), [(DiT, {"heads": 3}), (UNet, {"heads": 3}), (DiT, {"many heads": 8})])
def test_a_folder_with_a_wrong_config_is_refused(denoiser, change, tmp_path):
    model = denoiser(**TINY[denoiser.__name__])
    save_part(tmp_path, model, {**model.config, **change})
    with pytest.raises(LatentiaError, match="heads"):
        load_part(tmp_path, DENOISERS)
