import numpy as np

from segformer_jax.images.simplify import simplified

SQUARE = np.array([(0, 0), (4, 0), (8, 1), (8, 8), (0, 8)])


def test_corners_near_the_new_border_are_removed():
    none = np.zeros(len(SQUARE), bool)
    assert simplified(SQUARE, none, 1.0).tolist() == [[0, 0], [8, 1], [8, 8], [0, 8]]
    assert len(simplified(SQUARE, none, 0.1)) == 5
    fixed = np.array([False, True, False, False, False])
    assert [4, 0] in simplified(SQUARE, fixed, 1.0).tolist()


def test_it_depends_neither_on_the_direction_nor_on_the_start(rng):
    ring = rng.integers(0, 9, (60, 2)).cumsum(0)[np.r_[:60]]
    for fixed in (np.zeros(60, bool), np.arange(60) == 7, np.arange(60) % 11 == 0):
        kept = {tuple(own) for own in simplified(ring, fixed, 6.0).tolist()}
        assert 2 < len(kept) < 60
        turned = simplified(ring[::-1], fixed[::-1], 6.0)
        assert {tuple(own) for own in turned.tolist()} == kept
        rolled = simplified(np.roll(ring, 13, 0), np.roll(fixed, 13), 6.0)
        assert {tuple(own) for own in rolled.tolist()} == kept
