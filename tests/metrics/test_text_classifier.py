from dataclasses import replace

import numpy as np
import pytest

from latentia.errors import LatentiaError
from latentia.modalities.text.metrics.classifier import class_accuracy, train_text_classifier
from latentia.modalities.text.texts import TextSet


@pytest.fixture(scope="module")
def classifier(text_train):
    return train_text_classifier(text_train)


def test_learns_the_kinds(classifier, text_test):
    share = class_accuracy(classifier, text_test.texts, text_test.labels)
    assert share > 0.98
    assert share == (classifier.predict(text_test.texts) == text_test.labels).mean()
    assert class_accuracy(classifier, text_test.texts, (text_test.labels + 1) % 3) < 0.02
    assert classifier.class_names == ("animal", "tool", "person")
    assert classifier.name.endswith("sentences train")


def test_pairs_of_words_count():
    """Every word is as frequent in one class as in the other; only their order differs."""
    texts = [f"{a} {b}" for a, b in (("hot", "dog"), ("dog", "hot"))] * 20
    labels = np.arange(40, dtype=np.int64) % 2
    pairs = TextSet(tuple(texts), labels, ("food", "weather"), "pairs", "")
    assert class_accuracy(train_text_classifier(pairs), texts, labels) == 1


def test_characters_of_unspaced_scripts_are_words():
    texts = tuple(f"{'猫' if i % 2 else '车'}{'很喜欢跑大小快慢'[i % 7]}" for i in range(40))
    chinese = TextSet(texts, np.arange(40, dtype=np.int64) % 2, ("car", "cat"), "chinese", "")
    assert train_text_classifier(chinese).predict(["白猫在家", "汽车在家"]).tolist() == [1, 0]


def test_unknown_words_get_some_class(classifier):
    assert set(classifier.predict(["", "zyx"])) <= {0, 1, 2}


def test_a_seed_repeats_it(text_train, text_test):
    few = text_train.subset(slice(0, 30))
    first, again = (train_text_classifier(few, seed=1).pipeline.decision_function(text_test.texts) for _ in range(2))
    assert np.array_equal(first, again)


def test_refuses(classifier, text_train):
    with pytest.raises(LatentiaError, match="there are no labels"):
        train_text_classifier(replace(text_train, labels=None, class_names=()))
    with pytest.raises(LatentiaError, match="at least two classes"):
        train_text_classifier(text_train.subset(text_train.labels == 1))
    with pytest.raises(LatentiaError, match="no word"):
        train_text_classifier(TextSet(("", " "), np.array([0, 1]), ("a", "b"), "empty", ""))
    with pytest.raises(LatentiaError, match="labels run from 0 to 3"):
        class_accuracy(classifier, ["a", "b"], np.array([0, 3]))
    with pytest.raises(LatentiaError, match="too few"):
        class_accuracy(classifier, [], np.zeros(0, int))
