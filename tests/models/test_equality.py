"""The same function as transformers', in float64: outputs, losses, gradients, statistics."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
from allpairspy import AllPairs
from flax import nnx
from tiers import short

import segformer_jax
from segformer_jax.checkpoints import names
from segformer_jax.checkpoints.flat import values_of

pytestmark = pytest.mark.usefixtures("x64")

ROUNDING = 1e-9  # the bound that the project promises; what is seen is 1e-15

# What a network can differ in; of each aspect first what is usual.
ASPECTS = [
    [{}, {"stages": 1}, {"stages": 2}, {"stages": 3}],
    [{}, {"num_channels": 1}, {"num_channels": 5}],
    [{}, {
        "hidden_sizes": [9, 15, 21, 33],
        "num_attention_heads": [1, 3, 3, 1],
        "decoder_hidden_size": 19,
    }],
    [{}, {"hidden_act": "relu"}, {"hidden_act": "silu"}, {"hidden_act": "gelu_new"}],
    [
        {},
        {"patch_sizes": [5, 3, 2, 3], "strides": [3, 2, 2, 1], "sr_ratios": [3, 2, 1, 2]},
        {"patch_sizes": [8, 5, 4, 1], "strides": [4, 2, 2, 2]},
        {"patch_sizes": [7, 3, 3, 3], "strides": [2, 2, 2, 2]},
    ],
    [{}, {"semantic_loss_ignore_index": 3}],
]  # fmt: skip
SIZES = [(64, 64), (97, 131), (29, 29), (224, 96), (512, 1024)]
SMALL_SIZES = [(29, 29), (97, 131), (64, 192)]
MORE_SIZES = [*SMALL_SIZES, (64, 64), (160, 64)]
ONE_BY_ONE = [{}, *(config for aspect in ASPECTS for config in aspect[1:])]


def pairwise(*factors: list) -> list[tuple]:
    """As few cases as hold every pair of values of two factors; the last are size and train."""
    return [merged(*case) for case in AllPairs(list(factors))]


def merged(*case) -> tuple[dict, tuple[int, int], bool]:
    *configs, size, train = case
    return {name: value for config in configs for name, value in config.items()}, size, train


def name_of(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items()).replace("[", "").replace("]", "")
    return "train" if value is True else "eval" if value is False else "x".join(map(str, value))


MODES = [False, True]
GRID = [
    (config, size, train)
    for config, size, train in itertools.product(ONE_BY_ONE, SIZES, MODES)
    if size != (512, 1024) or config.get("strides", [4])[0] == 4  # else attentions of gigabytes
]
USUAL = [({}, (97, 131), True)]
PAIRS = pairwise(*ASPECTS, SMALL_SIZES, MODES)
MORE_PAIRS = [own for own in pairwise(*ASPECTS, MORE_SIZES, MODES) if own not in PAIRS]


def settings(stages: int = 4, **config) -> dict:
    """Of transformers, for so many stages."""
    if stages == 4:
        return config
    usual = dict(sr_ratios=[8, 4, 2, 1], patch_sizes=[7, 3, 3, 3], strides=[4, 2, 2, 2])
    own = reference.TINY | usual | config
    return {
        name: value[:stages] if isinstance(value, list) else value for name, value in own.items()
    } | dict(num_encoder_blocks=stages)


def ours_of(hf, folder):
    hf.save_pretrained(folder)
    cls = getattr(segformer_jax, type(hf).__name__)
    return cls.from_pretrained(folder, dtype=jnp.float64, param_dtype=jnp.float64)


def loss_and_gradients(model, x, labels):
    """One forward and backward pass: outputs, gradients and statistics by dotted name."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def run(params, rest, x, labels):
        def loss_of(params):
            own = nnx.merge(graph, params, rest, copy=True)
            outputs = own(x, labels, output_hidden_states=True, output_attentions=True)
            return outputs.loss, (outputs, nnx.state(own, nnx.BatchStat))

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    (_, (outputs, stats)), gradients = run(params, rest, x, labels)
    return outputs, by_name(gradients), by_name(stats)


def by_name(state) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in values_of(state).items()}


