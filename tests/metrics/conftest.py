import numpy as np
import pytest
from sklearn.datasets import load_digits

from latentia.data import PictureSet
from latentia.metrics import FeatureNet, classifier_net


def digits(which: slice, name: str) -> PictureSet:
    bunch = load_digits()
    images = (bunch.images[which, :, :, None] * (255 / 16)).round().astype(np.uint8)
    return PictureSet(images, bunch.target[which].astype(np.int64), tuple("0123456789"), name, "scikit-learn")


@pytest.fixture(scope="session")
def train() -> PictureSet:
    return digits(slice(0, 1200), "digits train")


@pytest.fixture(scope="session")
def test() -> PictureSet:
    return digits(slice(1200, None), "digits test")


@pytest.fixture(scope="session")
def digit_net(train, test, tmp_path_factory) -> FeatureNet:
    return classifier_net(train, test, epochs=8, cache=tmp_path_factory.mktemp("classifiers"))
