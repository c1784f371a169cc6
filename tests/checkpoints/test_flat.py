"""Any module's arrays, through a file and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from segformer_jax import SegformerForSemanticSegmentation, Segmenter, WeightsError
from segformer_jax.checkpoints.files import PARAMETERS, read_weights
from segformer_jax.checkpoints.flat import flat_state, load_flat, save_flat


class Seen(nnx.Variable):
    """A type of one's own."""


class Module(nnx.Module):
    def __init__(self, seed, *, width=4, dtype=jnp.float32):
        rngs = nnx.Rngs(seed, dropout=seed)
        self.layers = nnx.List(nnx.Linear(width, 3, param_dtype=dtype, rngs=rngs) for _ in range(2))
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.seen = Seen(jnp.asarray(seed))


def test_every_array_goes_through_the_file_but_streams_of_random_numbers(tmp_path):
    one, other = Module(1), Module(2)
    save_flat(one, tmp_path)
    names = {f"layers.{i}.{leaf}" for i in (0, 1) for leaf in ("kernel", "bias")}
    names |= {f"norm.{leaf}" for leaf in ("scale", "bias", "mean", "var")} | {"seen"}
    assert load_file(tmp_path / PARAMETERS).keys() == names
    load_flat(other, tmp_path)
    for name, value in flat_state(one).items():
        assert value.dtype == flat_state(other)[name].dtype
        assert np.array_equal(value, flat_state(other)[name]), name
    key = jax.random.key_data(other.dropout.rngs.key[...])
    assert not np.array_equal(key, jax.random.key_data(one.dropout.rngs.key[...]))


def test_values_take_the_type_of_their_place(tmp_path):
    halves, model = Module(1, dtype=jnp.bfloat16), Module(2)
    save_flat(halves, tmp_path)
    load_flat(model, tmp_path)
    kernel = model.layers[0].kernel[...]
    assert kernel.dtype == jnp.float32
    assert np.array_equal(kernel, halves.layers[0].kernel[...].astype(jnp.float32))


def test_all_that_does_not_fit_is_listed_at_once(tmp_path):
    save_flat(Module(1, width=5), tmp_path)
    file = tmp_path / PARAMETERS
    tensors = load_file(file)
    del tensors["norm.mean"]
    save_file(tensors | {"more": np.zeros(1, np.float32)}, file)
    with pytest.raises(WeightsError) as raised:
        load_flat(Module(1), tmp_path)
    said = str(raised.value)
    assert f"{file} is of another module" in said
    assert "missing:    norm.mean\n" in said
    assert "unexpected: more\n" in said
    assert "layers.0.kernel is (5, 3), wanted (4, 3), layers.1.kernel is" in said
    with pytest.raises(
        WeightsError, match=r"has no parameters.safetensors: write it with save_flat"
    ):
        load_flat(Module(1), tmp_path / "nowhere")


def test_who_wants_a_segformer_of_such_a_folder_is_told_what_to_do(tmp_path):
    save_flat(Module(1), tmp_path)
    hint = r"parameters.safetensors belongs to a network that .* build that network, .*load_flat"
    with pytest.raises(WeightsError, match=f"config.json is missing.*{hint}"):
        SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=f"has no weights: expected one of .*{hint}"):
        read_weights(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(WeightsError, match=hint):
        Segmenter.from_pretrained(tmp_path)
