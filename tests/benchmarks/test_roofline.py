"""The parts of the roofline are the whole network's arithmetic, each counted once."""

import json

import pytest
from flax import nnx

from benchmarks.roofline import main, parts, works
from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation
from segformer_jax.models.arithmetic import multiply_adds
from segformer_jax.models.contract import in_use


@pytest.mark.parametrize("side", [64, 128])
def test_the_parts_multiply_as_often_as_the_network(side):
    config = SegformerConfig.b0(num_labels=5)
    model = in_use(SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0)))
    found = [(part, works(part)) for part in parts(model, 1, side)]
    assert len(found) == 13
    counted = sum(part.times * work.multiply_adds for part, own in found for work in own)
    assert counted == multiply_adds(config, side, side)


def test_a_product_reads_its_operands_and_writes_its_result_once():
    config = SegformerConfig.b0(num_labels=5)
    model = in_use(SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0)))
    part = next(p for p in parts(model, 2, 64) if p.name == "stage 4, Mix-FFN")
    first, depthwise, second = works(part)
    assert first.bytes == 4 * (2 * 2 * 2 * 256 + 256 * 1024 + 1024 + 2 * 2 * 2 * 1024)
    assert depthwise.bytes == 4 * (2 * 2 * 2 * 1024 * 2 + 9 * 1024 + 1024)
    assert second.bytes == 4 * (2 * 2 * 2 * 1024 + 1024 * 256 + 256 + 2 * 2 * 2 * 256)
    assert first.bound(1, {1: 1e12}) == pytest.approx(first.multiply_adds / 1e9)
    assert first.bound(1e6, {1: 1e9, 4: 2e9}) == pytest.approx(first.bytes / 2e9)


@pytest.mark.full
def test_the_picture_and_the_table_are_written(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="it draws the picture: pip install -e '.[bench]'")
    monkeypatch.setattr("benchmarks.roofline.SETS", (1, 2))
    main(side=64, rounds=2, out=tmp_path)
    report = json.loads((tmp_path / "roofline.json").read_bytes())
    *rows, whole = report["rows"]
    assert whole["bound_ms"] == pytest.approx(sum(row["bound_ms"] for row in rows))
    assert (tmp_path / "roofline.svg").read_text().startswith("<?xml")
