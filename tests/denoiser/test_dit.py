"""DiT against diffusers and plain formulas, and its promises: zero start, signals, gradients, dtypes, one graph."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import randomised

from latentia.conditions import Label, Length, Signals
from latentia.denoiser import Denoiser, DiT, count_parameters
from latentia.denoiser.dit import Attention, SwiGLU, patchify, unpatchify
from latentia.denoiser.embeddings import rotary_angles
from latentia.errors import LatentiaError
from latentia.interchange import dit_from_diffusers

CLASSIC = {"rope": False, "swiglu": False, "qk_norm": False, "rms_norm": False}
TINY = {
    "in_channels": 3, "grid": (4, 4), "patch": 2, "width": 16, "depth": 2, "heads": 2, "shared_modulation": False,
}  # fmt: skip


def by_class(classes=5, **sizes):
    """A DiT that knows classes."""
    core = DiT(**{**TINY, **sizes})
    return Denoiser(core, {"label": Label(core.signal_width, [str(number) for number in range(classes)])})


def inputs(batch=3, channels=3, grid=(4, 4), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *grid, generator=generator), 1000 * torch.rand(batch, generator=generator)


@given(
    cells=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    patch=st.sampled_from([1, 2]),
    heads=st.sampled_from([1, 2]),
    flags=st.tuples(*[st.booleans()] * 5),
    num_classes=st.sampled_from([0, 4]),
    out_channels=st.sampled_from([None, 5]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_shapes_and_a_start_at_exactly_zero(cells, patch, heads, flags, num_classes, out_channels):
    grid = tuple(n * patch for n in cells)
    names = ("rope", "swiglu", "qk_norm", "rms_norm", "shared_modulation")
    sizes = {"in_channels": 3, "grid": grid, "patch": patch, "width": 24, "depth": 1, "heads": heads}
    model = by_class(num_classes, **sizes, out_channels=out_channels, **dict(zip(names, flags, strict=True)))
    x, time = inputs(2, 3, grid)
    label = torch.tensor([0, num_classes])
    out = model(x, time, label=label)
    assert out.shape == (2, out_channels or 3, *grid)
    assert torch.count_nonzero(out) == 0
    out = randomised(model)(x, time, label=label)
    assert out.isfinite().all()
    assert out.std() > 0


@pytest.mark.parametrize(("patch", "size", "out_channels"), [(2, 8, 8), (1, 3, 4)])
def test_classic_dit_is_that_of_diffusers(patch, size, out_channels):
    """Peebles & Xie 2023: weights copied from diffusers' DiT give the same output."""
    torch.manual_seed(0)
    theirs = DiTTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        in_channels=4,
        out_channels=out_channels,
        num_layers=2,
        sample_size=size,
        patch_size=patch,
        num_embeds_ada_norm=7,
        norm_eps=1e-6,
    )
    theirs = randomised(theirs)
    ours = dit_from_diffusers(theirs)

    x, _ = inputs(3, 4, (size, size))
    time, label = torch.tensor([0, 321, 999]), torch.tensor([2, 0, 7])
    with torch.no_grad():
        expected = theirs(x, timestep=time, class_labels=label).sample
        torch.testing.assert_close(ours(x, time.float(), label=label), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_attention_is_softmax_of_normalised_rotated_products():
    torch.manual_seed(0)
    grid, width, heads = (2, 3), 16, 2
    attention = randomised(Attention(width, heads, qk_norm=True))
    angle = rotary_angles(grid, width // heads, 100.0, torch.device("cpu"))
    x = torch.randn(2, 6, width)

    q, k, v = (part.reshape(2, 6, heads, 8) for part in attention.qkv(x).split(width, dim=-1))
    q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * attention.q_scale
    k = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt() * attention.k_scale
    phase = torch.exp(1j * angle)[:, None]
    q, k = (torch.complex(part[..., :4], part[..., 4:]) * phase for part in (q, k))
    weights = (torch.einsum("bihd,bjhd->bhij", q, k.conj()).real / math.sqrt(8)).softmax(-1)
    expected = attention.out(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))
    torch.testing.assert_close(attention(x, (angle.cos(), angle.sin())), expected, rtol=1e-4, atol=1e-5)


def test_plain_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4, qk_norm=False), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x, None), theirs(x, x, x)[0], rtol=1e-5, atol=1e-6)


