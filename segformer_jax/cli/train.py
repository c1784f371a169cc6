"""`train` and `evaluate`: trains a model on a folder of pictures, and scores a model."""

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from segformer_jax.atomic import atomic_path
from segformer_jax.cli.printing import make_console, make_table, print_json, say
from segformer_jax.cli.protocol_options import Name, make_protocol
from segformer_jax.images.flips import Flip
from segformer_jax.training.progress import Teller
from segformer_jax.training.settings import Format, TrainSettings

LINES = 20  # number of progress lines of a run without a terminal


@dataclass(frozen=True)
class Words(TrainSettings):  # its documentation is what `--help` shows
    __doc__ = TrainSettings.__doc__

    def __post_init__(self) -> None:
        """Skips the checks of `TrainSettings`, because tyro would draw a frame around an error."""


def train_command(arguments: list[str]) -> Callable[..., int]:
    """Returns the command `train`, with its defaults from the file that `--config` names."""
    usual = TrainSettings()
    if arguments[:1] == ["train"]:
        for place, word in enumerate(arguments):
            if word == "--config" and place + 1 < len(arguments):
                usual = TrainSettings.from_file(arguments[place + 1])
            elif word.startswith("--config="):
                usual = TrainSettings.from_file(word.removeprefix("--config="))

    words = Words(**dataclasses.asdict(usual))

    def train(settings: Words = words, config: str | None = None, preview: int = 0) -> int:
        """Train a model on a folder of pictures and masks. The same --out resumes a stopped run.

        Args:
            settings: of the run.
            config: a JSON file of settings, such as another run's settings.json, or "paper";
                options of the command line override it.
            preview: instead of training, write a picture of this many augmented samples.
        """
        del config  # read above: it gives the defaults
        checked = TrainSettings(**dataclasses.asdict(settings))
        return _preview(checked, preview) if preview else _train(checked)

    return train


def evaluate(
    data: str,
    model: str,
    split: str | None = None,
    format: Format = "auto",
    reduce_zero_label: bool = False,
    mask_suffix: str = "",
    resize_masks: bool = False,
    skip_unreadable: bool = False,
    short_side: int | None = None,
    divisor: int | None = None,
    protocol: Name | None = None,
    slide: tuple[int, ...] = (),
    scales: tuple[float, ...] = (),
    flip: bool = False,
    flip_direction: tuple[Flip, ...] = (),
    threshold: float = 0.5,
    boundary: bool = False,
    beta: float = 1.0,
    out_dir: Path | None = None,
    worst: int = 8,
    batch_size: int = 8,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    json: bool = False,
) -> int:
    """Evaluate a model on a data set: IoU, dice and other scores, and the worst pictures.

    Args:
        data: the folder of one split, such as FOLDER/val, or the data folder with --split.
        model: an installed weights package, a folder, or a name on the Hugging Face hub.
        split: train, val or test, if --data is the folder of all splits.
        format: how the data is stored; auto detects it.
        reduce_zero_label: ignore label 0 and lower the others by one (ADE20K).
        mask_suffix: what a mask's name has after its picture's, such as _mask.
        resize_masks: give masks of another size their picture's, by the nearest pixel, if the
            ratios of the sides agree.
        skip_unreadable: leave out files that can't be read, with a warning.
        short_side: resize whole pictures to this short side, as the paper does; keeps their ratio.
        divisor: with --short-side, round both sides up to a multiple of this; by default 32.
        protocol: the paper's settings for Cityscapes (windows of 1024, stride 768) or ADE20K (short
            side 512); -ms adds six scales and flips. Other options override it.
        slide: segment in windows of this side and stride, by default three quarters of the side.
        scales: segment at these multiples of the picture's size and average the probabilities.
        flip: also segment the mirrored picture, and average the probabilities.
        flip_direction: also segment the picture flipped in each of these directions.
        threshold: for models of one class: pixels above this probability belong to it.
        boundary: also compute the boundary IoU.
        beta: of the F-score: recall counts this many times as much as precision.
        out_dir: a folder for evaluation.json, the confusion matrix and the worst pictures.
        worst: number of worst pictures to write.
        batch_size: number of pictures per run of the network.
        device: cpu, gpu or tpu; by default JAX chooses, preferring an accelerator.
        dtype: the type of the matrix products.
        json: print one JSON object, and nothing else, to standard output.
    """
    import jax.numpy as jnp

    from segformer_jax import Segmenter
    from segformer_jax.data.check import check, readable
    from segformer_jax.data.formats import open_dataset
    from segformer_jax.evaluation.evaluate import evaluate as evaluated
    from segformer_jax.evaluation.report import write_report
    from segformer_jax.process import keep_compiled_programs, keep_freed_memory

    how = make_protocol(
        protocol,
        slide=slide,
        scales=scales,
        flip=flip,
        flip_direction=flip_direction,
        threshold=threshold,
        short_side=short_side,
        divisor=divisor,
    )
    keep_freed_memory()
    keep_compiled_programs()
    dataset = open_dataset(
        data,
        split=split,
        format=format,
        reduce_zero_label=reduce_zero_label,
        mask_suffix=mask_suffix,
        resize_masks=resize_masks,
    )
    say(f"{data}: {dataset.recognised}")
    segmenter = Segmenter.from_pretrained(
        model, dtype=jnp.dtype(dtype), device=device, batch_size=batch_size
    )
    dataset = dataclasses.replace(dataset, read=segmenter.processor.read)
    if skip_unreadable:
        dataset = readable(dataset, whole=True)
    check(dataset, whole=True, progress=Bar().checking)
    with tqdm(total=len(dataset), unit="picture", disable=not sys.stderr.isatty()) as bar:
        found = evaluated(
            segmenter,
            dataset,
            protocol=how,
            boundary=boundary,
            beta=beta,
            progress=bar.update,
        )
    if out_dir is not None:
        write_report(found, segmenter, dataset, out_dir, worst=worst)
    if json:
        print_json({"model": model, "data": data} | found.to_dict())
    else:
        _print_scores(f"{model} on {data}", found.to_dict())
        if out_dir is not None:
            print(out_dir)
    return 0


