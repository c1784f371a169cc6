from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from segformer_jax.images import post_process
from segformer_jax.images.processor import SegformerImageProcessor

SIZES = [(1, 1), (7, 5), (13, 17), (64, 64), (97, 131), (40, 12), (33, 200)]


def _ours(logits, **options):
    outputs = SimpleNamespace(logits=logits)
    return SegformerImageProcessor().post_process_semantic_segmentation(outputs, **options)


def _theirs(logits, **options):
    nchw = torch.from_numpy(np.ascontiguousarray(np.moveaxis(logits, -1, 1)))
    return transformers.SegformerImageProcessorPil().post_process_semantic_segmentation(
        SimpleNamespace(logits=nchw), **options
    )


def _assert_same_classes(ours, theirs, scores):
    """Equal, but where the two top logits differ by rounding only."""
    top = np.sort(scores, -1)[..., -2:]
    near = top[..., 1] - top[..., 0] < 1e-5 * np.abs(scores).max()
    assert ((ours == theirs) | near).all()
    assert (ours != theirs).mean() <= 1e-3


@pytest.mark.parametrize("grid", [(16, 16), (13, 21), (1, 1), (8, 3)])
def test_class_maps_and_scores_equal_transformers_at_any_size(rng, grid):
    logits = rng.normal(size=(len(SIZES), *grid, 9)).astype(np.float32)
    options = {"target_sizes": SIZES, "return_segmentation_scores": True}
    plain = _ours(logits, target_sizes=SIZES)
    results = zip(_ours(logits, **options), _theirs(logits, **options), plain, SIZES, strict=True)
    for ours, theirs, own, size in results:
        scores = np.moveaxis(theirs.segmentation_scores.numpy(), 0, -1)
        assert ours.segmentation_scores.shape == (*size, 9)
        # float32 rounds the positions and the four products; torch may fuse some of them
        assert np.abs(ours.segmentation_scores - scores).max() <= 1e-5 * np.abs(scores).max()
        _assert_same_classes(ours.segmentation, theirs.segmentation.numpy(), scores)
        assert ours.segmentation.dtype == np.int64
        assert np.array_equal(own, ours.segmentation)


def test_float64_logits_are_interpolated_in_float64(rng):
    logits = rng.normal(size=(1, 11, 14, 5))
    options = {"target_sizes": [(50, 47)], "return_segmentation_scores": True}
    ours, theirs = _ours(logits, **options)[0], _theirs(logits, **options)[0]
    scores = np.moveaxis(theirs.segmentation_scores.numpy(), 0, -1)
    assert np.abs(ours.segmentation_scores - scores).max() <= 1e-13  # rounding of float64
    assert np.array_equal(ours.segmentation, theirs.segmentation.numpy())


def test_without_target_sizes_the_logits_keep_their_size(rng):
    logits = rng.normal(size=(2, 6, 7, 4)).astype(np.float32)
    for ours, theirs in zip(_ours(jnp.asarray(logits)), _theirs(logits), strict=True):
        assert np.array_equal(ours, theirs.numpy())
    scored = _ours(logits, return_segmentation_scores=True)
    assert np.array_equal(scored[1].segmentation_scores, logits[1])


def test_the_first_of_equal_classes_wins():
    assert not _ours(np.zeros((1, 4, 4, 3), np.float32), target_sizes=[(9, 9)])[0].any()


def test_bfloat16_logits_are_interpolated_in_float32(rng):
    logits = jnp.asarray(rng.normal(size=(1, 6, 6, 4)), jnp.bfloat16)
    ours = _ours(logits, target_sizes=[(20, 20)])[0]
    assert np.array_equal(ours, _ours(logits.astype(jnp.float32), target_sizes=[(20, 20)])[0])


def test_strips_hold_no_more_than_their_share_and_change_nothing(rng, monkeypatch):
    logits = rng.normal(size=(24, 17, 6)).astype(np.float32)
    for size in [(95, 70), (10, 9)]:
        whole = np.concatenate(list(post_process.upsampled_strips(logits, size)))
        row = size[1] * 6 * 4
        monkeypatch.setattr(post_process, "STRIP_BYTES", 3 * row + 1)
        strips = list(post_process.upsampled_strips(logits, size))
        assert max(len(strip) for strip in strips) == 3
        assert np.array_equal(np.concatenate(strips), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("sizes", [[(4, 4)], [(4, 4)] * 3, [(4, 4), (0, 4)], [(4, 4), 4]])
def test_target_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match="target"):
        _ours(np.zeros((2, 3, 3, 2), np.float32), target_sizes=sizes)


def test_target_sizes_may_be_an_array_or_a_tensor(rng):
    logits = rng.normal(size=(2, 5, 5, 3)).astype(np.float32)
    sizes = [(12, 9), (3, 30)]
    expected = _ours(logits, target_sizes=sizes)
    for kind in (np.array, torch.tensor):
        for ours, own in zip(_ours(logits, target_sizes=kind(sizes)), expected, strict=True):
            assert np.array_equal(ours, own)


def test_logits_of_another_rank_are_refused():
    with pytest.raises(ValueError, match="b, h, w, classes"):
        _ours(np.zeros((3, 3, 2), np.float32))
