"""The codebook: nearest codes, straight-through gradients, moving averages and revival."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances_argmin
from torch import nn

from latentia.modalities.image.first_stage import vq
from latentia.modalities.image.first_stage.vq import AutoencoderVQ


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(codebook_size: int = 8, **arguments: object) -> AutoencoderVQ:
    torch.manual_seed(0)
    return AutoencoderVQ(latent_channels=2, channels=(4, 8), codebook_size=codebook_size, **arguments)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40), codes=st.integers(1, 20), channels=st.integers(1, 5))
def test_nearest_code_equals_brute_force(seed, count, codes, channels):
    rng = np.random.default_rng(seed)
    vectors, codebook = rng.normal(size=(count, channels)), rng.normal(size=(codes, channels))
    found = vq.nearest_code(torch.from_numpy(vectors), torch.from_numpy(codebook))
    assert np.array_equal(found.numpy(), pairwise_distances_argmin(vectors, codebook))


def test_nearest_code_in_chunks_equals_that_at_once(monkeypatch):
    vectors, codebook = torch.randn(50, 3, generator=generator()), torch.randn(7, 3, generator=generator(1))
    whole = vq.nearest_code(vectors, codebook)
    monkeypatch.setattr(vq, "CHUNK", 30)
    assert torch.equal(vq.nearest_code(vectors, codebook), whole)


def test_quantise_puts_each_code_where_its_vector_was():
    model, z = build(), torch.randn(2, 2, 3, 5, generator=generator())
    quantised, codes = model.quantise(z)
    for b, i, j in np.ndindex(2, 3, 5):
        nearest = (model.codebook - z[b, :, i, j]).norm(dim=1).argmin()
        assert codes[b, i, j] == nearest
        assert torch.equal(quantised[b, :, i, j], model.codebook[nearest])


def test_codes_are_found_in_full_precision_under_autocast():
    model = build()
    model.codebook.copy_(torch.stack([1 + torch.arange(8) * 1e-3, torch.zeros(8)], dim=1))  # closer than bfloat16 tells
    z = model.codebook.T.reshape(1, 2, 2, 4).clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, codes = model.quantise(z)
    assert codes.flatten().tolist() == list(range(8))


def test_gradients_pass_straight_through():
    model = build(commitment=0.5).eval()
    z = torch.randn(2, 2, 3, 3, generator=generator()).requires_grad_()
    model.encoder, model.decoder = _Constant(z), nn.Identity()
    weights = torch.randn(2, 2, 3, 3, generator=generator(1))
    result = model(torch.zeros(2, 1, 6, 6), generator())
    quantised, _ = model.quantise(z.detach())
    torch.testing.assert_close(result.x.detach(), quantised)
    (through,) = torch.autograd.grad((result.x * weights).sum(), z, retain_graph=True)
    assert torch.equal(through, weights)
    (pull,) = torch.autograd.grad(result.regulariser, z)
    torch.testing.assert_close(pull, 0.5 * 2 * (z.detach() - quantised) / z.numel())


def test_codes_move_to_the_moving_average_of_their_vectors():
    model = build(codebook_size=3)
    model.codebook.copy_(torch.tensor([[0.0, 0.0], [4.0, 4.0], [-9.0, 9.0]]))
    model.usage.copy_(torch.tensor([1.0, 1.0, 1.0]))
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 4.0], [5.0, 6.0]])
    # The paper's own form: counts N and sums m, both averaged (App. A.1), here with N = usage · 4 / 3.
    counts, before = np.array([2.0, 2.0, 0.0]), model.codebook.numpy().copy()
    n_old, m_new = np.full(3, 4 / 3), np.array([[1.0, 1.0], [10.0, 10.0], [0.0, 0.0]])
    n = 0.99 * n_old + 0.01 * counts
    m = 0.99 * before * n_old[:, None] + 0.01 * m_new
    codes = vq.nearest_code(vectors, model.codebook)
    model.update(vectors, codes, torch.bincount(codes, minlength=3).float())
    np.testing.assert_allclose(model.codebook.numpy(), m / n[:, None], rtol=1e-5)
    np.testing.assert_allclose(model.usage.numpy(), n * 3 / 4, rtol=1e-5)


def test_the_codebook_converges_to_the_means_of_clusters():
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    model, noise = build(codebook_size=4), generator()
    model.codebook.copy_(centres + 1)
    model.usage.fill_(1.0)
    for _ in range(600):
        vectors = centres.repeat(16, 1) + 0.1 * torch.randn(64, 2, generator=noise)
        codes = vq.nearest_code(vectors, model.codebook)
        model.update(vectors, codes, torch.bincount(codes, minlength=4).float())
    torch.testing.assert_close(model.codebook, centres, rtol=0, atol=0.05)
    torch.testing.assert_close(model.usage, torch.ones(4), rtol=0, atol=0.01)


def test_revival_lifts_usage():
    x = torch.rand(16, 1, 8, 8, generator=generator())

    def usage_after_a_step(dead: bool) -> float:
        model = build(codebook_size=32)
        model.codebook.fill_(1e3)  # far from every vector
        model.codebook[0] = 0.0
        model.usage.fill_(0.0 if dead else 1.0)
        model(x, generator())
        return float(model.eval()(x, generator()).stats["codebook_usage"])

    assert usage_after_a_step(dead=False) == pytest.approx(1 / 32)
    assert usage_after_a_step(dead=True) > 0.8


def test_only_dead_codes_are_replaced_and_by_vectors_of_the_batch():
    model = build(codebook_size=4)
    model.usage.copy_(torch.tensor([1.0, 0.05, 0.2, 0.0]))
    before, vectors = model.codebook.clone(), torch.randn(10, 2, generator=generator(3))
    model.revive(vectors, generator())
    assert torch.equal(model.codebook[[0, 2]], before[[0, 2]])
    sources = [(vectors == model.codebook[code]).all(1).nonzero().item() for code in (1, 3)]
    assert len(set(sources)) == 2
    assert model.usage.tolist() == pytest.approx([1.0, 1.0, 0.2, 1.0])


def test_a_batch_smaller_than_the_codebook_can_revive_it():
    model = build(codebook_size=7)
    vectors = torch.randn(3, 2, generator=generator())
    model.revive(vectors, generator())
    assert {tuple(code) for code in model.codebook.tolist()} == {tuple(vector) for vector in vectors.tolist()}


def test_a_code_that_is_no_longer_used_dies_after_230_batches():
    model = build(codebook_size=4)
    vectors = torch.randn(40, 2, generator=generator())
    model.revive(vectors, generator())
    model.codebook[0] = 1e3  # far from every vector
    batches = 0
    while batches < 300:
        model.revive(vectors, generator(batches))
        if model.codebook[0, 0] < 900:
            break
        codes = vq.nearest_code(vectors, model.codebook)
        model.update(vectors, codes, torch.bincount(codes, minlength=4).float())
        batches += 1
    assert batches == 230  # 0.99^229 > 0.1 > 0.99^230


def test_evaluation_leaves_the_codebook_alone():
    model = build().eval()
    before = model.codebook.clone(), model.usage.clone()
    model(torch.rand(2, 1, 8, 8, generator=generator()), generator())
    assert torch.equal(model.codebook, before[0])
    assert torch.equal(model.usage, before[1])


def test_decode_quantises():
    model = build()
    model.latent_mean.fill_(0.3)
    model.latent_std.fill_(1.7)
    z = torch.randn(1, 2, 4, 4, generator=generator())
    quantised, _ = model.quantise(z * 1.7 + 0.3)
    torch.testing.assert_close(model.decode(z), model.decoder(quantised).clamp(-1, 1))
    nudged = (quantised - 0.3) / 1.7 + 1e-4
    torch.testing.assert_close(model.decode(nudged), model.decode(z))


@pytest.mark.parametrize(("counts", "value"), [([5, 0, 0, 0], 1.0), ([2, 2, 2, 2], 4.0), ([1, 1, 0, 0], 2.0)])
def test_perplexity_counts_equally_used_codes(counts, value):
    assert vq.perplexity(torch.tensor(counts).float()).item() == pytest.approx(value)


def test_perplexity_is_exp_of_the_entropy():
    share = np.array([3, 4, 0, 1]) / 8
    entropy = -sum(p * math.log(p) for p in share if p)
    assert vq.perplexity(torch.tensor([3.0, 4, 0, 1])).item() == pytest.approx(math.exp(entropy))


class _Constant(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value
