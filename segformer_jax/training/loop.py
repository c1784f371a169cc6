"""`train`: runs a training from its first step to its last."""

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image

from segformer_jax.atomic import LEFT_OVER, atomic_path, writable_folder
from segformer_jax.data.batches import batches
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.soft_targets import SoftClasses
from segformer_jax.errors import ImageError
from segformer_jax.evaluation.evaluate import Evaluation, evaluate
from segformer_jax.evaluation.report import GAP, comparison, write_report
from segformer_jax.inference.segmenter import Segmenter
from segformer_jax.training import model as models
from segformer_jax.training import sharding
from segformer_jax.training.build import build
from segformer_jax.training.card import write_card
from segformer_jax.training.checkpointing import Checkpoints
from segformer_jax.training.plan import (
    CHECKPOINTS,
    RECORD,
    Plan,
    check_given,
    check_model,
    check_packages,
    prepare,
)
from segformer_jax.training.progress import (
    Journal,
    Row,
    Teller,
    Tracker,
    draw_curves,
    read_rows,
    trackers,
)
from segformer_jax.training.record import read_record, resumed
from segformer_jax.training.settings import TrainSettings

METRICS, FINISHED = "metrics.jsonl", "finished.json"


@dataclass(frozen=True)
class Outcome:
    """The result of a call of `train`.

    Attributes:
        step: number of optimizer steps taken.
        finished: True after the last step; False if SIGTERM or Ctrl-C stopped the run.
        scores: scores of the last evaluation, as `Evaluation.to_dict()`; None before the first.
        best: the best mean IoU, and its step.
        interrupted: whether Ctrl-C stopped the run.
    """

    step: int
    finished: bool
    scores: dict[str, Any] | None
    best: dict[str, Any] | None
    interrupted: bool = False


def train(
    settings: TrainSettings, *, model: nnx.Module | None = None, teller: Teller | None = None
) -> Outcome:
    """Trains a model, or resumes the run in `settings.out`; a finished run is not changed.

    The folder gets `settings.json`, `metrics.jsonl` and `checkpoints/`, the models `best/` and
    `last/` in Hugging Face's layout, and at the end `curves.png`, `validation.png` and
    `validation/`. If a killed run is resumed, it ends with the same weights, bit for bit, as if it
    had not been killed. SIGTERM saves a checkpoint and returns.

    Args:
        settings: of the run.
        model: a module that maps `pixel_values` to an output with `.logits`, to train instead of
            the model named in the settings. It is copied; to resume, pass it again. If Hugging
            Face's layout can't represent it, `best/` and `last/` hold `parameters.safetensors`
            instead, which `checkpoints.flat.load_flat` reads.
        teller: progress callbacks.

    Raises:
        ValueError: the settings contradict each other or the run in the folder, the data has
            problems, or the loss is not finite.
        WeightsError: as `from_pretrained`.
        ImageError: a picture can't be read.
        OSError: the folder can't be written; the last checkpoint stays complete.
        MemoryError: the batch is too large for the device.
        ImportError: a package is missing; the message names the extra to install.
    """
    teller, folder = teller or Teller(), Path(settings.out)
    check_given(settings)
    done = _finished(settings, model)
    if done is not None:
        teller.say(f"{folder} is finished after {done.step:,} steps: nothing to do")
        return done
    check_packages(settings)
    plan = prepare(settings, model=model, teller=teller)
    writable_folder(folder)
    speaker = teller if jax.process_index() == 0 else Teller()
    with contextlib.closing(Run(folder, plan, speaker)) as run:
        try:
            return run.go()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise MemoryError(
                f"the device's memory is too small for {plan.record.chosen.batch_size} crops of "
                f"{plan.record.chosen.crop}: take a smaller --batch-size or --crop, more parts "
                "(--accumulate), or --gradient-checkpointing"
            ) from error


