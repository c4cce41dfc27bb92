import json
from dataclasses import replace

import numpy as np
import pytest

from latentia.errors import LatentiaError
from latentia.metrics.distances import coverage, frechet_distance
from latentia.modalities.image.evaluation import evaluate as report_module
from latentia.modalities.image.evaluation.evaluate import evaluate_pictures
from latentia.modalities.image.metrics.classifier import classification_accuracy_score
from latentia.modalities.image.metrics.features import FeatureNet


@pytest.fixture(scope="module")
def report(train, test, digit_net):
    """Half of the unseen pictures play the generated ones: they must come out like the other half."""
    generated = replace(test.subset(slice(0, 300)), name="as good as real")
    return evaluate_pictures(generated, train, test.subset(slice(300, None)), feature_net=digit_net, score=False)


def test_real_pictures_come_out_near_their_reference(report):
    assert report["Fréchet distance"].n == 297
    for name, tolerance in {"precision": 0.15, "coverage": 0.15, "recall": 0.25, "label agreement": 0.1}.items():
        assert report[name].value == pytest.approx(report[name].reference, abs=tolerance)
    ratio = report["Fréchet distance"].value / report["Fréchet distance"].reference
    assert 0.3 < ratio < 3
    assert report["pixel distance to nearest training picture"].value == pytest.approx(
        report["pixel distance to nearest training picture"].reference, rel=0.15
    )


def test_figures_are_those_of_the_functions(report, train, test, digit_net):
    unseen = test.subset(slice(300, None))
    expected = frechet_distance(digit_net.extract(train.images), digit_net.extract(unseen.images))
    assert report["Fréchet distance"].reference == pytest.approx(expected, rel=1e-6)


def test_bad_pictures_fall_behind_their_reference(train, test, digit_net):
    noise = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
    generated = replace(test.subset(slice(0, 300)), images=noise, name="noise")
    report = evaluate_pictures(generated, train, test, feature_net=digit_net, score=False)
    assert report["Fréchet distance"].value > 5 * report["Fréchet distance"].reference
    assert report["kernel distance"].value > 5 * report["kernel distance"].reference
    assert report["coverage"].value < 0.5 * report["coverage"].reference
    assert report["label agreement"].value < 0.4


def test_a_verdict_stands_above_the_table(report, train, test, digit_net):
    assert "verdict: no figure is far from that of real pictures" in report.table()
    blob = test.images[:1].repeat(24, axis=0)  # precise, since it is a real picture
    generated = replace(test.subset(slice(0, 24)), images=blob, name="blobs")
    rubbish = evaluate_pictures(generated, train, test, feature_net=digit_net, score=False)
    assert rubbish["precision"].value == 1
    (line,) = rubbish.notes
    assert line.startswith("verdict: far from the data: the classifier recognises")
    assert "recall is 0" in line
    assert "too few pictures for Fréchet distance, kernel distance, precision" in line
    assert "24 (too few: 1000)" in rubbish.table()
    copies = replace(train.subset(slice(0, 300)), name="copies")
    assert "copies" in evaluate_pictures(copies, train, test, feature_net=digit_net, score=False).notes[0]


def test_copies_are_told(train, test, digit_net):
    generated = replace(train.subset(slice(0, 300)), name="copies", labels=None, class_names=())
    report = evaluate_pictures(generated, train, test, feature_net=digit_net)
    assert report["pixel distance to nearest training picture"].value == 0
    assert report["share nearer than 99 % of test"].value == 1
    with pytest.raises(LatentiaError, match="no 'label agreement', only Fréchet distance"):
        report["label agreement"]


def test_score_is_part_of_it(train, test, digit_net):
    generated, real = train.subset(slice(0, 150)), train.subset(slice(150, 500))
    report = evaluate_pictures(generated, real, test.subset(slice(0, 100)), feature_net=digit_net)
    figure = report["classification accuracy score"]
    expected = classification_accuracy_score(generated, real, test.subset(slice(0, 100)))
    assert (figure.n, figure.value, figure.reference) == (150, expected.generated, expected.real)


def test_a_seed_repeats_the_report(report, train, test, digit_net):
    generated = replace(test.subset(slice(0, 300)), name="as good as real")
    unseen = test.subset(slice(300, None))
    again = evaluate_pictures(generated, train, unseen, feature_net=digit_net, score=False)
    other = evaluate_pictures(generated, train, unseen, feature_net=digit_net, score=False, seed=1)
    assert again == report
    assert other["kernel distance"].value != report["kernel distance"].value


def test_table_is_aligned_and_names_its_network(report):
    text = report.table()
    assert "classifier:digits train (accuracy 9" in text.splitlines()[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(report.figures)
    assert len({len(row) for row in rows}) == 1
    assert len({tuple(i for i, letter in enumerate(row) if letter == "|") for row in rows}) == 1
    value = f"{report['coverage'].value:.4g}"
    assert any("coverage" in row and value in row for row in rows)


def test_json_holds_every_figure(report):
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["feature_net"] == "classifier:digits train"
    assert [row["name"] for row in values["figures"]] == [figure.name for figure in report.figures]
    assert values["figures"][0]["value"] == report.figures[0].value


def test_refuses(train, test, digit_net):
    few = test.subset(slice(0, 5))
    with pytest.raises(LatentiaError, match="each set needs at least 6 pictures"):
        evaluate_pictures(few, train, test, feature_net=digit_net)
    with pytest.raises(LatentiaError, match="one size"):
        evaluate_pictures(replace(few, images=few.images.repeat(3, 3)), train, test, feature_net=digit_net)
    with pytest.raises(LatentiaError, match="do not name the same classes"):
        evaluate_pictures(replace(few, class_names=tuple("abcdefghij")), train, test, feature_net=digit_net)
    broken = replace(digit_net, extract=lambda images: np.full((len(images), 3), np.nan))
    with pytest.raises(LatentiaError, match=r"classifier:digits train of digits train: .* not finite"):
        evaluate_pictures(test, train, test, feature_net=broken, score=False)


def test_coverage_is_of_clouds_of_one_size(train, test, digit_net, monkeypatch):
    sizes = []

    def recorded(real, fake, k):
        sizes.append((len(real), len(fake)))
        return coverage(real, fake, k)

    monkeypatch.setattr(report_module, "coverage", recorded)
    evaluate_pictures(test.subset(slice(0, 90)), train, test, feature_net=digit_net, score=False)
    assert sizes == [(90, 90), (90, 90)]


def test_a_small_training_set_is_used_whole(train, test, digit_net):
    small = train.subset(slice(0, 40))
    report = evaluate_pictures(test, small, test, feature_net=digit_net, score=False)
    features = digit_net.extract(test.images)
    expected = coverage(digit_net.extract(small.images), features)
    assert report["recall"].value == pytest.approx(expected.recall)


def test_a_second_network_gives_a_distance_of_its_own_name(train, test, digit_net, monkeypatch):
    monkeypatch.setattr(report_module, "FURTHER", 200)
    generated = replace(test.subset(slice(0, 300)), name="as good as real")
    means = FeatureNet("row means", lambda images: images.mean((2, 3)).astype(np.float32))
    report = evaluate_pictures(
        generated, train, test.subset(slice(300, None)), feature_net=digit_net, also=[means], score=False
    )
    figure = report["Fréchet distance of row means"]
    assert figure.n == 200
    assert 0.2 < figure.value / figure.reference < 5
    assert f"feature network: {digit_net.name}" in report.table()