def assert_equal_outputs(ours, hf):
    assert abs(float(ours.loss) - hf.loss.item()) <= ROUNDING * abs(hf.loss.item())
    assert reference.distance(ours.logits, reference.nhwc(hf.logits)) <= ROUNDING
    assert len(ours.hidden_states) == len(hf.hidden_states)
    for own, other in zip(ours.hidden_states, hf.hidden_states, strict=True):
        assert reference.distance(own, reference.nhwc(other)) <= ROUNDING
    assert len(ours.attentions) == len(hf.attentions) > 0
    for own, other in zip(ours.attentions, hf.attentions, strict=True):
        assert reference.distance(own, other.detach().numpy()) <= ROUNDING


def assert_equal_gradients(ours, hf_model):
    gradients = {n: p.grad.numpy() for n, p in hf_model.named_parameters()}
    wanted = names.to_flax(gradients)
    assert ours.keys() == wanted.keys()
    whole = np.sqrt(sum(np.sum(np.square(g)) for g in wanted.values()))
    for name, gradient in wanted.items():
        if hf_model.training and name.endswith(subtracted_again(hf_model)):
            gradient = 0 * gradient  # exactly; torch's own rounding is 2e-15 of the whole
        # the key's bias, too, has none
        scale = max(np.linalg.norm(gradient), 1e-6 * whole)
        assert np.linalg.norm(ours[name] - gradient) <= ROUNDING * scale, name


def subtracted_again(hf_model) -> tuple[str, ...]:
    """Shifts of whole channels before the decode head's BatchNorm, which takes off the mean."""
    if not hasattr(hf_model, "decode_head"):
        return ()
    stages = hf_model.config.num_encoder_blocks
    projections = tuple(f"linear_projections.{i}.proj.bias" for i in range(stages))
    return (f"stages.{stages - 1}.layer_norm.bias", *projections)


@pytest.mark.usefixtures("cpu_forms")  # the grid is traced for every platform
@pytest.mark.parametrize(
    ("config", "size", "train"), short([*PAIRS, *MORE_PAIRS], PAIRS), ids=name_of
)
def test_a_network_for_segmentation_equals_transformers(config, size, train, tmp_path, rng):
    assert_segmentation_equals({"depths": [1, 1, 1, 1]} | config, size, train, tmp_path, rng)


@pytest.mark.parametrize(("config", "size", "train"), short(GRID, USUAL), ids=name_of)
def test_segmentation_equals_transformers(config, size, train, tmp_path, rng):
    assert_segmentation_equals(config, size, train, tmp_path, rng)


def assert_segmentation_equals(config, size, train, tmp_path, rng):
    hf = reference.hf_model("ForSemanticSegmentation", **settings(**config)).double()
    model = ours_of(hf, tmp_path)
    x = reference.pixels(*size, channels=hf.config.num_channels)
    labels = rng.integers(0, hf.config.num_labels, (2, *size))
    labels[0, :7] = hf.config.semantic_loss_ignore_index
    hf.train(train)
    model.train() if train else model.eval()

    expected = hf(
        reference.nchw(x),
        labels=torch.from_numpy(labels),
        output_hidden_states=True,
        output_attentions=True,
    )
    expected.loss.backward()
    outputs, gradients, stats = loss_and_gradients(model, x, labels)

    assert_equal_outputs(outputs, expected)
    assert_equal_gradients(gradients, hf)
    after = names.to_flax({n: b.numpy() for n, b in hf.named_buffers()})
    assert stats.keys() == after.keys()
    for statistic in after:
        assert reference.distance(stats[statistic], after[statistic]) <= ROUNDING
    counted = stats["decode_head.batch_norm.num_batches_tracked"]
    assert counted == (18 if train else 17)


