"""The check against published logits, on a slice of scene-b0's own from transformers."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from segformer_jax.convert import published

from segformer_jax import cli
from segformer_jax.checkpoints import hub

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace

STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"
STREET_SHA256 = "b2977cdbd9fb3f94dadd6f76cf586d145676deb8a22b5f0f42149d21c058c09f"


@pytest.fixture(scope="module")
def table():
    """What a publisher would have written down for scene-b0 on the sample photo."""
    folder = hub.resolve("scene-b0")
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(
        folder, dtype=torch.float32
    )
    processor = transformers.SegformerImageProcessorPil()
    with torch.inference_mode():
        inputs = processor(Image.open(STREET), return_tensors="pt")
        logits = model.eval()(**inputs).logits[0, :3, :3, :3]
        ones = model(torch.ones(1, 3, 512, 512)).logits
        upsampled = torch.nn.functional.interpolate(
            ones, size=(512, 512), mode="bilinear", align_corners=True
        )
    row = {"hub_name": "scene-b0", "logits": np.round(logits.numpy(), 4).tolist()}
    return {
        "image_sha256": STREET_SHA256,
        "source": "transformers",
        "tolerance": 1e-2,
        "slices": {"street": row},
        "smp": {
            "checkpoint": "street",
            "values": upsampled[0, 0, 256, :6].tolist(),
            "atol": 1e-2,
            "source": "segmentation_models.pytorch",
        },
    }


@pytest.fixture
def own_slice(table, monkeypatch):
    """The table, which a test may change, as the published one."""
    own = copy.deepcopy(table)
    monkeypatch.setattr(published, "published_logits", lambda: own)
    return own


@pytest.mark.full
def test_equal_logits_are_found_equal(own_slice):
    report = published.compare_with_published("scene-b0", STREET)
    assert report["equal"]
    assert [check["suite"] for check in report["checks"]] == [
        "transformers",
        "segmentation_models.pytorch",
    ]
    assert max(check["max_difference"] for check in report["checks"]) < 1e-3
    assert report["checkpoint"] == "street"
    again = published.compare_with_published("scene-b0", STREET, checkpoint="street")
    assert again == report


def test_other_logits_are_found_different(own_slice):
    own_slice["slices"]["street"]["logits"][1][2][0] += 0.02
    report = published.compare_with_published("scene-b0", STREET)
    assert not report["equal"]
    assert report["checks"][0]["max_difference"] == pytest.approx(0.02, abs=1e-3)
    own_slice["slices"]["street"]["logits"][1][2][0] -= 0.02
    own_slice["smp"]["values"][5] += 0.02
    assert not published.compare_with_published("scene-b0", STREET)["equal"]


@pytest.mark.full
def test_the_command_line_shows_every_suite(own_slice, capsys):
    command = ["verify", "scene-b0", "--published", "--image", str(STREET)]
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--checkpoint", "street"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == "equal"
    own_slice["smp"]["values"][0] += 1
    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    assert stopped.value.code == 1
    assert "segmentation_models.pytorch, street: max |Δ| 1.0e+00" in capsys.readouterr().out


def test_another_picture_is_refused(own_slice, tmp_path):
    Image.open(STREET).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match="for which the logits were published"):
        published.compare_with_published("scene-b0", tmp_path / "other.png")


def test_all_fifteen_official_checkpoints_have_their_numbers():
    table = published.published_logits()
    assert len(table["slices"]) == 15
    for row in table["slices"].values():
        assert np.shape(row["logits"]) == (3, 3, 3)
        assert row["hub_name"].startswith("nvidia/segformer-b")
    assert "from memory" in table["hub_names"]
