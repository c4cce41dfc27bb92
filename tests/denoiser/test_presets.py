"""Presets have the sizes they claim."""

import pytest
import torch

from latentia.conditions import Label
from latentia.denoiser import CORES, PRESETS, DiT, count_parameters

CLASSIC = {"rope": False, "swiglu": False, "qk_norm": False, "rms_norm": False}


def build(name, **arguments):
    """A preset without memory for its weights."""
    sizes = dict(PRESETS[name])
    core = CORES[sizes.pop("_class_name")]
    if core is DiT:
        arguments = {"grid": (32, 32), "patch": 2, **arguments}
    with torch.device("meta"):
        return core(in_channels=4, **sizes, **arguments)


@pytest.mark.parametrize(("name", "millions"), [("DiT-S", 33), ("DiT-B", 130), ("DiT-L", 458), ("DiT-XL", 675)])
def test_classic_presets_have_the_parameters_of_the_paper(name, millions):
    """Peebles & Xie 2023, table 1 (patch 2, ImageNet classes, learned variances)."""
    model = build(name, out_channels=8, shared_modulation=False, **CLASSIC)
    label = Label(model.signal_width, [str(number) for number in range(1000)])
    assert count_parameters(model) + count_parameters(label) == pytest.approx(1e6 * millions, rel=0.01)


@pytest.mark.parametrize("name", ["DiT-S", "DiT-B"])
def test_the_modern_block_costs_no_more_than_the_classic(name):
    modern, classic = (build(name, shared_modulation=False, **flags) for flags in ({}, CLASSIC))
    assert count_parameters(modern) == pytest.approx(count_parameters(classic), rel=0.005)


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
