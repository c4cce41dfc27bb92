"""What all tests share: a cache of their own, one thread, a tiny recipe on real digits, and small trained models.

Two processors round differently, and training amplifies that: no test compares a figure of what it trains itself with
a margin. What is measured is measured of models that are kept in tests/trained, and
`REMAKE_TRAINED=1 python -m pytest -n 0` trains them anew.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from latentia.threads import settle

settings.register_profile("patient", deadline=None)  # another process may have the processor
settings.load_profile("patient")
settle()  # before PyTorch is loaded, as a command does: two workers share the cores

import torch  # noqa: E402

if TYPE_CHECKING:
    from latentia.modalities.image.metrics.classifier import PictureClassifier

TINY = """
name: tiny
description: Seconds, on scikit-learn's digits.
data: {name: digits}
first_stage:
  kind: AutoencoderKL
  latent_channels: 2
  channels: [8, 8]
  training: &loop
    {steps: 12, batch_size: 16, learning_rate: 2.0e-3, warmup: 2, log_every: 1, checkpoint_every: 4, preview_every: 12}
process: {kind: RectifiedFlow}
denoiser: {kind: DiT, width: 16, depth: 1, heads: 2}
training: *loop
sampling: {steps: 3}
"""


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache, and do not fight over cores unless OMP_NUM_THREADS says so."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(threads))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTIA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", threads)
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
        )
        yield


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Path:
    """The folder of one whole tiny run, shared by the tests that only read it."""
    from latentia.training import load_recipe, train

    folder = tmp_path_factory.mktemp("run")
    path = folder / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    train(load_recipe(str(path)), folder / "out")
    return folder / "out"


@pytest.fixture(scope="session")
def kept() -> Callable[[str, Callable[[Path], None]], Path]:
    """kept(name, build): the folder tests/trained/name, into which `build` trains and writes where it is made anew."""

    def folder(name: str, build: Callable[[Path], None]) -> Path:
        path = Path(__file__).parent / "trained" / name
        if os.environ.get("REMAKE_TRAINED"):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
            build(path)
        return path

    return folder


@pytest.fixture(scope="session")
def tiny_model(
    tmp_path_factory: pytest.TempPathFactory, kept: Callable[[str, Callable[[Path], None]], Path], _own_cache: None
) -> Path:
    """A tiny model, trained until classes, guidance and samplers make a difference; its recipe lies beside it."""
    from latentia.training import load_recipe, train

    def build(path: Path) -> None:
        recipe = tmp_path_factory.mktemp("model") / "tiny.yaml"
        recipe.write_text(TINY, encoding="utf-8")
        longer = ["steps=200", "learning_rate=0.01", "checkpoint_every=200", "log_every=50", "preview_every=200"]
        overrides = [f"{part}.{field}" for part in ("training", "first_stage.training") for field in longer]
        model = train(load_recipe(str(recipe), overrides), recipe.parent / "out")
        shutil.copytree(model, path / "model")
        shutil.copy(model.parent / "recipe.yaml", path)

    return kept("digits", build) / "model"


@pytest.fixture(scope="session")
def classifier(kept: Callable[[str, Callable[[Path], None]], Path], _own_cache: None) -> "PictureClassifier":
    """Kept; trained on the first 300 digits of the training split."""

    from latentia.files import load_part, save_part
    from latentia.modalities.image.metrics.classifier import PictureClassifier, train_classifier
    from latentia.modalities.image.readers.builtin import load_pictures

    def build(path: Path) -> None:
        few = load_pictures("digits").subset(slice(300))
        assert few.labels is not None
        made = train_classifier(few)
        save_part(path, made, made.config)

    return load_part(kept("few-classifier", build), {"PictureClassifier": PictureClassifier}).eval()


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `BertModel.save_pretrained` leaves it, with random weights and some words."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, "a", "sad", "cat", "red", "blue", "square"]
    backend = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    backend.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(
        BertConfig(vocab_size=len(words), max_position_embeddings=40, initializer_range=0.5, **sizes)
    ).save_pretrained(folder)
    return folder
