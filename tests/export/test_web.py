"""The folder of a page: what is in it, what it may load, and what is said of mistakes."""

import functools
import json
import re
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from tiny import write_tiny

from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor
from segformer_jax.errors import ImageError
from segformer_jax.export import Signature, export_onnx, export_web
from segformer_jax.export.licence import UNKNOWN, Licence, licence_of
from segformer_jax.export.onnx.half_weights import store_half_weights
from segformer_jax.export.web import runtime as web_runtime
from segformer_jax.export.web.runtime import FILES, VERSION, copy_runtime
from segformer_jax.images.labels import palette_for

HALF = 2e-3  # of float16's weights, ‖Δ‖ / ‖logits‖; 4e-4 is seen
ELSEWHERE = re.compile(r"(?:https?:)?//[\w.-]+\.\w+|^/", re.MULTILINE)


@pytest.fixture
def runtime(tmp_path) -> Path:
    """A folder with the names of the runtime's files, but not the runtime."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(f"/*!\n * ONNX Runtime Web v9.8.7\n */ {name}")
    return folder.parent


@pytest.fixture
def tiny(tmp_path):
    folder = write_tiny(tmp_path / "tiny")
    return SimpleNamespace(
        model=SegformerForSemanticSegmentation.from_pretrained(folder),
        processor=SegformerImageProcessor.from_pretrained(folder),
    )


def export(tiny, folder, runtime, **options):
    return export_web(tiny.model, folder, processor=tiny.processor, runtime=runtime, **options)


def test_the_folder_holds_the_page_the_model_and_the_runtime(tiny, runtime, tmp_path):
    street = tmp_path / "street.JPG"
    Image.new("RGB", (8, 8)).save(street, "JPEG")
    licence = Licence("MIT & others", "the whole text")
    files = export(tiny, tmp_path / "page", runtime, name="a<b", licence=licence, example=street)
    assert files[0].name == "index.html"
    assert {*files} == {*(tmp_path / "page").iterdir()}
    assert {file.name for file in files} >= {*FILES, "model.onnx", "view.js", "example.jpg"}
    page = files[0].read_text()
    assert "<h1>a&lt;b</h1>" in page
    assert "Weights: MIT &amp; others" in page
    assert "ONNX Runtime Web 9.8.7" in page
    assert "example.jpg" in page
    assert "the whole text" in (tmp_path / "page" / "LICENCE.txt").read_text()
    settings = json.loads((tmp_path / "page" / "settings.json").read_text())
    colours = [f"#{colour.tobytes().hex()}" for colour in palette_for(tiny.model.config.id2label)]
    assert [row["colour"] for row in settings["labels"]] == colours
    assert settings["size"] == {"height": 64, "width": 64}


def test_the_page_names_no_other_server_and_no_place_outside_its_folder(tiny, runtime, tmp_path):
    for file in export(tiny, tmp_path / "page", runtime):
        if file.suffix in (".html", ".css", ".js") and file.name not in FILES:
            code = re.sub(r"^\s*//.*$", "", file.read_text(), flags=re.MULTILINE)
            assert not ELSEWHERE.findall(code), file.name


def test_the_policy_allows_no_other_server_and_no_inline_script(tiny, runtime, tmp_path):
    export(tiny, tmp_path / "page", runtime)
    page = (tmp_path / "page" / "index.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*|'unsafe-inline'|'unsafe-eval'", policy)
    assert not re.search(r"<script>|<style| style=| on\w+=", page)
    assert (
        f'"Content-Security-Policy": "{policy}"' in (tmp_path / "page" / "headers.js").read_text()
    )


def test_only_the_folder_of_an_earlier_export_is_replaced(tiny, runtime, tmp_path):
    street = tmp_path / "street.png"
    Image.new("RGB", (8, 8)).save(street)
    export(tiny, tmp_path / "page", runtime, example=street)
    export(tiny, tmp_path / "page", runtime)
    assert not (tmp_path / "page" / "example.png").exists()
    (tmp_path / "page" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be new, empty or hold earlier results only"):
        export(tiny, tmp_path / "page", runtime)
    assert (tmp_path / "page" / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "settings.json").write_text('{"files": ["settings.json"]}')
    with pytest.raises(ValueError, match=r"with settings\.json: give another folder"):
        export(tiny, tmp_path / "other", runtime)


def test_half_weights_halve_the_file_and_hardly_change_the_logits(tiny, tmp_path):
    paths = [tmp_path / "whole.onnx", tmp_path / "half.onnx"]
    for path in paths:
        export_onnx(tiny.model, path, signature=Signature(batch=1))
    store_half_weights(paths[1])
    onnx.checker.check_model(paths[1], full_check=True)
    pixels = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    whole, half = (
        onnxruntime.InferenceSession(path).run(None, {"pixel_values": pixels})[0] for path in paths
    )
    assert 0 < np.linalg.norm(half - whole) / np.linalg.norm(whole) <= HALF
    kinds = {own.data_type for own in onnx.load(paths[1]).graph.initializer}
    assert kinds >= {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            dict(do_convert_rgb=False, image_mean=0.5, image_std=0.5),
            "needs a network and processor for RGB",
        ),
        (dict(stretch=(0, 4095)), "needs a processor for 8 bits"),
        (dict(size=16), "sides of at least 29 pixels for this network, got 16 × 16"),
    ],
)
def test_a_model_that_is_not_for_photos_is_refused(changes, said, tiny, runtime, tmp_path):
    tiny.processor = SegformerImageProcessor(**changes)
    with pytest.raises(ValueError, match=said):
        export(tiny, tmp_path / "page", runtime)
    assert not (tmp_path / "page").exists()


def test_an_example_that_is_no_picture_is_refused(tiny, runtime, tmp_path):
    (tmp_path / "notes.jpg").write_text("hello")
    with pytest.raises(ImageError, match=r"notes\.jpg is not a picture"):
        export(tiny, tmp_path / "page", runtime, example=tmp_path / "notes.jpg")
    assert not (tmp_path / "page").exists()


def test_a_runtime_that_is_none_is_refused(tiny, runtime, tmp_path, monkeypatch):
    (runtime / "dist" / FILES[2]).unlink()
    with pytest.raises(ValueError, match=rf"without {FILES[2]}: run npm install .*@{VERSION}"):
        export(tiny, tmp_path / "page", runtime)
    (runtime / "dist" / FILES[2]).write_text("")
    (runtime / "dist" / FILES[0]).write_text("alert()")
    with pytest.raises(ValueError, match=r"does not state its version"):
        export(tiny, tmp_path / "page", runtime)
    with pytest.raises(ValueError, match=r"can't be downloaded from http://127\.0\.0\.1:9/x"):
        export(tiny, tmp_path / "page", "http://127.0.0.1:9/x/")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="npm, which is not installed: install Node"):
        export(tiny, tmp_path / "page", None)
    assert not (tmp_path / "page").exists()


def test_the_runtime_may_come_from_a_url(runtime, tmp_path):
    serving = functools.partial(SilentHandler, directory=runtime / "dist")
    with ThreadingHTTPServer(("127.0.0.1", 0), serving) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        version = copy_runtime(f"http://127.0.0.1:{server.server_port}/", tmp_path)
        server.shutdown()
    assert version == "9.8.7"
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (runtime / "dist" / name).read_bytes()


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Prints nothing."""


def test_what_npm_says_is_passed_on(tiny, tmp_path, monkeypatch):
    def failing(command, **options):
        assert command[1:] == ["pack", "--silent", f"onnxruntime-web@{VERSION}"]
        return subprocess.CompletedProcess(command, 1, "", "npm error network\n")

    monkeypatch.setattr(web_runtime.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(web_runtime.subprocess, "run", failing)
    with pytest.raises(ValueError, match=r"failed \(npm error network\): check the network"):
        export(tiny, tmp_path / "page", None)


def test_the_licence_is_the_cards_or_the_packages(tmp_path):
    assert licence_of(tmp_path).line == UNKNOWN
    card = tmp_path / "README.md"
    card.write_text("# Model\n\n| | |\n|---|---|\n| licence | MIT, with a notice |\n")
    assert licence_of(tmp_path).line == "MIT, with a notice"
    card.write_text("---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n# Model\n")
    (tmp_path / "LICENSE").write_text("the text")
    assert licence_of(tmp_path) == Licence("own · LICENSE", "the text")
    (package,) = metadata.entry_points(group="segformer_jax.weights", name="scene-b0")
    assert "CC BY-NC 4.0" in licence_of(package.name).line
    assert "Attribution-NonCommercial" in licence_of(package.name).text
