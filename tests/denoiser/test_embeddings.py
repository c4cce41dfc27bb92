"""Timestep and position embeddings against diffusers and closed forms."""

import math
from collections import defaultdict

import pytest
import torch
from diffusers.models.embeddings import (
    get_1d_sincos_pos_embed_from_grid,
    get_2d_sincos_pos_embed,
    get_timestep_embedding,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.denoiser.embeddings import (
    TimestepEmbedder,
    grid_positions,
    position_sinusoids,
    rotary_angles,
    rotate,
    timestep_sinusoids,
)

CPU = torch.device("cpu")
FAST = settings(max_examples=20, deadline=None, derandomize=True)


def test_timestep_sinusoids_are_those_of_diffusers():
    time = torch.tensor([0.0, 0.25, 17.0, 999.0])
    expected = get_timestep_embedding(time, 256, flip_sin_to_cos=True, downscale_freq_shift=1)
    torch.testing.assert_close(timestep_sinusoids(time), expected, rtol=0, atol=1e-6)


def test_timestep_sinusoids_stay_float32_in_a_bfloat16_world():
    time = torch.tensor([998.5, 999.0])  # one number in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        features = timestep_sinusoids(time)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, timestep_sinusoids(time), rtol=0, atol=0)
    embedder = TimestepEmbedder(32).bfloat16()
    assert embedder(time).dtype == torch.bfloat16
    assert not torch.equal(*embedder(time))


@pytest.mark.parametrize("size", [1, 4, 7])
def test_position_sinusoids_are_those_of_diffusers_in_2d(size):
    ours = position_sinusoids((size, size), 24, (size, size), CPU)
    torch.testing.assert_close(ours, get_2d_sincos_pos_embed(24, size, base_size=size).float(), rtol=1e-5, atol=1e-6)


def test_position_sinusoids_are_those_of_diffusers_in_1d():
    ours = position_sinusoids((9,), 10, (9,), CPU)
    torch.testing.assert_close(
        ours, get_1d_sincos_pos_embed_from_grid(10, torch.arange(9)).float(), rtol=1e-5, atol=1e-6
    )


def test_positions_of_another_grid_are_stretched_over_the_base_grid():
    base = position_sinusoids((3, 5), 16, (3, 5), CPU).reshape(3, 5, 16)
    finer = position_sinusoids((6, 10), 16, (3, 5), CPU).reshape(6, 10, 16)
    torch.testing.assert_close(finer[::2, ::2], base)
    assert not torch.equal(finer[1, 0], finer[0, 0])


@given(
    grid=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    head_dim=st.sampled_from([6, 8, 10, 16]),
    seed=st.integers(0, 100),
)
@FAST
def test_rotated_scores_depend_on_the_offset_alone(grid, head_dim, seed):
    """One query and one key placed at every cell: equal offsets, equal scores (Su et al. 2021, eq. 11)."""
    query, key = torch.randn(2, 1, head_dim, generator=torch.Generator().manual_seed(seed))
    angle = rotary_angles(grid, head_dim, 100.0, CPU)
    cells = math.prod(grid)
    q, k = (rotate(x.expand(cells, head_dim), angle.cos(), angle.sin()) for x in (query, key))
    torch.testing.assert_close(q.norm(dim=-1), query.norm(dim=-1).expand(cells))  # a rotation keeps lengths
    scores, position = q @ k.T, grid_positions(grid, CPU)
    by_offset = defaultdict(list)
    for i in range(cells):
        for j in range(cells):
            by_offset[tuple((position[i] - position[j]).tolist())].append(scores[i, j])
    for group in by_offset.values():
        torch.testing.assert_close(torch.stack(group), group[0].expand(len(group)), rtol=1e-4, atol=1e-4)
    means = torch.stack([group[0] for group in by_offset.values()])
    assert cells == 1 or means.std() > 1e-4  # and they do depend on it


def test_every_axis_turns_its_own_pairs():
    angle = rotary_angles((2, 3), 12, 100.0, CPU).reshape(2, 3, 6)
    frequency = 100.0 ** (-torch.arange(3) / 3)
    torch.testing.assert_close(angle[1, 2], torch.cat([frequency, 2 * frequency]))


def test_rotate_is_multiplication_by_a_complex_phase():
    generator = torch.Generator().manual_seed(0)
    x, angle = torch.randn(2, 5, 8, generator=generator), torch.randn(5, 4, generator=generator)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * angle)
    torch.testing.assert_close(
        rotate(x, angle.cos(), angle.sin()), torch.cat([turned.real, turned.imag], -1), rtol=1e-5, atol=1e-6
    )
