import inspect
from pathlib import Path

import pytest
import yaml

from latentia.denoiser import DENOISERS, PRESETS
from latentia.diffusion import PROCESSES, SAMPLERS, SPACINGS
from latentia.errors import LatentiaError
from latentia.modalities.stages import FIRST_STAGES
from latentia.training import bundled_recipes, describe_fields, dump_recipe, load_recipe
from latentia.training import recipe as room


@pytest.mark.parametrize("name", list(bundled_recipes()))
def test_bundled_recipes_are_valid_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "again.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(path)) == recipe
    assert recipe.description


def test_overrides_reach_nested_fields() -> None:
    recipe = load_recipe("demo", ["training.steps=7", "data.flips=true", "data.name=some/folder"])
    assert (recipe.training.steps, recipe.data.flips, recipe.data.name) == (7, True, "some/folder")


def test_no_is_a_word_not_a_truth_value() -> None:
    assert load_recipe("demo", ["compute.mixed_precision=no"]).compute.mixed_precision == "no"
    with pytest.raises(LatentiaError, match="mixed_precision"):
        load_recipe("demo", ["compute.mixed_precision=yes"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("denoiser.dephts=8", "dephts"),
        ("training.steps=many", "training.steps"),
        ("training.steps=0", "greater than or equal to 1"),
        ("process.kind=DDPM", "process"),
        ("denoiser.preset=DiT-Huge", "DiT-Huge"),
        ("training.steps", "field=value"),
    ],
)
def test_a_bad_field_is_named_in_one_line(override: str, said: str) -> None:
    with pytest.raises(LatentiaError, match=said) as caught:
        load_recipe("demo", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a list", "a: [", "!!python/object/apply:os.system ['true']", "\x00"])
def test_what_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LatentiaError, match=r"bad\.yaml") as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_names_the_bundled_ones() -> None:
    with pytest.raises(LatentiaError, match="demo"):
        load_recipe("nowhere.yaml")


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_fill_what_is_not_given(name: str, tmp_path: Path) -> None:
    tree = yaml.safe_load(bundled_recipes()["demo"].read_text(encoding="utf-8"))
    kind = PRESETS[name]["_class_name"]
    tree["denoiser"] = {"kind": kind, "preset": name, "heads": 1}
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    denoiser = load_recipe(str(path)).denoiser
    assert denoiser.heads == 1
    assert denoiser.width == PRESETS[name]["width"]


def test_sections_offer_what_the_constructors_take() -> None:
    """A field that no constructor knows, or a choice that no table holds, would be a dead option."""
    for name, section in (("DiT", room.DiT), ("UNet", room.UNet)):
        taken = set(inspect.signature(DENOISERS[name]).parameters)
        assert set(section.model_fields) - {"kind", "preset"} <= taken
    for name, section in (("VP", room.VP), ("RectifiedFlow", room.RectifiedFlow), ("EDM", room.EDM)):
        assert set(section.model_fields) - {"kind"} == set(inspect.signature(PROCESSES[name]).parameters)
    fields = room.Sampling.model_fields
    assert set(fields["sampler"].annotation.__args__) == set(SAMPLERS)
    assert set(fields["spacing"].annotation.__args__) == set(SPACINGS)
    recipes = {"AutoencoderKL": "demo", "AutoencoderVQ": "demo", "TextAutoencoder": "demo-text"}
    assert {*recipes, "DiffusersKL"} == set(FIRST_STAGES)  # that one is imported, not trained
    for name, recipe in recipes.items():
        stage = load_recipe(recipe).first_stage.model_copy(update={"kind": name})
        assert set(stage.arguments(3)) == set(inspect.signature(FIRST_STAGES[name]).parameters)


def test_every_field_is_documented() -> None:
    rows = describe_fields()
    assert {"denoiser.depth", "process.min_snr_gamma", "first_stage.discriminator.weight"} <= {
        name for name, _, _ in rows
    }
    undocumented = [name for name, _, description in rows if not description and not name.endswith(".kind")]
    assert undocumented == []
