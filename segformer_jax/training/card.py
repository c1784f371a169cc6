"""Writes the model card, README.md beside the weights: origin, training, scores, use."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from segformer_jax.atomic import atomic_path
from segformer_jax.checkpoints.files import PARAMETERS
from segformer_jax.json_text import readable
from segformer_jax.training.distillation import SOFT
from segformer_jax.training.record import Record
from segformer_jax.training.settings import TrainSettings


def write_card(folder: Path, record: Record, *, step: int, scores: dict[str, Any]) -> None:
    """Writes `folder`/README.md.

    Args:
        folder: the folder of the saved model.
        record: of the run.
        step: number of the step after which the weights were saved.
        scores: from `Evaluation.to_dict()`.
    """
    with atomic_path(folder / "README.md") as temporary:
        text = readable(_card(folder, record, step, scores))
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def _card(folder: Path, record: Record, step: int, scores: dict[str, Any]) -> str:
    settings = record.chosen
    name = f"{Path(settings.out).resolve().name}-{folder.name}"
    apart = (folder / PARAMETERS).is_file()  # Hugging Face's layout can't represent the model
    rows = [
        f"| {_cell(label)} | {_percent(iou)} | {_percent(scores['per_class_accuracy'][label])} |"
        for label, iou in scores["per_class_iou"].items()
    ]
    return "\n".join(
        [
            "---",
            f"library_name: {'segformer_jax' if apart else 'transformers'}",
            "pipeline_tag: image-segmentation",
            "tags: [segformer, semantic-segmentation, jax, flax]",
            "---",
            "",
            f"# {name}",
            "",
            f"A SegFormer of {len(record.id2label)} classes, trained with segformer_jax from "
            f"{record.given or f'`{settings.model}`'}; the weights after step {step:,} of "
            f"{settings.steps:,}.",
            "",
            *(_opened_apart(folder) if apart else _opened(folder)),
            "",
            "## Scores",
            "",
            f"On the {scores['images']:,} pictures of the split `{settings.val_split}`, at the "
            f"masks' own size: mean IoU **{_percent(scores['mean_iou'])}**, pixel accuracy "
            f"{_percent(scores['pixel_accuracy'])}, mean accuracy "
            f"{_percent(scores['mean_accuracy'])}.",
            "",
            "| class | IoU | accuracy |",
            "|---|---|---|",
            *rows,
            "",
            "## How it was made",
            "",
            *_made(record),
            "",
            f"{settings.steps:,} steps of {settings.batch_size} crops of {settings.crop[0]}×"
            f"{settings.crop[1]} (short side {settings.short_side}, scale {settings.scale[0]} to "
            f"{settings.scale[1]}), AdamW, lr {settings.lr:g} ({settings.schedule}, "
            f"{settings.warmup} steps of warm-up, head ×{settings.head_factor:g}), seed "
            f"{settings.seed}. Pictures: {len(record.survey.sizes):,}.{_taught(settings)}",
            "",
        ]
    )


def _made(record: Record) -> list[str]:
    if record.given is None:
        return ["```bash", command(record.asked), "```"]
    usual = TrainSettings()
    changed = {
        field.name: getattr(record.asked, field.name)
        for field in dataclasses.fields(usual)
        if getattr(record.asked, field.name) != getattr(usual, field.name)
    }
    settings = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    return ["```python", f"train(TrainSettings({settings}), model=…)  # {record.given}", "```"]


def _opened(folder: Path) -> list[str]:
    return [
        "```python",
        "from segformer_jax import Segmenter",
        "",
        f'segment = Segmenter.from_pretrained("{folder.name}")  # this folder',
        'segment("photo.jpg").save("photo.overlay.png")',
        "```",
        "",
        "Transformers can load it too: `SegformerForSemanticSegmentation.from_pretrained`.",
    ]


def _opened_apart(folder: Path) -> list[str]:
    return [
        "The weights are `parameters.safetensors`. Load them into a module built as for training:",
        "",
        "```python",
        "from segformer_jax import SegformerImageProcessor, Segmenter",
        "from segformer_jax.checkpoints.flat import load_flat",
        "",
        "model = …  # built as for the training",
        f'load_flat(model, "{folder.name}")  # this folder',
        f'segment = Segmenter(model, SegformerImageProcessor.from_pretrained("{folder.name}"))',
        'segment("photo.jpg").save("photo.overlay.png")',
        "```",
    ]


def _taught(settings: TrainSettings) -> str:
    if settings.teacher is None:
        return ""
    who = "soft targets in files" if settings.teacher == SOFT else f"`{settings.teacher}`"
    return (
        f" Taught by {who}: {settings.teacher_weight:g} of the loss, temperature "
        f"{settings.temperature:g}."
    )


def command(settings: TrainSettings) -> str:
    """Returns the command line with these settings."""
    usual, words = TrainSettings().to_dict(), ["segformer-jax", "train"]
    for name, value in settings.to_dict().items():
        if value == usual[name]:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"--{flag}", *map(str, values)]
    return shlex.join(words)


def _cell(text: str) -> str:
    """Escapes a text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
