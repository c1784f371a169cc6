"""Training steps against PyTorch: the same losses and weights in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import torch
import transformers
from flax import nnx
from training import runs

from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor
from segformer_jax.checkpoints import names
from segformer_jax.data.check import Survey
from segformer_jax.models.outputs import SemanticSegmenterOutput
from segformer_jax.training import lora, sharding
from segformer_jax.training.defaults import choose
from segformer_jax.training.distillation import Distillation
from segformer_jax.training.losses import make_loss
from segformer_jax.training.optimizer import make_optimizer
from segformer_jax.training.schedule import poly_with_warmup
from segformer_jax.training.settings import TrainSettings
from segformer_jax.training.state import split, start
from segformer_jax.training.step import make_step
from segformer_jax.training.teacher import distillation

SMALL = {name: value for name, value in runs.SMALL.items() if name != "num_labels"}
LABELS = reference.TINY["num_labels"]
STEPS, WARMUP, RATE, DECAY = 20, 5, 1e-3, 0.01


@pytest.fixture
def hf(tmp_path) -> transformers.SegformerForSemanticSegmentation:
    """A random model in train mode, float64, saved to `tmp_path`."""
    model = reference.hf_model("ForSemanticSegmentation", **SMALL).double()
    model.save_pretrained(tmp_path)
    return model.train()


def batch(number: int, *, pictures: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (pictures, 64, 64, 3)).astype(np.uint8)
    mask = rng.integers(0, LABELS, (pictures, 64, 64)).astype(np.uint8)
    return image, np.where(rng.random(mask.shape) < 0.1, np.uint8(255), mask)


def soft_batch(number: int, *, pictures: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A teacher's logits of the classes 1 and 3 at the cells, and which count."""
    rng = np.random.default_rng(100 + number)
    return 3 * rng.normal(size=(pictures, 16, 16, 2)), rng.random((pictures, 16, 16)) < 0.8


def begun(folder, *, parts: int = 1, ema_decay: float | None = None, distillation=None):
    """Our side: the state before the first step, and the function that takes a batch."""
    model = SegformerForSemanticSegmentation.from_pretrained(
        folder, dtype=jnp.float64, param_dtype=jnp.float64
    )
    model.train()
    skeleton, params, stats = split(model)
    optimizer = make_optimizer(
        params,
        learning_rate=poly_with_warmup(RATE, steps=STEPS, warmup=WARMUP),
        weight_decay=DECAY,
    )
    step = jax.jit(
        make_step(
            skeleton,
            loss=make_loss({"cross_entropy": 1.0}, num_labels=LABELS),
            optimizer=optimizer,
            processor=SegformerImageProcessor(),
            platform="cpu",
            ema_decay=ema_decay,
            distillation=distillation,
        )
    )
    state = start(
        params, stats, trained=lambda _: True, optimizer=optimizer, ema=ema_decay is not None
    )

    def take(state, number):
        image, mask = batch(number)
        soft, taught = soft_batch(number)
        arrays = dict(image=image, mask=mask, soft=soft, taught=taught)
        given = {name: x.reshape(parts, -1, *x.shape[1:]) for name, x in arrays.items()}
        return step(state, given, distillation.values if distillation else {})

    return state, take


def torch_optimizer(model):
    """AdamW in the paper's groups, and its schedule as a factor of the step."""
    groups = []
    for name, parameter in model.named_parameters():
        head = name.startswith("decode_head.")
        norm = "norm" in name and not head
        groups.append(
            {
                "params": [parameter],
                "lr": RATE * (10 if head else 1),
                "weight_decay": 0.0 if norm else DECAY,
            }
        )
    optimizer = torch.optim.AdamW(groups)

    def factor(step):
        warming = 1 - (1 - min(step / WARMUP, 1)) * (1 - 1e-6)
        return (1 - step / STEPS) * warming

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def torch_pixels(image):
    processor = SegformerImageProcessor()
    scaled = (image / 255 - np.array(processor.image_mean)) / np.array(processor.image_std)
    return reference.nchw(scaled)