def test_swiglu_gates_and_keeps_the_parameter_count():
    torch.manual_seed(0)
    mlp, x = SwiGLU(48, 192), torch.randn(2, 48)
    assert mlp.out.in_features == 128
    gate, value = (x @ mlp.gate_value.weight.T + mlp.gate_value.bias).split(128, dim=-1)
    torch.testing.assert_close(mlp(x), mlp.out(gate * torch.sigmoid(gate) * value), rtol=1e-5, atol=1e-6)


@given(cells=st.lists(st.integers(1, 3), min_size=1, max_size=3), patch=st.sampled_from([1, 2, 3]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_unpatchify_undoes_patchify(cells, patch):
    x, _ = inputs(2, 2, tuple(n * patch for n in cells))
    tokens = patchify(x, patch)
    assert tokens.shape == (2, math.prod(cells), 2 * patch ** len(cells))
    channel_last = tokens.unflatten(2, (2, -1)).transpose(2, 3).flatten(2)
    assert torch.equal(unpatchify(channel_last, tuple(cells), patch), x)


def test_patchify_is_unfold():
    x, _ = inputs(2, 3, (4, 6))
    assert torch.equal(patchify(x, 2), F.unfold(x, kernel_size=2, stride=2).transpose(1, 2))


@pytest.mark.parametrize("shared", [False, True])
def test_null_label_is_none_and_classes_differ(shared):
    model = randomised(by_class(shared_modulation=shared))
    x, time = inputs()
    null = torch.full((3,), 5)
    assert torch.equal(model(x, time), model(x, time, label=null))
    for moment, label in ((time, null - 1), (time + 100, null)):
        assert (model(x, time) - model(x, moment, label=label)).abs().max() > 1e-3


def test_samples_of_a_batch_do_not_see_each_other():
    model = randomised(by_class())
    x, time = inputs(4)
    label, order = torch.tensor([0, 1, 2, 5]), torch.tensor([2, 0, 3, 1])
    found, wanted = model(x[order], time[order], label=label[order]), model(x, time, label=label)[order]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("flags", [{}, CLASSIC])
def test_gradients_reach_every_parameter_in_the_third_step(shared, flags):
    """Zero starts hold gradients back: step 1 moves the last layer, step 2 gates and what feeds the residual stream."""
    torch.manual_seed(0)
    model = by_class(shared_modulation=shared, **flags)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    x, time = inputs(4)
    label, target = torch.tensor([0, 1, 2, 5]), torch.randn(4, 3, 4, 4)

    def moved():
        optimiser.zero_grad()
        F.mse_loss(model(x, time, label=label), target).backward()
        names = {name for name, p in parameters.items() if p.grad is not None and p.grad.any()}
        return names

    parameters = {name.removeprefix("core."): value for name, value in model.named_parameters()}
    everything = {*parameters}
    assert moved() == {"final.weight", "final.bias"}
    optimiser.step()
    assert moved() == {
        name for name in everything if name.startswith(("final", "patch_embed", "modulation")) or ".modulation." in name
    }
    modulation = model.core.modulation if shared else model.core.blocks[0].modulation
    rows = modulation.weight.grad.unflatten(0, (6, 16)).flatten(1).any(dim=1)
    assert rows.tolist() == [False, False, True, False, False, True]  # shift, scale, gate; twice
    optimiser.step()
    assert moved() == everything


def test_rope_takes_other_grids_and_without_it_they_are_refused():
    x, time = inputs(2, 3, (6, 8))
    assert randomised(DiT(**TINY))(x, time).shape == x.shape
    with pytest.raises(LatentiaError, match=r"grid \(6, 8\), a DiT without rope is bound to \(4, 4\)"):
        DiT(**TINY, rope=False)(x, time)


@pytest.mark.parametrize("flags", [{}, {"shared_modulation": True}, CLASSIC])
def test_bfloat16_autocast_and_weights_answer_close_and_in_the_dtype_of_x(flags):
    model = randomised(by_class(**flags))
    x, time = inputs()
    label = torch.tensor([0, 4, 5])
    with torch.no_grad():
        exact = model(x, time, label=label)
        with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
            warnings.simplefilter("error")  # e.g. a norm whose input and weight have different dtypes
            autocast = model(x, time, label=label)
        half = model.bfloat16()(x, time, label=label)
    for out in (autocast, half):
        assert out.dtype == torch.float32
        assert not torch.equal(out, exact)
        assert (out - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(("flags", "label"), [({}, {"label": torch.tensor([0, 4, 5])}), (CLASSIC, {})])
def test_compiles_to_one_graph(flags, label):
    torch._dynamo.reset()
    model = randomised(by_class(depth=1, **flags))
    x, time = inputs()
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # fullgraph raises at a graph break
    torch.testing.assert_close(compiled(x, time, **label), model(x, time, **label))


def test_shared_modulation_saves_all_but_one_network():
    network, depth = 6 * 16 * 16 + 6 * 16, TINY["depth"]
    saved = count_parameters(DiT(**TINY)) - count_parameters(DiT(**{**TINY, "shared_modulation": True}))
    assert saved == (depth - 1) * network - depth * 6 * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, r"a DiT: width: Input should be greater than or equal to 1 \(got 0\)"),
        ({"depth": 10**9}, "depth: Input should be less than or equal to 1000"),
        ({"in_channels": 0}, "in_channels: Input should be greater"),
        ({"out_channels": -2}, "out_channels: Input should be greater"),
        ({"grid": ()}, "grid: Tuple should have at least 1 item"),
        ({"grid": (4, 5)}, r"\(4, 5\) does not divide into patches of 2"),
        ({"width": 18, "heads": 2}, "take a multiple of 4"),
        ({"width": 4, "heads": 2}, "at least 8"),
        ({"mlp_ratio": 0.0}, "mlp_ratio: Input should be greater than 0"),
        ({"mlp_ratio": 0.01}, "no hidden layer"),
        ({"concat_channels": -1}, "concat_channels: Input should be greater"),
        ({"width": 16.0}, "width: Input should be a valid integer"),
        ({"rope": 1}, "rope: Input should be a valid boolean"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(LatentiaError, match=message):
        DiT(**{**TINY, **change})


@pytest.mark.parametrize(
    ("x", "time", "values", "message"),
    [
        (torch.zeros(2, 4, 4, 4), torch.zeros(2), {}, r"\(2, 4, 4, 4\), expected 3 channels over 2 grid axes"),
        (torch.zeros(2, 3, 4), torch.zeros(2), {}, "over 2 grid axes"),
        (torch.zeros(2, 3, 4, 5), torch.zeros(2), {}, "does not divide"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1), {}, r"times have shape \(1,\), expected \(2,\)"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2), {"label": torch.tensor([0, 6])}, "labels run from 0 to 6"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x, time, values, message):
    with pytest.raises(LatentiaError, match=message):
        by_class()(x, time, **values)


CONCAT = {**TINY, "concat_channels": 2}


def test_signals_left_out_are_zero_and_others_differ():
    model = randomised(DiT(**CONCAT))
    x, time = inputs()
    vector, grid = torch.zeros(3, 16), torch.zeros(3, 2, 4, 4)
    nothing = model(x, time)
    assert torch.equal(nothing, model(x, time, Signals(vector=vector, grid=grid)))
    for signals in (Signals(vector=vector + 0.1), Signals(grid=grid + 1)):
        assert (nothing - model(x, time, signals)).abs().max() > 1e-3


def test_a_null_length_is_none_and_others_differ():
    model = randomised(Denoiser(DiT(**TINY), {"length": Length(16, 7)}))
    x, time = inputs()
    length = torch.full((3,), 7)
    assert torch.equal(model(x, time), model(x, time, length=length))
    assert (model(x, time) - model(x, time, length=length - 1)).abs().max() > 1e-3
    with pytest.raises(LatentiaError, match="lengths run from 7 to 8, expected 0 to 6, or 7 for none"):
        model(x, time, length=torch.tensor([7, 8, 7]))


def test_a_grid_enters_where_it_lies():
    """Beside the latent, cell by cell: in a network without blocks a cell sees the grid of its own patch only."""
    model = randomised(DiT(**{**CONCAT, "depth": 1}))
    model.blocks = torch.nn.ModuleList()
    x, time = inputs()
    grid = torch.zeros(3, 2, 4, 4)
    grid[:, :, :2, :2] = 1.0
    changed = (model(x, time) - model(x, time, Signals(grid=grid))).abs().amax((0, 1)) > 1e-4
    assert changed.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize("sizes", [TINY, CONCAT])
def test_a_grid_that_does_not_fit_is_refused(sizes):
    wanted = rf"shape \(2, 3, 4, 4\), expected \(2, {sizes.get('concat_channels', 0)}, 4, 4\)"
    with pytest.raises(LatentiaError, match=wanted):
        DiT(**sizes)(torch.zeros(2, 3, 4, 4), torch.zeros(2), Signals(grid=torch.zeros(2, 3, 4, 4)))


def test_sizes_have_the_recipe_defaults():
    model = DiT(in_channels=3, grid=(4, 4))
    assert (model.config["width"], model.config["depth"], model.config["heads"]) == (192, 8, 3)
    assert model.config["shared_modulation"]
    assert DiT(**model.config).config == model.config
