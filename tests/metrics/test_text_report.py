import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentia.errors import LatentiaError
from latentia.files import load_part, save_part
from latentia.language.tokenizer import token_matrix
from latentia.metrics.distances import frechet_distance
from latentia.modalities.text.metrics import report as text_report
from latentia.modalities.text.metrics.classifier import train_text_classifier
from latentia.modalities.text.metrics.counts import distinct_n, words
from latentia.modalities.text.metrics.judge import JudgeLM, perplexity, train_judge
from latentia.modalities.text.metrics.report import (
    SentenceNet,
    evaluate_text_reconstruction,
    evaluate_texts,
    token_agreement,
)
from latentia.modalities.text.texts import TextSet

LONGEST = 40


@pytest.fixture(scope="module")
def judge(text_train, tokenizer, kept):
    def build(path: Path) -> None:
        ids = token_matrix(tokenizer, text_train.texts, LONGEST, on_long="refuse").ids
        network = train_judge(
            ids, tokenizer.vocab_size, steps=200, batch_size=32, learning_rate=4e-3, width=32, depth=1, heads=2
        )
        save_part(path, network, network.config)

    return load_part(kept("judge", build), {"JudgeLM": JudgeLM}).eval()


@pytest.fixture(scope="module")
def classifier(text_train):
    return train_text_classifier(text_train)


@pytest.fixture(scope="module")
def bag(text_train) -> SentenceNet:
    """Word counts play the sentence embeddings."""
    vocabulary = {word: i for i, word in enumerate(sorted({w for text in text_train.texts for w in words(text)}))}

    def extract(texts):
        counts = np.zeros((len(texts), len(vocabulary) + 1), np.float32)
        for row, text in zip(counts, texts, strict=True):
            for word in words(text):
                row[vocabulary.get(word, -1)] += 1
        return counts

    return SentenceNet("bag of words", extract)


@pytest.fixture(scope="module")
def measure(text_train, judge, tokenizer, classifier, bag):
    """Everything of a set of texts, against the sets of the small grammar."""

    def measure(generated: TextSet, test: TextSet, **options):
        options = {"classifier": classifier, "network": bag} | options
        return evaluate_texts(generated, text_train, test, judge=judge, tokenizer=tokenizer, **options)

    return measure


@pytest.fixture(scope="module")
def halves(text_test):
    """Half of the unseen texts play the generated ones: they must come out like the other half."""
    return replace(text_test.subset(slice(0, 100)), name="as good as real"), text_test.subset(slice(100, None))


@pytest.fixture(scope="module")
def report(measure, halves):
    return measure(*halves)


def test_real_texts_come_out_near_their_reference(report):
    tolerances = {
        "perplexity under the judge": 0.15,
        "distinct-1": 0.15,
        "distinct-4": 0.1,
        "self-BLEU-4": 0.1,
        "4-grams in training": 0.15,
        "class accuracy": 0.05,
        "Fréchet distance, bag of words": 0.6,
        "MAUVE, bag of words": 0.3,
    }
    for name, tolerance in tolerances.items():
        assert report[name].value == pytest.approx(report[name].reference, rel=tolerance), name
        assert report[name].n == 100
    assert len(report.figures) == 11


def test_figures_are_those_of_the_functions(report, halves, text_train, judge, tokenizer, bag):
    made, unseen = halves
    for part, name in ((made, "value"), (unseen, "reference")):
        ids = token_matrix(tokenizer, part.texts, LONGEST, on_long="refuse").ids
        assert getattr(report["perplexity under the judge"], name) == pytest.approx(perplexity(judge, ids))
        for n in range(1, 5):
            assert getattr(report[f"distinct-{n}"], name) == distinct_n(part.texts, n)
    expected = frechet_distance(bag.extract(unseen.texts), bag.extract(made.texts))
    assert report["Fréchet distance, bag of words"].value == pytest.approx(expected)


def test_noise_falls_behind_its_reference(measure, halves):
    made, unseen = halves
    letters = np.random.default_rng(0).choice(list("abcdefgh  "), (100, 30))
    report = measure(replace(made, texts=tuple("".join(row) for row in letters)), unseen)
    assert report["perplexity under the judge"].value > 5 * report["perplexity under the judge"].reference
    assert report["distinct-2"].value > 2 * report["distinct-2"].reference
    assert report["4-grams in training"].value == 0 < report["4-grams in training"].reference
    assert report["class accuracy"].value < 0.6
    assert report["Fréchet distance, bag of words"].value > 5 * report["Fréchet distance, bag of words"].reference
    assert report["MAUVE, bag of words"].value < 0.1


def test_one_repeated_text_is_told(measure, halves, text_train):
    made, unseen = halves
    report = measure(replace(made, texts=text_train.texts[:1] * 100), unseen)
    assert report["self-BLEU-4"].value == pytest.approx(100)
    assert report["distinct-1"].value < 0.3 * report["distinct-1"].reference
    assert report["whole texts in training"].value == report["4-grams in training"].value == 1
    assert report["perplexity under the judge"].value < report["perplexity under the judge"].reference
    assert report["MAUVE, bag of words"].value < 0.2


