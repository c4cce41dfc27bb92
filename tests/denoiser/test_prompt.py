"""Prompts in a DiT: nothing at first, padding unseen, tokens and emphasis seen, and what is refused."""

import pytest
import torch

from latentia.conditions import Prompt, Tokens
from latentia.conditions.prompt import PromptEncoder
from latentia.denoiser import Denoiser, DiT
from latentia.denoiser.dit import CrossAttention
from latentia.errors import LatentiaError

SIZES = {"in_channels": 3, "grid": (4, 4), "width": 24, "depth": 2, "heads": 2, "tokens": True}


def new(seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(DiT(**SIZES), {"prompt": Prompt(24, vocab_size=20, max_tokens=6, depth=2, heads=2)})


def make() -> Denoiser:
    """A denoiser whose zeros have been replaced, so that everything makes a difference."""
    model = new().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


X, TIME = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([10.0, 500.0])
PROMPT = torch.tensor([[5, 6, 2, 0], [7, 2, 0, 0]])


def answer(model: Denoiser, prompt=None, emphasis=None) -> torch.Tensor:
    values = {"prompt": prompt, "emphasis": emphasis}
    with torch.no_grad():
        return model(X, TIME, **{name: value for name, value in values.items() if value is not None})


def test_a_new_model_hears_no_prompt() -> None:
    model = new()
    torch.nn.init.normal_(model.core.final.weight)
    torch.testing.assert_close(answer(model, PROMPT), answer(model))
    torch.testing.assert_close(answer(model, PROMPT), model.core(X, TIME))


def test_tokens_matter_and_padding_does_not() -> None:
    model = make()
    out = answer(model, PROMPT)
    torch.testing.assert_close(out[1:], answer(model, PROMPT[:, :2])[1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out, answer(model, torch.nn.functional.pad(PROMPT, (0, 2))), atol=1e-5, rtol=1e-5)
    assert (out - answer(model, PROMPT.flip(0))).abs().mean() > 1e-3
    assert (out - answer(model)).abs().mean() > 1e-3


def test_their_mean_joins_the_time() -> None:
    model, (vector, tokens, grid) = (
        make(),
        make().conditions["prompt"]({"prompt": PROMPT, "emphasis": torch.ones(2, 4)}),
    )
    assert grid is None
    assert torch.equal(tokens.mask, PROMPT != 0)
    for row, count in enumerate((3, 2)):
        mean = tokens.vectors[row, :count].mean(0)
        torch.testing.assert_close(vector[row], model.conditions["prompt"].mean(mean), atol=1e-5, rtol=1e-5)


def test_the_order_of_words_matters() -> None:
    model = make()
    torch.nn.init.normal_(model.conditions["prompt"].encoder.positions)
    swapped = PROMPT.clone()
    swapped[0, :2] = PROMPT[0, :2].flip(0)
    assert (answer(model, PROMPT)[0] - answer(model, swapped)[0]).abs().mean() > 1e-4


def test_emphasis_scales_a_token() -> None:
    model = make()
    one = torch.ones(2, 4)
    torch.testing.assert_close(answer(model, PROMPT, one), answer(model, PROMPT))
    louder = one.clone()
    louder[0, 0] = 2
    out = answer(model, PROMPT, louder)
    assert (out[0] - answer(model, PROMPT)[0]).abs().mean() > 1e-4
    torch.testing.assert_close(out[1], answer(model, PROMPT)[1])


def test_attention_is_softmax_of_products_over_shown_tokens() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(8, 1)
    x, vectors = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    shown = torch.tensor([[True, True, True, False]])
    k, v = layer.key_value(vectors)[0, :3].chunk(2, dim=-1)
    weights = (layer.query(layer.norm(x))[0] @ k.T / 8**0.5).softmax(-1)
    wanted = layer.out(weights @ v)[None]
    torch.testing.assert_close(layer(x, Tokens(vectors, shown)), wanted, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter() -> None:
    model = make()
    model(X, TIME, prompt=PROMPT, emphasis=torch.ones(2, 4)).square().mean().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.int64), "none empty"),
        (torch.full((2, 4), 20), "0 to 19"),
        (torch.full((2, 4), -1), "0 to 19"),
        (torch.ones(2, 7, dtype=torch.int64), "1 to 6 tokens"),
        (torch.ones(2, 4), "float32"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompt: torch.Tensor, message: str) -> None:
    with pytest.raises(LatentiaError, match=message):
        answer(make(), prompt)


def test_sizes_that_do_not_fit_are_refused() -> None:
    for sizes in [(2**20, 8, 1024, 1, 2), (10, 0, 8, 1, 2), (10, 8, 8, 0, 2)]:
        with pytest.raises(LatentiaError, match="empty or too large"):
            PromptEncoder(*sizes)
