from collections import Counter

import pytest

from segformer_jax.data.order import Share, make_order


def first(order, count: int) -> list[int]:
    return [next(order.pictures(position)) for position in range(count)]


def test_without_shares_every_picture_comes_once_an_epoch():
    found = first(make_order(7, seed=3), 35)
    epochs = _rows(found, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 5
    assert found != first(make_order(7, seed=4), 35)


def _rows(values, length):
    return [tuple(values[start : start + length]) for start in range(0, len(values), length)]


def test_one_source_with_a_weight_is_as_without():
    assert first(make_order(7, shares=[Share(7, 3)], seed=3), 30) == first(
        make_order(7, seed=3), 30
    )


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 2), (0.7, 0.2, 0.1), (3, 1000)])
def test_any_run_of_samples_holds_each_share(weights):
    shares = [Share(3 + place, weight) for place, weight in enumerate(weights)]
    order = make_order(sum(share.pictures for share in shares), shares=shares, seed=0)
    for start in (0, 1234, 10**9):
        drawn = Counter(order.turns[start + position][0] for position in range(2000))
        for place, weight in enumerate(weights):
            assert abs(drawn[place] - 2000 * weight / sum(weights)) <= len(weights)


def test_every_picture_of_a_source_comes_once_an_epoch_of_it():
    found = first(make_order(7, shares=[Share(2, 3), Share(5, 1)], seed=1), 200)
    small = [number for number in found if number < 2]
    large = [number for number in found if number >= 2]
    assert (len(small), len(large)) == (150, 50)
    assert all(set(epoch) == {0, 1} for epoch in _rows(small, 2))
    assert all(set(epoch) == {2, 3, 4, 5, 6} for epoch in _rows(large, 5))


def test_the_other_pictures_of_the_source_stand_in_the_next_of_the_epoch_first():
    order = make_order(7, shares=[Share(2, 1), Share(5, 1)], seed=1)
    for position in range(20):
        candidates = list(order.pictures(position))
        source = {0, 1} if candidates[0] < 2 else {2, 3, 4, 5, 6}
        assert set(candidates) == source
        assert len(candidates) == len(source)
    whole = make_order(7, seed=1)
    assert list(whole.pictures(7)) == [next(whole.pictures(7 + place)) for place in range(7)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1), "pictures must be at least 1 per source, got 0"),
        ((1, 0), "weight must be above 0.*got 0"),
        ((1, float("inf")), "weight must be above 0.*got inf"),
    ],
)
def test_an_impossible_share_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Share(*values)
