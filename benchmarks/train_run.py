"""Compares training as a user runs it, with reading and augmenting pictures, with PyTorch's.

    python -m benchmarks.train_run --data FOLDER

b0, float32, on the CPU. Both read the same pictures with the same code and augment them alike: ours
in grain's threads, PyTorch's in a DataLoader with two workers. They alternate in one process, some
steps at a time. Both hold two batches ahead: what one prepares in the other's turn, it need not in
its own, so it must be as much for both. `waits` is the share of our time in which the step had to
wait for pictures.
"""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
import tyro
from rich.console import Console
from rich.table import Table

from segformer_jax.data.augment import Augmentation, augment
from segformer_jax.data.dataset import Dataset
from segformer_jax.process import set_up_training
from segformer_jax.training import sharding
from segformer_jax.training.loop import Run
from segformer_jax.training.plan import prepare
from segformer_jax.training.progress import Teller
from segformer_jax.training.settings import TrainSettings

WORKERS = 2


class Samples(torch.utils.data.IterableDataset):
    """Endless random pictures of a data set, augmented; each worker has its own random numbers."""

    def __init__(self, dataset: Dataset, options: Augmentation):
        self.dataset, self.options = dataset, options

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng(info.id if info else 0)
        while True:
            image, mask = self.dataset.pair(int(rng.integers(len(self.dataset))))
            yield augment(image, mask, options=self.options, rng=rng)[:2]


def main(
    data: Path,
    batch_size: int = 8,
    crop: int = 256,
    turns: int = 8,
    steps: int = 10,
    device_colours: bool = False,
) -> None:
    """Prints pictures per second of both, and their ratio.

    Args:
        data: a folder with train/ and val/.
        batch_size: pictures per step.
        crop: side of the network's square input, in pixels.
        turns: turns of each, after one to warm up.
        steps: steps per turn.
        device_colours: ours varies colours in its step, as by `train --device-colours`.
    """
    set_up_training()
    folder = Path(tempfile.mkdtemp())
    settings = TrainSettings(
        data=str(data),
        out=str(folder),
        model="b0",
        batch_size=batch_size,
        crop=(crop, crop),
        steps=100_000,
        device_colours=device_colours,
    )
    plan = prepare(settings)
    run = Run(folder, plan, Teller())
    stream = run._batches(0)
    waited = 0.0

    def ours() -> None:
        nonlocal waited
        for _ in range(steps):
            asked = time.perf_counter()
            batch = sharding.global_batch([next(stream)], run.built.mesh)
            waited += time.perf_counter() - asked
            run.state, figures = run.built.step(run.state, batch)
            float(figures["loss"])

    augmentation = dataclasses.replace(plan.augmentation, device_colours=False)
    theirs = _torch(plan.data, augmentation, batch_size=batch_size, steps=steps)
    ours(), theirs()
    waited = 0.0
    times = {"ours": [], "torch": []}
    for _ in range(turns):
        for name, turn in (("ours", ours), ("torch", theirs)):
            start = time.perf_counter()
            turn()
            times[name].append(time.perf_counter() - start)
    stream.close()
    run.close()
    shutil.rmtree(folder)
    speed = {name: batch_size * steps / float(np.median(own)) for name, own in times.items()}
    ratio = float(np.median(np.array(times["ours"]) / np.array(times["torch"])))
    table = Table("", "pictures/s", "time, ours ÷ theirs", "waits")
    table.add_row("segformer_jax", f"{speed['ours']:.1f}", "", f"{waited / sum(times['ours']):.1%}")
    table.add_row("transformers + torch", f"{speed['torch']:.1f}", f"{ratio:.2f}", "")
    Console().print(table)


def _torch(dataset: Dataset, options: Augmentation, *, batch_size: int, steps: int):
    """Returns a turn of steps of transformers' model, with its own loss and `torch.optim.AdamW`."""
    config = transformers.SegformerConfig(num_labels=len(dataset.id2label))
    model = transformers.SegformerForSemanticSegmentation(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, fused=True)
    loader = torch.utils.data.DataLoader(
        Samples(dataset, options),
        batch_size=batch_size,
        num_workers=WORKERS,
        prefetch_factor=1,
        multiprocessing_context="spawn",  # a fork of a process with JAX's threads may hang
    )
    stream = iter(loader)
    mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)

    def turn() -> None:
        for _ in range(steps):
            images, masks = next(stream)
            pixels = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
            optimizer.zero_grad()
            loss = model(pixels, labels=masks.long()).loss
            loss.backward()
            optimizer.step()
            loss.item()

    return turn


if __name__ == "__main__":
    tyro.cli(main)
