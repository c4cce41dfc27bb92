"""The text autoencoder: shapes, masking of padding, what noise does, and that it learns to give texts back."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from latentia.errors import LatentiaError
from latentia.latents.normalise import measure_latent_statistics
from latentia.modalities.text.autoencoder import TextAutoencoder, draw, stretch, token_loss

VOCABULARY, LONGEST = 20, 8


def make_model(seed: int = 0, **changes) -> TextAutoencoder:
    torch.manual_seed(seed)
    sizes = {"max_tokens": LONGEST, "latents": 3, "latent_channels": 6, "width": 16, "depth": 1, "heads": 2}
    return TextAutoencoder(vocab_size=VOCABULARY, **(sizes | changes)).eval()


def make_texts(count: int, seed: int = 0) -> torch.Tensor:
    """Random tokens 4..19, eos 2, pad 0."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCABULARY, (count, LONGEST), generator=generator)
    lengths = torch.randint(1, LONGEST, (count, 1), generator=generator)
    place = torch.arange(LONGEST)
    return torch.where(place < lengths, ids, 0).masked_fill(place == lengths, 2)


def test_latents_have_unit_vectors_before_normalisation():
    model, ids = make_model(), make_texts(5)
    latents = model.unit_latents(ids)
    assert latents.shape == (5, 3, 6)
    torch.testing.assert_close(latents.square().mean(-1), torch.ones(5, 3), rtol=1e-4, atol=1e-4)
    assert model.latent_shape(LONGEST) == (6, 3)
    torch.testing.assert_close(model.encode(ids), latents.transpose(1, 2))


def test_statistics_normalise_each_channel():
    model, ids = make_model(), make_texts(64)
    measure_latent_statistics(model, [ids[:40], ids[40:]])
    z = model.encode(ids)
    torch.testing.assert_close(z.mean((0, 2)), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2), correction=0), torch.ones(6), atol=1e-4, rtol=0)


def test_padding_changes_nothing():
    model, ids = make_model(), make_texts(6)
    ids[:, 5:] = 0
    ids[:, 4] = 2
    torch.testing.assert_close(model.encode(ids), model.encode(ids[:, :5]), atol=1e-5, rtol=1e-5)


def test_decode_gives_one_text_of_legal_ids_that_ends_once():
    model = make_model()
    ids = model.decode(torch.randn(32, 6, 3))
    assert ids.shape == (32, LONGEST)
    for row in ids.tolist():
        assert row.index(2) >= 1
        assert min(row[: row.index(2)]) > 3
        assert set(row[row.index(2) + 1 :]) <= {0}


def wake(model: TextAutoencoder) -> TextAutoencoder:
    """Weights such as training gives: a new model's layers add nothing."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_decoding_is_greedy():
    """Token by token gives what one pass over the result, which sees what stands before each place, finds likeliest."""
    model, z = wake(make_model()), torch.randn(100, 6, 3)
    ids = model.decode(z)
    memory = model.memory(z.transpose(1, 2))
    lengths = memory.length[:, 2:].argmax(1) + 2
    assert torch.equal((ids != 0).sum(1), lengths)
    scores = model.logits(model.hidden(memory, lengths, F.pad(ids[:, :-1], (1, 0), value=1)))
    likeliest = scores[..., 4:].argmax(-1) + 4
    assert torch.equal(likeliest[ids > 3], ids[ids > 3])
    assert len(set(map(tuple, ids.tolist()))) > 5


def test_drawn_tokens_have_the_softmax_of_their_logits():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    drawn = draw(logits, 0.5, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, (logits[0] / 0.5).softmax(0), atol=0.01, rtol=0)


def test_a_temperature_draws_texts_by_the_generator():
    model, z = make_model(), torch.randn(1, 6, 3).expand(64, 6, 3)
    first, again, other, likeliest = (
        model.decode(z, temperature=temperature, generator=torch.Generator().manual_seed(seed))
        for temperature, seed in [(1.0, 0), (1.0, 0), (1.0, 1), (0.0, 0)]
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) > len(likeliest.unique(dim=0)) == 1
    assert torch.equal(model.decode(z, temperature=1e-6, generator=torch.Generator().manual_seed(0)), likeliest)


def test_the_size_of_latents_says_only_how_noisy_they_are():
    model, z = make_model(), torch.randn(4, 6, 3)
    torch.testing.assert_close(model.decode(z), model.decode(3 * z))
    with torch.no_grad():
        model.noise_embed.weight.normal_()
    assert not torch.equal(model.memory(z.mT).vectors, model.memory(3 * z.mT).vectors)


def test_a_given_beginning_is_kept():
    model, z = wake(make_model()), torch.randn(100, 6, 3)
    begin = torch.tensor([[7, 8, 9], [5, 0, 0], [0, 0, 0], [4, 4, 0]]).repeat(25, 1)
    ids = model.decode(z, begin)
    assert torch.equal(ids[:, :3][begin != 0], begin[begin != 0])
    assert ((ids == 2).int().argmax(1) > (begin != 0).sum(1)).all()  # something follows it
    assert torch.equal(ids[2::4], model.decode(z[2::4]))


def test_a_new_model_copies():
    ids = make_texts(64)
    model = make_model(width=256, latent_channels=64, latents=LONGEST // 4, noise=0.0, masking=0.0)
    again = model(ids, torch.Generator().manual_seed(0)).stats
    assert again["token_accuracy"] > 0.5


def test_loss_counts_tokens_and_eos_but_no_padding():
    model, ids = make_model(noise=0.0, masking=0.0), make_texts(7)
    result = model(ids, torch.Generator().manual_seed(0))
    memory = model.memory(model.unit_latents(ids))
    lengths = (ids != 0).sum(1)
    wanted = ids[:, : int(lengths.max())]
    before = F.pad(wanted[:, :-1], (1, 0), value=1)  # bos
    everywhere = model.logits(model.hidden(memory, lengths, before))
    by_hand = F.cross_entropy(everywhere.transpose(1, 2), wanted, reduction="none")[wanted != 0].mean()
    torch.testing.assert_close(token_loss(result.x, ids), by_hand)
    torch.testing.assert_close(result.regulariser, F.cross_entropy(memory.length, lengths))
    assert result.x.shape == (int((ids != 0).sum()), VOCABULARY)


def test_noise_and_masks_come_from_the_generator():
    model, ids = make_model(noise=1.0, masking=0.9), make_texts(9)
    first, again, other = (model(ids, torch.Generator().manual_seed(seed)).x for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def fit(
    model: TextAutoencoder, ids: torch.Tensor, labels: torch.Tensor | None = None, *, until: Callable[[], bool]
) -> None:
    """Trains until that holds: the number of steps depends on how the processor rounds."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(2000):
        if step % 20 == 0 and until():
            return
        result = model.train()(ids, generator, labels)
        loss = token_loss(result.x, ids) + result.regulariser
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.eval()
    pytest.fail("it has not learned it in 2,000 steps")


