import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from latentia.training.order import GroupedOrder, ShuffledOrder, SortedOrder


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


@given(
    groups=st.lists(st.integers(0, 3), min_size=1, max_size=40), batch_size=st.integers(1, 7), seed=st.integers(0, 9)
)
def test_batches_are_of_one_group_and_a_pass_sees_every_row(groups: list[int], batch_size: int, seed: int) -> None:
    numbers = torch.tensor(groups)
    order = GroupedOrder(numbers, batch_size, seed)
    for epoch in range(2):
        batches = [order.batch(epoch * order.batches + place) for place in range(order.batches)]
        assert all(len(batch) == batch_size and len(set(numbers[batch].tolist())) == 1 for batch in batches)
        assert set(torch.cat(batches).tolist()) == set(range(len(groups)))
        for group in set(groups):  # what fills a group's last batch up is less than a batch
            seen = sum(int((numbers[batch] == group).sum()) for batch in batches)
            assert 0 <= seen - groups.count(group) < batch_size
    assert order.batch(1).tolist() == GroupedOrder(numbers, batch_size, seed).batch(1).tolist()


@given(batch_size=st.integers(1, 6), together=st.integers(1, 5), seed=st.integers(0, 3))
def test_sorted_batches_hold_the_rows_of_the_shuffled_ones(batch_size: int, together: int, seed: int) -> None:
    lengths = torch.randint(1, 30, (41,), generator=torch.Generator().manual_seed(seed))
    held = SortedOrder(lengths, batch_size, seed, together)
    for group in range(3):
        batches = [held.batch(group * together + place) for place in range(together)]
        rows = ShuffledOrder(41, batch_size * together, seed).batch(group)
        assert sorted(torch.cat(batches).tolist()) == sorted(rows.tolist())
        spans = sorted((int(lengths[batch].min()), int(lengths[batch].max())) for batch in batches)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_sorted_batches_come_in_no_order_and_depend_on_the_step_alone() -> None:
    lengths = torch.arange(1, 401)
    walked = SortedOrder(lengths, 10, 0, 8)
    means = [float(lengths[walked.batch(step)].float().mean()) for step in range(16)]
    assert means[:8] != sorted(means[:8])
    assert walked.batch(3).tolist() == SortedOrder(lengths, 10, 0, 8).batch(3).tolist()


def test_sorted_batches_save_nearly_all_padding() -> None:
    lengths = torch.randint(1, 60, (1600,), generator=torch.Generator().manual_seed(0))
    batches = [SortedOrder(lengths, 16, 0).batch(step) for step in range(96)]
    computed = sum(16 * int(lengths[batch].max()) for batch in batches)
    assert computed < 1.1 * sum(int(lengths[batch].sum()) for batch in batches)  # shuffled ones compute twice as many
