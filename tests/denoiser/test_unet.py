"""UNet against blocks of diffusers and torch, and its promises: zero start, odd grids, signals, gradients."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import randomised

from latentia.conditions import Label, Signals
from latentia.denoiser import Denoiser, UNet
from latentia.denoiser.unet import Attention, ResBlock, make_norm
from latentia.errors import LatentiaError

TINY = {"in_channels": 3, "width": 8, "blocks": 1, "heads": 2}


def by_class(classes=5, **sizes):
    """A UNet that knows classes."""
    core = UNet(**{**TINY, **sizes})
    return Denoiser(core, {"label": Label(core.signal_width, [str(number) for number in range(classes)])})


def inputs(batch=3, channels=3, grid=(7, 7), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *grid, generator=generator), 1000 * torch.rand(batch, generator=generator)


@given(
    grid=st.lists(st.integers(1, 9), min_size=1, max_size=2).map(tuple),
    multipliers=st.sampled_from([(1,), (1, 2), (2, 1, 3)]),
    blocks=st.integers(1, 2),
    attend=st.booleans(),
    num_classes=st.sampled_from([0, 4]),
    out_channels=st.sampled_from([None, 5]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_shapes_and_a_start_at_exactly_zero(grid, multipliers, blocks, attend, num_classes, out_channels):
    sizes = {"multipliers": multipliers, "blocks": blocks, "attention_levels": (0,) if attend else ()}
    model = by_class(num_classes, grid=grid, out_channels=out_channels, **sizes)
    x, time = inputs(2, 3, grid)
    label = torch.tensor([0, num_classes])
    out = model(x, time, label=label)
    assert out.shape == (2, out_channels or 3, *grid)
    assert torch.count_nonzero(out) == 0
    out = randomised(model)(x, time, label=label)
    assert out.isfinite().all()
    assert out.std() > 0


@pytest.mark.parametrize("out_channels", [8, 12])
def test_residual_block_is_that_of_diffusers(out_channels):
    torch.manual_seed(0)
    ours = randomised(ResBlock(2, 8, out_channels, 16, 0.0))
    theirs = ResnetBlock2D(
        in_channels=8,
        out_channels=out_channels,
        temb_channels=16,
        groups=ours.norm1.num_groups,
        groups_out=ours.norm2.num_groups,
        eps=1e-5,
        time_embedding_norm="scale_shift",
    )
    renamed = {"modulation": "time_emb_proj", "skip": "conv_shortcut"}
    state = ours.state_dict()
    theirs.load_state_dict(
        {renamed.get(n.split(".")[0], n.split(".")[0]) + "." + n.split(".")[1]: state[n] for n in state}
    )
    x, condition = torch.randn(2, 8, 5, 5), torch.randn(2, 16)
    torch.testing.assert_close(ours(x, F.silu(condition)), theirs(x, condition), rtol=1e-4, atol=1e-5)


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = randomised(Attention(16, 4)), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = torch.randn(2, 16, 3, 5)
    tokens = ours.norm(x).flatten(2).transpose(1, 2)
    expected = x + theirs(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (8, 2), (20, 5), (64, 16), (128, 32), (192, 32), (448, 32)])
def test_norm_groups_hold_four_channels_or_more(channels, groups):
    assert make_norm(channels).num_groups == groups


def test_null_label_is_none_and_classes_differ():
    model = randomised(by_class())
    x, time = inputs()
    null = torch.full((3,), 5)
    assert torch.equal(model(x, time), model(x, time, label=null))
    for moment, label in ((time, null - 1), (time + 100, null)):
        assert (model(x, time) - model(x, moment, label=label)).abs().max() > 1e-3


def test_a_grid_beside_the_latent_matters_and_zeros_are_none():
    model = randomised(UNet(**TINY, concat_channels=2))
    x, time = inputs()
    grid = torch.zeros(3, 2, 7, 7)
    assert torch.equal(model(x, time), model(x, time, Signals(grid=grid)))
    assert (model(x, time) - model(x, time, Signals(grid=grid + 1))).abs().max() > 1e-3
    with pytest.raises(LatentiaError, match=r"shape \(3, 1, 7, 7\), expected \(3, 2, 7, 7\)"):
        model(x, time, Signals(grid=grid[:, :1]))


def test_samples_of_a_batch_do_not_see_each_other():
    model = randomised(by_class())
    x, time = inputs(4)
    label, order = torch.tensor([0, 1, 2, 5]), torch.tensor([2, 0, 3, 1])
    found, wanted = model(x[order], time[order], label=label[order]), model(x, time, label=label)[order]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_channels_last_gives_the_same_answer_in_channels_last():
    model = randomised(UNet(**TINY))
    x, time = inputs()
    expected = model(x, time)
    out = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last), time)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_in_the_third_step():
    """Zero starts hold gradients back: step 1 moves the last layer, step 2 skips and the last layer of each branch."""
    torch.manual_seed(0)
    model = by_class()
    parameters = {name.removeprefix("core."): value for name, value in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    x, time = inputs(4)
    label, target = torch.tensor([0, 1, 2, 5]), torch.randn(4, 3, 7, 7)

    def moved():
        optimiser.zero_grad()
        F.mse_loss(model(x, time, label=label), target).backward()
        return {name for name, p in parameters.items() if p.grad is not None and p.grad.any()}

    everything = {*parameters}
    assert moved() == {"final.weight", "final.bias"}
    optimiser.step()
    open_now = ("final", "stem", "downs", "ups")
    assert moved() == {
        name
        for name in everything
        if name.startswith(open_now) or any(part in name for part in (".conv2.", ".skip.", ".attention.out."))
    }
    optimiser.step()
    assert moved() == everything


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = randomised(UNet(**TINY, dropout=0.5))
    x, time = inputs()
    assert torch.equal(model(x, time), model(x, time))
    model.train()
    assert not torch.equal(model(x, time), model(x, time))


def test_bfloat16_autocast_and_weights_answer_close_and_in_the_dtype_of_x():
    model = randomised(by_class())
    x, time = inputs()
    label = torch.tensor([0, 4, 5])
    with torch.no_grad():
        exact = model(x, time, label=label)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model(x, time, label=label)
        half = model.bfloat16()(x, time, label=label)
    for out in (autocast, half):
        assert out.dtype == torch.float32
        assert not torch.equal(out, exact)
        assert (out - exact).norm() < 0.05 * exact.norm()


def test_compiles_to_one_graph():
    torch._dynamo.reset()
    model = randomised(by_class(attention_levels=()))  # the middle has attention
    x, time = inputs()
    label = torch.tensor([0, 4, 5])
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # fullgraph raises at a graph break
    torch.testing.assert_close(compiled(x, time, label=label), model(x, time, label=label))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "a UNet: width: Input should be greater than or equal to 1"),
        ({"multipliers": ()}, "multipliers: Tuple should have at least 1 item"),
        ({"multipliers": (1, 0)}, "multipliers.1: Input should be greater"),
        ({"out_channels": -1}, "out_channels: Input should be greater"),
        ({"concat_channels": -1}, "concat_channels: Input should be greater"),
        ({"grid": (2, 2, 2)}, "1 or 2 grid axes, not 3"),
        ({"tokens": True}, "prompts need a DiT"),
        ({"blocks": 501}, "more than 1000 in all"),
        ({"attention_levels": (2,)}, r"attention_levels \(2,\) must lie in 0\.\.1"),
        ({"heads": 3}, "16 channels at level 1 do not split into 3 heads"),
        ({"dropout": 1.0}, "dropout: Input should be less than 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(LatentiaError, match=message):
        UNet(**{**TINY, **change})


@pytest.mark.parametrize(
    ("x", "time", "values", "message"),
    [
        (torch.zeros(2, 4, 7, 7), torch.zeros(2), {}, r"\(2, 4, 7, 7\), expected 3 channels over 2 grid axes"),
        (torch.zeros(2, 3, 7), torch.zeros(2), {}, "over 2 grid axes"),
        (torch.zeros(2, 3, 7, 7), torch.zeros(2, 1), {}, r"times have shape \(2, 1\), expected \(2,\)"),
        (torch.zeros(2, 3, 7, 7), torch.zeros(2), {"label": torch.tensor([-1, 0])}, "labels run from -1 to 0"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x, time, values, message):
    with pytest.raises(LatentiaError, match=message):
        by_class()(x, time, **values)


def test_a_config_makes_the_same_network():
    model = UNet(**TINY, multipliers=(1, 2, 2), attention_levels=(2,), grid=(9,), concat_channels=1)
    assert UNet(**model.config).config == model.config
