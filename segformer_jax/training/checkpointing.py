"""Saves the checkpoints of a run with orbax in the background, each completely or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from segformer_jax.training.state import TrainState

KEPT = 2  # the newest, and the one before it while the newest is being written
BY_PATH = "by path"  # how arrays are named; earlier checkpoints numbered them and lack this


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, about: dict[str, Any]) -> None:
        """Starts to write a state and JSON values, after waiting for an earlier call to finish.

        Raises:
            OSError: this checkpoint or an earlier one could not be written.
        """
        step = int(state.step)
        if step == self.latest():
            return
        args = self._ocp.args
        with self._writing():
            self._manager.save(
                step,
                args=args.Composite(
                    state=args.StandardSave(_arrays(state)),
                    about=args.JsonSave({"arrays": BY_PATH, "about": about}),
                ),
            )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Returns the newest state, sharded as `like`, and the JSON values saved with it.

        Raises:
            ValueError: the checkpoint does not fit this run, or has an earlier version's format.
        """
        step, args = self.latest(), self._ocp.args
        where = f"the checkpoint of step {step} in {self._manager.directory}"
        abstract = jax.tree.map(self._ocp.tree.to_shape_dtype_struct, _arrays(like))
        try:
            about = self._manager.restore(step, args=args.Composite(about=args.JsonRestore()))
            if about["about"].get("arrays") != BY_PATH:
                raise ValueError(
                    "its arrays are numbered, which is the format of an earlier version"
                )
            found = self._manager.restore(
                step, args=args.Composite(state=args.StandardRestore(abstract))
            )
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{where} does not fit this run: {error}; train into another folder (--out)"
            ) from error
        arrays = [found["state"][name] for name in _arrays(like)]
        return jax.tree.structure(like).unflatten(arrays), about["about"]["about"]

    def wait(self) -> None:
        """Waits until all checkpoints are written.

        Raises:
            OSError: one could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until all checkpoints are written, and ends the threads that write them.

        Raises:
            OSError: as `wait`.
        """
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # what orbax's storage raises
            folder = self._manager.directory
            raise OSError(
                f"a checkpoint can't be written into {folder} ({error}): free some "
                "space; the checkpoint before it is complete"
            ) from error


def whole_checkpoints(folder: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder; they are the folders' names."""
    return [int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal()]


def _arrays(state: TrainState) -> dict[str, Any]:
    """Returns the state's leaves by tree path, such as optimizer/1/mu/NAME."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
