"""What a model says to input that it can't take."""

import jax
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from segformer_jax import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
)
from segformer_jax.models.segformer import check_pixel_values

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace


@pytest.fixture(scope="module")
def model():
    config = SegformerConfig(
        hidden_sizes=(8, 8, 8, 8), num_attention_heads=(1, 1, 1, 1), decoder_hidden_size=8,
        depths=(1, 1, 1, 1), num_labels=3,
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))
    model.eval()
    return model


@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (np.zeros((1, 3, 64, 64), np.float32), "looks like NCHW: transpose it by"),
        (
            np.zeros((1, 64, 64, 4), np.float32),
            r"must be NHWC, \(batch, height, width, 3\), got \(1, 64, 64, 4\)$",
        ),
        (np.zeros((1, 64, 64, 3), np.uint8), "must be normalised floats, got uint8"),
        (np.zeros((1, 28, 64, 3), np.float32), "at least 29 .*got 28 × 64"),
        (np.zeros((1, 64, 28, 3), np.float32), "at least 29 .*got 64 × 28"),
    ],
)
def test_other_pixel_values_are_explained(model, pixel_values, message):
    with pytest.raises(ValueError, match=message):
        model(pixel_values)


def test_a_list_is_no_array(model):
    with pytest.raises(ValueError, match="pixel_values must be an array, got list"):
        check_pixel_values([np.zeros((64, 64, 3), np.float32)], model.config)


def test_the_least_size_follows_from_strides_and_reductions():
    assert SegformerConfig.b0().minimum_size == 29
    assert SegformerConfig(sr_ratios=(1, 1, 1, 1)).minimum_size == 1
    assert SegformerConfig(sr_ratios=(8, 4, 2, 4)).minimum_size == 97


def test_labels_outside_the_classes_are_named(model):
    labels = np.zeros((1, 64, 64), np.int32)
    labels[0, 0, :3] = (255, 3, -1)
    with pytest.raises(
        ValueError, match=r"labels must be in 0…2, or 255 for ignored pixels, got \[-1, 3\]"
    ):
        model(np.zeros((1, 64, 64, 3), np.float32), labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.zeros((1, 64, 64), int),
            r"labels must have the shape \(2, height, width\), got \(1, 64, 64\)",
        ),
        (np.zeros((64, 64), int), r"\(2, height, width\), got \(64, 64\)"),
        (np.zeros((2, 64, 64, 1), int), r"\(2, height, width\), got \(2, 64, 64, 1\)"),
        (np.zeros((2, 0, 64), int), r"\(2, height, width\), got \(2, 0, 64\)"),
        (np.zeros((2, 64, 64)), r"labels must be integers \(class indices\), got float"),
    ],
)
def test_labels_of_another_shape_or_type_are_explained(model, labels, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=message):
        model(np.zeros((2, 64, 64, 3), np.float32), labels)


def test_labels_under_a_trace_are_not_looked_at(model):
    graph, state = nnx.split(model)

    @jax.jit
    def loss(state, labels):
        x = np.zeros((1, 64, 64, 3), np.float32)
        return nnx.merge(graph, state)(x, labels).loss

    assert np.isfinite(loss(state, np.zeros((1, 64, 64), np.int32)))


def test_a_picture_without_a_valid_pixel_has_loss_0(model):
    labels = np.full((1, 64, 64), 255)
    assert float(model(np.zeros((1, 64, 64, 3), np.float32), labels).loss) == 0


def test_class_labels_of_another_shape_are_refused(monkeypatch):
    config = SegformerConfig(depths=(1, 1, 1, 1), num_labels=3)
    model = SegformerForImageClassification(config, rngs=nnx.Rngs(0))
    model.eval()
    with pytest.raises(ValueError, match="must have the shape of the logits"):
        model(np.zeros((2, 64, 64, 3), np.float32), np.zeros((2, 2), np.float32))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match="labels must be one per picture, 2, got 1"):
        model(np.zeros((2, 64, 64, 3), np.float32), np.zeros(1, np.int32))


def test_outputs_leave_jit(model):
    graph, state = nnx.split(model)
    outputs = jax.jit(lambda s, x: nnx.merge(graph, s)(x, output_hidden_states=True))(
        state, np.zeros((1, 33, 64, 3), np.float32)
    )
    assert outputs.logits.shape == (1, 9, 16, 3)
    assert [x.shape[1:3] for x in outputs.hidden_states] == list(model.config.feature_sizes(33, 64))
    assert outputs.loss is None
    assert outputs.attentions is None


def test_the_config_can_ask_for_every_output(model):
    graph, state = nnx.split(model)
    own = nnx.merge(graph, state)
    own.config = SegformerConfig.from_dict(
        model.config.to_dict() | {"output_hidden_states": True, "output_attentions": True}
    )
    own.segformer.config = own.config
    outputs = own(np.zeros((1, 64, 64, 3), np.float32))
    assert len(outputs.hidden_states) == len(outputs.attentions) == 4
