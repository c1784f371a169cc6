"""Class maps at any size are torch's interpolate and argmax, but where two classes are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from segformer_jax.inference import class_map_cpu
from segformer_jax.inference.class_map import class_map, start_compiling

SIZES = [(1, 1), (1, 300), (257, 1), (7, 5), (24, 31), (25, 32), (96, 124), (97, 123), (200, 333)]


def upsampled(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What torch makes of the logits at `size`, (H, W, labels)."""
    x = torch.from_numpy(logits).permute(0, 3, 1, 2)
    x = torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return x[0].permute(1, 2, 0).numpy()


def smooth(rng: np.random.Generator, labels: int) -> np.ndarray:
    """Logits as a picture has them: regions, most classes far below the best."""
    coarse = 5 * rng.normal(size=(1, 4, 5, labels)).astype(np.float32)
    return upsampled(coarse, (24, 31))[None].copy()


def noise(rng: np.random.Generator, labels: int) -> np.ndarray:
    return rng.normal(size=(1, 24, 31, labels)).astype(np.float32)


def assert_best(ours: np.ndarray, logits: np.ndarray) -> None:
    """Each pixel has its largest logit, or one that float32's rounding can't tell from it."""
    best = logits.max(-1)
    own = np.take_along_axis(logits, ours[..., None].astype(np.int64), -1)[..., 0]
    assert (best - own <= 1e-5 * np.abs(best)).all()
    assert np.mean(ours != logits.argmax(-1)) <= 1e-4  # near ties are rare


@pytest.mark.parametrize("labels", [2, 19, 150, 300])
@pytest.mark.parametrize("made", [smooth, noise])
def test_a_map_is_the_argmax_of_torchs_upsampled_logits(rng, made, labels):
    logits = made(rng, labels)
    for size in SIZES:
        classes, scores = class_map(jnp.asarray(logits), size)
        assert classes.shape == size
        assert classes.dtype == (np.uint8 if labels <= 255 else np.uint16)
        assert scores is None
        assert_best(classes, upsampled(logits, size))


@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.9])
def test_one_label_is_where_its_probability_is_above_the_threshold(rng, threshold):
    logits = noise(rng, 1)
    for size in [(96, 124), (97, 301)]:
        p = torch.from_numpy(upsampled(logits, size)[..., 0]).sigmoid().numpy()
        classes, scores = class_map(jnp.asarray(logits), size, scores=True, threshold=threshold)
        sure = np.abs(p - threshold) > 1e-5  # float32's rounding
        np.testing.assert_array_equal(classes[sure], p[sure] > threshold)
        np.testing.assert_allclose(scores, np.where(classes == 1, p, 1 - p), rtol=0, atol=1e-6)
        alone, _ = class_map(jnp.asarray(logits), size, threshold=threshold)
        np.testing.assert_array_equal(alone, classes)


@pytest.mark.parametrize("scores", [False, True])
def test_a_threshold_of_several_labels_is_refused(rng, scores):
    logits = jnp.asarray(noise(rng, 3))
    with pytest.raises(ValueError, match=r"threshold must be 0\.5 with 3 labels"):
        class_map(logits, (8, 8), scores=scores, threshold=0.3)


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 40), (16, 8)])
def test_grids_of_any_shape_are_enlarged_and_shrunk(rng, grid):
    logits = rng.normal(size=(1, *grid, 5)).astype(np.float32)
    for size in [(1, 1), (2, 3), grid, (130, 70), (63, 1100)]:  # up to 550 pixels a cell
        classes, _ = class_map(jnp.asarray(logits), size)
        assert_best(classes, upsampled(logits, size))


@pytest.mark.parametrize("winners", [3, 12, 13, 24, 40, 60])
def test_any_number_of_classes_may_be_left_to_compare(rng, winners):
    logits = noise(rng, 150)
    losers = rng.permutation(150)[winners:]
    logits[..., losers] -= 20
    live = np.asarray(class_map_cpu._grid_and_live(jnp.asarray(logits))[1])
    assert not live[:, losers].any()
    assert live.sum(1).max() == winners
    classes, _ = class_map(jnp.asarray(logits), (96, 124))
    assert_best(classes, upsampled(logits, (96, 124)))


@pytest.mark.parametrize("labels", [3, 150])
def test_of_equal_classes_the_first_is_taken(labels):
    logits = np.zeros((1, 6, 7, labels), np.float32)
    logits[..., 0] = -1
    assert (class_map(jnp.asarray(logits), (24, 28))[0] == 1).all()


@pytest.mark.parametrize("labels", [5, 150])
def test_a_class_at_minus_infinity_never_wins(rng, labels):
    logits = noise(rng, labels)
    banned = logits.copy()
    banned[..., ::2] = -np.inf
    logits[..., ::2] = -1e3
    maps = [class_map(jnp.asarray(x), (97, 123))[0] for x in (banned, logits)]
    assert np.array_equal(*maps)


@pytest.mark.parametrize("labels", [5, 150])
def test_not_a_number_spoils_its_own_pixels_only(rng, labels):
    logits = noise(rng, labels)
    spoiled = logits.copy()
    spoiled[0, 10, 10, 3] = np.nan
    sound, ours = (class_map(jnp.asarray(x), (96, 124))[0] for x in (logits, spoiled))
    near = np.isnan(upsampled(spoiled, (96, 124))).any(-1)
    assert 0 < near.sum() <= 64
    assert np.array_equal(ours[~near], sound[~near])
    assert ours.max() < labels


def test_the_map_with_scores_is_the_map_without(rng):
    logits = smooth(rng, 19)
    with_scores, scores = class_map(jnp.asarray(logits), (97, 123), scores=True)
    alone, _ = class_map(jnp.asarray(logits), (97, 123))
    assert np.mean(with_scores != alone) <= 1e-4
    assert scores is not None
    assert scores.shape == (97, 123)


def test_a_process_of_64_bits_has_class_maps_too(rng, x64):
    logits = noise(rng, 5)
    assert_best(class_map(jnp.asarray(logits), (41, 53))[0], upsampled(logits, (41, 53)))


def test_programs_compiled_beforehand_are_the_ones_that_run(rng):
    device = jax.devices()[0]
    thread = start_compiling((9, 13, 5), device)
    assert thread is not None
    assert start_compiling((9, 13, 5), device) is thread  # once is enough
    thread.join()
    programs = class_map_cpu._grid_and_live, class_map_cpu._strip
    compiled = [program._cache_size() for program in programs]
    mesh = jax.sharding.Mesh([device], ("batch",))  # as a segmenter's logits are
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    logits = rng.normal(size=(1, 9, 13, 5)).astype(np.float32)
    # as in the thread: the tests' own settings hold in this one only
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        classes, _ = class_map(jax.device_put(logits, sharding), (97, 123))
    assert_best(classes, upsampled(logits, (97, 123)))
    assert [program._cache_size() for program in programs] == compiled
