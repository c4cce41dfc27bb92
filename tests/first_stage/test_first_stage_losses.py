"""Losses against closed forms, explicit autograd and the published receptive fields."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentia.errors import LatentiaError
from latentia.modalities.image.first_stage.kl import AutoencoderKL
from latentia.modalities.image.first_stage.perceptual import (
    ClassifierFeatures,
    Perceptual,
    features_of,
    perceptual_loss,
)
from latentia.modalities.image.first_stage.train import (
    RECONSTRUCTION,
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from latentia.modalities.image.items import picture_items
from latentia.modalities.image.metrics import classifier
from latentia.modalities.image.metrics.classifier import PictureClassifier
from latentia.modalities.image.pictures import PictureSet, to_uint8


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 5, 3, stride=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.first(x)
        return [h, self.second(h.relu())]


def test_reconstruction_losses():
    a, b = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 1.0]])
    assert {kind: float(loss(a, b)) for kind, loss in RECONSTRUCTION.items()} == {"l1": 2.0, "l2": 5.0}


def test_perceptual_loss_equals_the_written_out_formula():
    features, a, b = TwoLayers(), normal(2, 1, 9, 9), normal(2, 1, 9, 9, seed=1)
    wanted = 0.0
    for f, g in zip(features(a), features(b), strict=True):
        f, g = f / f.norm(dim=1, keepdim=True), g / g.norm(dim=1, keepdim=True)
        wanted += (2 - 2 * (f * g).sum(1)).mean()  # ‖f − g‖² of unit vectors
    torch.testing.assert_close(perceptual_loss(features, a, b), wanted)


def test_perceptual_loss_takes_one_tensor_and_reaches_only_the_first_picture():
    features, a, b = nn.Flatten(), normal(2, 1, 4, 4).requires_grad_(), normal(2, 1, 4, 4, seed=1).requires_grad_()
    loss = perceptual_loss(features, a, b)
    torch.testing.assert_close(loss, (2 - 2 * F.cosine_similarity(a.flatten(1), b.flatten(1))).mean())
    loss.backward()
    assert a.grad is not None
    assert a.grad.any()
    assert b.grad is None


def test_perceptual_loss_of_black_pictures_has_a_finite_gradient():
    a = torch.zeros(1, 1, 4, 4, requires_grad=True)
    perceptual_loss(nn.Identity(), a, torch.zeros(1, 1, 4, 4)).backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_the_published_patch(layers, field):
    torch.manual_seed(0)
    critic = PatchDiscriminator(1, width=2, layers=layers)
    for i, module in enumerate(critic.body):  # normalisation mixes all positions and would hide the patch
        if isinstance(module, nn.GroupNorm):
            critic.body[i] = nn.Identity()
    x = normal(1, 1, 96, 96).requires_grad_()
    logits = critic(x)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    seen = gradient[0, 0].abs().sum(0).nonzero().flatten()
    assert int(seen.max() - seen.min()) + 1 == field


@pytest.mark.parametrize(("layers", "size", "logits"), [(1, 28, 12), (2, 28, 5), (3, 256, 30), (2, 12, 1), (1, 8, 2)])
def test_logits_form_a_grid(layers, size, logits):
    assert PatchDiscriminator(3, width=2, layers=layers)(normal(2, 3, size, size)).shape == (2, 1, logits, logits)


@pytest.mark.parametrize(("layers", "size"), [(1, 5), (2, 11), (3, 23)])
def test_a_picture_without_a_logit_is_refused(layers, size):
    with pytest.raises(LatentiaError, match=f"{size}×{size}; use fewer layers"):
        PatchDiscriminator(1, layers=layers)(normal(1, 1, size, size))


def test_hinge_losses():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert hinge_discriminator_loss(real, fake) == 0.5 * ((0 + 0.5) / 2 + (0 + 1) / 2)
    assert hinge_generator_loss(fake) == 1.5


def test_adaptive_weight_equals_explicit_gradients():
    torch.manual_seed(0)
    model, critic = AutoencoderKL(channels=(4, 4)), PatchDiscriminator(1, width=2, layers=1)
    x, last = normal(2, 1, 8, 8), model.decoder.head.weight

    def losses() -> tuple[Tensor, Tensor]:
        y = model(x, torch.Generator().manual_seed(0)).x
        return RECONSTRUCTION["l1"](y, x), hinge_generator_loss(critic(y))

    weight = adaptive_weight(*losses(), last)
    norms = []
    for i in range(2):
        last.grad = None
        losses()[i].backward()
        assert last.grad is not None
        norms.append(last.grad.norm())
    torch.testing.assert_close(weight, norms[0] / (norms[1] + 1e-6))
    assert not weight.requires_grad


def test_adaptive_weight_is_bounded_and_leaves_the_graph_usable():
    last = torch.ones(3, requires_grad=True)
    reconstruction, adversary = (last * 7).sum(), (last * 0).sum()
    weight = adaptive_weight(reconstruction, adversary, last)
    assert weight == 1e4
    (reconstruction + weight * adversary).backward()
    assert last.grad is not None
    assert last.grad.tolist() == [7, 7, 7]


@pytest.mark.parametrize("shape", [(1, 12, 16), (3, 20, 20), (3, 90, 70)])
def test_a_classifiers_features_end_in_those_that_it_names(shape):
    torch.manual_seed(0)
    network = PictureClassifier(shape[0], shape[1:], 4).eval()
    features, x = ClassifierFeatures(network), normal(2, *shape)
    layers = features(x)
    assert len(layers) == len(network.body) + 1
    torch.testing.assert_close(layers[-1], network.features(x))
    assert perceptual_loss(features, x, x) == 0
    assert perceptual_loss(features, x, normal(2, *shape, seed=1)) > 0


@pytest.mark.parametrize(
    "change", [{"labels": None, "class_names": ()}, {"labels": np.zeros(40, np.int64), "class_names": ("all",)}]
)
def test_pictures_without_classes_have_no_classifier(tiny_items, change):
    said = []
    items = replace(tiny_items, **change)
    assert features_of(Perceptual(), items, 0, torch.device("cpu"), said.append) is None
    (line,) = said
    assert line.startswith("first stage: no perceptual loss")


def test_the_loss_of_features_is_not_that_of_evaluation(tiny_items, monkeypatch):
    """A judge whose features had been trained on would measure its own taste."""
    seeds = []
    really_train = classifier.train_classifier

    def recorded(pictures, *, seed, **how):
        seeds.append(seed)
        assert np.array_equal(pictures.images, to_uint8(tiny_items.tensor(slice(0, len(tiny_items)))))
        return really_train(pictures, seed=seed, **how)

    monkeypatch.setattr(classifier, "train_classifier", recorded)
    network = features_of(Perceptual(epochs=1), tiny_items, 0, torch.device("cpu"), print)
    assert seeds != [0]
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.fixture
def tiny_items(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTIA_CACHE", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    return picture_items(PictureSet(images, np.arange(40) % 4, tuple("abcd"), "tiny", ""))
