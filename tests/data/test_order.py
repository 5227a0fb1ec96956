"""The order of samples: every epoch is every sample once up to the remainder, from any step, whoever reads."""

from collections import Counter
from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from srcluster.data.order import Order, part

ORDERS = st.builds(
    Order,
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20).map(tuple),
    seed=st.just(7),
    batch=st.integers(1, 24),
    most_lanes=st.integers(1, 12),
    shuffle_shards=st.integers(1, 12),
    patches_per_sample=st.integers(1, 5),
)
few = settings(deadline=None, max_examples=60)


def samples_of(order: Order, lane: int, first: int, number: int) -> list[tuple[int, int]]:
    """Samples `first` to `first + number` of a lane."""
    samples: list[tuple[int, int]] = []
    for window in order.windows(lane, first):
        samples += window.samples[max(first - window.first, 0) :]
        if len(samples) >= number:
            return samples[:number]
    raise AssertionError


@few
@given(order=ORDERS, epoch=st.sampled_from([0, 3]))
def test_an_epoch_is_every_sample_once_up_to_the_remainder(order, epoch):
    total = sum(order.sizes)
    assert order.lanes == max(n for n in range(1, order.most_lanes + 1) if order.batch % n == 0 and n <= total)
    read = [samples_of(order, lane, epoch * order.share, order.share) for lane in range(order.lanes)]
    seen = Counter(sample for lane in read for sample in lane)
    assert set(seen.values()) == {1}
    assert total - len(seen) == total % order.lanes
    assert all(0 <= index < order.sizes[shard] for shard, index in seen)


@few
@given(order=ORDERS, start=st.integers(0, 300))
def test_starting_late_is_skipping(order, start):
    for lane in {0, order.lanes - 1}:
        assert samples_of(order, lane, start, 30) == samples_of(order, lane, 0, start + 30)[start:]


@few
@given(order=ORDERS, start=st.integers(0, 50))
def test_places_take_every_sample_of_their_lane_in_turn(order, start):
    """Each for `patches_per_sample` batches, and each lane equally many of a batch."""
    per_sample = order.patches_per_sample
    lanes = Counter(map(order.lane, range(order.batch)))
    assert set(lanes.values()) == {order.batch // order.lanes}
    taken = Counter()
    for step in range(start, start + 3 * per_sample):
        for place in range(order.batch):
            number, is_new = order.number(step, place)
            assert step == 0 or is_new == (number != order.number(step - 1, place)[0])
            taken[order.lane(place), number] += 1
    for lane in lanes:
        numbers = sorted(number for at, number in taken if at == lane)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        inner = [taken[lane, number] for number in numbers[lanes[lane] : -lanes[lane]]]
        assert set(inner) <= {per_sample}


@few
@given(order=ORDERS, lane=st.integers(0, 11))
def test_a_window_is_begun_when_its_first_sample_is_taken(order, lane):
    places = [place for place in range(order.batch) if order.lane(place) == lane]
    for window in islice(order.windows(lane), 5) if places else []:
        step = max(order.begun(window), 0)
        assert window.first in [order.number(step, place)[0] for place in places]
        assert step == 0 or window.first > order.number(step - 1, places[-1])[0]


def test_every_epoch_has_another_order_and_leaves_out_others():
    order = Order((40, 40, 41), 0, 8, 4, 4, 1)
    everything = {(shard, index) for shard, size in enumerate(order.sizes) for index in range(size)}
    epochs = [
        [sample for lane in range(4) for sample in samples_of(order, lane, epoch * order.share, order.share)]
        for epoch in range(3)
    ]
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(set.union(*(everything - set(epoch) for epoch in epochs))) > 1


@few
@given(batch=st.integers(1, 300), world=st.integers(1, 64), workers=st.integers(1, 8))
def test_parts_are_all_of_a_batch_and_nearly_equal(batch, world, workers):
    world = min(world, batch)
    parts = [part(range(batch), rank, world) for rank in range(world)]
    assert [place for places in parts for place in places] == list(range(batch))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for places in parts:
        number = min(workers, len(places))
        inner = [part(places, worker, number) for worker in range(number)]
        assert [place for mine in inner for place in mine] == list(places)
        assert min(map(len, inner)) > 0


def test_corners_differ_by_step_and_place():
    order = Order((10,), 0, 16, 8, 8, 1)
    corners = np.concatenate([order.corners(step) for step in range(4)])
    assert len(np.unique(corners)) == corners.size
    assert ((corners >= 0) & (corners < 1)).all()


def test_of_many_shards_any_step_is_near():
    """A million samples: the plan costs the shards' names and one window, wherever it begins."""
    order = Order((400,) * 2500, 0, 64, 8, 8, 1)
    window = next(order.windows(5, 10**9 + 7))
    assert window.first <= 10**9 + 7 < window.end <= window.first + 400
