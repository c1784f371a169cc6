"""The comparison with PyTorch finds equal what is equal, and a fault where there is one."""

import segformer_jax.convert.verify as verify
from flax import nnx

from segformer_jax.models import ops


def test_street_b0_is_equal_stage_by_stage():
    report = verify.compare_with_torch("street-b0")
    assert report["equal"]
    assert list(report["stages"]) == ["stage 1", "stage 2", "stage 3", "stage 4", "logits"]
    assert max(row["float64"] for row in report["stages"].values()) < 1e-11
    assert report["argmax_agreement"]["float64"] == 1


def test_a_wrong_activation_is_found(monkeypatch):
    monkeypatch.setitem(ops.ACTIVATIONS, "gelu", nnx.gelu)  # Flax's is the tanh approximation
    report = verify.compare_with_torch("street-b0")
    assert not report["equal"]
    assert report["stages"]["stage 1"]["float64"] > 1e-6
