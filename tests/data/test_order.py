"""The order of samples: an exact partition of every epoch, whoever reads, also when that changes."""

from collections import Counter
from itertools import chain, islice

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from srcluster.data.order import Order, resharded

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
        ((epoch, pair) for pair in pairs) for epoch, pairs in order.since(start, 4, {4: before})
    )
    assert list(islice(flat(start), 40)) == list(islice(flat(0), start, start + 40))


@settings(deadline=None, max_examples=100)
@given(
    samples=SHARDS,
    parts=st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(0, 30)), min_size=1, max_size=5),
    workers=st.integers(1, 3),
    per_sample=st.integers(1, 5),
)
def test_ranks_that_come_and_go_read_every_sample_once(samples, parts, workers, per_sample):
    total, batch = sum(samples), 12
    assume(total >= 12 * workers)
    seen, steps, reached = Counter(), 0, []
    for part, (world, number) in enumerate(parts):
        begin, epoch, before = resharded(
            total, parts[:part], steps, world, batch=batch, workers=workers, patches_per_sample=per_sample
        )
        assert begin <= steps
        for reader in range(world * workers):
            mine = [step for step in range(begin, steps + number) if step % workers == reader % workers]
            done, end = (
                -(-len([step for step in mine if step < until]) * (batch // world) // per_sample)
                for until in (steps, steps + number)
            )
            order = Order(tuple(samples), 3, reader, world * workers, 2)
            flat = chain.from_iterable(((at, pair) for pair in pairs) for at, pairs in order.since(0, epoch, before))
            read = list(islice(flat, end))[done:]
            seen.update(read)
            reached.append(epoch)
        steps += number
    assert set(seen.values()) <= {1}
    by_epoch = Counter(epoch for epoch, _ in seen)
    # What is over lacks fewer than the readers that ended it.
    assert all(total - by_epoch[epoch] < 12 * workers for epoch in range(max(reached)))


@settings(deadline=None, max_examples=100)
@given(parts=st.lists(st.integers(0, 50), max_size=4), more=st.integers(0, 50), workers=st.integers(1, 4))
def test_a_history_of_as_many_ranks_changes_nothing(parts, more, workers):
    history, start = [(2, number) for number in parts], sum(parts) + more
    assert resharded(40, history, start, 2, batch=8, workers=workers, patches_per_sample=3) == (0, 0, {})


def test_where_a_run_stands_that_lost_a_rank():
    # 5 batches of 4 patches, 2 a sample: each of two ranks has used 10 patches and begun 5 samples.
    assert resharded(16, [(2, 5)], 7, 1, batch=4, workers=1, patches_per_sample=2) == (5, 0, {0: [[5, 5]]})
    # Of two workers, number 0 made one batch more and has ended the epoch; number 1 has not.
    assert resharded(16, [(2, 3)], 3, 1, batch=4, workers=2, patches_per_sample=1) == (
        3,
        0,
        {0: [[4, 2, 4, 2]], 1: [[0, 0, 0, 0]]},
    )
    # Both have ended it, and number 0 has begun the next.
    assert resharded(8, [(2, 5)], 5, 1, batch=4, workers=2, patches_per_sample=2) == (
        5,
        1,
        {0: [[2, 2, 2, 2]], 1: [[1, 0, 1, 0]]},
    )
