"""`python litert_torch_file.py FOLDER OUT.tflite [SIDE]`: transformers' model by litert-torch.

Runs in an environment of its own, with litert-torch, torch and transformers.
"""

import sys

import litert_torch
import torch
import transformers


class Logits(torch.nn.Module):
    """A model whose output is a tensor."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns the logits."""
        return self.model(pixel_values).logits


folder, out, *rest = sys.argv[1:]
side = int(rest[0]) if rest else 512
model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder).eval()
pixels = (torch.zeros(1, 3, side, side),)
litert_torch.convert(Logits(model).eval(), pixels).export(out)
