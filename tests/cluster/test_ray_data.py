"""Pictures through a Ray cluster of two workers, on this machine."""

import json
import os
import signal
import socket
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow.fs
import pytest
from PIL import Image
from server import processes

from segformer_jax import Segmenter, cli
from segformer_jax.cluster import connection, store
from segformer_jax.cluster.ray_data import segment_dataset
from segformer_jax.cluster.worker import result_stem

pytestmark = [  # what Ray does within itself
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    # its servers are started by a fork, and are other programs from then on
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
]
STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"
ORIENTATION = 0x0112  # in EXIF


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        started = connection.start_here("data", cpus=2)
        started.data.DataContext.get_current().enable_progress_bars = False
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Six pictures in three folders, one of 16 bits and one lying on its side."""
    folder = tmp_path_factory.mktemp("photos")
    street = Image.open(STREET)
    for i, name in enumerate(["a.jpg", "deep/b.png", "deep/er/c.jpg", "deep/er/d.jpg"]):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        street.resize((120 + 10 * i, 90)).save(folder / name)
    grey = np.asarray(street.convert("L").resize((100, 80))).astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "grey.png")
    exif = street.getexif()
    exif[ORIENTATION] = 6
    street.resize((90, 60)).save(folder / "deep" / "turned.jpg", exif=exif)
    (folder / "notes.txt").write_text("no picture, and not named like one")
    return folder


@pytest.fixture(scope="module")
def one_process() -> Segmenter:
    return Segmenter.from_pretrained("scene-b0", batch_size=1)


@pytest.mark.full
def test_two_workers_give_the_class_maps_of_one_process(ray, photos, one_process, tmp_path):
    (tmp_path / "named.txt").write_text("no picture either")
    rows = segment_dataset(
        [photos, tmp_path / "named.txt"],
        tmp_path / "out",
        outputs=("mask", "json"),
        workers=2,
        batch_size=1,
    ).take_all()
    by_path = {row["path"]: row for row in rows}
    broken = by_path.pop(str(tmp_path / "named.txt"))
    assert "not a picture" in broken["error"]
    names = {str(Path(path).relative_to(photos)) for path in by_path}
    assert names == {str(f.relative_to(photos)) for f in photos.rglob("*.*g") if f.is_file()}
    assert len(names) == 6
    for path, expected in zip(by_path, one_process(list(by_path)), strict=True):
        row = by_path[path]
        mask, report = (Path(file) for file in row["outputs"])
        stem = Path(path).relative_to(photos).with_suffix("")
        assert mask == tmp_path / "out" / f"{stem}.mask.png"
        assert np.array_equal(np.asarray(Image.open(mask)), expected.class_map)
        assert json.loads(report.read_text()) == expected.to_dict()
        told = {key: row[key] for key in ("height", "width", "classes")}
        assert told == expected.to_dict()
        assert row["error"] is None
    assert len([file for file in (tmp_path / "out").rglob("*") if file.is_file()]) == 12


@pytest.mark.full
def test_the_result_is_complete_when_a_worker_is_killed(ray, one_process, tmp_path):
    street, count = Image.open(STREET), 24
    (tmp_path / "in").mkdir()
    for i in range(count):
        street.resize((64 + i, 48)).save(tmp_path / "in" / f"{i:02}.png")
    out, killed = tmp_path / "out", []

    def kill():
        while len(list(out.glob("*.mask.png"))) < 4:
            time.sleep(0.01)
        workers = [p for p in processes.below(os.getpid()) if "MapWorker" in processes.command(p)]
        busiest = max(workers, key=processes.computed)
        os.kill(busiest, signal.SIGKILL)
        killed.append((busiest, len(list(out.glob("*.mask.png")))))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    rows = segment_dataset(tmp_path / "in", out, workers=2, batch_size=1).take_all()
    killer.join(timeout=60)
    assert killed
    assert killed[0][1] < count
    assert len(rows) == count
    assert not [row["error"] for row in rows if row["error"]]
    files = [row["path"] for row in rows]
    assert len(set(files)) == count
    for path, expected in zip(files, one_process(files), strict=True):
        mask = np.asarray(Image.open(out / f"{Path(path).stem}.mask.png"))
        assert np.array_equal(mask, expected.class_map)
    assert not [file for file in out.iterdir() if file.name.endswith(".part")]


@pytest.mark.full
def test_a_parquet_table_holds_masks_and_errors(ray, photos, one_process, tmp_path):
    pictures = ray.data.from_items(
        [
            {"path": "cut", "bytes": (photos / "a.jpg").read_bytes()[:500]},
            {"path": "a", "bytes": (photos / "a.jpg").read_bytes()},
        ]
    )
    out = tmp_path / "made" / "table"
    segment_dataset(pictures, out, outputs="parquet", workers=1)
    rows = {row["path"]: row for row in pyarrow.parquet.read_table(out).to_pylist()}
    expected = one_process(photos / "a.jpg")
    told = {key: rows["a"][key] for key in ("height", "width", "classes")}
    assert told == expected.to_dict()
    assert rows["a"]["mask"] == expected.encode("mask.png")
    assert "damaged" in rows["cut"]["error"]
    assert rows["cut"]["mask"] is None
    assert [entry.name for entry in out.parent.iterdir()] == ["table"]
    with pytest.raises(ValueError, match="exists already"):
        segment_dataset(pictures, out, outputs="parquet")


@pytest.mark.full
def test_what_can_not_be_done_is_said_before_anything_is_written(ray, photos, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"both be written as a\.\*"):
        segment_dataset([photos, tmp_path / "a.png"], out)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        segment_dataset(tmp_path / "nowhere", out)
    with pytest.raises(ValueError, match="must be at most 2 on Ray's cluster"):
        segment_dataset(photos, out, workers=3)
    with pytest.raises(ValueError, match=r"outputs must be .*got 'mask'"):
        segment_dataset(photos, out, outputs="mask")
    with pytest.raises(ValueError, match="got none named bytes"):
        segment_dataset(ray.data.from_items([{"path": "a"}]), out)
    assert not out.exists()


def test_an_address_where_no_ray_answers_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(connection, "REACHED_WITHIN", 0.5)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "nonsense"):
            with pytest.raises(SystemExit) as stopped:
                cli.main(["segment", str(STREET), "--ray", address])
            assert stopped.value.code == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert address.removeprefix("ray://") in said


def test_names_of_results_stay_below_the_output_folder():
    assert result_stem("/data/photos/x/a.jpg", ("/data/photos", "/data")) == "x/a"
    assert result_stem("bucket/photos/a.b.jpg", ("bucket/photos/",)) == "a.b"
    assert result_stem("/elsewhere/a.jpg", ()) == "elsewhere/a"
    assert result_stem("../../etc/passwd.png", ()) == "etc/passwd"
    assert result_stem("x/../../../a.png", ()) == "a"


def test_a_store_gets_whole_files(monkeypatch, tmp_path):
    disk = pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())
    monkeypatch.setattr(store, "open_store", lambda uri: (disk, uri.removeprefix("s3://")))
    (tmp_path / "bucket").mkdir()
    assert store.write("s3://bucket/", "a.png", b"content") == "s3://bucket/a.png"
    assert (tmp_path / "bucket" / "a.png").read_bytes() == b"content"
    assert store.is_folder("s3://bucket")
    assert not store.is_folder("s3://bucket/a.png")
    assert store.inside_store("s3://bucket/a") == "bucket/a"
