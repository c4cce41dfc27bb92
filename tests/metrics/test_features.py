import hashlib
import pickle
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from latentia.errors import LatentiaError
from latentia.modalities.image.metrics import features
from latentia.modalities.image.metrics.classifier import accuracy, classifier_features
from latentia.modalities.image.metrics.features import (
    FeatureNet,
    classifier_net,
    imagenet_net,
    inception_net,
)


class Extractor(torch.nn.Module):
    """Stands in for torch-fidelity's, which loads its file like this and returns one tensor a feature asked for."""

    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert features_list == ["2048"]
        self.scale = torch.load(feature_extractor_weights_path, weights_only=False)["scale"]

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (x.float().mean((2, 3)) * self.scale,)


@pytest.fixture
def torch_fidelity(monkeypatch):
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    torch.save({"scale": torch.tensor(2.0)}, path)
    trust(path, monkeypatch)
    return path


def trust(path, monkeypatch):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION_SHA256_STARTS", digest[:8])


@pytest.fixture
def photograph():
    return np.asarray(Image.fromarray(load_sample_image("china.jpg")).resize((96, 64)))[None]


def test_a_classifier_names_its_data_and_accuracy(squares, tmp_path):
    net = classifier_net(squares, squares, epochs=8, cache=tmp_path)
    assert net.name == "classifier:squares"
    assert net.frechet_name == "Fréchet distance"
    assert net.accuracy == accuracy(net.classifier, squares.images, squares.labels)
    assert np.array_equal(net.extract(squares.images[:3]), classifier_features(net.classifier, squares.images[:3]))


def test_a_classifier_needs_labels(train, test):
    with pytest.raises(LatentiaError, match="digits test has no labels"):
        classifier_net(train, replace(test, labels=None, class_names=()))


def test_inception_sees_three_channels(torch_fidelity, weights, test, monkeypatch):
    monkeypatch.setattr(features, "AT_ONCE", 7)
    net = inception_net(weights)
    assert net.frechet_name == "FID"
    found = net.extract(test.images[:20])
    assert found == pytest.approx(2 * test.images[:20].mean((1, 2)).repeat(3, axis=1), rel=1e-5)
    assert np.array_equal(found, net.extract(test.images[:20].repeat(3, axis=3)))


def test_only_inception_is_called_fid():
    assert FeatureNet("classifier:inception", lambda images: np.zeros((len(images), 1))).frechet_name != "FID"


def test_missing_weights_are_asked_for_not_fetched(torch_fidelity, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        LatentiaError, match=r"not at .*checkpoints/weights-inception-2015-12-05-6726825d.pth: download"
    ):
        inception_net()
    with pytest.raises(LatentiaError, match=r"not at .*mine.pth"):
        inception_net(tmp_path / "mine.pth")


def test_hub_cache_is_looked_in(torch_fidelity, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    weights.rename(tmp_path / "checkpoints" / features.INCEPTION_FILE)
    assert inception_net().name == "inception-v3 (torch-fidelity)"


def test_other_weights_are_no_fid(torch_fidelity, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"scale": torch.tensor(2.0)}, path)
    with pytest.raises(LatentiaError, match="not the file that FID is defined by"):
        inception_net(path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_is_not_executed(torch_fidelity, tmp_path, monkeypatch):
    fired, path = tmp_path / "fired", tmp_path / "weights.pth"
    torch.save({"scale": Bomb(str(fired))}, path)
    trust(path, monkeypatch)
    with pytest.raises(LatentiaError, match="does not hold the Inception weights"):
        inception_net(path)
    path.write_bytes(pickle.dumps(Bomb(str(fired)), protocol=2))
    trust(path, monkeypatch)
    with pytest.raises(LatentiaError, match="does not hold the Inception weights"):
        inception_net(path)
    assert not fired.exists()


def test_torch_fidelity_may_be_absent(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(LatentiaError, match=r"pip install 'latentia\[fid\]'"):
        inception_net(weights)


def test_imagenet_features_know_what_is_to_be_seen(photograph):
    """The network's own last layer names scikit-learn's photograph of a Chinese palace, though it is made small."""
    from latentia.modalities.image.metrics.features import _imagenet

    said = _imagenet().eval()._fc(torch.from_numpy(imagenet_net().extract(photograph)))
    assert int(said.argmax()) in {663: "monastery", 698: "palace", 832: "stupa"}


def test_imagenet_features_are_those_of_the_network_as_it_is_published(photograph):
    from latentia.modalities.image.metrics.features import _imagenet

    pixels = torch.from_numpy(photograph).permute(0, 3, 1, 2).float()
    large = torch.nn.functional.interpolate(pixels, (224, 224), mode="bicubic").clamp(0, 255)
    with torch.inference_mode():
        expected = _imagenet().eval().extract_features((large - 127) / 128).mean((2, 3))
    assert imagenet_net().extract(photograph) == pytest.approx(expected.numpy(), abs=1e-3)


def test_imagenet_features_take_grey_pictures(test, monkeypatch):
    monkeypatch.setattr(features, "IMAGENET_AT_ONCE", 2)
    net = imagenet_net()
    assert net.name == "EfficientNet-Lite0 (ImageNet)"
    assert net.frechet_name == "Fréchet distance"
    found = net.extract(test.images[:3])
    assert found.shape == (3, 1280)
    assert found == pytest.approx(imagenet_net().extract(test.images[:3].repeat(3, axis=3)), abs=1e-4)


def test_altered_imagenet_weights_are_not_read(monkeypatch):
    monkeypatch.setattr(features, "IMAGENET_SHA256_STARTS", "0" * 8)
    with pytest.raises(LatentiaError, match=r"efficientnet-lite0-57934424\.pth is missing or altered"):
        imagenet_net()


def test_the_imagenet_network_may_be_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(LatentiaError, match=r"pip install 'latentia\[imagenet\]'"):
        imagenet_net()
