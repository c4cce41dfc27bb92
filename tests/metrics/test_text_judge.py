import math
from pathlib import Path

import autoregressive
import numpy as np
import pytest
import torch
from autoregressive import generate

from latentia.errors import LatentiaError
from latentia.files import WEIGHTS_NAME, load_part, save_part
from latentia.language.tokenizer import token_matrix
from latentia.modalities.text.metrics import judge
from latentia.modalities.text.metrics.judge import (
    BOS,
    EOS,
    MASK,
    PAD,
    JudgeLM,
    perplexity,
    train_judge,
    trained_judge,
)
from latentia.modalities.text.texts import TextSet

VOCAB = 12
IDS = np.array([[5, 6, 7, EOS, PAD, PAD], [EOS, PAD, PAD, PAD, PAD, PAD], [4, 4, 9, 11, 5, EOS], [8, 8, 8, 8, 8, 8]])


@pytest.fixture(scope="module")
def model() -> JudgeLM:
    """Random weights, large enough that every token and place makes a difference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = JudgeLM(VOCAB, width=16, depth=2, heads=2, max_tokens=8).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return network


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large(model):
    uniform = JudgeLM(VOCAB, width=16, depth=2, heads=2, max_tokens=8)
    torch.nn.init.zeros_(uniform.embed.weight)
    assert perplexity(uniform, IDS) == pytest.approx(VOCAB)
    assert perplexity(model, IDS) != pytest.approx(VOCAB, rel=0.1)


def test_perplexity_is_that_of_a_plain_loop(model):
    expected = []
    with torch.no_grad():
        for row in IDS:
            tokens = [int(token) for token in row if token != PAD]
            logits = [model(torch.tensor([[BOS, *tokens[:i]]]))[0, -1] for i in range(len(tokens))]
            expected.append(sum(float(x.log_softmax(0)[t]) for x, t in zip(logits, tokens, strict=True)))
    assert perplexity(model, IDS) == pytest.approx(math.exp(-sum(expected) / 17), rel=1e-5)


def test_padding_and_neighbours_change_nothing(model):
    alone = [perplexity(model, row[None, : (row != PAD).sum()]) for row in IDS]
    lengths = (IDS != PAD).sum(1)
    expected = math.exp(sum(math.log(value) * n for value, n in zip(alone, lengths, strict=True)) / lengths.sum())
    wide = np.pad(IDS, ((0, 0), (0, 2)), constant_values=PAD)
    for together in (wide, wide[::-1].copy()):
        assert perplexity(model, together) == pytest.approx(expected, rel=1e-5)


def test_perplexity_does_not_depend_on_batches(model, monkeypatch):
    expected = perplexity(model, IDS)
    monkeypatch.setattr(judge, "AT_ONCE", 1)
    assert perplexity(model, IDS) == pytest.approx(expected, rel=1e-6)


def drawn_without_memory(model: JudgeLM, count: int, max_tokens: int, temperature: float, seed: int):
    """One whole pass a token, each row until its eos: what `generate` must give, token by token."""
    numbers = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = [[] for _ in range(count)]
    for _ in range(max_tokens):
        uniform = torch.rand(count, 1, dtype=torch.float64, generator=numbers)[:, 0].tolist()
        for row, number in zip(rows, uniform, strict=True):
            if EOS not in row:
                chance = (model(torch.tensor([[BOS, *row]]))[0, -1].double() / temperature).exp()
                chance[[PAD, BOS, MASK]] = 0
                row.append(int((chance.cumsum(0) / chance.sum() > number).nonzero()[0]))
    return [row + [PAD] * (max_tokens - len(row)) for row in rows]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@torch.no_grad()
def test_memory_changes_no_token(model, temperature, monkeypatch):
    expected = drawn_without_memory(model, 12, 8, temperature, seed=3)
    assert len({row.count(PAD) for row in expected}) > 2  # rows end at different places
    for share in (0.0, autoregressive.SHRINK_BELOW, 1.1):  # finished rows are never, sometimes and always dropped
        monkeypatch.setattr(autoregressive, "SHRINK_BELOW", share)
        made = generate(model, 12, temperature=temperature, generator=torch.Generator().manual_seed(3))
        assert made.tolist() == expected
        assert made.dtype == np.int32


def test_tokens_are_drawn_as_often_as_their_probability_says(model):
    made = generate(model, 4000, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    with torch.no_grad():
        chance = model(torch.tensor([[BOS]]))[0, 0].exp()
    chance[[PAD, BOS, MASK]] = 0
    found = np.bincount(made, minlength=VOCAB) / 4000
    assert found == pytest.approx((chance / chance.sum()).numpy(), abs=0.03)  # three standard deviations


def test_what_is_generated_can_be_judged(model):
    made = generate(model, 300, generator=torch.Generator().manual_seed(0))
    assert made.shape == (300, 8)
    assert 1 < perplexity(model, made) < VOCAB
    cold = generate(model, 300, temperature=0.3, generator=torch.Generator().manual_seed(0))
    assert perplexity(model, cold) < perplexity(model, made)


START = np.array([0.5, 0.3, 0.2, 0.0])  # of states a b c, and of the end
STEP = np.array([[0.1, 0.6, 0.1, 0.2], [0.05, 0.05, 0.7, 0.2], [0.8, 0.05, 0.05, 0.1]])
FIRST = 4  # the id of state a
ROW = 40


def markov_rows(count: int, seed: int):
    generator = np.random.default_rng(seed)
    ids = np.full((count, ROW), PAD)
    for row in ids:
        chance = START
        for place in range(ROW):
            state = generator.choice(4, p=chance)
            row[place] = EOS if state == 3 else FIRST + state
            if state == 3:
                break
            chance = STEP[state]
    return ids


def test_learns_what_follows_for_certain():
    """Each token decides the next: the entropy is 0, and the perplexity of who knows that is 1."""
    rows = np.array([[5, 6, 7, EOS], [8, 9, EOS, PAD], [10, 4, 11, EOS]])
    certain = train_judge(rows[:1], VOCAB, steps=150, batch_size=8, learning_rate=1e-2, width=16, depth=1, heads=2)
    assert perplexity(certain, rows[:1]) == pytest.approx(1, abs=0.1)
    among_three = train_judge(rows, VOCAB, steps=300, batch_size=8, learning_rate=1e-2, width=16, depth=1, heads=2)
    tokens = (rows != PAD).sum()
    assert perplexity(among_three, rows) == pytest.approx(3 ** (len(rows) / tokens), rel=0.1)  # only the first is open


def test_the_perplexity_of_a_markov_source_is_its_entropy_rate(kept):
    entropy = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in (START, *STEP)]
    visits = START[:3] @ np.linalg.inv(np.eye(3) - STEP[:, :3])  # expected, of each state in one row
    rate = math.exp((entropy[0] + visits @ entropy[1:]) / (visits.sum() + 1))

    def build(path: Path) -> None:
        made = train_judge(
            markov_rows(3000, 0), FIRST + 3, steps=250, batch_size=64, learning_rate=1e-2, width=16, depth=1, heads=2
        )
        save_part(path, made, made.config)

    network = load_part(kept("markov-judge", build), {"JudgeLM": JudgeLM}).eval()
    reached = perplexity(network, markov_rows(1500, 1))
    assert reached == pytest.approx(rate, rel=0.03)
    assert rate < 2.7  # of 4 states; their frequencies alone would give 3.8
    made = generate(network, 1500, generator=torch.Generator().manual_seed(0))
    assert (made == EOS).any(1).mean() > 0.98
    follows = np.zeros((3, 3))
    for row in made:
        states = row[row >= FIRST] - FIRST
        np.add.at(follows, (states[:-1], states[1:]), 1)
    expected = STEP[:, :3] / STEP[:, :3].sum(1, keepdims=True)
    assert follows / follows.sum(1, keepdims=True) == pytest.approx(expected, abs=0.05)


def test_a_seed_decides_everything_and_global_state_nothing():
    options = {"steps": 3, "batch_size": 2, "width": 8, "depth": 1, "heads": 1}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train_judge(IDS, VOCAB, seed=5, **options)
    assert torch.equal(torch.get_rng_state(), before)
    again, other = (train_judge(IDS, VOCAB, seed=seed, **options) for seed in (5, 6))
    assert torch.equal(first.embed.weight, again.embed.weight)
    assert not torch.equal(first.embed.weight, other.embed.weight)
    assert not first.training


def test_is_kept_and_comes_back(text_train, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTIA_CACHE", str(tmp_path))
    texts = text_train.subset(slice(0, 40))
    made = trained_judge(texts, tokenizer, max_tokens=24, steps=2)
    runs = []
    really_train = train_judge

    def counted(*arguments, **options):
        runs.append(1)
        return really_train(*arguments, **options)

    monkeypatch.setattr(judge, "train_judge", counted)
    kept = trained_judge(texts, tokenizer, max_tokens=24, steps=2)
    assert not runs
    assert not kept.training
    ids = token_matrix(tokenizer, texts.texts, 24, on_long="refuse").ids
    assert perplexity(kept, ids) == perplexity(made, ids)
    trained_judge(texts, tokenizer, max_tokens=24, steps=3)
    assert len(runs) == 1
    for path in tmp_path.rglob(WEIGHTS_NAME):
        path.write_bytes(path.read_bytes()[:100])
    repaired = trained_judge(texts, tokenizer, max_tokens=24, steps=2)
    assert len(runs) == 2
    assert perplexity(repaired, ids) == perplexity(made, ids)


def test_texts_that_are_too_long_are_left_out(tokenizer):
    mixed = TextSet(("a red fox", "one old owl " * 40), None, (), "mixed", "")
    assert trained_judge(mixed, tokenizer, max_tokens=8, steps=1).config["max_tokens"] == 8
    with pytest.raises(LatentiaError):
        trained_judge(mixed.subset([1]), tokenizer, max_tokens=8, steps=1)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.ones(4, int), r"expected int64 \(batch, 1 to 8 tokens\)"),
        (np.full((2, 4), 5.0), "expected int64"),
        (np.full((1, 4), VOCAB), "run from 12 to 12, expected 0 to 11"),
        (np.full((1, 4), -1), "run from -1"),
        (np.array([[5, EOS], [PAD, PAD]]), "none empty"),
        (np.full((1, 9), 5), "1 to 8 tokens"),
    ],
)
def test_judging_refuses(model, ids, message):
    with pytest.raises(LatentiaError, match=message):
        perplexity(model, ids)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: train_judge(IDS, VOCAB, steps=0), "steps and batch_size of at least 1"),
        (lambda model: train_judge(IDS, 8), "run from 0 to 11"),
        (lambda model: train_judge(IDS, VOCAB, width=10, heads=4), "make no judge"),
        (lambda model: generate(model, 0, generator=torch.Generator()), "count ≥ 1"),
        (lambda model: generate(model, 1, 9, generator=torch.Generator()), "max_tokens ≤ 8"),
        (lambda model: generate(model, 1, temperature=0, generator=torch.Generator()), "temperature > 0"),
        (lambda model: generate(model, 1, temperature=math.nan, generator=torch.Generator()), "temperature > 0"),
    ],
)
def test_refuses(model, call, message):
    with pytest.raises(LatentiaError, match=message):
        call(model)
