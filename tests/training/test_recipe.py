from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from latentia.config import part_of, plain
from latentia.denoiser import CORES, PRESETS
from latentia.diffusion import SAMPLERS, SPACINGS, Sampling, process_config
from latentia.errors import LatentiaError
from latentia.modalities.registry import first_stages
from latentia.training import bundled_recipes, describe_fields, dump_recipe, load_recipe
from latentia.training.denoiser import DECIDING


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
        ("first_stage=null", "first_stage: expected a section"),
        ("first_stage=KL", "first_stage: expected a section"),
        ("first_stage.kind=[1]", r"first_stage\.kind"),
        ("data=digits", "data: expected a section"),
        ("conditions={nonsense: {}}", "'nonsense' is no plug-in's condition"),
        ("conditions={label: {}}", "'label' is no plug-in's condition"),
        ("objective={kind: magic}", "expected one of denoising"),
        ("objective={kind: [1]}", "expected one of denoising"),
        ("objective={kind: self_conditioned, share: 7}", "share"),
        ("objective=denoising", "objective: expected a section"),
        ("denoiser.preset=[1]", r"denoiser\.preset"),
        ('description="unclosed', 'set description="unclosed: found unexpected end of stream .line 1, column'),
        ("name=@x", "set name=@x: found character"),
        ("name=${oc.env:HOME}", "a recipe takes nothing from the environment"),
        ("description=[a, '${oc.env:HOME,x}']", "a recipe takes nothing from the environment"),
        ("process.min_snr_gamma=/etc", r"process\.min_snr_gamma: Input should be a valid number"),
        ("training.clip_norm=true", r"training\.clip_norm: .*expected a number"),
        ("sampling.guidance_scale=1e300", r"sampling\.guidance_scale: .* less than or equal to 1000"),
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


def test_choices_are_those_that_tables_hold() -> None:
    types = get_type_hints(Sampling)
    assert set(get_args(types["sampler"])) == set(SAMPLERS)
    assert set(get_args(types["spacing"])) == set(SPACINGS)


@pytest.mark.parametrize("name", list(bundled_recipes()))
def test_a_section_is_what_the_constructor_takes_and_the_config_holds(name: str) -> None:
    """Sizes are written once: recipe, constructor and config.json have the same fields and values."""
    recipe = load_recipe(name)
    core = CORES[recipe.denoiser.kind](in_channels=2, grid=(8, 8), **recipe.core_arguments)
    assert recipe.core_arguments.items() <= core.config.items()
    kind: Any = first_stages()[recipe.first_stage.kind]
    more: dict[str, Any] = {"vocab_size": 400} if "vocab_size" in plain(recipe.first_stage) else {"in_channels": 3}
    sizes = part_of(recipe.first_stage, kind.Config)
    assert kind(**more, **sizes).config == {**kind(**more).config, **sizes}
    assert process_config(recipe.process) == {"_class_name": type(recipe.process).__name__, **plain(recipe.process)}


def test_recipes_of_the_version_before_are_read() -> None:
    """They had the fields of all kinds in one section."""
    path = Path(__file__).parents[1] / "trained" / "digits" / "recipe.yaml"
    assert "codebook_size" in path.read_text()
    recipe = load_recipe(str(path))
    assert (recipe.first_stage.kind, recipe.training.steps) == ("AutoencoderKL", 200)


def test_a_kind_can_be_changed_where_its_fields_extend_the_same_sizes() -> None:
    """`demo` sets kl_weight, which a VQ autoencoder does not have."""
    assert (
        load_recipe(
            "demo", ["first_stage.kind=AutoencoderVQ", "first_stage.codebook_size=64"]
        ).first_stage.codebook_size
        == 64
    )
    with pytest.raises(LatentiaError, match=r"first_stage\.channels"):
        load_recipe("demo", ["first_stage.kind=TextAutoencoder"])


def test_every_field_is_documented() -> None:
    rows = describe_fields()
    assert {"denoiser.depth", "process.min_snr_gamma", "first_stage.discriminator.weight"} <= {
        name for name, _, _ in rows
    }
    undocumented = [name for name, _, description in rows if not description and not name.endswith(".kind")]
    assert undocumented == []


@pytest.mark.parametrize(
    ("stage", "core", "hashed"),
    [
        ("AutoencoderKL", "UNet", "7025842e1a21d8d2"),
        ("AutoencoderVQ", "DiT", "b614be25cb4ca900"),
        ("TextAutoencoder", "DiT", "41ef253059f655d5"),
    ],
)
def test_a_run_of_version_0_2_goes_on(stage: str, core: str, hashed: str, tmp_path: Path) -> None:
    """The hashes are those of that version: a field that is new since then is null unless a recipe sets it."""
    loop = {"steps": 1, "batch_size": 1, "learning_rate": 0.1}
    recipe = {"name": "old", "data": {"name": "wordnet" if stage == "TextAutoencoder" else "digits"}}
    recipe |= {"first_stage": {"kind": stage, "training": loop}, "process": {"kind": "EDM"}}
    recipe |= {"denoiser": {"kind": core}, "training": loop}
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert load_recipe(str(path)).hash(*DECIDING) == hashed
