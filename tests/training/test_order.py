import torch
from hypothesis import given
from hypothesis import strategies as st

from latentia.training.order import ShuffledOrder, step_generator


@given(count=st.integers(1, 40), batch_size=st.integers(1, 60), seed=st.integers(0, 9))
def test_every_pass_sees_every_row_once(count: int, batch_size: int, seed: int) -> None:
    order = ShuffledOrder(count, batch_size, seed)
    steps = -(-3 * count // batch_size)
    rows = torch.cat([order.batch(step) for step in range(steps)])
    assert len(rows) == steps * batch_size
    for start in range(0, 3 * count, count):
        assert sorted(rows[start : start + count].tolist()) == list(range(count))


@given(step=st.integers(0, 50))
def test_a_batch_does_not_depend_on_what_came_before(step: int) -> None:
    walked = ShuffledOrder(17, 5, 0)
    for before in range(step):
        walked.batch(before)
    assert walked.batch(step).tolist() == ShuffledOrder(17, 5, 0).batch(step).tolist()


def test_passes_and_seeds_differ() -> None:
    order = ShuffledOrder(50, 50, 0)
    assert order.batch(0).tolist() != order.batch(1).tolist()
    assert order.batch(0).tolist() != ShuffledOrder(50, 50, 1).batch(0).tolist()


def test_generators_differ_by_place_and_repeat() -> None:
    def draw(*place: int) -> float:
        return float(torch.rand((), generator=step_generator(*place)))

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({draw(0, 1), draw(0, 2), draw(1, 1), draw(0, 1, 0)}) == 4