def test_texts_may_be_empty_or_too_long_for_the_judge(measure, halves):
    made, unseen = halves
    report = measure(replace(made, texts=("", "a red fox " * 60) * 50), unseen, classifier=None, network=None)
    assert np.isfinite([figure.value for figure in report.figures]).all()
    assert measure(replace(made, texts=("",) * 100), unseen)["distinct-1"].value == 0


def test_a_seed_repeats_the_report(report, measure, halves, text_test):
    assert measure(*halves) == report
    more = replace(text_test, name="more than are needed")
    first, again, other = (measure(more, halves[1], seed=seed, network=None) for seed in (0, 0, 1))
    assert first == again
    assert first["distinct-2"].n == 100
    assert first["distinct-2"].value != other["distinct-2"].value
    assert first["distinct-2"].reference == other["distinct-2"].reference


def test_embeddings_are_compared_at_one_number_of_texts(measure, halves, bag, monkeypatch):
    sizes = []

    def recorded(texts):
        sizes.append(len(texts))
        return bag.extract(texts)

    monkeypatch.setattr(text_report, "EMBEDDED", 50)
    report = measure(*halves, network=SentenceNet("bag of words", recorded))
    assert sizes == [50, 50, 50]
    assert report["MAUVE, bag of words"].n == 50


def test_table_and_json_name_every_instrument(report, classifier):
    head, table = report.table().split("\n\n")
    assert "feature network: bag of words" in head
    assert "judge: JudgeLM 32 wide, 1 deep" in head
    assert f"classifier: {classifier.name} (accuracy {report['class accuracy'].reference:.1%} on test)" in head
    assert len({len(row) for row in table.splitlines()}) == 1
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["notes"] == list(report.notes)
    assert [row["name"] for row in values["figures"]] == [figure.name for figure in report.figures]


def test_labels_are_not_needed_without_a_classifier(measure, halves):
    made, unseen = (replace(part, labels=None, class_names=()) for part in halves)
    report = measure(made, unseen, classifier=None, network=None)
    assert report.feature_net == "none"
    with pytest.raises(LatentiaError, match="the report has no 'class accuracy'"):
        report["class accuracy"]
    with pytest.raises(LatentiaError, match="does not have the classes"):
        measure(made, unseen, network=None)


def test_refuses(measure, halves, bag):
    made, unseen = halves
    with pytest.raises(LatentiaError, match="at least 2 texts each, got 1"):
        measure(made.subset([0]), unseen)
    with pytest.raises(LatentiaError, match="at least 20 texts of each set, got 15"):
        measure(made.subset(slice(0, 15)), unseen)
    broken = SentenceNet("broken", lambda texts: np.full((len(texts), 2), np.nan))
    with pytest.raises(LatentiaError, match=r"broken of as good as real: .* not finite"):
        measure(made, unseen, network=broken)


def test_reconstruction_by_hand(text_test, tokenizer):
    texts = text_test.subset(slice(0, 4))
    ids = token_matrix(tokenizer, texts.texts, LONGEST, on_long="refuse").ids
    lengths = (ids != tokenizer.pad_id).sum(1)
    made = ids.copy()
    made[1, 0] = tokenizer.encode(["x"])[0][0]  # a wrong token
    made[2, lengths[2] - 1] = tokenizer.encode([" x"])[0][0]  # no end
    made[3, lengths[3] :] = 9  # whatever stands after the end
    report = evaluate_text_reconstruction(texts, made, ids, tokenizer=tokenizer)
    assert report["token accuracy"].value == pytest.approx(1 - 2 / lengths.sum())
    assert report["exact matches"].value == 0.5
    assert 50 < report["BLEU"].value < 100
    assert report["BLEU"].reference == pytest.approx(100)
    perfect = evaluate_text_reconstruction(texts, ids, ids, tokenizer=tokenizer)
    assert [figure.value for figure in perfect.figures] == pytest.approx([1, 1, 100])


def test_reconstruction_of_cut_texts_has_a_lower_ceiling(text_test, tokenizer):
    texts = text_test.subset(slice(0, 10))
    ids = token_matrix(tokenizer, texts.texts, 8, on_long="truncate").ids
    report = evaluate_text_reconstruction(texts, ids, ids, tokenizer=tokenizer)
    assert report["token accuracy"].value == 1
    assert report["BLEU"].value == report["BLEU"].reference < 90


def test_reconstruction_refuses(text_test, tokenizer):
    ids = token_matrix(tokenizer, text_test.texts, LONGEST, on_long="refuse").ids
    with pytest.raises(LatentiaError, match="200 texts, but there are ids of 199"):
        evaluate_text_reconstruction(text_test, ids[1:], ids[1:], tokenizer=tokenizer)
    with pytest.raises(LatentiaError, match="do not belong together"):
        token_agreement(ids[:, 1:], ids)
    with pytest.raises(LatentiaError, match="do not belong together"):
        token_agreement(np.zeros((2, 3), int), np.zeros((2, 3), int))
