"""What Flax's guides do with a module works with these, in both of NNX's modes."""

from typing import Any

import jaxtyping
import numpy as np
import pytest
from flax import nnx

from segformer_jax import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

MODELS = (SegformerModel, SegformerForSemanticSegmentation, SegformerForImageClassification)
SMALL = dict(
    hidden_sizes=(8, 8), depths=(1, 1), num_attention_heads=(1, 2), sr_ratios=(2, 1),
    mlp_ratios=(2, 2), strides=(4, 2), patch_sizes=(7, 3), num_encoder_blocks=2,
    decoder_hidden_size=8, num_labels=3,
)  # fmt: skip
RATES = dict(
    hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, drop_path_rate=0.1,
    classifier_dropout_prob=0.1,
)  # fmt: skip
SEGMENTATION = SegformerForSemanticSegmentation


def small_config(**rates) -> SegformerConfig:
    return SegformerConfig(**(SMALL | dict.fromkeys(RATES, 0.0) | rates))


def small_model(cls=SEGMENTATION, *, rngs: nnx.Rngs | None = None, **rates) -> Any:
    return cls(small_config(**rates), rngs=rngs or nnx.Rngs(0))


def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def result(outputs) -> np.ndarray:
    """The logits, or an encoder's last map."""
    return np.asarray(getattr(outputs, "logits", getattr(outputs, "last_hidden_state", None)))


@pytest.mark.parametrize("rates", [RATES, {}], ids=["dropout", "no dropout"])
@pytest.mark.parametrize("cls", MODELS)
def test_a_view_is_a_model_in_another_mode_over_the_same_parameters(cls, rates):
    model = small_model(cls, **rates)
    modes: dict[str, Any] = dict(deterministic=True)
    if cls is SEGMENTATION:
        modes["use_running_average"] = True

    view = nnx.view(model, **modes)

    own = nnx.clone(model)
    own.eval()
    assert np.array_equal(result(view(pixels())), result(own(pixels())))
    assert not any(getattr(m, "deterministic", False) for _, m in nnx.iter_modules(model))
    kernels = [
        getattr(m, "segformer", m).stages[0].patch_embeddings.proj.kernel for m in (model, view)
    ]
    assert kernels[0] is kernels[1]
    back = nnx.view(view, **dict.fromkeys(modes, False))
    if rates:
        with pytest.raises(ValueError, match=r"call model.eval\(\)"):
            back(pixels())


def test_a_view_has_no_other_modes():
    with pytest.raises(ValueError, match="use_running_average"):
        nnx.view(small_model(SegformerModel), deterministic=True, use_running_average=True)


def test_what_a_view_can_set_is_told():
    told = nnx.view_info(small_model())
    assert "deterministic: bool | None = None\n    drop nothing." in told
    assert "use_running_average: bool | None = None" in told


@pytest.mark.parametrize(
    ("cls", "mode"), [*((cls, "eval") for cls in MODELS), (SEGMENTATION, "train")]
)
def test_nnx_tabulates_every_layer(cls, mode, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    model = small_model(cls)
    getattr(model, mode)()

    table = nnx.tabulate(model, pixels(), console_kwargs={"width": 400, "force_terminal": False})

    head = {SEGMENTATION: "decode_head", SegformerForImageClassification: "classifier"}
    for path in ("stages/0/blocks/0/attention/q_proj", head.get(cls, "stages/1/layer_norm")):
        assert path in table
    assert result(model(pixels())).any()  # and nnx has taken its own wrappers away again