def torch_loss(model, image, mask, logits=None):
    if logits is None:
        logits = model(pixel_values=torch_pixels(image)).logits
    whole = torch.nn.functional.interpolate(
        logits, size=mask.shape[1:], mode="bilinear", align_corners=False
    )
    labels = torch.from_numpy(mask.astype(np.int64))
    return torch.nn.functional.cross_entropy(whole, labels, ignore_index=255)


def assert_same_model(state, hf, *, tolerance: float) -> None:
    wanted = names.to_flax({name: value.numpy() for name, value in hf.state_dict().items()})
    ours = state.params | state.stats
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=tolerance, err_msg=name)


def test_twenty_steps_are_those_of_torch(hf, tmp_path, x64):
    state, take = begun(tmp_path)
    optimizer, schedule = torch_optimizer(hf)
    for number in range(STEPS):
        state, figures = take(state, number)

        optimizer.zero_grad()
        loss = torch_loss(hf, *batch(number))
        loss.backward()
        optimizer.step()
        schedule.step()

        assert float(figures["loss"]) == pytest.approx(loss.item(), abs=1e-8)
    assert_same_model(state, hf, tolerance=1e-8)


def test_accumulated_parts_are_those_of_torch(hf, tmp_path, x64):
    state, take = begun(tmp_path, parts=2)
    optimizer, schedule = torch_optimizer(hf)
    for number in range(3):
        state, _ = take(state, number)

        optimizer.zero_grad()
        image, mask = batch(number)
        for half in (slice(0, 2), slice(2, 4)):
            (torch_loss(hf, image[half], mask[half]) / 2).backward()
        optimizer.step()
        schedule.step()
    assert_same_model(state, hf, tolerance=1e-8)


class Small(nnx.Module):
    """Many parameters and few pixels, so that the gradients are what takes the memory."""

    dtype = jnp.float32

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(3, 500, rngs=rngs), nnx.Linear(500, 500, rngs=rngs)

    @property
    def segformer(self):
        return self

    def __call__(self, pixels, *, rngs):
        return SemanticSegmenterOutput(self.last(jax.nn.gelu(self.first(pixels))))


def test_more_parts_take_no_more_memory(optimized):
    skeleton, params, stats = split(Small())
    optimizer = optax.sgd(0.1)
    step = make_step(
        skeleton,
        loss=lambda logits, labels: jnp.square(logits - labels[..., None]).mean(),
        optimizer=optimizer,
        processor=SegformerImageProcessor(),
        platform="cpu",
    )
    state = start(params, stats, trained=lambda _: True, optimizer=optimizer, ema=False)

    def temporaries(parts):
        image, mask = (np.ones((parts, 1, 4, 4, *end), np.uint8) for end in ((3,), ()))
        compiled = jax.jit(step).lower(state, {"image": image, "mask": mask}).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(16) <= 1.1 * temporaries(2)


def torch_divergence(own, teacher, taught):
    """Of logits (b, classes, h, w), softened by 2."""
    own, teacher = (x.permute(0, 2, 3, 1)[taught] / 2 for x in (own, teacher))
    return torch.nn.functional.kl_div(
        own.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
    )


@pytest.mark.full
@pytest.mark.parametrize("parts", [1, 2])
def test_steps_that_learn_from_files_are_those_of_torch(hf, tmp_path, x64, parts):
    teaching = Distillation(0.4, 2.0, (1, 3), lambda batch, _: (batch["soft"], batch["taught"]))
    state, take = begun(tmp_path, parts=parts, distillation=teaching)
    optimizer, schedule = torch_optimizer(hf)
    for number in range(3):
        state, figures = take(state, number)

        optimizer.zero_grad()
        image, mask = batch(number)
        soft, taught = map(torch.from_numpy, soft_batch(number))
        total = 0.0
        for some in np.split(np.arange(4), parts):
            logits = hf(pixel_values=torch_pixels(image[some])).logits
            hard = torch_loss(hf, image[some], mask[some], logits)
            kl = torch_divergence(logits[:, [1, 3]], soft[some].permute(0, 3, 1, 2), taught[some])
            loss = (0.6 * hard + 0.4 * 4 * kl) / parts
            loss.backward()
            total += loss.item()
        optimizer.step()
        schedule.step()
        assert float(figures["loss"]) == pytest.approx(total, abs=1e-8)
    assert_same_model(state, hf, tolerance=1e-8)