def test_it_learns_to_give_texts_back():
    model, ids = make_model(width=32, noise=0.1), make_texts(32)
    fit(model, ids, until=lambda: torch.equal(model.decode(model.encode(ids))[:, :LONGEST], ids))
    measure_latent_statistics(model, [ids])  # undone by the decoder
    assert torch.equal(model.decode(model.encode(ids))[:, :LONGEST], ids)


def test_the_class_tells_the_decoder_what_noise_has_hidden():
    """Texts of one class are all 5s, of the other all 6s; without a class nothing is left but the shares of both."""
    model, labels = make_model(width=32, noise=1000.0, classes=2), torch.arange(32) % 2
    ids = torch.tensor([[5, 5, 5, 2, 0], [6, 6, 6, 2, 0]])[labels]
    noise = 1000 * torch.randn(32, 6, 3, generator=torch.Generator().manual_seed(0))

    def draw() -> set[int]:
        unsure = model.decode(noise, temperature=1.0, generator=torch.Generator().manual_seed(0))
        return set(unsure[:, 0].tolist())

    fit(
        model,
        ids,
        labels,
        until=lambda: torch.equal(model.decode(noise, labels=labels)[:, :5], ids) and {5, 6} <= draw(),
    )
    nobody = torch.full((32,), 2)
    assert torch.equal(model.decode(noise), model.decode(noise, labels=nobody))


@given(sources=st.integers(1, 9), targets=st.integers(1, 9))
def test_stretching_a_line_gives_the_line(sources: int, targets: int):
    """Away from the ends; and it is torch's antialiased resizing everywhere."""
    weights = stretch(torch.tensor([sources]), torch.tensor([targets]), 9, 9)[0]
    torch.testing.assert_close(weights[:targets].sum(1), torch.ones(targets))
    assert float(weights[:targets, sources:].abs().max() if sources < 9 else 0) == 0
    eye = torch.eye(sources)[None, None]
    resized = F.interpolate(eye, (targets, sources), mode="bilinear", antialias=True)[0, 0]
    torch.testing.assert_close(weights[:targets, :sources], resized, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 15}, "heads"),
        ({"width": 18, "patch": 4}, "patch"),
        ({"latents": 0}, "latents"),
        ({"noise": -1.0}, "noise"),
        ({"masking": 1.0}, "masking"),
        ({"width": 8192, "depth": 64}, "too large"),
    ],
)
def test_bad_sizes_are_refused(changes, message):
    with pytest.raises(LatentiaError, match=message):
        make_model(**changes)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), "none empty"),
        (torch.full((2, 3), VOCABULARY), "0 to 19"),
        (torch.full((2, 3), -1), "0 to 19"),
        (torch.full((2, LONGEST + 1), 4), "1 to 8 tokens"),
        (torch.full((2, 3), 4.0), "int64"),
    ],
)
def test_bad_ids_are_refused(ids, message):
    with pytest.raises(LatentiaError, match=message):
        make_model().encode(ids)


def test_bad_latents_and_lengths_are_refused():
    with pytest.raises(LatentiaError, match="latents have shape"):
        make_model().decode(torch.zeros(2, 3, 6))
    with pytest.raises(LatentiaError, match="temperature is nan"):
        make_model().decode(torch.zeros(2, 6, 3), temperature=float("nan"))
    with pytest.raises(LatentiaError, match="up to 9 tokens"):
        make_model().latent_shape(9)
