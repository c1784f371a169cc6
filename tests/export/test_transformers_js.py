"""transformers.js gives the masks of `segment`, from the folder that the export writes."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from tiny import write_tiny

from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor, Segmenter, cli
from segformer_jax.export import export_transformers_js
from segformer_jax.export.onnx.graph import Graph, value
from segformer_jax.export.onnx.pillow_resize import resized_as_pillow

VERSION = "4.3.2"  # of @huggingface/transformers
SCRIPT = """
import fs from "node:fs";
import { env, pipeline } from "@huggingface/transformers";

const [folder, photo, out] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = folder;
const segment = await pipeline("image-segmentation", "model", { dtype: "fp32" });
const ids = Object.entries(segment.model.config.id2label);
const parts = await segment(photo);
const map = new Uint8Array(parts[0].mask.data.length).fill(255);
for (const { label, mask } of parts) {
  const id = Number(ids.find(([, name]) => name === label)[0]);
  mask.data.forEach((value, index) => { if (value) map[index] = id; });
}
fs.writeFileSync(out, map);
"""


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("size", [{"height": 41, "width": 90}, {"shortest_edge": 48}])
@pytest.mark.parametrize("photo", [(97, 131), (61, 29), (30, 200)])
def test_a_program_resizes_as_pillow(resample, size, photo):
    processor = SegformerImageProcessor(size=size, resample=resample)
    graph = Graph(20)
    graph.rename(resized_as_pillow(graph, "photos", processor), "resized")
    helper = onnx.helper
    made = helper.make_graph(
        graph.nodes,
        "resize",
        [value("photos", "float", ("b", 3, "h", "w"))],
        [value("resized", "float", ("b", 3, "h2", "w2"))],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", 20)]
    whole = helper.make_model(
        made, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets)
    )
    session = onnxruntime.InferenceSession(whole.SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (*photo, 3), "uint8")
    (own,) = session.run(None, {"photos": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
    plain = SegformerImageProcessor(
        size=size, resample=resample, do_rescale=False, do_normalize=False
    )
    wanted = np.asarray(plain(pixels)["pixel_values"])[0]
    assert own[0].transpose(1, 2, 0).shape == wanted.shape
    difference = np.abs(own[0].transpose(1, 2, 0) - wanted)
    assert difference.max() <= 1
    assert difference.mean() <= 0.02  # exact halves: Pillow's weights have 22 bits


def test_the_processor_of_the_folder_leaves_photos_as_they_are(tmp_path, capsys):
    folder, out = write_tiny(tmp_path / "model"), tmp_path / "out"
    for _ in range(2):  # an earlier export is replaced
        with pytest.raises(SystemExit) as stopped:
            cli.main(["export", str(folder), str(out), "--format", "transformers.js"])
        assert stopped.value.code == 0
    names = ["config.json", "preprocessor_config.json", "onnx/model.onnx"]
    assert capsys.readouterr().out.splitlines() == [str(out / name) for name in names] * 2
    own = json.loads((out / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert not any(own[f"do_{step}"] for step in ("resize", "rescale", "normalize"))
    given = onnx.load(out / "onnx" / "model.onnx").graph.input[0]
    assert given.name == "pixel_values"


def test_folders_and_processors_that_do_not_fit_are_refused(tmp_path):
    folder = write_tiny(tmp_path / "model")
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    processor = SegformerImageProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"must have no other weights, got .*model"):
        export_transformers_js(model, folder, processor=processor)
    for options, said in [
        (dict(resample=1), "filter 2 .bilinear. or 3 .bicubic. inside a program, got resample=1"),
        (dict(size={"shortest_edge": 9, "longest_edge": 99}), "a shortest edge inside a program"),
        (dict(stretch=(0, 4095)), "for 8 bits, got stretch"),
        (dict(size=16), "sides of at least 29 pixels for this network, got 16 × 16"),
    ]:
        with pytest.raises(ValueError, match=said):
            export_transformers_js(
                model, tmp_path / "out", processor=SegformerImageProcessor(**options)
            )
    assert not (tmp_path / "out").exists()
    older = tmp_path / "older" / "onnx" / "model_quantized.onnx"
    older.parent.mkdir(parents=True)
    older.touch()
    with pytest.raises(
        ValueError, match=r"of an earlier export, got .*quantized.onnx, which browse"
    ):
        export_transformers_js(model, tmp_path / "older", processor=processor)


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory):
    """A folder in which node finds transformers.js."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs Debian's nodejs and npm")
    folder = tmp_path_factory.mktemp("node")
    package = f"@huggingface/transformers@{VERSION}"
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", package]
    if subprocess.run(command, cwd=folder, capture_output=True).returncode:
        pytest.skip(f"npm can't install {package}")
    (folder / "segment.mjs").write_text(SCRIPT, encoding="utf-8")
    return folder


@pytest.mark.full
def test_its_masks_are_segments(node_folder, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained("scene-b0")
    processor = SegformerImageProcessor.from_pretrained("scene-b0")
    export_transformers_js(model, tmp_path / "model", processor=processor)
    photo = tmp_path / "photo.png"  # so that both decode the same
    Image.open("examples/street.jpg").save(photo)
    files = [f"{tmp_path}/", str(photo), str(tmp_path / "map.bin")]
    subprocess.run(["node", "segment.mjs", *files], cwd=node_folder, check=True, stdout=sys.stderr)
    wanted = Segmenter.from_pretrained("scene-b0")(photo).class_map
    own = np.fromfile(tmp_path / "map.bin", np.uint8).reshape(wanted.shape)
    assert np.mean(own == wanted) >= 0.999
