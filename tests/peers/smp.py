"""Runs segmentation_models.pytorch's SegFormers, and keeps their logits for `convert/test_smp.py`.

    python tests/peers/smp.py

writes smp.json beside this file. It needs segmentation-models-pytorch, which this
project's other tests can't have beside them: it requires another build of PyTorch.
"""

import json
import zlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json")
SIZE = (64, 96)  # sides that are no multiples of 32 are refused there
CLASSES = 3


def tensor(name: str, shape: list[int]) -> np.ndarray:
    """A tensor's float64 values, which follow from its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.asarray(7, np.int64)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    values = rng.normal(size=shape)
    if name.endswith("weight") and len(shape) == 1:  # of a norm
        return 1 + 0.1 * values
    return 0.2 * values if len(shape) == 1 else values * np.prod(shape[1:]) ** -0.5


def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, *SIZE, 3))


def main() -> None:
    import segmentation_models_pytorch as smp
    import torch

    found = {"segmentation_models_pytorch": smp.__version__, "torch": torch.__version__}
    for variant in ("b0", "b2"):
        model = smp.Segformer(f"mit_{variant}", encoder_weights=None, classes=CLASSES)
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        made = {name: torch.from_numpy(tensor(name, shape)) for name, shape in shapes.items()}
        model = model.double().eval()
        model.load_state_dict(made)
        with torch.no_grad():
            x = torch.from_numpy(pixels()).permute(0, 3, 1, 2)
            logits = model.segmentation_head[0](model.decoder(model.encoder(x)))
        config = {key: value for key, value in model.config.items() if value != {}}
        found[variant] = {
            "config": config | {"_model_class": "Segformer"},
            "shapes": shapes,
            "logits": logits.permute(0, 2, 3, 1).tolist(),
        }
    FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
