"""What is learned from a teacher: the loss, against PyTorch in float64; and which classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from segformer_jax.training.distillation import Distillation, divergence, shared_classes
from segformer_jax.training.losses import make_loss

LABELS, SHARED, WEIGHT, TEMPERATURE = 6, (1, 2, 5), 0.3, 2.5


def arrays(*, size=(5, 7), teacher_size=None):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(2, *size, LABELS))
    teacher = 3 * rng.normal(size=(2, *(teacher_size or size), len(SHARED)))
    taught = rng.random(teacher.shape[:3]) < 0.7
    labels = rng.integers(0, LABELS, (2, 20, 28))
    labels[rng.random(labels.shape) < 0.4] = 255
    return jnp.asarray(logits), jnp.asarray(teacher), jnp.asarray(taught), labels


def torchs(logits, teacher, taught, labels):
    """The whole loss, and its gradient by the student's logits, by torch's own functions."""
    own = torch.tensor(np.asarray(logits), requires_grad=True)
    large = torch.nn.functional.interpolate(
        own.permute(0, 3, 1, 2), size=labels.shape[1:], mode="bilinear", align_corners=False
    )
    hard = torch.nn.functional.cross_entropy(large, torch.from_numpy(labels), ignore_index=255)
    cells = torch.tensor(np.asarray(taught))
    soft = torch.nn.functional.kl_div(
        (own[..., list(SHARED)] / TEMPERATURE).log_softmax(-1)[cells],
        (torch.tensor(np.asarray(teacher)) / TEMPERATURE).log_softmax(-1)[cells],
        reduction="batchmean",
        log_target=True,
    )
    loss = (1 - WEIGHT) * hard + WEIGHT * TEMPERATURE**2 * soft
    loss.backward()
    return loss.item(), own.grad.numpy()


def ours(teacher, taught, labels, *, weight=WEIGHT):
    hard = make_loss({"cross_entropy": 1.0}, num_labels=LABELS)
    teaching = Distillation(weight, TEMPERATURE, SHARED, targets=lambda batch, values: batch)
    return lambda logits: teaching.loss(hard(logits, labels), logits, (teacher, taught))


def test_loss_and_gradient_are_those_of_torch(x64):
    given = arrays()
    wanted, slope = torchs(*given)
    loss, gradient = jax.jit(jax.value_and_grad(ours(*given[1:])))(given[0])
    assert float(loss) == pytest.approx(wanted, abs=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-14)


def test_pixels_without_a_label_are_learned_from_the_teacher_alone(x64):
    logits, teacher, taught, labels = arrays()
    labels = np.full_like(labels, 255)
    soft = divergence(logits, teacher, taught, classes=SHARED, temperature=TEMPERATURE)
    loss = ours(teacher, taught, labels)(logits)
    assert float(loss) == pytest.approx(WEIGHT * TEMPERATURE**2 * float(soft), abs=1e-12)


def test_without_a_taught_cell_masks_alone_count_and_gradients_are_numbers(x64):
    logits, teacher, taught, labels = arrays()
    loss, gradient = jax.value_and_grad(ours(teacher, jnp.zeros_like(taught), labels))(logits)
    hard = make_loss({"cross_entropy": 1.0}, num_labels=LABELS)(logits, labels)
    assert float(loss) == pytest.approx((1 - WEIGHT) * float(hard), abs=1e-12)
    assert np.isfinite(gradient).all()


def test_a_teacher_that_is_the_student_has_nothing_to_say(x64):
    logits, _, taught, _ = arrays()
    own = logits[..., list(SHARED)]
    assert abs(divergence(logits, own, taught, classes=SHARED, temperature=3.0)) < 1e-14


def test_a_teacher_of_another_grid_is_resized_as_torch_does(x64):
    logits, teacher, _, _ = arrays(size=(6, 8), teacher_size=(3, 4))
    taught = jnp.ones(teacher.shape[:3], bool).at[0, 0].set(False)
    large = torch.nn.functional.interpolate(
        torch.tensor(np.asarray(teacher)).permute(0, 3, 1, 2), size=(6, 8), mode="bilinear"
    ).permute(0, 2, 3, 1)
    clear = (
        jnp.ones((2, 6, 8), bool).at[0, :3].set(False)
    )  # the third row lies a quarter of the way to the one that is not taught
    found, wanted = (
        divergence(logits, t, where, classes=SHARED, temperature=2.0)
        for t, where in ((teacher, taught), (jnp.asarray(large.numpy()), clear))
    )
    assert float(found) == pytest.approx(float(wanted), abs=1e-12)


def test_one_class_is_told_from_everything_else(x64):
    rng = np.random.default_rng(0)
    logits, teacher = jnp.asarray(rng.normal(size=(2, 1, 3, 4, 1)))
    p, q = (1 / (1 + np.exp(-np.asarray(x)[..., 0])) for x in (teacher, logits))
    wanted = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    taught = jnp.ones((1, 3, 4), bool)
    found = divergence(logits, teacher, taught, classes=(0,), temperature=1.0)
    assert float(found) == pytest.approx(wanted, abs=1e-12)


def test_halves_are_compared_in_float32():
    logits, teacher, taught, _ = arrays()
    given = logits.astype(jnp.bfloat16), teacher.astype(jnp.bfloat16), taught
    assert divergence(*given, classes=SHARED, temperature=2.0).dtype == np.float32


def test_classes_are_matched_by_name_and_what_only_one_knows_is_told():
    student = {0: "Road", 1: "kerb", 2: "sky"}
    classes, names, lines = shared_classes(student, ("sky", "sea", "road ", "boat"))
    assert (classes, names) == ((0, 2), ("road ", "sky"))
    assert lines == [
        "the teacher does not know kerb: learned from masks alone",
        "of the teacher's classes not to be learned: sea, boat",
    ]
    assert shared_classes({0: "road", 1: "sky"}, ("sky", "road"))[1:] == (("road", "sky"), [])
    assert shared_classes({0: "crack"}, ("crack",))[0] == (0,)


@pytest.mark.parametrize("taught", [("sea", "boat"), ("sky", "sea"), ("sky",)])
def test_a_teacher_that_shares_no_two_classes_is_refused(taught):
    message = rf"got (none|sky) in common \(teacher: {', '.join(taught)}; data: road, sky\)"
    with pytest.raises(ValueError, match=message):
        shared_classes({0: "road", 1: "sky"}, taught)
