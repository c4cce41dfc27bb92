from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from latentia.files import load_part, save_part
from latentia.language.tokenizer import Tokenizer, train_tokenizer
from latentia.modalities.image.metrics.classifier import (
    PictureClassifier,
    accuracy,
    classifier_features,
    train_classifier,
)
from latentia.modalities.image.metrics.features import FeatureNet
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.text.texts import TextSet


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
def digit_net(train, test, kept) -> FeatureNet:
    """The features of a kept classifier of the training digits."""

    def build(path: Path) -> None:
        network = train_classifier(train, epochs=8)
        save_part(path, network, network.config)

    network = load_part(kept("digit-classifier", build), {"PictureClassifier": PictureClassifier}).eval()
    share = accuracy(network, test.images, test.labels)
    return FeatureNet(
        "classifier:digits train", lambda images: classifier_features(network, images), network, accuracy=share
    )


@pytest.fixture(scope="session")
def squares() -> PictureSet:
    """Four classes of nearly plain squares, from black to white, which any classifier learns to tell apart."""
    labels = np.arange(200) % 4
    noise = np.random.default_rng(0).integers(0, 20, (200, 8, 8, 1))
    return PictureSet((labels[:, None, None, None] * 70 + noise).astype(np.uint8), labels, tuple("abcd"), "squares", "")


PARTS = {  # class → subjects, verbs and places; half of the words are shared by the classes
    "animal": (("fox", "owl", "horse", "trout"), ("hunts", "sleeps", "waits"), ("forest", "river", "field")),
    "tool": (("hammer", "drill", "saw", "file"), ("rusts", "lies", "waits"), ("drawer", "shed", "field")),
    "person": (("clerk", "baker", "singer", "judge"), ("speaks", "sleeps", "lies"), ("office", "river", "shed")),
}


def sentences(count: int, seed: int, name: str) -> TextSet:
    """Sentences of a small grammar, with the kind of their subject as class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    texts = []
    for label in labels:
        subject, verb, place = (generator.choice(words) for words in list(PARTS.values())[label])
        article, adjective = generator.choice(["a", "the", "one"]), generator.choice(["old", "small", "red", "quiet"])
        texts.append(f"{article} {adjective} {subject} {verb} near {generator.choice(['a', 'the'])} {place}")
    return TextSet(tuple(texts), labels.astype(np.int64), tuple(PARTS), name, "a small grammar")


@pytest.fixture(scope="session")
def text_train() -> TextSet:
    return sentences(600, 0, "sentences train")


@pytest.fixture(scope="session")
def text_test() -> TextSet:
    return sentences(200, 1, "sentences test")


@pytest.fixture(scope="session")
def tokenizer(text_train) -> Tokenizer:
    return train_tokenizer(text_train.texts, vocab_size=320)