class Run:
    """The loop over a run's steps, and its state."""

    def __init__(self, folder: Path, plan: Plan, teller: Teller):
        self.folder, self.plan, self.teller = folder, plan, teller
        self.settings = plan.record.chosen
        self.lead = jax.process_index() == 0
        self.built, self.state = build(plan.record, plan.given)
        self.best: dict[str, Any] | None = None
        self.scores: dict[str, Any] | None = None
        self.evaluation: Evaluation | None = None
        self.segmenter: Segmenter | None = None
        self.journal: Journal | None = None
        self.trackers: list[Tracker] = []
        self.checkpoints = Checkpoints(folder / CHECKPOINTS)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Restores the newest checkpoint, or records a new run."""
        if self.checkpoints.latest() is not None:
            self.state, about = self.checkpoints.restore(self.state)
            self.best, self.scores = about["best"], about["scores"]
            self.teller.say(f"continuing after step {int(self.state.step):,}")
        elif self.lead:
            self.plan.record.write(self.folder / RECORD)
        if self.lead:
            for remains in self.folder.rglob(".*.part"):  # left by a process that was killed
                if LEFT_OVER.fullmatch(remains.name) and remains.is_file():
                    remains.unlink()
            self.journal = Journal(self.folder / METRICS, after=int(self.state.step))
            self.trackers = trackers(self.settings.log, self.folder, self.settings.to_dict())
        self.saved = time.monotonic()

    def close(self) -> None:
        """Waits until checkpoints are written, then closes the journal and the trackers."""
        with contextlib.ExitStack() as last:
            last.callback(self.checkpoints.close)
            if self.journal is not None:
                last.callback(self.journal.close)
            for tracker in self.trackers:
                last.callback(tracker.close)

    def go(self) -> Outcome:
        """Runs the remaining steps."""
        settings, first = self.settings, int(self.state.step)
        # a CPU would have the temporaries of two steps in memory, and gain nothing
        in_turn = self.built.mesh.devices.flat[0].platform == "cpu"
        pending: tuple[int, Any, float] | None = None  # metrics still being computed
        with collected_signals() as signals, contextlib.closing(self._batches(first)) as stream:
            self.since = time.monotonic()
            any_process = sharding.SharedFlags(first)
            for number in range(first + 1, settings.steps + 1):
                asked = time.monotonic()
                try:
                    pictures = [next(stream) for _ in range(settings.accumulate)]
                except (ImageError, OSError):
                    self._keep_steps(pending)
                    raise
                waited = time.monotonic() - asked
                batch = sharding.global_batch(pictures, self.built.mesh)
                self.state, figures = self.built.step(self.state, batch)
                if pending is not None:
                    self._tell(self._row(*pending))
                pending = number, figures, waited
                stop, save = any_process(number, (bool(signals), self._overdue()))
                evaluated = number % (settings.eval_every) == 0 or number == settings.steps
                if evaluated or stop or save or number % (settings.save_every or number + 1) == 0:
                    row = self._row(*pending)
                    pending = None
                    self._tell(row | (self._evaluate(number) if evaluated else {}))
                    self._save()
                    self.since = time.monotonic()  # the time of evaluating does not count
                elif in_turn:
                    self._tell(self._row(*pending))
                    pending = None
                if stop and number < settings.steps:
                    interrupted = signal.SIGINT in signals
                    return Outcome(number, False, self.scores, self.best, interrupted)
            return self._finish(settings.steps)

    def _batches(self, start: int) -> Generator[dict[str, np.ndarray]]:
        """Returns this process's batches from a step on; a step takes `accumulate` of them."""
        settings = self.settings
        return batches(
            self.plan.data,
            batch_size=settings.batch_size // settings.accumulate,
            augment=self.plan.augmentation,
            seed=settings.seed,
            start=start * settings.accumulate,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=settings.workers,
            skip_unreadable=settings.skip_unreadable,
            soft=SoftClasses(self.plan.record.soft) if self.plan.record.soft else None,
            shares=self.plan.shares,
        )

    # --- metrics and checkpoints

    def _row(self, number: int, figures: Any, waited: float) -> Row:
        """Waits for a step's metrics and returns its row; its time counts from the step before.

        Raises:
            ValueError: the loss or the gradient norm is not finite.
        """
        row = {name: float(figures[name]) for name in ("loss", "gradient_norm")}
        for name, value in row.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"the {name.replace('_', ' ')} of step {number} must be finite, got "
                    f"{value} (last checkpoint: step {self.checkpoints.latest() or 0}): "
                    "start again in another folder with a lower --lr, or with --clip-norm 1"
                )
        now = time.monotonic()
        speed, self.since = self.settings.batch_size / (now - self.since), now
        rate = float(self.built.schedule(number - 1))
        times = {"images_per_second": round(speed, 4), "waited_for_data_s": round(waited, 4)}
        return {"step": number, "lr": rate} | row | times

    def _tell(self, row: Row) -> None:
        self.teller.step(row, steps=self.settings.steps)
        if self.journal is not None:
            self.journal.write(row)
        for tracker in self.trackers:
            tracker.write(row)

    def _overdue(self) -> bool:
        """Whether it is time for another checkpoint."""
        limit = self.settings.checkpoint_seconds
        return limit is not None and time.monotonic() - self.saved > limit

    def _save(self) -> None:
        self.checkpoints.save(self.state, {"best": self.best, "scores": self.scores})
        self.saved = time.monotonic()

    def _keep_steps(self, pending: tuple[int, Any, float] | None) -> None:
        """Saves a checkpoint after a reading error, unless other processes take part in the run."""
        if jax.process_count() > 1:
            return
        if pending is not None:
            self._tell(self._row(*pending))
        if int(self.state.step) > (self.checkpoints.latest() or 0):
            self._save()

    # --- evaluation and saved models

    def _evaluate(self, number: int) -> dict[str, Any]:
        """Evaluates the model and returns scores; saves it to `best/` if it is the best so far."""
        model = self.built.model(self.state)
        self.evaluation = self._evaluation(model)
        self.scores = self.evaluation.to_dict()
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
            names = self.plan.record.id2label
            self.segmenter = Segmenter(model, self.built.processor, id2label=names)
        else:
            self.segmenter.update(model)
        return evaluate(self.segmenter, self.plan.validation, progress=self.teller.evaluating)

    def _keep(self, name: str, model: Any, number: int) -> None:
        if self.lead:
            assert self.scores is not None
            models.save(model, self.built.processor, self.folder / name)
            write_card(self.folder / name, self.plan.record, step=number, scores=self.scores)

    def _finish(self, number: int) -> Outcome:
        """Saves the last model, the curves and pictures, then marks the run as finished."""
        model = self.built.model(self.state)
        self._keep("last", model, number)
        if self.evaluation is None:  # an earlier process evaluated, but did not finish
            self.evaluation = self._evaluation(model)
        self.checkpoints.wait()
        if self.lead:
            assert self.segmenter is not None
            write_results(
                self.folder,
                read_rows(self.folder / METRICS),
                evaluation=self.evaluation,
                segmenter=self.segmenter,
                validation=self.plan.validation,
            )
            values = {"step": number, "best": self.best, "scores": self.scores}
            with atomic_path(self.folder / FINISHED) as temporary:
                temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return Outcome(number, True, self.scores, self.best)


