"""One picture, alone, in a folder, as a raster, on Ray and by HTTP, has one class map."""

import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from inference.tiny import make_checkpoint, make_picture
from PIL import Image

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.full  # it starts Ray twice, in other processes
PROGRAM = [sys.executable, "-c", "from segformer_jax.cli import main; main()"]
SIZE = (64, 96)  # the model's own, which is one window of a raster
PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_600_000)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ways")
    make_checkpoint(root / "model")
    picture = make_picture(*SIZE)
    (root / "photos").mkdir()
    picture.save(root / "photos" / "a.png")
    options = dict(driver="GTiff", count=3, height=SIZE[0], width=SIZE[1], dtype="uint8", **PLACE)
    with rasterio.open(root / "map.tif", "w", photometric="RGB", **options) as file:
        file.write(np.moveaxis(np.asarray(picture), -1, 0))
    return root


def segment(place: Path, source: str, *options: str) -> tuple[np.ndarray, dict, str]:
    """The class map and the areas that the command writes, and what it says."""
    out = place / f"out{len(list(place.iterdir()))}"
    command = [*PROGRAM, "segment", str(place / source), "--model", str(place / "model")]
    command += ["--outputs", "mask", "json", "--out-dir", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(place))
    assert done.returncode == 0, done.stderr
    (mask,) = out.glob("*.mask.*")
    areas = out / f"{mask.name.partition('.')[0]}.json"
    with Image.open(mask) as picture:
        return np.asarray(picture), json.loads(areas.read_text()), done.stderr


def environment(place: Path) -> dict[str, str]:
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(place / "compiled")}
    return os.environ | compiled | {"PYTHONPATH": os.pathsep.join(sys.path)}


def served(place: Path) -> np.ndarray:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = place / "said.txt"
    with said.open("w") as file:
        server = subprocess.Popen(
            [*PROGRAM, "serve", str(place / "model"), "--port", str(port)],
            stdout=file, stderr=file, env=environment(place),
        )  # fmt: skip
    try:
        while "is served at" not in said.read_text():
            assert server.poll() is None, said.read_text()
            time.sleep(0.1)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        with contextlib.closing(connection):
            connection.request("POST", "/segment", (place / "photos" / "a.png").read_bytes())
            answer = connection.getresponse()
            assert answer.status == 200
            return np.asarray(Image.open(io.BytesIO(answer.read())))
    finally:
        server.terminate()
        server.wait(timeout=120)


def test_five_ways_give_one_class_map(place):
    expected, areas, _ = segment(place, "photos/a.png")
    assert len(np.unique(expected)) > 2
    for way in (("photos",), ("map.tif",), ("map.tif", "--ray", "local")):
        classes, own, said = segment(place, *way)
        assert np.array_equal(classes, expected), way
        assert own == areas
        assert ("map.tif: the results have no georeference" in said) == ("--ray" in way)
    assert np.array_equal(served(place), expected)
