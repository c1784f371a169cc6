"""Imports the optional packages that training needs."""

import importlib

from segformer_jax.training.settings import TrainSettings

ALWAYS = ("grain", "matplotlib", "optax", "orbax.checkpoint")
TRACKERS = {"tensorboard": "tensorboard.summary", "trackio": "trackio"}


def check_packages(settings: TrainSettings) -> None:
    """Imports all that a run will need, before it costs anybody hours to find that one is missing.

    Raises:
        ImportError: one is missing; it says how to get it.
    """
    wanted = dict.fromkeys(ALWAYS, "train") | {TRACKERS[name]: name for name in settings.log}
    for package, extra in wanted.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"this run needs {package} ({error}): pip install 'segformer-jax[{extra}]'"
            ) from error
