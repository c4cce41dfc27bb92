"""Muon in float32: against singular values, against Zolotarev's equioscillation, against PyTorch's own in bfloat16."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentia.training import muon
from latentia.training.muon import SMALLEST, Muon, invert, orthogonalise, zolotarev


def scalar(s: np.ndarray, smallest: float) -> np.ndarray:
    factor, shift, weight = zolotarev(smallest)
    return factor * s * (1 + weight / (s**2 + shift))


@pytest.mark.parametrize("smallest", [1e-1, 1e-2, 1e-3])
def test_the_error_is_as_large_at_every_extreme(smallest: float) -> None:
    """Chebyshev: an odd rational function of these degrees is the best one where its error alternates four times."""
    error = scalar(np.geomspace(smallest, 1, 20001), smallest) - 1
    turns = np.flatnonzero(np.diff(np.sign(np.diff(error)))) + 1
    extremes = error[[0, *turns, -1]]
    assert len(extremes) == 4
    np.testing.assert_allclose(np.abs(extremes), np.abs(error).max(), rtol=1e-3)
    assert (np.diff(np.sign(extremes)) != 0).all()


@pytest.mark.parametrize(("rows", "columns"), [(256, 256), (96, 300), (300, 96), (1, 7), (65, 65)])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_singular_values_go_through_the_function_and_vectors_stay(rows: int, columns: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = scale * torch.randn(3, rows, columns, generator=generator)
    x[1] *= torch.linspace(0, 1, rows)[:, None] ** 4  # from well conditioned to nearly singular
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    s = scalar((s / s.square().sum(1, keepdim=True).sqrt().clamp(min=1e-30)).numpy(), SMALLEST)
    wanted = u @ (torch.from_numpy(s)[..., None] * v)
    torch.testing.assert_close(orthogonalise(x).double(), wanted, rtol=0, atol=2e-3)


@given(rank=st.integers(0, 8), seed=st.integers(0, 1000))
def test_matrices_of_low_rank_keep_it(rank: int, seed: int) -> None:
    """The gradient of a new layer is often zero, or of rank 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 100, rank, generator=generator) @ torch.randn(2, rank, 140, generator=generator)
    values = torch.linalg.svdvals(orthogonalise(x))
    assert values.isfinite().all()
    assert (values[:, rank:] < 1e-3).all()


def test_a_broken_gradient_stays_broken() -> None:
    """The loop stops at a loss that is not finite; an exception of LAPACK would say less."""
    assert orthogonalise(torch.full((1, 80, 90), torch.nan)).isnan().all()


@pytest.mark.parametrize("size", [1, 5, 64, 65, 129, 200])
def test_inverses(size: int) -> None:
    a = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0)).double()
    spd = a @ a.mT + torch.eye(size)
    wanted = torch.eye(size, dtype=torch.float64).expand_as(spd)
    torch.testing.assert_close(invert(spd.float()).double() @ spd, wanted, rtol=0, atol=1e-2)


def test_it_is_pytorchs_muon_but_for_the_orthogonalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both with the exact polar factor: momentum, decay, scale and state are the same."""

    def polar(x: torch.Tensor) -> torch.Tensor:
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        return u @ v

    monkeypatch.setattr(muon, "orthogonalise", polar)
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", lambda x, *_: polar(x))
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in ((8, 12), (12, 8), (8, 12))]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    optimizers = (
        Muon(ours, lr=0.1, weight_decay=0.2),
        torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(3):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            for i, parameter in enumerate(parameters):
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * step + i))
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
        kept = [optimizer.state[p] for optimizer, p in zip(optimizers, (mine, other), strict=True)]
        assert kept[0].keys() == kept[1].keys() == {"momentum_buffer"}  # a checkpoint goes from one to the other
        torch.testing.assert_close(kept[0]["momentum_buffer"], kept[1]["momentum_buffer"])


def test_parameters_without_a_gradient_stay() -> None:
    still, moved = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    moved.grad = torch.ones(3, 4)
    Muon([still, moved], lr=0.1).step()
    assert torch.equal(still, torch.ones(3, 4))
    assert not torch.equal(moved, torch.ones(3, 4))
