"""`RUN/settings.json`: the settings of a run, the chosen values, and the packages' versions."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from segformer_jax.atomic import atomic_path
from segformer_jax.data.check import Survey
from segformer_jax.json_text import json_bytes, json_value
from segformer_jax.training.settings import MAY_CHANGE, ChosenSettings, TrainSettings

PACKAGES = ("segformer-jax", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


@dataclass(frozen=True)
class Record:
    """The settings of a run and the properties of its data and model.

    Attributes:
        asked: the settings as the user gave them.
        chosen: the same settings with a value for each that was left open.
        survey: sizes and classes of the pictures to train on.
        id2label: the classes.
        soft: the classes of the teacher's files that are learned; empty if there are no files.
        given: a line that identifies a model given in Python; None if `asked.model` names it.
    """

    asked: TrainSettings
    chosen: ChosenSettings
    survey: Survey
    id2label: dict[int, str]
    soft: tuple[str, ...] = ()
    given: str | None = None

    def write(self, file: Path) -> None:
        """Writes the record with the versions, the command and the working folder's git commit."""
        values = {
            "settings": self.asked.to_dict(),
            "chosen": self.chosen.to_dict(),
            "id2label": self.id2label,
            "soft": self.soft,
            "given": self.given,
            "survey": dataclasses.asdict(self.survey),
            "versions": {"python": sys.version.split()[0]} | _versions(),
            "git_commit": _commit(),
            "command": sys.argv,
        }
        with atomic_path(file) as temporary:
            temporary.write_bytes(json_bytes(values))


def read_record(file: Path) -> Record | None:
    """Reads the record of a run; None if the file does not exist.

    Raises:
        ValueError: the file is not a record.
    """
    if not file.is_file():
        return None
    try:
        values = json_value(file.read_bytes())
        survey = values["survey"]
        return Record(
            asked=TrainSettings.from_dict(values["settings"]),
            chosen=ChosenSettings.from_dict(values["chosen"]),
            survey=Survey(
                sizes=tuple((height, width) for height, width in survey["sizes"]),
                class_pixels=tuple(survey["class_pixels"]),
                ignored_pixels=survey["ignored_pixels"],
                parts=tuple(survey.get("parts", ())),
                image_mean=tuple(survey.get("image_mean", ())),
                image_std=tuple(survey.get("image_std", ())),
            ),
            id2label={int(index): name for index, name in values["id2label"].items()},
            soft=tuple(values.get("soft", ())),
            given=values.get("given"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is not a valid record of a run ({error}): train into another folder"
        ) from error


def resumed(record: Record, asked: TrainSettings, *, given: str | None = None) -> ChosenSettings:
    """Returns the settings to resume a run with: the recorded ones, except those in `MAY_CHANGE`.

    Args:
        record: of the run.
        asked: the settings given now.
        given: a line that identifies the model given now, as `Record.given`.

    Raises:
        ValueError: the model differs, or a setting that may not change.
    """
    if given != record.given:
        now, before = (value or "the one that the settings name" for value in (given, record.given))
        raise ValueError(
            f"{asked.out} holds a run of another model ({before}, now {now}): give "
            "the same model to continue, train(settings, model=…), or another "
            "folder"
        )
    before, chosen, now = (s.to_dict() for s in (record.asked, record.chosen, asked))
    differing = [
        name
        for name, value in now.items()
        if name not in MAY_CHANGE and value not in (before[name], chosen[name])
    ]
    if len(asked.sources) != len(record.asked.sources):
        differing.append("data")
    if differing:
        told = ", ".join(
            f"{name} {chosen[name]} → {'left open' if now[name] is None else now[name]}"
            for name in differing
        )
        raise ValueError(
            f"{asked.out} holds a run with other settings ({told}): repeat these to "
            "continue, or give another folder (--out); a new run can start from "
            f"its weights with --model {asked.out}/last"
        )
    changes = {name: getattr(asked, name) for name in MAY_CHANGE}
    if changes["workers"] is None:
        changes["workers"] = record.chosen.workers
    return dataclasses.replace(record.chosen, **changes)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Returns the working folder's git commit, marked if files are changed; None without git."""
    try:
        return _git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
