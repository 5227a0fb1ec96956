"""The order of samples: an exact partition of every epoch, whoever reads, also when that changes."""

from collections import Counter
from itertools import chain, islice

from hypothesis import given, settings
from hypothesis import strategies as st

from srcluster.data.order import Order

SHARDS = st.lists(st.integers(1, 60), min_size=1, max_size=12)


@settings(deadline=None, max_examples=150)
@given(samples=SHARDS, world=st.integers(1, 64), workers=st.integers(0, 8), window=st.integers(1, 5))
def test_an_epoch_is_every_sample_once(samples, world, workers, window):
    readers = world * max(1, workers)
    orders = [Order(tuple(samples), 7, reader, readers, window) for reader in range(readers)]
    share = sum(samples) // readers
    for epoch in (0, 3):
        read = [list(chain.from_iterable(order.epoch(epoch))) for order in orders]
        assert {len(one) for one in read} == {share}
        seen = Counter(chain.from_iterable(read))
        assert set(seen.values()) <= {1}
        assert sum(samples) - len(seen) == sum(samples) % readers
        assert all(0 <= index < samples[shard] for shard, index in seen)


def test_every_epoch_has_another_order_and_leaves_out_others():
    samples = (40, 40, 41)
    everything = {(shard, index) for shard, size in enumerate(samples) for index in range(size)}
    orders = [Order(samples, 0, reader, 4, 2) for reader in range(4)]
    epochs = [[pair for order in orders for pair in chain.from_iterable(order.epoch(epoch))] for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(set.union(*(everything - set(epoch) for epoch in epochs))) > 1


@settings(deadline=None, max_examples=50)
@given(samples=SHARDS, readers=st.integers(1, 4), window=st.integers(1, 5), start=st.integers(0, 200))
def test_starting_late_is_skipping(samples, readers, window, start):
    if sum(samples) < readers:
        return
    order = Order(tuple(samples), 1, readers - 1, readers, window)
    flat = lambda start: chain.from_iterable(((epoch, pair) for pair in pairs) for epoch, pairs in order.since(start))  # noqa: E731
    assert list(islice(flat(start), 40)) == list(islice(flat(0), start, start + 40))


@settings(deadline=None, max_examples=150)
@given(samples=SHARDS, window=st.integers(1, 5), draw=st.data())
def test_an_epoch_whose_readers_change_is_still_every_sample_once(samples, window, draw):
    before, seen, left = [], Counter(), sum(samples)
    for readers in draw.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)):
        orders = [Order(tuple(samples), 3, reader, readers, window) for reader in range(readers)]
        read = [draw.draw(st.integers(0, left // readers)) for _ in orders]
        for order, number in zip(orders, read, strict=True):
            seen.update(list(chain.from_iterable(order.epoch(5, before)))[:number])
        before.append(read)
        left -= sum(read)
    orders = [Order(tuple(samples), 3, reader, 2, window) for reader in range(2)]
    for order in orders:
        seen.update(chain.from_iterable(order.epoch(5, before)))
    assert set(seen.values()) <= {1}
    assert sum(samples) - len(seen) == left % 2


@settings(deadline=None, max_examples=50)
@given(samples=SHARDS, start=st.integers(0, 200), draw=st.data())
def test_starting_late_is_skipping_also_after_a_change(samples, start, draw):
    if sum(samples) < 2:
        return
    order = Order(tuple(samples), 1, 1, 2, 2)
    before = [[draw.draw(st.integers(0, sum(samples) // 3)) for _ in range(3)]]
    flat = lambda start: chain.from_iterable(  # noqa: E731
        ((epoch, pair) for pair in pairs) for epoch, pairs in order.since(start, 4, before)
    )
    assert list(islice(flat(start), 40)) == list(islice(flat(0), start, start + 40))
