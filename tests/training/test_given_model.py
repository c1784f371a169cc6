"""`train(settings, model=…)`: anybody's module, trained, kept, taken up again and used."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from tiers import short
from training.runs import NAMES, SMALL, compiled_once, losses, shapes, write_shapes

from segformer_jax import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegformerModel,
    Segmenter,
)
from segformer_jax.checkpoints.files import PARAMETERS
from segformer_jax.checkpoints.flat import flat_state, load_flat
from segformer_jax.export import Signature, export_stablehlo, load_exported
from segformer_jax.models.layers import Linear
from segformer_jax.training.loop import train
from segformer_jax.training.progress import Teller
from segformer_jax.training.settings import TrainSettings

CONFIG = SegformerConfig(
    **{
        name: tuple(value) if isinstance(value, list) else value
        for name, value in SMALL.items()
        if name != "num_labels"
    },
    num_labels=3,
    decoder_hidden_size=8,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Output:
    logits: jax.Array


class Plain(nnx.Module):
    """Nothing of this library's: Flax's own layers, statistics and stream of random numbers."""

    def __init__(self, labels, *, rngs):
        self.conv = nnx.Conv(3, 8, (8, 8), strides=4, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(8, labels, rngs=rngs)

    def __call__(self, pixel_values):
        return Output(self.out(self.dropout(nnx.relu(self.norm(self.conv(pixel_values))))))


class Head(nnx.Module):
    def __init__(self, *, rngs):
        self.out = Linear(8, 3, rngs=rngs)

    def __call__(self, hidden_states, *, rngs=None):
        return self.out(hidden_states[0])


class Stops(Teller):
    """Raises at a step, as a machine that is switched off would."""

    def __init__(self, at=None):
        self.at, self.lines = at, []

    def say(self, text):
        self.lines.append(text)

    def step(self, row, *, steps):
        if row["step"] == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    write_shapes(folder / "data")
    with compiled_once(folder / "cache"):
        yield folder


def plain():
    return Plain(3, rngs=nnx.Rngs(0, dropout=1))


def with_head():
    model = SegformerForSemanticSegmentation(CONFIG, rngs=nnx.Rngs(0))
    model.decode_head = Head(rngs=nnx.Rngs(1))
    return model


def settings_of(folder, out, **changes):
    usual = dict(data=str(folder / "data"), out=str(out), steps=4, batch_size=4, eval_every=2)
    return TrainSettings(**(usual | changes))


@pytest.mark.parametrize("make", short([plain, with_head], [plain]))
def test_a_module_of_ones_own_is_trained_kept_and_taken_up_again(make, folder, tmp_path):
    model, heard = make(), Stops()
    before = jax.tree.map(np.asarray, flat_state(model))
    outcome = train(settings_of(folder, tmp_path / "one"), model=model, teller=heard)
    assert outcome.finished
    (said,) = [line for line in heard.lines if PARAMETERS in line]
    assert {plain: "a Plain", with_head: "Head at decode_head"}[make] in said
    assert all(np.array_equal(before[name], now) for name, now in flat_state(model).items())
    kept = load_file(tmp_path / "one" / "last" / PARAMETERS)
    assert kept.keys() == before.keys()
    trained = [name for name in kept if not np.array_equal(kept[name], before[name])]
    assert len(trained) > len(kept) / 2
    assert not (tmp_path / "one" / "last" / "model.safetensors").exists()
    assert "load_flat" in (tmp_path / "one" / "last" / "README.md").read_text()

    with pytest.raises(KeyboardInterrupt):
        train(settings_of(folder, tmp_path / "two"), model=make(), teller=Stops(at=3))
    again = Stops()
    train(settings_of(folder, tmp_path / "two"), model=make(), teller=again)
    assert any("continuing after step 2" in line for line in again.lines)
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    for name, value in load_file(tmp_path / "two" / "last" / PARAMETERS).items():
        assert np.array_equal(value, kept[name]), name


@pytest.mark.parametrize("make", short([plain, with_head], [plain]))
def test_it_is_used_and_exported_as_it_was_trained(make, folder, tmp_path):
    train(settings_of(folder, tmp_path / "run"), model=make())
    model = make()
    load_flat(model, tmp_path / "run" / "last")
    model.eval()
    processor = SegformerImageProcessor.from_pretrained(tmp_path / "run" / "last")
    segment = Segmenter(model, processor, id2label=NAMES)
    image, _ = shapes(100)
    pixels = processor(image)["pixel_values"]
    wanted = model(jnp.asarray(pixels)).logits
    np.testing.assert_allclose(segment.logits(pixels), wanted, atol=1e-5)  # float32's rounding
    assert segment(image).class_map.shape == (64, 64)
    assert list(segment.id2label.values()) == list(NAMES.values())
    export_stablehlo(model, tmp_path / "open", platforms=["cpu"])
    export_stablehlo(
        model,
        tmp_path / "set",
        signature=Signature(batch=1, size=(64, 64)),
        platforms=["cpu"],
        weights_beside=True,
    )
    for name in ("open", "set"):
        given = load_exported(tmp_path / name)(pixels)
        np.testing.assert_allclose(given, wanted, atol=1e-5)


@pytest.mark.full
def test_a_segformer_given_as_it_is_is_kept_as_transformers_has_it(folder, tmp_path):
    model, heard = SegformerForSemanticSegmentation(CONFIG, rngs=nnx.Rngs(0)), Stops()
    train(settings_of(folder, tmp_path / "run", steps=2), model=model, teller=heard)
    assert not any(PARAMETERS in line for line in heard.lines)
    again = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "run" / "last")
    assert again.config.id2label == NAMES
    assert model.config.id2label[0] == "LABEL_0"
    assert "train(TrainSettings(data=" in (tmp_path / "run" / "last" / "README.md").read_text()
    started = str(tmp_path / "run" / "last")
    assert train(settings_of(folder, tmp_path / "next", steps=2, model=started)).finished


def test_what_can_not_be_trained_is_refused_by_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    settings = settings_of(folder, tmp_path / "run")
    classifier = SegformerModel(CONFIG, rngs=nnx.Rngs(0))
    for model, changes, said in [
        (Plain(4, rngs=nnx.Rngs(0, dropout=1)), {}, r"of 3 classes \(ground, .*\), got 4"),
        (classifier, {}, "whose .logits are .*, got a SegformerModelOutput"),
        (len, {}, "must be a flax.nnx.Module, got a builtin_function_or_method"),
        (plain(), dict(model="b0"), "settings.model must be left out .*, got 'b0' and a Plain"),
        (plain(), dict(dtype="bfloat16"), "settings.dtype must be left out .* a model in float32"),
        (plain(), dict(gradient_checkpointing=True), "of which Plain has none"),
    ]:
        with pytest.raises(ValueError, match=said):
            train(replace(settings, **changes), model=model)


def test_another_model_does_not_go_on_with_a_run(folder, tmp_path):
    settings = settings_of(folder, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(settings, model=plain(), teller=Stops(at=3))
    said = r"holds a run of another model \(Plain, now SegformerFor.*, Head at decode_head\)"
    with pytest.raises(ValueError, match=said):
        train(settings, model=with_head())
    with pytest.raises(ValueError, match=r"\(Plain, now the one that the settings name\)"):
        train(settings)


def test_a_segmenter_takes_over_the_weights_of_the_same_layers_alone():
    processor = SegformerImageProcessor(size=64)
    segment = Segmenter(with_head(), processor)
    segment.update(with_head())
    other = with_head()
    other.segformer.stages[0].blocks[0].mlp.activation = jnp.tanh
    with pytest.raises(ValueError, match="must have the layers that this segmenter was compiled"):
        segment.update(other)
    with pytest.raises(ValueError, match="must give logits of 2 classes"):
        Segmenter(plain(), processor, id2label={0: "a", 1: "b"})
    assert Segmenter(plain(), processor).logits_size(64, 99) == (16, 25)  # windows are laid by it
    assert segment.logits_size(64, 99) == (16, 25)
    finer = SegformerForSemanticSegmentation(CONFIG, rngs=nnx.Rngs(0))
    assert Segmenter(finer, processor).logits_size(64, 99) == (16, 25)
    finer.segformer.stages[0].patch_embeddings = nnx.Conv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0))
    assert Segmenter(finer, processor).logits_size(64, 99) == (32, 50)
    assert Segmenter(plain(), processor).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
