"""Denoisers that are told a cluster of look-alikes beside the class."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import latentia
from latentia.applications.variation import vary
from latentia.conditions import Label, Request
from latentia.diffusion import denoise_with
from latentia.errors import LatentiaError
from latentia.modalities.image.items import picture_items, with_clusters
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.training import load_recipe, train
from latentia.training.denoiser import denoiser_of

CLUSTERS = 3


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = [f"clusters={CLUSTERS}", "training.steps=20", "training.checkpoint_every=20"]
    recipe = load_recipe(str(tiny_model.parent / "recipe.yaml"), overrides)
    out = tmp_path_factory.mktemp("clusters") / "out"
    train(recipe, out, first_stage=tiny_model / "first_stage")
    return out


def test_the_model_knows_how_often_each_cluster_occurs(run: Path) -> None:
    model, held = latentia.load(run / "model"), load_pictures("digits")
    shares_of = model.condition("label").clusters
    assert shares_of.shape == (10, CLUSTERS)
    found = np.load(run / "denoiser" / "clusters.npy")
    for label in range(10):
        shares = np.bincount(found[held.labels == label], minlength=CLUSTERS) / (held.labels == label).sum()
        np.testing.assert_allclose(shares_of[label], shares)


def test_clusters_are_drawn_by_their_shares(run: Path) -> None:
    label: Label = latentia.load(run / "model").condition("label")
    label.clusters = np.array([[0.2, 0.8, 0.0]] * 10)
    labels, like = np.repeat([0, 9, 10], 2000), torch.empty(6000, 1)
    drawn = label.request(Request(6000, {"labels": labels}, seed=0), like)[0]["label"].numpy()
    shares = [np.bincount(drawn[start : start + 2000], minlength=41) / 2000 for start in (0, 2000, 4000)]
    np.testing.assert_allclose(shares[0][10:13], [0.2, 0.8, 0.0], atol=0.04)
    np.testing.assert_allclose(shares[1][37:40], [0.2, 0.8, 0.0], atol=0.04)
    assert shares[2][40] == 1  # "no class"
    alone = label.request(Request(6000, {"labels": labels}, seed=None), like)[0]["label"]
    np.testing.assert_array_equal(alone[:4000], labels[:4000])  # the class alone


def test_drawing_and_editing_work_as_without(run: Path) -> None:
    model = latentia.load(run / "model")
    pictures = model.generate([0, 1, 10], guidance_scale=2.0, seed=1)
    np.testing.assert_array_equal(pictures, model.generate([0, 1, 10], guidance_scale=2.0, seed=1))
    assert model.generate(2).shape == (2, 8, 8, 1)
    assert vary(model, pictures, np.array([0, 1, 10]), strength=0.5).shape == pictures.shape


def test_no_class_is_no_cluster_on_the_way_to_the_noise(run: Path) -> None:
    """The denoiser's label of "no class" follows all clusters."""
    model = latentia.load(run / "model")
    torch.manual_seed(0)
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    z, t = torch.randn(2, *model.latent_shape), torch.tensor([0.3, 0.7])
    for label, row in ((10, 10 + 10 * CLUSTERS), (4, 4)):
        expected = denoise_with(model.denoiser, model.process)(z, t, label=torch.full((2,), row))
        torch.testing.assert_close(model.denoise(2, labels=np.full(2, label))(z, t), expected)


def test_clusters_are_learned_however_often_the_label_is_dropped(tiny_model: Path, tmp_path: Path) -> None:
    overrides = ["clusters=2", "label_dropout=0.6", "training.steps=20", "training.checkpoint_every=20"]
    recipe = load_recipe(str(tiny_model.parent / "recipe.yaml"), overrides)
    model = latentia.load(train(recipe, tmp_path / "out", first_stage=tiny_model / "first_stage"))
    items = with_clusters(picture_items(load_pictures("digits")), 2, recipe.seed, tmp_path / "out")
    start = denoiser_of(recipe, model.latent_shape, items, tmp_path / "out")
    moved = (model.condition("label").table.weight != start.known["label"].table.weight).any(1)
    assert moved[:10].any()
    assert moved[10:30].any()
    assert moved[30]


def test_a_run_keeps_the_clusters_it_began_with(run: Path, tmp_path: Path) -> None:
    items = picture_items(load_pictures("digits"))
    first = with_clusters(items, CLUSTERS, 0, tmp_path).values["cluster"]
    np.testing.assert_array_equal(first // CLUSTERS, items.labels)
    np.save(tmp_path / "denoiser" / "clusters.npy", np.zeros(len(items), np.int64))
    again = with_clusters(items, CLUSTERS, 0, tmp_path).values["cluster"]
    np.testing.assert_array_equal(again, CLUSTERS * items.labels)


@pytest.mark.parametrize("clusters", [[[1.0]] * 10, [[0.5, 0.5, 0.5]] * 10, [[1.0, 1.0, -1.0]] * 10, [[1, 0, 0]] * 9])
def test_damaged_shares_are_refused(run: Path, tmp_path: Path, clusters: list[list[float]]) -> None:
    model = Path(shutil.copytree(run / "model", tmp_path / "model"))
    config = json.loads((model / "denoiser" / "config.json").read_text())
    config["conditions"]["label"]["clusters"] = clusters
    (model / "denoiser" / "config.json").write_text(json.dumps(config))
    with pytest.raises(LatentiaError, match=r"shares|mismatch"):
        latentia.load(model)


def test_clusters_are_not_for_repairs(tiny_model: Path, tmp_path: Path) -> None:
    overrides = ["clusters=2", "task={kind: inpaint}"]
    with pytest.raises(LatentiaError, match="clusters are for pictures that a denoiser learns to draw"):
        train(
            load_recipe(str(tiny_model.parent / "recipe.yaml"), overrides),
            tmp_path / "out",
            first_stage=tiny_model / "first_stage",
        )
