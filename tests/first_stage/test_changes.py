"""Changes of latents in a first stage's training: what each does, and that nothing happens without one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentia.modalities.image.first_stage.changes import Change, LatentTraining, change_of
from latentia.modalities.image.first_stage.kl import AutoencoderKL
from latentia.modalities.image.first_stage.vq import AutoencoderVQ


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded())


def change(turns: int = 0, scale: float = 1.0, alone: bool = False, **fields: float) -> Change:
    return Change(LatentTraining(**fields), turns, scale, alone, seeded())


@given(
    turns=st.integers(0, 3),
    scale=st.floats(0.25, 1),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    factor=st.sampled_from([1, 2, 4]),
)
def test_latents_and_pictures_move_alike(turns, scale, grid, factor):
    z = normal(2, 3, *grid)
    moved = change(turns, scale)
    x = z.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    cells, pixels = moved.latents(z), moved.pictures(x, factor)
    assert pixels.shape[2:] == tuple(factor * side for side in cells.shape[2:])
    if scale == 1:
        expected = torch.rot90(z, turns, (2, 3)).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        assert torch.equal(pixels, expected)


def test_noise_interpolates_to_the_latents_own_scale():
    z = 5 + 3 * normal(4000, 2, 3, 3)
    made = change(noise=2.0).latents(z)
    # u is uniform: (1 − u) z + 2 u · 3 ε has the mean 5/2 and the second moment E[(1 − u)²] · 34 + 4 E[u²] · 9.
    assert float(made.mean()) == pytest.approx(2.5, abs=0.1)
    assert float(made.square().mean()) == pytest.approx(34 / 3 + 12, rel=0.05)


def test_masks_hide_whole_cells_up_to_their_share():
    z = normal(500, 4, 6, 6)
    made = change(mask=0.5).latents(z)
    hidden = (made != z).all(1).flatten(1).float().mean(1)
    assert torch.equal((made != z).any(1), (made != z).all(1))
    assert hidden.max() < 0.8
    assert (hidden == 0).float().mean() > 0.1  # shares below 0 hide nothing
    assert hidden.mean() == pytest.approx(0.25 * 0.5 / 0.6, abs=0.03)


@pytest.mark.parametrize("kind", [AutoencoderKL, AutoencoderVQ])
def test_the_decoder_alone_learns_at_the_end(kind):
    torch.manual_seed(0)
    stage, settings = kind(1, latent_channels=2, channels=(4, 8)), LatentTraining(decoder_alone=0.2)
    x = normal(4, 1, 8, 8)
    for step, alone in ((79, False), (80, True)):
        made = change_of(settings, 100, step, 0, seeded())
        assert made is not None
        assert made.alone == alone
        stage.zero_grad()
        result = stage(x, seeded(), made.latents)
        (result.x.square().mean() + 0.0 * result.regulariser).backward()
        moved = any(bool(parameter.grad.any()) for parameter in stage.encoder.parameters())
        assert moved == (not alone)
        assert all(parameter.grad is not None for parameter in stage.encoder.parameters())  # DDP waits for each
        assert any(bool(parameter.grad.any()) for parameter in stage.decoder.parameters())


def test_a_share_of_the_updates_is_moved():
    settings = LatentTraining(equivariance=0.3)
    made = [change_of(settings, 2000, step, 0, seeded()) for step in range(2000)]
    moved = [each for each in made if each is not None and each.scale != 1]
    assert len(moved) / 2000 == pytest.approx(0.3, abs=0.04)
    assert {each.turns for each in moved} == {0, 1, 2, 3}
    assert 0.25 <= min(each.scale for each in moved) < 0.3
    assert change_of(None, 100, 3, 0, seeded()) is None
