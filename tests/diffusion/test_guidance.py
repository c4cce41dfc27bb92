"""Guidance: the same mix whatever the network predicts, its cost, its interval and its rescaling."""

import pytest
import torch
from torch import Tensor

from latentia.diffusion import (
    EDM,
    VP,
    Guidance,
    Process,
    RectifiedFlow,
    SelfConditioned,
    classifier_free,
    denoise_with,
    guide,
)
from latentia.errors import LatentiaError

F64 = torch.float64
Z = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
LABEL, NULL = torch.tensor([0, 1, 2]), torch.tensor([9, 9, 9])
BOTH = {"label": LABEL}, {"label": NULL}
MIDDLE = {"VP": 400.0, "RectifiedFlow": 0.5, "EDM": 1.5}


def network(x: Tensor, time: Tensor, label: Tensor) -> Tensor:
    return torch.sin(x * (1 + label.view(-1, 1, 1, 1) / 5)) + time.view(-1, 1, 1, 1) / 1000


class Counting:
    """A conditional denoise that notes the batch sizes it was called with."""

    def __init__(self, process: Process) -> None:
        self.denoise = denoise_with(network, process)
        self.batches: list[int] = []

    def __call__(self, z_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.batches.append(len(z_t))
        return self.denoise(z_t, t, label=label)


@pytest.mark.parametrize(
    "process",
    [*(VP("linear", prediction_type=kind) for kind in ("epsilon", "sample", "v_prediction")), RectifiedFlow(), EDM()],
    ids=repr,
)
@pytest.mark.parametrize("many_times", [False, True])
def test_guiding_the_denoised_is_guiding_the_output(process: Process, many_times: bool):
    t = torch.tensor(MIDDLE[type(process).__name__], dtype=F64)
    t = t * torch.tensor([0.5, 1.0, 1.5], dtype=F64) if many_times else t

    def guided_network(x: Tensor, time: Tensor) -> Tensor:
        return 3.5 * network(x, time, LABEL) - 2.5 * network(x, time, NULL)

    expected = denoise_with(guided_network, process)(Z, t)
    denoise = Counting(process)
    torch.testing.assert_close(classifier_free(denoise, *BOTH, Guidance(3.5), process)(Z, t), expected)
    assert denoise.batches == [6]
    pair = (lambda z_t, t, label=label: denoise(z_t, t, label=label) for label in (LABEL, NULL))
    torch.testing.assert_close(guide(*pair, Guidance(3.5), process)(Z, t), expected)
    assert denoise.batches == [6, 3, 3]


@pytest.mark.parametrize(("scale", "other"), [(1.0, LABEL), (0.0, NULL)])
def test_scale_one_is_the_conditional_and_zero_the_unconditional(scale: float, other: Tensor):
    denoise = Counting(RectifiedFlow())
    found = classifier_free(denoise, *BOTH, Guidance(scale, rescale=0.0), RectifiedFlow())(Z, torch.tensor(0.5))
    assert denoise.batches == ([3] if scale == 1 else [6])
    torch.testing.assert_close(found, denoise(Z, torch.tensor(0.5), other))


@pytest.mark.parametrize(("t", "inside"), [(0.5, False), (0.50001, True), (2.0, True), (2.00001, False), (80.0, False)])
def test_outside_the_interval_only_the_conditional_half_is_computed(t: float, inside: bool):
    process, time = EDM(), torch.tensor(t, dtype=F64)
    denoise = Counting(process)
    found = classifier_free(denoise, *BOTH, Guidance(4.0, interval=(0.5, 2.0)), process)(Z, time)
    assert denoise.batches == [6 if inside else 3]
    conditional, unconditional = denoise(Z, time, label=LABEL), denoise(Z, time, label=NULL)
    expected = 4 * conditional - 3 * unconditional if inside else conditional
    torch.testing.assert_close(found, expected)


def test_the_interval_is_in_sigma_over_alpha_and_holds_per_sample():
    process = RectifiedFlow()
    t = torch.tensor([0.2, 0.5, 1.0], dtype=F64)  # σ/α = 1/4, 1, ∞
    denoise = Counting(process)
    found = classifier_free(denoise, *BOTH, Guidance(4.0, interval=(0.5, 2.0)), process)(Z, t)
    conditional, unconditional = denoise(Z, t, label=LABEL), denoise(Z, t, label=NULL)
    expected = torch.stack([conditional[0], 4 * conditional[1] - 3 * unconditional[1], conditional[2]])
    torch.testing.assert_close(found, expected)
    open_above = classifier_free(denoise, *BOTH, Guidance(4.0, interval=(0.5, float("inf"))), process)(Z, t)
    torch.testing.assert_close(open_above[2], 4 * conditional[2] - 3 * unconditional[2])


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescale_matches_diffusers(rescale: float):
    from diffusers.guiders.guider_utils import rescale_noise_cfg

    process, t = RectifiedFlow(), torch.tensor(0.5, dtype=F64)
    denoise = denoise_with(network, process)
    found = classifier_free(denoise, *BOTH, Guidance(6.0, rescale=rescale), process)(Z, t)
    conditional, unconditional = denoise(Z, t, label=LABEL), denoise(Z, t, label=NULL)
    guided = 6 * conditional - 5 * unconditional
    torch.testing.assert_close(found, rescale_noise_cfg(guided, conditional, rescale))
    if rescale == 1:
        torch.testing.assert_close(found.std((1, 2, 3)), conditional.std((1, 2, 3)))


def test_rescaling_a_constant_stays_finite():
    def constant(z_t: Tensor, t: Tensor) -> Tensor:
        return torch.ones_like(z_t)

    found = guide(constant, constant, Guidance(3.0, rescale=0.7), EDM())(Z, torch.tensor(1.0))
    torch.testing.assert_close(found, torch.ones_like(Z))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scale": -1.0}, "guidance_scale is -1.0"),
        ({"scale": float("nan")}, "guidance_scale is nan"),
        ({"scale": float("inf")}, "guidance_scale is inf"),
        ({"scale": 2.0, "interval": (2.0, 1.0)}, r"interval is \(2.0, 1.0\)"),
        ({"scale": 2.0, "interval": (-1.0, 1.0)}, r"interval is \(-1.0, 1.0\)"),
        ({"scale": 2.0, "rescale": 1.5}, "rescale is 1.5"),
    ],
)
def test_bad_numbers_are_refused(arguments: dict, words: str):
    with pytest.raises(LatentiaError, match=words):
        Guidance(**arguments)


