"""Every loss and its gradient is torch's, or its paper's written in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segformer_jax import ops
from segformer_jax.training.losses import LOSSES, make_loss

ROUNDING = 1e-10  # float64
WEIGHTS = (0.5, 2.0, 1.5, 0.0, 3.0)


@pytest.fixture(autouse=True)
def _x64(x64):
    """All in float64, where a wrong formula can't hide behind rounding."""


def batch(num_labels=5, size=(30, 37)):
    """Logits at about a quarter, and labels of which some are ignored and one class is absent."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, max(num_labels - 1, 2), (2, *size))
    labels[0, 3:9] = 255
    return rng.normal(size=(2, 8, 10, num_labels)) * 3, labels.astype(np.uint8)


def assert_equal(loss, in_torch, logits, labels):
    """Equal values and gradients; `in_torch` takes logits (b, classes, H, W) and labels."""
    ours, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits), jnp.asarray(labels))
    x = torch.from_numpy(logits).requires_grad_()
    large = F.interpolate(x.movedim(-1, 1), labels.shape[1:], mode="bilinear")
    theirs = in_torch(large, torch.from_numpy(labels.astype(np.int64)))
    theirs.backward()
    np.testing.assert_allclose(ours, theirs.item(), rtol=ROUNDING)
    np.testing.assert_allclose(gradient, x.grad, rtol=0, atol=ROUNDING)


# --- cross entropy


@pytest.mark.parametrize("form", ["cpu", "gpu"])
@pytest.mark.parametrize("denominator", ["valid", "valid_pixels", "all"])
@pytest.mark.parametrize(("weights", "smoothing"), [(None, 0.0), (None, 0.1), (WEIGHTS, 0.2)])
def test_cross_entropy_is_torchs(form, denominator, weights, smoothing):
    logits, labels = batch()

    def in_torch(x, y):
        options = dict(weight=weights and torch.tensor(weights).double(), label_smoothing=smoothing)
        if denominator == "valid":
            return F.cross_entropy(x, y, ignore_index=255, **options)
        count = y.numel() if denominator == "all" else (y != 255).sum()
        return F.cross_entropy(x, y, ignore_index=255, reduction="sum", **options) / count

    loss = make_loss(
        {"cross_entropy": 1.0},
        num_labels=5,
        class_weights=weights,
        label_smoothing=smoothing,
        denominator=denominator,
    )
    with ops.use(form):
        assert_equal(loss, in_torch, logits, labels)


@pytest.mark.parametrize("denominator", ["valid", "valid_pixels", "all"])
def test_one_label_is_torchs_binary_cross_entropy(denominator):
    logits, labels = batch(1)

    def in_torch(x, y):
        losses = F.binary_cross_entropy_with_logits(x[:, 0], (y == 1).double(), reduction="none")
        losses = losses * (y != 255)
        return losses.sum() / (y.numel() if denominator == "all" else (y != 255).sum())

    loss = make_loss({"cross_entropy": 1.0}, num_labels=1, denominator=denominator)
    assert_equal(loss, in_torch, logits, labels)


# --- the others: their papers, written with torch


def focal_in_torch(x, y, *, gamma, weights=None, ignore=255):
    x, y = x.movedim(1, -1)[y != ignore], y[y != ignore]
    p = x.softmax(-1)[torch.arange(len(y)), y]
    w = torch.ones_like(p) if weights is None else torch.tensor(weights).double()[y]
    return (-w * (1 - p) ** gamma * p.log()).sum() / w.sum()


def dice_in_torch(x, y, *, smooth=1.0, ignore=255):
    p, y = x.softmax(1).movedim(1, -1)[y != ignore], y[y != ignore]
    losses = []
    for label in range(x.shape[1]):
        t = (y == label).double()
        both = (p[:, label] * t).sum()
        losses.append(1 - (2 * both + smooth) / (p[:, label].sum() + t.sum() + smooth))
    return torch.stack(losses).mean()


def lovasz_extension(errors, truth):
    """Algorithm 1 of Berman et al., with the Jaccard losses subtracted from one another."""
    errors, order = torch.sort(errors, descending=True)
    t = truth[order].double()
    jaccard = 1 - (t.sum() - t.cumsum(0)) / (t.sum() + (1 - t).cumsum(0))
    return errors @ torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def lovasz_in_torch(x, y, *, ignore=255):
    p, y = x.softmax(1).movedim(1, -1)[y != ignore], y[y != ignore]
    return torch.stack(
        [
            lovasz_extension(((y == label).double() - p[:, label]).abs(), y == label)
            for label in y.unique()
        ]
    ).mean()


@pytest.mark.parametrize("ignore", [255, 2])
@pytest.mark.parametrize(
    ("name", "in_torch"),
    [
        ("focal", lambda x, y, ignore: focal_in_torch(x, y, gamma=2, ignore=ignore)),
        ("dice", lambda x, y, ignore: dice_in_torch(x, y, ignore=ignore)),
        ("lovasz", lambda x, y, ignore: lovasz_in_torch(x, y, ignore=ignore)),
    ],
)
def test_a_loss_is_its_papers(name, in_torch, ignore):
    logits, labels = batch()
    labels[labels == 255] = ignore
    loss = make_loss({name: 1.0}, num_labels=5, ignore_index=ignore)
    assert_equal(loss, lambda x, y: in_torch(x, y, ignore), logits, labels)


def test_dice_and_lovaszs_loss_weigh_the_classes():
    logits, labels = batch()
    weights, y = np.array(WEIGHTS), torch.from_numpy(labels.astype(np.int64))
    p = F.interpolate(torch.from_numpy(logits).movedim(-1, 1), labels.shape[1:], mode="bilinear")
    p, y = p.softmax(1).movedim(1, -1)[y != 255], y[y != 255]
    dice, lovasz = [], []
    for label, weight in enumerate(weights):
        t = (y == label).double()
        parts = (p[:, label] * t).sum(), p[:, label].sum() + t.sum()
        dice.append(weight * (1 - (2 * parts[0] + 1) / (parts[1] + 1)))
        if t.any():
            lovasz.append(weight * lovasz_extension((t - p[:, label]).abs(), y == label))
    for name, wanted in (("dice", dice), ("lovasz", lovasz)):
        loss = make_loss({name: 1.0}, num_labels=5, class_weights=WEIGHTS)
        ours = loss(jnp.asarray(logits), labels)
        np.testing.assert_allclose(ours, torch.stack(wanted).mean().item(), rtol=ROUNDING)
    for name in ("dice", "lovasz"):
        logits, labels = batch(1)
        plain, weighted = (
            make_loss({name: 1.0}, num_labels=1, class_weights=own)(jnp.asarray(logits), labels)
            for own in (None, (1.0, 3.0))
        )
        np.testing.assert_allclose(weighted, 3 * plain, rtol=ROUNDING)


@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_focal_loss_takes_class_weights_and_gamma(gamma):
    loss = make_loss({"focal": 1.0}, num_labels=5, class_weights=WEIGHTS, focal_gamma=gamma)
    assert_equal(loss, lambda x, y: focal_in_torch(x, y, gamma=gamma, weights=WEIGHTS), *batch())


def test_focal_loss_with_gamma_0_is_cross_entropy_over_both_denominators():
    logits, labels = batch()
    for denominator in ("valid", "valid_pixels", "all"):
        cross_entropy, focal = (
            make_loss(
                {name: 1.0},
                num_labels=5,
                class_weights=WEIGHTS,
                denominator=denominator,
                focal_gamma=0.0,
            )(jnp.asarray(logits), labels)
            for name in ("cross_entropy", "focal")
        )
        np.testing.assert_allclose(focal, cross_entropy, rtol=ROUNDING)


def test_dice_takes_its_smooth_term():
    loss = make_loss({"dice": 1.0}, num_labels=5, dice_smooth=50.0)
    assert_equal(loss, lambda x, y: dice_in_torch(x, y, smooth=50), *batch())


# --- OHEM, as mmsegmentation's sampler selects and its cross entropy divides


def ohem_in_torch(x, y, *, threshold, min_kept, weights=None, smoothing=0.0, denominator="valid"):
    """The sampler's weights are 1 at the pixels to keep, and the losses' mean is over all."""
    weights = None if weights is None else torch.tensor(weights).double()
    valid = y != 255
    losses = F.cross_entropy(
        x, y, weight=weights, ignore_index=255, label_smoothing=smoothing, reduction="none"
    )
    with torch.no_grad():
        count, chosen = min_kept * len(y), torch.zeros(int(valid.sum()))
        if threshold is None:
            chosen[losses[valid].argsort(descending=True)[:count]] = 1
        elif len(chosen):
            p = x.softmax(1).gather(1, torch.where(valid, y, 0)[:, None])[:, 0][valid]
            bound = max(p.sort().values[min(count, len(p) - 1)], threshold)
            chosen[p < bound] = 1
    total = (losses[valid] * chosen).sum()
    if denominator == "all":
        return total / y.numel()
    if denominator == "valid" and weights is not None:
        return total / weights[y[valid]].sum()
    return total / valid.sum()


@pytest.mark.parametrize("denominator", ["valid", "valid_pixels", "all"])
@pytest.mark.parametrize(("weights", "smoothing"), [(None, 0.0), (WEIGHTS, 0.2)])
@pytest.mark.parametrize(
    ("threshold", "min_kept"),
    [
        (None, 100),
        (None, 10_000),  # more than there are
        (0.7, 10),  # the threshold decides
        (0.05, 300),  # the number does
        (0.05, 10_000),
        (0.0, 1),
    ],
)
def test_ohem_keeps_mmsegmentations_pixels(threshold, min_kept, weights, smoothing, denominator):
    options = dict(denominator=denominator)
    loss = make_loss(
        {"ohem": 1.0},
        num_labels=5,
        class_weights=weights,
        label_smoothing=smoothing,
        ohem_threshold=threshold,
        ohem_min_kept=min_kept,
        **options,
    )

    def in_torch(x, y):
        options = dict(weights=weights, smoothing=smoothing, denominator=denominator)
        return ohem_in_torch(x, y, threshold=threshold, min_kept=min_kept, **options)

    logits, labels = batch()
    if threshold is None and weights is not None:
        labels[labels == 3] = 4  # class 3 weighs nothing: its losses would all be the same
    assert_equal(loss, in_torch, logits, labels)


@pytest.mark.parametrize("threshold", [None, 0.7])
def test_ohem_keeps_a_sixteenth_when_nothing_is_said(threshold):
    logits, labels = batch()
    few, usual = (
        make_loss({"ohem": 1.0}, num_labels=5, ohem_threshold=threshold, **more)
        for more in (dict(ohem_min_kept=30 * 37 // 16), {})
    )
    logits = jnp.asarray(logits)
    np.testing.assert_allclose(few(logits, labels), usual(logits, labels), rtol=1e-2)
    assert few(logits, labels) < make_loss({"cross_entropy": 1.0}, num_labels=5)(logits, labels)


def test_ohem_of_one_label_is_of_its_two_classes():
    loss = make_loss({"ohem": 1.0}, num_labels=1, ohem_threshold=0.6, ohem_min_kept=7)

    def in_torch(x, y):
        x = torch.cat([torch.zeros_like(x), x], 1)
        return ohem_in_torch(x, y, threshold=0.6, min_kept=7)

    assert_equal(loss, in_torch, *batch(1))


# --- Tversky, Jaccard and MCC, as segmentation_models_pytorch has them


def tversky_in_torch(
    x, y, *, alpha=0.5, beta=0.5, gamma=1.0, smooth=0.0, weights=None, jaccard=False
):
    """Written as the library does: one-hot labels, ignored pixels times 0, absent classes 0."""
    mask = (y != 255)[:, None]
    p = x.softmax(1) * mask
    t = F.one_hot(torch.where(y == 255, 0, y), x.shape[1]).movedim(-1, 1) * mask
    if jaccard:
        both = (p * t).sum((0, 2, 3))
        lower = (p + t).sum((0, 2, 3)) - both
    else:
        both = (p * t).sum((0, 2, 3))
        lower = both + alpha * (p * (1 - t)).sum((0, 2, 3)) + beta * ((1 - p) * t).sum((0, 2, 3))
    losses = 1 - (both + smooth) / (lower + smooth).clamp_min(1e-7)
    losses = losses * (t.sum((0, 2, 3)) > 0)
    if weights is not None:
        losses = losses * torch.tensor(weights).double()
    return losses.mean() ** gamma


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(alpha=0.3, beta=0.7),
        dict(alpha=0.0, beta=1.0, gamma=1.5),
        dict(gamma=0.5, smooth=1.0),
    ],
)
def test_tversky_is_that_of_segmentation_models(options, weights):
    own = {f"tversky_{name}": value for name, value in options.items()}
    loss = make_loss({"tversky": 1.0}, num_labels=5, class_weights=weights, **own)
    assert_equal(loss, lambda x, y: tversky_in_torch(x, y, weights=weights, **options), *batch())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smooth", [0.0, 2.0])
def test_jaccard_is_that_of_segmentation_models(smooth, weights):
    loss = make_loss({"jaccard": 1.0}, num_labels=5, class_weights=weights, jaccard_smooth=smooth)

    def in_torch(x, y):
        return tversky_in_torch(x, y, smooth=smooth, weights=weights, jaccard=True)

    assert_equal(loss, in_torch, *batch())


def binary_tversky(x, y, *, alpha=0.5, beta=0.5):
    p, t = x[:, 0][y != 255].sigmoid(), (y[y != 255] == 1).double()
    both = (p * t).sum()
    lower = both + alpha * (p * (1 - t)).sum() + beta * ((1 - p) * t).sum()
    return (1 - both / lower.clamp_min(1e-7)) * (t.sum() > 0)


def mcc_of(p, t):
    eps = 1e-5
    tp, tn = (p * t).sum() + eps, ((1 - p) * (1 - t)).sum() + eps
    fp, fn = (p * (1 - t)).sum() + eps, ((1 - p) * t).sum() + eps
    lower = torch.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return 1 - (tp * tn - fp * fn) / lower


def binary_mcc(x, y):
    return mcc_of(x[:, 0][y != 255].sigmoid(), (y[y != 255] == 1).double())


def test_mcc_of_two_labels_is_that_of_the_second():
    def in_torch(x, y):
        return mcc_of(x.softmax(1)[:, 1][y != 255], (y[y != 255] == 1).double())

    assert_equal(make_loss({"mcc": 1.0}, num_labels=2), in_torch, *batch(2))


@pytest.mark.parametrize("labels", [1, 2])
def test_mcc_of_many_pixels_is_exact_in_float32(labels):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 1000, 1000, labels))
    truth = (rng.random((1, 1000, 1000)) < 0.01).astype(np.uint8)
    loss = jax.jit(make_loss({"mcc": 1.0}, num_labels=labels))
    exact = loss(jnp.asarray(logits), truth)
    np.testing.assert_allclose(loss(jnp.asarray(logits, jnp.float32), truth), exact, rtol=1e-5)


# --- one label


def binary_focal(x, y):
    x, t = x[:, 0][y != 255], (y[y != 255] == 1).double()
    p = x.sigmoid()
    losses = -t * (1 - p) ** 2 * p.log() - (1 - t) * p**2 * (1 - p).log()
    return losses.mean()


def binary_dice(x, y):
    p, t = x[:, 0][y != 255].sigmoid(), (y[y != 255] == 1).double()
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def binary_lovasz(x, y):
    x, t = x[:, 0][y != 255], y[y != 255] == 1
    return lovasz_extension((1 - x * (2 * t.double() - 1)).relu(), t)


def picture_by_picture(of_batch):
    """The mean over the pictures; one without a labelled pixel counts 0."""

    def mean(x, y):
        pictures = [
            of_batch(one[None], own[None]) if (own != 255).any() else one.sum() * 0
            for one, own in zip(x, y, strict=True)
        ]
        return torch.stack(pictures).mean()

    return mean


BINARY = [
    ("focal", binary_focal),
    ("dice", binary_dice),
    ("tversky", binary_tversky),
    ("jaccard", lambda x, y: binary_tversky(x, y, alpha=1, beta=1)),
    ("mcc", binary_mcc),
    ("lovasz", binary_lovasz),
    ("lovasz_per_image", picture_by_picture(binary_lovasz)),
]


@pytest.mark.parametrize(("name", "in_torch"), BINARY)
def test_one_label_takes_a_losss_binary_form(name, in_torch):
    assert_equal(make_loss({name: 1.0}, num_labels=1), in_torch, *batch(1))


@pytest.mark.parametrize(("name", "in_torch"), BINARY)
def test_one_label_may_have_no_pixel(name, in_torch):
    logits, labels = batch(1)
    assert_equal(
        make_loss({name: 1.0}, num_labels=1), in_torch, logits, np.where(labels == 1, 0, labels)
    )


@pytest.mark.parametrize("name", ["tversky", "jaccard", "lovasz_per_image"])
def test_one_label_weighs_its_class(name):
    logits, labels = batch(1)
    plain, weighted = (
        make_loss({name: 1.0}, num_labels=1, class_weights=own)(jnp.asarray(logits), labels)
        for own in (None, (1.0, 3.0))
    )
    np.testing.assert_allclose(weighted, 3 * plain, rtol=ROUNDING)


# --- Lovász, picture by picture


def weighted_lovasz(x, y):
    p, y = x.softmax(1).movedim(1, -1)[y != 255], y[y != 255]
    return torch.stack(
        [
            WEIGHTS[label]
            * lovasz_extension(((y == label).double() - p[:, label]).abs(), y == label)
            for label in y.unique()
        ]
    ).mean()


@pytest.mark.parametrize(("weights", "one"), [(None, lovasz_in_torch), (WEIGHTS, weighted_lovasz)])
@pytest.mark.parametrize("ignored", [False, True])
def test_lovasz_per_image_is_the_mean_of_the_pictures(ignored, weights, one):
    logits, labels = batch()
    if ignored:
        labels[1] = 255  # all of a picture
    loss = make_loss({"lovasz_per_image": 1.0}, num_labels=5, class_weights=weights)
    assert_equal(loss, picture_by_picture(one), logits, labels)


# --- all of them


def test_losses_add_up_by_their_factors():
    loss = make_loss((("cross_entropy", 1.0), ("dice", 3.0), ("lovasz", 0.5)), num_labels=5)

    def in_torch(x, y):
        entropy = F.cross_entropy(x, y, ignore_index=255)
        return entropy + 3 * dice_in_torch(x, y) + 0.5 * lovasz_in_torch(x, y)

    assert_equal(loss, in_torch, *batch())


@pytest.mark.parametrize("weights", [None, (1.0, 2.0)])
@pytest.mark.parametrize("num_labels", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_all_ignored_is_0_and_so_is_its_gradient(name, num_labels, weights):
    if name == "mcc":
        weights = None  # it takes none
    logits, labels = batch(num_labels)
    loss = make_loss({name: 1.0}, num_labels=num_labels, class_weights=weights)
    labels = np.full_like(labels, 255)
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits), labels)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("options", [dict(ohem_threshold=None), dict(tversky_gamma=0.5)])
def test_all_ignored_is_0_with_other_options(options):
    logits, labels = batch()
    loss = make_loss({"ohem": 1.0, "tversky": 1.0}, num_labels=5, **options)
    labels = np.full_like(labels, 255)
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits), labels)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("num_labels", [1, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_certain_logits_in_bfloat16_keep_their_gradients_finite(name, num_labels):
    if name == "mcc":
        num_labels = min(num_labels, 2)  # at most
    logits, labels = batch(num_labels)
    loss = make_loss({name: 1.0}, num_labels=num_labels, focal_gamma=0.5)
    logits = jnp.asarray(np.sign(logits) * 1e4, jnp.bfloat16)
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, labels)
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    assert np.isfinite(value)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_lovaszs_loss_tells_many_pixels_apart_in_float32():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 500, 500, 2))
    labels = rng.integers(0, 2, (1, 500, 500))
    loss = make_loss({"lovasz": 1.0}, num_labels=2)
    gradient_of = jax.jit(jax.grad(loss))
    gradient = gradient_of(jnp.asarray(logits, jnp.float32), labels)
    exact = gradient_of(jnp.asarray(logits), labels)
    np.testing.assert_allclose(gradient, exact, atol=1e-3 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(terms={}), "losses must be one or more of cross_entropy"),
        (dict(terms={"hinge": 1.0}), "'hinge'"),
        (dict(terms={"dice": -1.0}), "loss_weights must be positive numbers"),
        (dict(class_weights=(1.0, 2.0)), "5 numbers of 0 or more"),
        (dict(class_weights=(1.0, 2.0, -1.0, 0.0, 1.0)), "0 or more"),
        (dict(label_smoothing=1.0), r"label_smoothing must be in \[0, 1\), got 1.0"),
        (dict(ohem_threshold=1.5), r"ohem_threshold must be in \[0, 1\], or None, got 1.5"),
        (dict(ohem_min_kept=0), "ohem_min_kept must be a number of pixels, at least 1, .* got 0"),
        (dict(focal_gamma=-1.0), "focal_gamma must be 0 or more, 2 as a rule, got -1.0"),
        (dict(dice_smooth=0.0), "dice_smooth must be a number of pixels above 0, got 0.0"),
        (dict(tversky_alpha=-0.1), "tversky_alpha must be 0 or more, got -0.1"),
        (dict(tversky_beta=-0.1), "tversky_beta must be 0 or more, got -0.1"),
        (dict(tversky_gamma=0.0), "tversky_gamma must be above 0, got 0.0"),
        (dict(tversky_smooth=-1.0), "tversky_smooth must be a number of pixels, 0 or more"),
        (dict(jaccard_smooth=-1.0), "jaccard_smooth must be a number of pixels, 0 or more"),
        (dict(terms={"mcc": 1.0}), "the loss mcc must have 1 or 2 classes, got 5"),
        (
            dict(terms={"mcc": 1.0}, num_labels=1, class_weights=(1.0, 2.0)),
            "class_weights must be none with the loss mcc",
        ),
    ],
)
def test_an_option_out_of_its_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_loss(**(dict(terms={"dice": 1.0}, num_labels=5) | options))


def test_logits_and_labels_that_do_not_fit_are_named():
    loss = make_loss({"dice": 1.0}, num_labels=5)
    logits, labels = batch()
    with pytest.raises(ValueError, match="must have 5 labels on the last axis"):
        loss(jnp.asarray(logits[..., :4]), labels)
    with pytest.raises(ValueError, match=r"labels must be in .* got \[9\]"):
        loss(jnp.asarray(logits), np.where(labels == 1, 9, labels))