@pytest.mark.full
def test_steps_that_learn_from_a_model_are_those_of_torch(hf, tmp_path, x64):
    teacher = reference.hf_model("ForSemanticSegmentation", hidden_sizes=[8, 16, 24, 36]).double()
    teacher.save_pretrained(tmp_path / "teacher")
    SegformerImageProcessor().save_pretrained(tmp_path / "teacher")
    asked = TrainSettings(
        teacher=str(tmp_path / "teacher"), teacher_weight=0.4, temperature=2.0, dtype="float64"
    )
    survey = Survey(sizes=((64, 64),), class_pixels=(1,) * LABELS, ignored_pixels=0)
    settings, _ = choose(asked, survey, platform="cpu", devices=1)
    mesh = sharding.make_mesh(jax.devices()[:1])
    id2label = {index: f"LABEL_{index}" for index in range(LABELS)}
    teaching = distillation(settings, id2label, soft=(), mesh=mesh)
    state, take = begun(tmp_path, distillation=teaching)
    optimizer, schedule = torch_optimizer(hf)
    for number in range(3):
        state, figures = take(state, number)

        optimizer.zero_grad()
        image, mask = batch(number)
        with torch.no_grad():
            wanted = teacher.eval()(pixel_values=torch_pixels(image)).logits
        logits = hf(pixel_values=torch_pixels(image)).logits
        everywhere = torch.ones(4, 16, 16, dtype=torch.bool)
        kl = torch_divergence(logits, wanted, everywhere)
        loss = 0.6 * torch_loss(hf, image, mask, logits) + 0.4 * 4 * kl
        loss.backward()
        optimizer.step()
        schedule.step()
        assert float(figures["loss"]) == pytest.approx(loss.item(), abs=1e-8)
    assert_same_model(state, hf, tolerance=1e-8)


@pytest.mark.full
def test_the_average_follows_the_parameters(hf, tmp_path, x64):
    state, take = begun(tmp_path, ema_decay=0.9)
    average = dict(state.params)
    for number in range(3):
        state, _ = take(state, number)
        keep = min(0.9, (1 + number) / (10 + number))
        average = {n: keep * a + (1 - keep) * state.params[n] for n, a in average.items()}
    for name, value in average.items():
        np.testing.assert_allclose(state.averaged[name], value, rtol=1e-12, atol=1e-15)


def test_a_step_of_adapters_leaves_the_weights_below_alone(hf, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    model.train()
    skeleton, params, stats = split(model)
    adapters = lora.add_lora(params, rank=2, key=jax.random.key(0))
    trained = lora.trained_names(params, adapters)

    def complete(whole):
        plain = {name: value for name, value in whole.items() if name not in adapters}
        own = {name: whole[name] for name in adapters}
        return lora.apply_lora(plain, own, alpha=2.0)

    optimizer = make_optimizer(sorted(trained), learning_rate=lambda _: 1e-2)
    before = start(
        params | adapters,
        stats,
        trained=trained.__contains__,
        optimizer=optimizer,
        ema=False,
    )
    step = make_step(
        skeleton,
        loss=make_loss({"cross_entropy": 1.0}, num_labels=LABELS),
        optimizer=optimizer,
        processor=SegformerImageProcessor(),
        platform="cpu",
        complete=complete,
    )
    image, mask = batch(0)
    after, _ = jax.jit(step)(before, {"image": image[None], "mask": mask[None]})

    assert before.params.keys() == trained
    assert all(np.array_equal(after.frozen[n], v) for n, v in before.frozen.items())
    changed = {n for n, v in before.params.items() if not np.array_equal(after.params[n], v)}
    assert {n for n in trained if n.endswith(".lora_b")} <= changed
    assert any(n.startswith("decode_head.") for n in changed)