@pytest.mark.usefixtures("cpu_forms")
@pytest.mark.parametrize(
    ("config", "size", "train"), pairwise(ASPECTS[0], SMALL_SIZES[:2], MODES), ids=name_of
)
def test_a_network_for_classification_equals_transformers(config, size, train, tmp_path):
    assert_classification_equals(config, size, train, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize(
    ("config", "size", "train"),
    [case for case in GRID if case[0] == {} or case[1] == (97, 131)],  # the encoder is the same
    ids=name_of,
)
def test_classification_equals_transformers(config, size, train, tmp_path):
    assert_classification_equals(config, size, train, tmp_path)


def assert_classification_equals(config, size, train, tmp_path):
    hf = reference.hf_model("ForImageClassification", **settings(**config)).double().train(train)
    model = ours_of(hf, tmp_path)
    model.train() if train else model.eval()
    x = reference.pixels(*size, channels=hf.config.num_channels)
    labels = np.array([5, 2])

    expected = hf(
        reference.nchw(x),
        labels=torch.from_numpy(labels),
        output_hidden_states=True,
        output_attentions=True,
    )
    expected.loss.backward()
    outputs, gradients, _ = loss_and_gradients(model, x, labels)

    assert_equal_outputs(outputs, expected)
    assert_equal_gradients(gradients, hf)


@pytest.mark.parametrize("kind", ["Model", "ForSemanticSegmentation", "ForImageClassification"])
def test_unshaped_last_stage_equals_transformers(kind, tmp_path):
    """HF's head takes √channels for the side of the last map: 16 channels on 4 × 4 cells."""
    config = dict(hidden_sizes=[8, 12, 16, 16], num_attention_heads=[1, 2, 2, 2])
    hf = reference.hf_model(kind, **config, reshape_last_stage=False).double()
    model = ours_of(hf, tmp_path)
    x = reference.pixels(128, 128)

    expected = hf(reference.nchw(x), output_hidden_states=True)
    outputs = model(x) if kind == "Model" else model(x, output_hidden_states=True)

    assert outputs.hidden_states[-1].shape == (2, 16, 16)
    for own, other in zip(outputs.hidden_states, expected.hidden_states, strict=True):
        assert reference.distance(own, reference.nhwc(other)) <= ROUNDING
    if kind == "Model":
        assert reference.distance(outputs.last_hidden_state, expected[0].detach()) <= ROUNDING
    else:
        assert reference.distance(outputs.logits, reference.nhwc(expected.logits)) <= ROUNDING


def test_unshaped_last_stage_keeps_the_known_size(tmp_path):
    hf = reference.hf_model("ForSemanticSegmentation").double()
    x = reference.pixels(96, 160)
    expected = hf(reference.nchw(x)).logits
    hf.config.reshape_last_stage = False

    model = ours_of(hf, tmp_path)

    assert reference.distance(model(x).logits, reference.nhwc(expected)) <= ROUNDING


def test_one_label_is_binary_cross_entropy(tmp_path, rng):
    hf = reference.hf_model("ForSemanticSegmentation", num_labels=1).double()
    model = ours_of(hf, tmp_path)
    x = reference.pixels(64, 96)
    labels = rng.integers(0, 2, (2, 64, 96))
    labels[1, 10:30] = 255

    logits = hf(reference.nchw(x)).logits
    logits = torch.nn.functional.interpolate(logits, size=(64, 96), mode="bilinear")[:, 0]
    target = torch.from_numpy(labels)  # in double: HF rounds it to float32
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, target.double(), reduction="none"
    )
    expected = (losses * (target != 255)).mean()

    assert abs(float(model(x, labels).loss) - expected.item()) <= ROUNDING * expected.item()


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        (dict(num_labels=1), np.array([0.3, -1.7])),
        (dict(num_labels=3), np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])),
        (dict(num_labels=3, problem_type="regression"), np.array([[0.2, 3.0, -1.0], [1.0, 0, 0]])),
        (dict(num_labels=3, problem_type="single_label_classification"), np.array([2, 0])),
        (
            dict(num_labels=3, problem_type="multi_label_classification"),
            np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
        ),
    ],
)
def test_classification_losses_equal_transformers(config, labels, tmp_path):
    hf = reference.hf_model("ForImageClassification", **config).double()
    model = ours_of(hf, tmp_path)
    x = reference.pixels(64, 64)

    expected = hf(reference.nchw(x), labels=torch.from_numpy(labels)).loss.item()

    assert abs(float(model(x, labels).loss) - expected) <= ROUNDING * expected
