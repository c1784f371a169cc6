"""ZeroModels' SegFormer (zeromodels 1.3.6, Keras 3.15) on JAX, with the weights of a folder.

Its `from_weights("hf:…")` takes the name of a repository, not a folder; it consists of
`config_from_hf` and `transfer_from_hf`, which take the content of the folder. They need PyTorch.

What is timed is `jax.jit` of `model.stateless_call`, Keras's documented way to run a model under
JAX, within `jax.ensure_compile_time_eval`. Without the latter no compiled call works on JAX,
`predict` included ("Shapes must be 1D sequences of concrete values"): its attention takes the root
of the number of tokens with `keras.ops`, which `jit` traces. Users of the unchanged library run
`model(pixels)` operation by operation, which is slower, so this is in its favour. The model ends at
the classifier: `SegFormerSemanticSegment` then resizes its logits to the picture's size, work that
the others aren't measured with. There is no softmax in it. Its default attention ("sdpa") is kept;
"fused" is no faster on a CPU.

Its arithmetic is transformers': exact GELU, an epsilon of 1e-5, the same padding for sides that are
multiples of 32. The logits are 2.5e-7 of their norm away with trained b0 weights and 9e-7 with
freshly initialised ones, all classes equal. So assert a relative L2 distance ≤ 1e-5 and ≥ 99.9 %
equal classes; a single tensor in the wrong place gives 1e-3 or more with trained weights.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contender import Forward
from benchmarks.peers.keras_on_jax import jitted, missing, use_jax

FIXED = {"num_attention_heads": [1, 2, 5, 8], "sr_ratios": [8, 4, 2, 1]}  # not options of its model


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns the jitted `SegFormerSemanticSegment` up to its logits at a quarter of the size.

    Raises:
        ImportError: ZeroModels or PyTorch isn't installed.
        ValueError: the picture isn't square (its blocks take the grid's side to be the root of the
            number of tokens) or its side isn't a multiple of 32 (it pads where transformers
            crops); `dtype` is bfloat16; Keras has another backend; ZeroModels has no options for
            the model; or the weights do not fit.
    """
    keras = use_jax("ZeroModels", height=height, width=width, dtype=dtype)
    try:
        import torch  # noqa: F401 (the conversion imports it, late)
        from zeromodels.models.segformer import SegFormerSemanticSegment
    except ImportError as error:
        raise missing(error) from error
    import jax
    from safetensors.numpy import load_file

    config = json.loads((Path(folder) / "config.json").read_text())
    if other := {key: config[key] for key, value in FIXED.items() if config[key] != value}:
        raise ValueError(f"the model has {other}; ZeroModels' SegFormer has {FIXED}")
    tensors = load_file(Path(folder) / "model.safetensors")
    segmenter = SegFormerSemanticSegment(
        **SegFormerSemanticSegment.config_from_hf(config), image_size=height
    )
    _load(segmenter, tensors)
    model = keras.Model(segmenter.inputs, segmenter.get_layer("head_classifier").output)
    # the sides of its grids, which it takes from arrays, are known at compile time
    return jitted(model, tracing=jax.ensure_compile_time_eval)


def _load(segmenter: Any, tensors: dict[str, np.ndarray]) -> None:
    """Runs the library's own conversion, and checks that it left out no variable and no tensor.

    Raises:
        ValueError: variables got no value, or the file and the model differ in size.
    """
    for variable in segmenter.weights:
        variable.assign(np.full(variable.shape, np.nan, np.float32))
    segmenter.transfer_from_hf(segmenter, tensors)
    if unset := [v.path for v in segmenter.weights if np.isnan(v.numpy()).any()]:
        raise ValueError(f"without a tensor: {unset}")
    given = sum(t.size for name, t in tensors.items() if not name.endswith("num_batches_tracked"))
    if given != segmenter.count_params():
        raise ValueError(f"the file has {given} numbers, the model {segmenter.count_params()}")
