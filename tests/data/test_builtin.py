import numpy as np
import pytest
from sklearn.datasets import load_digits

from latentia.errors import LatentiaError
from latentia.modalities.image.readers.builtin import load_pictures


def test_digits_are_those_of_scikit_learn_each_in_one_split():
    train, test = load_pictures("digits"), load_pictures("digits", "test")
    assert train.images.shape[1:] == (8, 8, 1)
    assert len(train) + len(test) == 1797
    bunch = load_digits()
    ours = np.concatenate([train.images, test.images])[..., 0] * (16 / 255)
    np.testing.assert_allclose(ours, np.rint(ours), atol=0.04)  # 17 levels spread over 0…255
    both = np.c_[np.rint(ours).reshape(-1, 64), np.concatenate([train.labels, test.labels])]
    theirs = np.c_[bunch.data, bunch.target]
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(theirs, axis=0))
    assert {tuple(row) for row in both} == {tuple(row) for row in theirs}
    assert train.images.max() == 255


def test_digits_are_stratified_and_the_same_every_time():
    train, test = load_pictures("digits"), load_pictures("digits", "test")
    whole = np.bincount(train.labels) + np.bincount(test.labels)
    np.testing.assert_array_equal(np.bincount(test.labels), whole // 5)
    assert load_pictures("digits").fingerprint == train.fingerprint != test.fingerprint
    assert train.class_index("7") == 7


def test_size_is_applied_to_built_in_sets():
    assert load_pictures("digits", "test", size=12).images.shape == (355, 12, 12, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"name": "mnits"},
            "mnits is neither a path that exists nor one of fashion-mnist, digits, cifar10, auto, hf:NAME",
        ),
        ({"name": "digits", "split": "val"}, "split is 'val', expected 'train' or 'test'"),
        ({"name": "digits", "on_corrupt": "ignore"}, "on_corrupt is 'ignore'"),
        ({"name": "digits", "size": 0}, "size is 0"),
        ({"name": "digits", "size": 10**6}, "size is 1000000"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(arguments, words):
    with pytest.raises(LatentiaError, match=words):
        load_pictures(**arguments)


def test_a_single_file_that_is_no_data_set(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(LatentiaError, match="neither a folder, a parquet file, a tar shard nor the CIFAR-10 archive"):
        load_pictures(tmp_path / "a.png")
