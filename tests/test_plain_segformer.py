"""examples/plain_segformer.py computes the library's function and draws a photo's classes."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from tiers import short

from examples.plain_segformer import load, segformer
from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, ops
from segformer_jax.checkpoints.flat import flat_state

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "plain_segformer.py"
STREET = SCRIPT.parent / "street.jpg"


@pytest.mark.parametrize(
    ("form", "activation"),
    short(
        [("cpu", "gelu"), ("tpu", "gelu"), ("cpu", "gelu_new"), ("cpu", "swish")],
        [("cpu", "gelu")],
    ),
)
def test_its_logits_are_the_librarys(form, activation, x64, rng):
    config = SegformerConfig.b0(num_labels=7, hidden_act=activation)
    model = SegformerForSemanticSegmentation(
        config, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    model.eval()
    shuffle(model, rng)
    pixel_values = jnp.asarray(rng.normal(size=(2, 96, 65, 3)))

    plain = jax.jit(segformer, static_argnums=1)(flat_state(model), config, pixel_values)
    with ops.use(form):
        ours = model.folded()(pixel_values).logits

    assert np.ptp(plain) > 0.1
    np.testing.assert_allclose(ours, plain, atol=1e-12)  # float64's rounding


def shuffle(model, rng) -> None:
    """Randomises norms, biases and statistics, because values of 0 or 1 would hide a mistake."""
    for path, value in nnx.to_flat_state(nnx.state(model)):
        if path[-1] in ("scale", "mean", "var"):
            value[...] = jnp.asarray(rng.uniform(0.5, 2, value[...].shape), value[...].dtype)
        elif path[-1] == "bias":
            value[...] = jnp.asarray(rng.normal(size=value[...].shape), value[...].dtype)


def test_trained_weights_are_loaded(rng):
    params, config = load("scene-b0")
    pixel_values = rng.normal(size=(1, 64, 96, 3)).astype(np.float32)
    ours = SegformerForSemanticSegmentation.from_pretrained("scene-b0")(pixel_values).logits
    plain = jax.jit(segformer, static_argnums=1)(params, config, jnp.asarray(pixel_values))
    np.testing.assert_allclose(plain, ours, atol=2e-4)  # float32; the largest logit is 10


def test_a_photo_becomes_a_picture_of_its_classes(tmp_path):
    command = [sys.executable, SCRIPT, STREET, "--out", "classes.png"]
    subprocess.run(command, check=True, cwd=tmp_path)
    with Image.open(tmp_path / "classes.png") as classes, Image.open(STREET) as photo:
        assert classes.size == photo.size
        assert len(classes.getcolors()) > 3


def test_it_is_one_page_and_takes_nothing_from_the_librarys_network():
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert not re.search(r"segformer_jax\.(models|ops)|import .*Segformer(Model|For)", text)
