"""`train`: a run from its first step to its last, in the order in which things happen."""

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from segformer_jax.atomic import atomic_path, writable_folder
from segformer_jax.errors import ImageError
from segformer_jax.inference.segmenter import Segmenter
from segformer_jax.training import model as models
from segformer_jax.training import sharding, state
from segformer_jax.training.card import write_card
from segformer_jax.training.checkpointing import Checkpoints
from segformer_jax.training.choices import class_weights
from segformer_jax.training.evaluate import Evaluation, evaluate
from segformer_jax.training.losses import make_loss
from segformer_jax.training.optimizer import make_optimizer
from segformer_jax.training.pipeline import batches
from segformer_jax.training.plan import RECORD, Plan, prepare
from segformer_jax.training.progress import Journal, Row, draw_curves, read_rows, trackers
from segformer_jax.training.schedule import cosine_with_warmup, poly_with_warmup
from segformer_jax.training.settings import TrainSettings
from segformer_jax.training.step import make_step
from segformer_jax.training.teller import Teller

METRICS = "metrics.jsonl"
MINUTE = 50.0  # seconds between two checkpoints, so that a slow step still ends within the minute


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        step: the optimizer steps taken.
        finished: whether that was the last; else SIGTERM or Ctrl-C asked to stop.
        scores: the last evaluation's, as `Evaluation.to_dict()`; None before the first.
        best: the best mean IoU, and its step.
        interrupted: whether it was Ctrl-C.
    """

    step: int
    finished: bool
    scores: dict[str, Any] | None
    best: dict[str, Any] | None
    interrupted: bool = False


def train(settings: TrainSettings, *, teller: Teller | None = None) -> Outcome:
    """Trains, or goes on with the run in `settings.out`; a finished one is left as it is.

    In the folder: `settings.json`, `metrics.jsonl`, `checkpoints/`, `curves.png`, `validation.png`,
    and `best/` and `last/`, models in Hugging Face's layout. A killed run that is called again ends
    with the same weights, bit for bit, as one left alone. SIGTERM saves and returns.

    Raises:
        ValueError: settings that contradict one another, or the run in the folder; data that is
            not in order; a loss that is no longer a number.
        WeightsError: as `from_pretrained`.
        ImageError: a picture that can't be read.
    """
    teller = teller or Teller()
    plan = prepare(settings, teller=teller)
    folder = Path(settings.out)
    done = _finished(folder)
    if done is not None:
        teller.say(f"{folder} is finished, {done.step:,} steps: nothing to do")
        return done
    writable_folder(folder)
    if jax.process_index() == 0 and not (folder / RECORD).exists():
        plan.record.write(folder / RECORD)
    with contextlib.closing(Run(folder, plan, teller)) as run:
        return run.go()


class Run:
    """What stays the same from step to step, and the loop over them."""

    def __init__(self, folder: Path, plan: Plan, teller: Teller):
        record, settings = plan.record, plan.record.chosen
        self.folder, self.plan, self.settings, self.teller = folder, plan, settings, teller
        self.lead = jax.process_index() == 0
        model = models.starting_model(settings, record.id2label)
        self.processor = models.run_processor(record)
        self.skeleton, params, stats = state.split(model)
        params, trained, self.complete = models.trainable(settings, params)
        self.schedule = _schedule(settings)
        assert settings.head_factor is not None
        optimizer = make_optimizer(
            [name for name in params if trained(name)],
            learning_rate=self.schedule,
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm,
            head_factor=settings.head_factor,
            layer_decay=settings.layer_decay,
        )
        weights = settings.loss_weights or (1.0,) * len(settings.losses)
        step = make_step(
            self.skeleton,
            loss=make_loss(
                tuple(zip(settings.losses, weights, strict=True)),
                num_labels=model.config.num_labels,
                class_weights=class_weights(settings.class_weights, record.survey),
                label_smoothing=settings.label_smoothing,
                denominator=settings.denominator,
            ),
            optimizer=optimizer,
            processor=self.processor,
            seed=settings.seed,
            ema_decay=settings.ema,
            complete=self.complete,
            platform=jax.devices()[0].platform,
        )
        self.mesh = sharding.make_mesh()
        beginning = state.start(
            params, stats, trained=trained, optimizer=optimizer, ema=settings.ema is not None
        )
        where = sharding.state_sharding(beginning, self.mesh, fsdp=settings.fsdp)
        self.state = sharding.place(beginning, where)
        self.step = jax.jit(step, donate_argnums=0, out_shardings=(where, None))
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.best: dict[str, Any] | None = None
        self.scores: dict[str, Any] | None = None
        if self.checkpoints.latest() is not None:
            self.state, about = self.checkpoints.restore(self.state)
            self.best, self.scores = about["best"], about["scores"]
            teller.say(f"going on after step {int(self.state.step):,}")
        self.listeners: list[Callable[[Row], None]] = []
        if self.lead:
            self.journal = Journal(folder / METRICS, after=int(self.state.step))
            own = trackers(settings.log, folder, settings.to_dict())
            self.listeners = [self.journal.write, *own]
        self.segmenter: Segmenter | None = None
        self.saved = time.monotonic()

    def go(self) -> Outcome:
        """All steps that are left."""
        steps, first = self.settings.steps, int(self.state.step)
        assert steps is not None
        pending: tuple[int, Any, dict[str, float]] | None = None  # figures still being computed
        with _on_signals() as signals, contextlib.closing(self._batches(first)) as stream:
            since = time.monotonic()
            for number in range(first + 1, steps + 1):
                asked = time.monotonic()
                try:
                    pictures = next(stream)
                except ImageError:
                    self._save()  # nothing of the steps before is lost
                    raise
                batch = sharding.global_batch(pictures, self.mesh, parts=self.settings.accumulate)
                waited = time.monotonic() - asked
                self.state, figures = self.step(self.state, batch)
                if pending is not None:
                    self._report(*pending)
                now = time.monotonic()
                speed = (self.settings.batch_size or 0) / (now - since)
                since = now
                pending = number, figures, {"images_per_second": speed, "waited_for_data_s": waited}
                stop, save = sharding.any_process(
                    (bool(signals), time.monotonic() - self.saved > MINUTE)
                )
                evaluate_now = number == steps or number % (self.settings.eval_every or steps) == 0
                if evaluate_now or stop or save or self._save_due(number):
                    self._report(*pending, **(self._evaluate(number) if evaluate_now else {}))
                    pending = None
                    self._save()
                    since = time.monotonic()  # evaluating is no training
                if stop and number < steps:
                    interrupted = signal.SIGINT in signals
                    return Outcome(number, False, self.scores, self.best, interrupted)
        return self._finish(steps)

    def close(self) -> None:
        """Waits for checkpoints that are being written."""
        self.checkpoints.close()
        if self.lead:
            self.journal.close()

    def _batches(self, start: int) -> Any:
        settings = self.settings
        assert settings.batch_size is not None
        return batches(
            self.plan.data,
            batch_size=settings.batch_size,
            augment=self.plan.augmentation,
            seed=settings.seed,
            start=start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=settings.workers or 0,
            skip_unreadable=settings.skip_unreadable,
        )

    def _save_due(self, number: int) -> bool:
        every = self.settings.save_every
        return every is not None and number % every == 0

    def _save(self) -> None:
        self.checkpoints.save(self.state, {"best": self.best, "scores": self.scores})
        self.saved = time.monotonic()

    def _report(self, number: int, figures: Any, times: dict[str, float], **more: Any) -> None:
        """A step's line, once its figures are there."""
        loss = float(figures["loss"])
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss of step {number} is {loss}; the last checkpoint is of step "
                f"{self.checkpoints.latest() or 0}: lower --lr, or bound the gradients with "
                "--clip-norm 1"
            )
        row: Row = {
            "step": number,
            "loss": loss,
            "lr": float(self.schedule(number - 1)),
            "gradient_norm": float(figures["gradient_norm"]),
        } | {name: round(value, 4) for name, value in times.items()}
        self.teller.step(row | more, steps=self.settings.steps or 0)
        for listen in self.listeners:
            listen(row | more)

    # --- evaluation and models on disk

    def _model(self) -> Any:
        """The model as it is kept, averaged and merged, in eval mode, whole in this process."""
        parts = {**self.state.averaged, **self.state.frozen}, self.state.stats
        params, stats = sharding.gathered(parts)
        model = self.skeleton.model(self.complete(params) | stats)
        model.eval()
        return model

    def _evaluate(self, number: int) -> dict[str, Any]:
        """Scores of this step; the model goes to `best/` when it is the best so far."""
        model = self._model()
        found = self._evaluation(model)
        self.scores = found.to_dict()
        score = self.scores["mean_iou"]
        if self.best is None or (score or 0) > (self.best["mean_iou"] or 0):
            self.best = {"step": number, "mean_iou": score}
            self._keep("best", model, number)
        self.teller.say(
            f"step {number:,}: mean IoU {_percent(score)}, pixel accuracy "
            f"{_percent(self.scores['pixel_accuracy'])}, best {_percent(self.best['mean_iou'])}"
        )
        return {
            "val_mean_iou": score,
            "val_pixel_accuracy": self.scores["pixel_accuracy"],
        }

    def _evaluation(self, model: Any) -> Evaluation:
        if self.segmenter is None:
            self.segmenter = Segmenter(model, self.processor)
        else:
            self.segmenter.update(model)
        return evaluate(self.segmenter, self.plan.validation, progress=self.teller.evaluating)

    def _keep(self, name: str, model: Any, number: int) -> None:
        if self.lead:
            assert self.scores is not None
            models.save(model, self.processor, self.folder / name)
            write_card(self.folder / name, self.plan.record, step=number, scores=self.scores)

    def _finish(self, number: int) -> Outcome:
        """The last model, the curves, pictures; then the mark that nothing is left to do."""
        self._keep("last", self._model(), number)
        outcome = Outcome(number, True, self.scores, self.best)
        self.checkpoints.close()
        if self.lead:
            draw_curves(read_rows(self.folder / METRICS), self.folder / "curves.png")
            values = {"step": number, "best": self.best, "scores": self.scores}
            with atomic_path(self.folder / "finished.json") as temporary:
                temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return outcome


def _finished(folder: Path) -> Outcome | None:
    file = folder / "finished.json"
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return Outcome(values["step"], True, values["scores"], values["best"])


def _schedule(settings: TrainSettings) -> Callable[[Any], Any]:
    assert settings.lr is not None
    assert settings.steps is not None
    assert settings.warmup is not None
    make = poly_with_warmup if settings.schedule == "poly" else cosine_with_warmup
    return make(settings.lr, steps=settings.steps, warmup=settings.warmup)


@contextlib.contextmanager
def _on_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and the first Ctrl-C instead of ending the process, in the main thread."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        if number in received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
