"""Scores are torchmetrics', from one confusion matrix."""

import jax
import numpy as np
import pytest
import torch
import torchmetrics

from segformer_jax.evaluation.metrics import RunningConfusion, confusion_matrix, mean_iou, scores

ABSENT, MISSED, INVENTED = 3, 4, 5  # in neither map; in the labels alone; in the predictions alone


def random_maps(rng, *, size=(97, 61), num_classes=8):
    """Labels with ignored pixels, and predictions that are right half of the time."""
    known = [c for c in range(num_classes) if c not in (ABSENT, INVENTED)]
    labels = rng.choice(known, size).astype(np.uint8)
    given = rng.choice([c for c in range(num_classes) if c not in (ABSENT, MISSED)], size)
    classes = np.where((rng.random(size) < 0.5) & (labels != MISSED), labels, given)
    labels[rng.random(size) < 0.2] = 255
    return labels, classes.astype(np.uint8)


def torch_score(metric, labels, classes) -> np.ndarray:
    metric.update(torch.from_numpy(classes.astype(int)), torch.from_numpy(labels.astype(int)))
    return metric.compute().numpy()


def jaccard(average, num_classes=8):
    return torchmetrics.JaccardIndex(
        task="multiclass", num_classes=num_classes, ignore_index=255, average=average
    )


def accuracy(average, num_classes=8):
    return torchmetrics.Accuracy(
        task="multiclass", num_classes=num_classes, ignore_index=255, average=average
    )


@pytest.mark.parametrize("num_classes", [8, 150])
def test_a_confusion_matrix_is_the_one_of_torchmetrics(rng, num_classes):
    labels, classes = random_maps(rng, num_classes=num_classes)
    ours = confusion_matrix(labels, classes, num_classes=num_classes)
    metric = torchmetrics.ConfusionMatrix(
        task="multiclass", num_classes=num_classes, ignore_index=255
    )
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(ours, torch_score(metric, labels, classes))


def test_more_classes_than_labels_are_refused():
    labels = np.array([[255, 299]], np.uint16)
    with pytest.raises(ValueError, match=r"num_classes must be at most 255, .*, got 300"):
        confusion_matrix(labels, labels, num_classes=300)


def test_ignored_pixels_count_nowhere_even_with_255_classes(rng):
    labels = np.array([[255, 254], [0, 255]], np.uint8)
    counts = np.asarray(confusion_matrix(labels, np.full((2, 2), 254, np.uint8), num_classes=255))
    assert counts.sum() == 2
    assert counts[254, 254] == counts[0, 254] == 1
    nothing = np.full((2, 2), 255, np.uint8)
    assert not np.asarray(confusion_matrix(nothing, np.zeros_like(nothing), num_classes=2)).any()


def test_scores_are_those_of_torchmetrics_with_ignored_pixels_and_absent_classes(rng):
    labels, classes = random_maps(rng)
    ours = scores(np.asarray(confusion_matrix(labels, classes, num_classes=8)).astype(np.int64))

    exact = dict(rtol=0, atol=1e-6)  # torchmetrics divides in float32
    present = np.arange(8) != ABSENT
    per_class = torch_score(jaccard("none"), labels, classes)
    np.testing.assert_allclose(ours.per_class_iou[present], per_class[present], **exact)
    assert np.isnan(ours.per_class_iou[ABSENT])
    assert ours.per_class_iou[MISSED] == ours.per_class_iou[INVENTED] == 0
    macro = torch_score(jaccard("macro"), labels, classes)
    np.testing.assert_allclose(ours.mean_iou, macro, **exact)
    weighted = torch_score(jaccard("weighted"), labels, classes)
    np.testing.assert_allclose(ours.frequency_weighted_iou, weighted, **exact)

    in_labels = present & (np.arange(8) != INVENTED)
    per_class = torch_score(accuracy("none"), labels, classes)
    np.testing.assert_allclose(ours.per_class_accuracy[in_labels], per_class[in_labels], **exact)
    assert np.isnan(ours.per_class_accuracy[~in_labels]).all()
    np.testing.assert_allclose(ours.mean_accuracy, per_class[in_labels].mean(), **exact)
    pixels = torch_score(accuracy("micro"), labels, classes)
    np.testing.assert_allclose(ours.pixel_accuracy, pixels, **exact)