def _train(settings: TrainSettings) -> int:
    import jax

    from segformer_jax.process import set_up_training
    from segformer_jax.training.loop import train

    set_up_training()
    with _errors_told_once(), Bar() as bar:
        outcome = train(settings, teller=bar)
    if jax.process_index() > 0:  # only the first process prints
        return 0
    if not outcome.finished:
        say(f"stopped after step {outcome.step:,}: repeat the command to continue from there")
        return 130 if outcome.interrupted else 0
    if outcome.scores is not None:
        _print_scores(f"{settings.out}, {outcome.step:,} steps", outcome.scores)
    for name in ("best", "last"):
        print(Path(settings.out) / name)
    return 0


@contextlib.contextmanager
def _errors_told_once() -> Iterator[None]:
    """Silences messages of orbax and asyncio about an error that is also raised."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook

    def unraisable(told: Any) -> None:
        if "Event loop is closed" not in str(told.exc_value):
            hook(told)

    sys.unraisablehook = unraisable
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _preview(settings: TrainSettings, count: int) -> int:
    from segformer_jax.data.preview import contact_sheet
    from segformer_jax.training.plan import prepare

    with Bar() as bar:
        plan = prepare(settings, teller=bar)
    sheet = contact_sheet(
        plan.data, plan.augmentation, seed=settings.seed, count=count, shares=plan.shares
    )
    file = Path(settings.out) / "preview.png"
    with atomic_path(file) as temporary:
        sheet.save(temporary, format="PNG")
    print(file)
    return 0


class Bar(Teller):
    """Shows the progress of a run: a bar in a terminal, else about 20 lines."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()
        self._bar: Any = None
        self._started = time.monotonic()
        self._first = 0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, text: str) -> None:
        """Prints a line on standard error, above the bar."""
        with tqdm.external_write_mode(file=sys.stderr):
            say(text)

    def checking(self, pairs: Iterable[Any]) -> Iterable[Any]:
        """Wraps the loop that checks the data's pairs with a bar of its own."""
        return tqdm(pairs, desc="checking", unit="picture", disable=not self._watched, leave=False)

    def step(self, row: dict[str, Any], *, steps: int) -> None:
        """Shows loss, learning rate, pictures per second and the remaining time."""
        number = row["step"]
        figures = (
            f"loss {row['loss']:.4f}, lr {row['lr']:.1e}, {row['images_per_second']:.1f} images/s"
        )
        if self._watched:
            if self._bar is None:
                self._bar = tqdm(total=steps, initial=number - 1, unit="step")
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update()
        else:
            if not self._first:
                self._first, self._started = number, time.monotonic()
            if number == self._first or number % max(steps // LINES, 1) == 0 or number == steps:
                done = number - self._first
                left = (time.monotonic() - self._started) / max(done, 1) * (steps - number)
                ending = f", {tqdm.format_interval(left)} left" if done else ""
                say(f"step {number:,}/{steps:,}: {figures}{ending}")

    def evaluating(self, done: int) -> None:
        """Does nothing: the bar stands still during an evaluation."""


def _print_scores(title: str, scores: dict[str, Any]) -> None:
    columns = {"IoU": "iou", "dice": "dice", "accuracy": "accuracy", "precision": "precision"}
    rows = make_table("class", *columns, title=title)
    for label in scores["per_class_iou"]:
        own = (scores.get(f"per_class_{name}", {}).get(label) for name in columns.values())
        rows.add_row(label, *map(_percent, own))
    rows.add_section()
    rows.add_row("mean", *(_percent(scores.get(f"mean_{name}")) for name in columns.values()))
    make_console().print(rows)
    line = (
        f"pixel accuracy {_percent(scores['pixel_accuracy'])}, frequency-weighted IoU "
        f"{_percent(scores['frequency_weighted_iou'])}, {scores['images']:,} pictures"
    )
    if "mean_f_score" in scores:
        line += f", F{scores['beta']:g} score {_percent(scores['mean_f_score'])}"
    if "boundary_iou" in scores:
        line += f", boundary IoU {_percent(scores['boundary_iou'])}"
    make_console().print(line, highlight=False)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
