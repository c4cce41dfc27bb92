"""A frozen BART or BERT encoder: transformers' own answers are the truth, on a tiny model made here."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import BartConfig, BartModel, BertModel

from latentia.errors import LatentiaError
from latentia.files import load_part, save_part
from latentia.language.frozen_encoder import FrozenEncoder, encoder_config, encoder_tokenizer
from latentia.language.tokenizer import adopt_tokenizer
from latentia.modalities.registry import first_stages
from latentia.modalities.text.autoencoder import TextAutoencoder
from latentia.model import load
from latentia.training import load_recipe, train

TEXTS = [f"{n} plus {m} is {n + m}" for n in range(12) for m in range(12)] + ["ein Ökobär 🐻", "<mask> </s>"]


@pytest.fixture(scope="module")
def bart(tmp_path_factory) -> Path:
    """A folder as `BartModel.save_pretrained` leaves it, with random weights and a tokenizer learned from TEXTS."""
    folder = tmp_path_factory.mktemp("bart")
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer=trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    backend.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=backend.get_vocab_size(),
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        init_std=0.5,
    )
    BartModel(config).save_pretrained(folder)
    return folder


def test_bert_answers_as_transformers_does(bert):
    tokenizer, _ = encoder_tokenizer(bert)
    encoder = FrozenEncoder(tokenizer.vocab_size, 16, encoder_config(bert))
    encoder.load(bert)
    theirs = BertModel.from_pretrained(bert).eval()
    file = tokenizers.Tokenizer.from_file(str(bert / "tokenizer.json"))
    texts = ["a sad cat", "a"]
    ids = torch.tensor([[*row, 2, *[0] * (5 - len(row))] for row in tokenizer.encode(texts)])
    for text, answer in zip(texts, encoder.train()(ids), strict=True):
        alone = theirs(torch.tensor([file.encode(text).ids])).last_hidden_state[0, 1:]
        assert alone.std() > 0.1
        torch.testing.assert_close(answer[: len(alone)], alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(LatentiaError, match="expected 'bart'"):
        encoder_config(bert, "bart")
    wrong = FrozenEncoder(tokenizer.vocab_size + 1, 16, encoder_config(bert))
    with pytest.raises(LatentiaError, match="tokens, expected"):
        wrong.load(bert)


def frozen(bart: Path) -> tuple[FrozenEncoder, list[list[int]]]:
    tokenizer, _ = adopt_tokenizer(bart)
    encoder = FrozenEncoder(tokenizer.vocab_size, 48, encoder_config(bart))
    encoder.load(bart)
    return encoder, tokenizer.encode(TEXTS)


def test_the_vocabulary_is_the_models_own(bart):
    tokenizer, source = adopt_tokenizer(bart)
    theirs = tokenizers.Tokenizer.from_file(str(bart / "tokenizer.json"))
    theirs.encode_special_tokens = True
    wanted = [theirs.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert [[source[number] for number in row] for row in tokenizer.encode(TEXTS)] == wanted
    assert tokenizer.decode(tokenizer.encode(TEXTS)) == TEXTS
    assert [source[i] for i in range(4)] == [theirs.token_to_id(name) for name in ("<pad>", "<s>", "</s>", "<mask>")]


def test_the_frozen_encoder_answers_as_transformers_does(bart):
    encoder, rows = frozen(bart)
    theirs = BartModel.from_pretrained(bart).eval().encoder
    ids = torch.zeros(len(rows), 1 + max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row) + 1] = torch.tensor([*row, 2])
    encoder.train()  # has no effect: dropout stays off
    answers = encoder(ids)
    file = tokenizers.Tokenizer.from_file(str(bart / "tokenizer.json"))
    file.encode_special_tokens = True
    for text, answer in zip(TEXTS[::17], answers[::17], strict=True):
        alone = theirs(torch.tensor([file.encode(text).ids])).last_hidden_state[0, 1:]
        torch.testing.assert_close(answer[: len(alone)], alone, rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_it_is_kept_with_the_first_stage(bart, tmp_path):
    tokenizer, _ = adopt_tokenizer(bart)
    torch.manual_seed(0)
    sizes = {"max_tokens": 48, "latents": 4, "latent_channels": 8, "width": 16, "depth": 1, "heads": 2}
    model = TextAutoencoder(vocab_size=tokenizer.vocab_size, encoder=encoder_config(bart), **sizes).eval()
    model.frozen.load(bart)
    torch.nn.init.normal_(model.adapter.weight)
    ids = torch.tensor([[*tokenizer.encode(["1 plus 1 is 2"])[0], 2]])
    save_part(tmp_path, model, model.config)
    again = load_part(tmp_path, first_stages()).eval()
    torch.testing.assert_close(again.encode(ids), model.encode(ids))
    model.adapter.weight.data.zero_()
    assert not torch.allclose(again.encode(ids), model.encode(ids))


def test_a_run_trains_with_it_and_writes_without_its_folder(bart, tmp_path):
    (tmp_path / "sums.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    copy = tmp_path / "bart"
    copy.mkdir()
    for path in bart.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    settings = [
        f"data.name={tmp_path / 'sums.txt'}",
        f"first_stage.encoder={copy}",
        "first_stage.training.steps=3",
        "first_stage.width=16",
        "first_stage.latents=4",
        "training.steps=3",
        "denoiser.width=24",
        "denoiser.depth=1",
    ]
    folder = train(load_recipe("demo-text", settings), tmp_path / "run")
    for path in copy.iterdir():
        path.unlink()
    weights = BartModel.from_pretrained(bart).encoder.state_dict()
    model = load(folder)
    kept = model.first_stage.frozen.encoder.state_dict()
    assert all(torch.equal(kept[name], weights[name].half().float()) for name in kept)  # as the recipe saves it
    assert len(model.generate(2, steps=2)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "type 't5'"),
        ({"d_model": "many"}, "d_model"),
        ({"encoder_layers": 10**9}, "encoder_layers"),
        ({"encoder_attention_heads": 3}, "split"),
        ({"max_position_embeddings": 8}, "7 tokens"),
        ({"activation_function": "os.system"}, "activation_function"),
        ({"d_model": 32}, "does not fit"),
    ],
)
def test_other_models_are_refused(bart, tmp_path, changes, message):
    config = json.loads((bart / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((bart / "model.safetensors").read_bytes())
    with pytest.raises(LatentiaError, match=message):
        FrozenEncoder(320, 48, encoder_config(tmp_path)).load(tmp_path)


@pytest.mark.parametrize("config", [7, [1], {}])
def test_a_bad_config_in_a_first_stage_is_refused(config):
    with pytest.raises(LatentiaError, match="encoder"):
        FrozenEncoder(320, 48, config)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}'])
def test_other_tokenizers_are_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(LatentiaError, match=r"tokenizer\.json"):
        adopt_tokenizer(tmp_path)


def test_a_tokenizer_that_changes_texts_is_refused(bart, tmp_path):
    value = json.loads((bart / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(value | {"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(LatentiaError, match="changes, cuts or pads"):
        adopt_tokenizer(tmp_path)