def test_several_conditions_are_each_guided_by_their_own_null():
    def denoise(z_t: Tensor, t: Tensor, label: Tensor, shift: Tensor) -> Tensor:
        return z_t + label.view(-1, 1, 1, 1) + shift

    shift = torch.full_like(Z, 0.5)
    values, null = {"label": LABEL, "shift": shift}, {"label": NULL, "shift": 0 * shift}
    guided = classifier_free(denoise, values, null, Guidance(2.0), RectifiedFlow())
    expected = 2 * (Z + LABEL.view(-1, 1, 1, 1) + 0.5) - (Z + 9)
    torch.testing.assert_close(guided(Z, torch.tensor(0.5)), expected)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_what_is_given_later_is_the_same_in_both_halves(scale: float):
    def denoise(z_t: Tensor, t: Tensor, label: Tensor, estimate: Tensor) -> Tensor:
        return z_t + label.view(-1, 1, 1, 1) * estimate

    estimate = torch.randn(Z.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    guided = classifier_free(denoise, *BOTH, Guidance(scale), RectifiedFlow())
    mixed = scale * LABEL + (1 - scale) * NULL
    torch.testing.assert_close(guided(Z, torch.tensor(0.5), estimate=estimate), Z + mixed.view(-1, 1, 1, 1) * estimate)


def test_self_conditioning_hands_on_the_last_answer_and_starts_from_nothing():
    seen: list[Tensor] = []

    def denoise(z_t: Tensor, t: Tensor, estimate: Tensor) -> Tensor:
        seen.append(estimate)
        return z_t + estimate + 1

    remembering = SelfConditioned().sampling(denoise)
    first = remembering(Z, torch.tensor(1.0))
    second = remembering(Z, torch.tensor(0.5))
    assert torch.equal(seen[0], torch.zeros_like(Z))
    assert torch.equal(seen[1], first)
    assert torch.equal(second, Z + first + 1)
    SelfConditioned().sampling(denoise)(Z, torch.tensor(1.0))
    assert torch.equal(seen[2], torch.zeros_like(Z))