def _finished(settings: TrainSettings, model: nnx.Module | None) -> Outcome | None:
    """Returns the result of a run that is already finished; None if it is not.

    Raises:
        ValueError: the finished run had other settings or another model.
    """
    folder = Path(settings.out)
    file = folder / FINISHED
    if not file.is_file():
        return None
    record = read_record(folder / RECORD)
    if record is not None:
        resumed(record, settings, given=None if model is None else check_model(settings, model))
    values = json.loads(file.read_text(encoding="utf-8"))
    return Outcome(values["step"], True, values["scores"], values["best"])


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


@contextlib.contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and the first Ctrl-C, so that a run can end after the current step.

    A second Ctrl-C raises KeyboardInterrupt. Outside of the main thread nothing is collected.
    """
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


SHOWN = 3  # pictures


def write_results(
    folder: Path,
    rows: list[Row],
    *,
    evaluation: Evaluation,
    segmenter: Segmenter,
    validation: Dataset,
) -> None:
    """Writes curves.png, validation.png and the report validation/ into a run's folder.

    Args:
        folder: the run's folder.
        rows: the lines of its journal.
        evaluation: the scores of the segmenter on the validation set.
        segmenter: has the last weights.
        validation: the validation set.
    """
    draw_curves(rows, folder / "curves.png")
    write_report(evaluation, segmenter, validation, folder / "validation")
    shown = [
        comparison(evaluation, segmenter, validation, index)
        for index in range(min(SHOWN, len(validation)))
    ]
    with atomic_path(folder / "validation.png") as temporary:
        _below_one_another(shown).save(temporary, format="PNG")


def _below_one_another(pictures: list[Image.Image]) -> Image.Image:
    width = max(picture.width for picture in pictures)
    height = sum(picture.height + GAP for picture in pictures) - GAP
    whole, top = Image.new("RGB", (width, height), "white"), 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height + GAP
    return whole