def test_mean_accuracy_is_that_of_torchmetrics_where_every_class_is_in_the_labels(rng):
    labels, classes = (rng.integers(0, 5, (50, 40)).astype(np.uint8) for _ in range(2))
    ours = scores(np.asarray(confusion_matrix(labels, classes, num_classes=5)))
    theirs = torch_score(accuracy("macro", 5), labels, classes)
    np.testing.assert_allclose(ours.mean_accuracy, theirs, rtol=0, atol=1e-6)


def f_score(average, beta):
    return torchmetrics.FBetaScore(
        task="multiclass", num_classes=8, ignore_index=255, average=average, beta=beta
    )


@pytest.mark.parametrize("beta", [1.0, 0.5, 2.0])
def test_dice_precision_and_f_score_are_mmsegmentations_and_torchmetrics(rng, beta):
    labels, classes = random_maps(rng)
    confusion = np.asarray(confusion_matrix(labels, classes, num_classes=8)).astype(np.int64)
    ours = scores(confusion, beta=beta)

    # mmsegmentation: areas of one class after the other, and nanmean
    kept = labels != 255
    own, given = (
        np.array([(x[kept] == c).sum() for c in range(8)], float) for x in (labels, classes)
    )
    both = np.array([((labels == c) & (classes == c)).sum() for c in range(8)], float)
    with np.errstate(invalid="ignore"):
        dice, precision, recall = 2 * both / (given + own), both / given, both / own
        f = (1 + beta**2) * (precision * recall) / (beta**2 * precision + recall)
    np.testing.assert_allclose(ours.per_class_dice, dice, rtol=1e-12)
    np.testing.assert_allclose(ours.per_class_precision, precision, rtol=1e-12)
    np.testing.assert_allclose(ours.per_class_accuracy, recall, rtol=1e-12)
    np.testing.assert_allclose(ours.per_class_f_score, f, rtol=1e-12)
    means = (ours.mean_dice, ours.mean_precision, ours.mean_accuracy, ours.mean_f_score)
    expected = [np.nanmean(values) for values in (dice, precision, recall, f)]
    np.testing.assert_allclose(means, expected, rtol=1e-12)
    assert np.isnan(ours.per_class_f_score[[ABSENT, MISSED, INVENTED]]).all()
    assert ours.per_class_dice[MISSED] == ours.per_class_dice[INVENTED] == 0
    assert ours.beta == beta

    there = ~np.isnan(ours.per_class_f_score)
    exact = dict(rtol=0, atol=1e-6)  # torchmetrics divides in float32
    theirs = torch_score(f_score("none", beta), labels, classes)
    np.testing.assert_allclose(ours.per_class_f_score[there], theirs[there], **exact)
    assert (theirs[[MISSED, INVENTED]] == 0).all()
    if beta == 1:  # dice, which counts classes without a hit as torchmetrics does
        present = np.arange(8) != ABSENT
        np.testing.assert_allclose(ours.per_class_dice[present], theirs[present], **exact)
        macro = torch_score(f_score("macro", 1.0), labels, classes)
        np.testing.assert_allclose(ours.mean_dice, macro, **exact)


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_a_beta_that_is_not_above_0_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be a number above 0, got"):
        scores(np.eye(2, dtype=np.int64), beta=beta)


def test_the_mean_iou_of_one_picture_is_the_same_on_the_device(rng):
    confusion = confusion_matrix(*random_maps(rng), num_classes=8)
    np.testing.assert_allclose(
        mean_iou(confusion), scores(np.asarray(confusion)).mean_iou, rtol=1e-6
    )


def test_without_any_pixel_nothing_is_known():
    ours = scores(np.zeros((3, 3), np.int64))
    assert np.isnan([ours.mean_iou, ours.pixel_accuracy, ours.mean_accuracy]).all()
    assert np.isnan(ours.frequency_weighted_iou)
    assert np.isnan(mean_iou(jax.numpy.zeros((3, 3), int)))


def test_a_running_sum_never_overflows():
    running, most = RunningConfusion(2), 2**30
    for _ in range(5):
        running.add(jax.numpy.array([[most, 0], [0, 1]]), most + 1)
    assert running.total().tolist() == [[5 * most, 0], [0, 5]]
    running.add(jax.numpy.ones((2, 2), int), 4)
    assert running.total().tolist() == [[5 * most + 1, 1], [1, 6]]
    assert running.total().dtype == np.int64
