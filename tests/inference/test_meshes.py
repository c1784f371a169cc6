"""Windows, views, rasters and films come out the same inside any `jax.set_mesh`."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("av")

PROGRAM = """
import sys
from pathlib import Path
import av, jax, numpy as np, rasterio
from flax import nnx
from jax.sharding import AxisType
from PIL import Image
from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, Segmenter
from segformer_jax import SegformerImageProcessor
from segformer_jax.video.film import segment_film
from segformer_jax.inference.protocol import Protocol, Windows
from segformer_jax.geo.raster import segment_raster

folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
photo = np.asarray(coarse.resize((110, 90)))
place = dict(crs="EPSG:32632", transform=rasterio.Affine(1, 0, 0, 0, -1, 0))
size = dict(count=3, height=90, width=110)
with rasterio.open(folder / "raster.tif", "w", dtype="uint8", **size, **place) as file:
    file.write(np.moveaxis(photo, -1, 0))
with av.open(str(folder / "film.mkv"), "w") as film:
    video = film.add_stream("ffv1", rate=25)
    video.width, video.height, video.pix_fmt = 64, 48, "bgr0"
    for i in range(5):
        pixels = np.ascontiguousarray(photo[i : i + 48, i : i + 64])
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")
        film.mux(video.encode(frame))
    film.mux(video.encode(None))

config = SegformerConfig(
    hidden_sizes=(8, 16), depths=(1, 1), num_encoder_blocks=2, sr_ratios=(4, 1), strides=(4, 2),
    patch_sizes=(7, 3), num_attention_heads=(1, 2), mlp_ratios=(2, 2), decoder_hidden_size=16,
    num_labels=5, initializer_range=0.3,
)
model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))
processor = SegformerImageProcessor(size=dict(height=32, width=64))
cut = Windows((32, 32), (24, 24))
windows = Protocol(windows=cut)
views = Protocol(windows=cut, scales=(0.5, 1.0), flip=True)
values = rng.normal(size=(3, 32, 64, 3)).astype(np.float32)

def results(segment):
    yield "logits", segment.logits(values)
    for protocol in (windows, views):
        for scores in (False, True):
            found = segment(photo, protocol=protocol, scores=scores)
            yield (protocol, scores), found.class_map
            yield (protocol, scores), found.scores
    for index, found in enumerate(segment([photo, photo[:50]], protocol=windows)):
        yield index, found.class_map
    segment_raster(segment, folder / "raster.tif", mask=folder / "mask.tif", protocol=windows)
    with rasterio.open(folder / "mask.tif") as file:
        yield "raster", file.read()
    for smoothing in (0.0, 0.5):
        segment_film(segment, folder / "film.mkv", masks=folder / "masks", smoothing=smoothing)
        for mask in sorted((folder / "masks").glob("*.png")):
            yield (mask.name, smoothing), np.asarray(Image.open(mask))

assert jax.device_count() == 8
meshes = [
    jax.make_mesh((len(devices),), ("data",), axis_types=(kind,), devices=devices)
    for kind in (AxisType.Explicit, AxisType.Auto)
    for devices in (jax.devices(), jax.devices()[3:4])
]
for device in (None, jax.devices()[0]):
    segment = Segmenter(model, processor, device=device)
    alone = list(results(segment))
    assert all(len(np.unique(own)) > 2 for _, own in alone if own is not None)
    for mesh in meshes:
        with jax.set_mesh(mesh):
            for (name, own), (_, wanted) in zip(results(segment), alone, strict=True):
                np.testing.assert_array_equal(own, wanted, err_msg=f"{name} in {mesh}")
            assert jax.sharding.get_abstract_mesh() == mesh.abstract_mesh
            inside = Segmenter(model, processor, device=device)
            inside.update(model)
            np.testing.assert_array_equal(inside.logits(values), alone[0][1])
"""


@pytest.mark.full
def test_a_callers_mesh_changes_nothing(tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
