"""The script for a TPU, tried on a CPU."""

import json

import pytest

from benchmarks import tpu_run


def test_without_a_tpu_it_is_refused_in_one_line(tmp_path, monkeypatch):
    def none(backend):
        raise RuntimeError(f"Backend '{backend}' is not there")

    monkeypatch.setattr(tpu_run.jax, "local_devices", none)
    with pytest.raises(SystemExit, match="device must be one that JAX finds, got tpu") as caught:
        tpu_run.main(out=tmp_path / "rows.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "rows.json").exists()


def test_a_row_that_fails_is_named_and_the_others_are_kept(tmp_path, monkeypatch):
    def too_large():
        raise MemoryError("of 16 GB\nand more")

    made = [("first", lambda: {"ms": 1.0}), ("second", too_large), ("third", lambda: {"ms": 2.0})]
    monkeypatch.setattr(tpu_run, "measurements", lambda sizes, devices: made)
    tpu_run.main(device="cpu", small=True, out=tmp_path / "rows.json")
    (run,) = json.loads((tmp_path / "rows.json").read_bytes())["runs"]
    assert [row["ms"] for row in run["rows"]][:2] == [1.0, 2.0]
    assert run["not_run"][0].startswith("second, bfloat16, 1 of ")
    assert run["not_run"][0].endswith("chips: MemoryError: of 16 GB")


def test_after_the_limit_no_row_is_started(tmp_path):
    tpu_run.main(device="cpu", small=True, limit=-1, out=tmp_path / "rows.json")
    (run,) = json.loads((tmp_path / "rows.json").read_bytes())["runs"]
    assert not run["rows"]
    assert all(reason.endswith("no time was left") for reason in run["not_run"])
    assert len(run["not_run"]) >= 4


@pytest.mark.parametrize("chips", [1, 4])
def test_all_rows_of_the_full_run_are_named(chips):
    names = [name for name, _ in tpu_run.measurements(tpu_run.FULL, [None] * chips)]
    wanted = [
        *(f"forward {v}, {b} × 512×512" for v in ("b0", "b2") for b in (1, 8, 32) if b >= chips),
        "forward b5, 8 × 512×512",
        f"training step b0, {8 * chips} × 512×512",
        "500 photos, b0",
    ]
    assert names == wanted


@pytest.mark.full
def test_every_row_of_a_tiny_network_is_measured_on_a_cpu(tmp_path):
    tpu_run.main(device="cpu", small=True, out=tmp_path / "rows.json")
    (run,) = json.loads((tmp_path / "rows.json").read_bytes())["runs"]
    assert not run["not_run"]
    alone = [row["work"].partition(",")[0] for row in run["rows"] if row["chips"] == 1]
    assert alone == ["forward tiny", "forward tiny", "training step tiny", "4 photos"]
    assert all(row["ms"] > 0 for row in run["rows"][:3])
    assert run["rows"][3]["photos_per_second"] > 0
