"""The model card, README.md beside the weights: what it is, how it was made, how good it is."""

import shlex
from pathlib import Path
from typing import Any

from segformer_jax.atomic import atomic_path
from segformer_jax.training.distillation import SOFT
from segformer_jax.training.record import Record
from segformer_jax.training.settings import TrainSettings


def write_card(folder: Path, record: Record, *, step: int, scores: dict[str, Any]) -> None:
    """Writes `folder`/README.md.

    Args:
        folder: holds the model.
        record: of the run.
        step: after which the weights were taken.
        scores: `Evaluation.to_dict()`.
    """
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(_card(folder, record, step, scores), encoding="utf-8")


def _card(folder: Path, record: Record, step: int, scores: dict[str, Any]) -> str:
    settings = record.chosen
    assert settings.crop is not None
    name = f"{Path(settings.out).resolve().name}-{folder.name}"
    rows = [
        f"| {_cell(label)} | {_percent(iou)} | {_percent(scores['per_class_accuracy'][label])} |"
        for label, iou in scores["per_class_iou"].items()
    ]
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: image-segmentation",
            "tags: [segformer, semantic-segmentation, jax, flax]",
            "---",
            "",
            f"# {name}",
            "",
            f"A SegFormer of {len(record.id2label)} classes, trained with segformer_jax from "
            f"`{settings.model}`; the weights after step {step:,} of {settings.steps:,}.",
            "",
            "```python",
            "from segformer_jax import Segmenter",
            "",
            f'segment = Segmenter.from_pretrained("{folder.name}")  # this folder',
            'segment("photo.jpg").save("photo.overlay.png")',
            "```",
            "",
            "transformers opens it too: `SegformerForSemanticSegmentation.from_pretrained`.",
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
            "```bash",
            command(record.asked),
            "```",
            "",
            f"{settings.steps:,} steps of {settings.batch_size} crops of {settings.crop[0]}×"
            f"{settings.crop[1]} (short side {settings.short_side}, scale {settings.scale[0]} to "
            f"{settings.scale[1]}), AdamW, lr {settings.lr:g} ({settings.schedule}, "
            f"{settings.warmup} steps of warm-up, head ×{settings.head_factor:g}), seed "
            f"{settings.seed}. Pictures: {len(record.survey.sizes):,}.{_taught(settings)}",
            "",
        ]
    )


def _taught(settings: TrainSettings) -> str:
    if settings.teacher is None:
        return ""
    who = "soft targets in files" if settings.teacher == SOFT else f"`{settings.teacher}`"
    return (
        f" Taught by {who}: {settings.teacher_weight:g} of the loss, temperature "
        f"{settings.temperature:g}."
    )


def command(settings: TrainSettings) -> str:
    """The command line that these settings are."""
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
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
