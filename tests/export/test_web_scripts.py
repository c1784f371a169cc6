"""The page's scripts in node: the same bytes, classes and sizes as the library's."""

import json
import shutil
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from segformer_jax import Segmentation
from segformer_jax.images.labels import palette_for
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.images.sizes import target_size
from segformer_jax.inference.class_map import class_map

SCRIPTS = Path(__file__).resolve().parents[2] / "segformer_jax" / "export" / "web" / "static"
START = """
import { readFileSync, writeFileSync } from "node:fs";
const given = JSON.parse(readFileSync("given.json"));
const bytes = () => readFileSync("given.bin");

"""

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node: install nodejs")


@pytest.fixture
def node(tmp_path):
    """Runs a program beside the page's scripts: what it writes to result.bin."""
    for script in SCRIPTS.glob("*.js"):
        shutil.copy(script, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')

    def node(program, given=None, data: bytes = b"") -> bytes:
        (tmp_path / "given.json").write_text(json.dumps(given))
        (tmp_path / "given.bin").write_bytes(data)
        (tmp_path / "program.js").write_text(START + program)
        done = subprocess.run(
            ["node", "program.js"], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return (tmp_path / "result.bin").read_bytes()

    return node


def noise(height: int, width: int) -> np.ndarray:
    """A picture whose edges make every filter overshoot."""
    random = np.random.default_rng(height * width)
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 255 * (pixels[: height // 2, : width // 2] > 127)
    return pixels


RESIZE = """
import { resized } from "./resize.js";
const out = given.map(([height, width, newHeight, newWidth, resample, start]) =>
  resized(bytes().subarray(start, start + 4 * height * width), width, height, newWidth, newHeight,
    resample));
writeFileSync("result.bin", Buffer.concat(out));
"""
SIZES = [  # from, to
    ((97, 131), (32, 48)),
    ((97, 131), (97, 48)),
    ((97, 131), (200, 131)),
    ((97, 131), (97, 131)),
    ((40, 30), (211, 157)),
    ((300, 2), (7, 5)),
    ((1, 1), (3, 4)),
]


def test_the_resize_has_pillows_bytes(node):
    cases, data, expected = [], b"", b""
    for resample in Image.Resampling:
        for old, new in SIZES:
            picture = Image.fromarray(noise(*old))
            cases.append([*old, *new, int(resample), len(data)])
            data += picture.convert("RGBA").tobytes()
            expected += picture.resize(new[::-1], resample).tobytes()
    assert node(RESIZE, cases, data) == expected


def test_a_photos_input_is_the_processors(node):
    processor = SegformerImageProcessor(size={"shortest_edge": 40})
    pixels = noise(90, 77)
    program = """
import { networkInput, targetSize } from "./input.js";
const size = targetSize(given.size, 90, 77);
const values = networkInput(bytes(), [90, 77], size, 2, given.table);
writeFileSync("result.bin", new Uint8Array(values.buffer));
"""
    given = {"size": dict(processor.size), "table": processor.byte_values(3).T.tolist()}
    rgba = Image.fromarray(pixels).convert("RGBA").tobytes()
    values = np.frombuffer(node(program, given, rgba), np.float32)
    expected = processor(pixels).pixel_values[0].transpose(2, 0, 1)
    assert np.array_equal(values.reshape(expected.shape), expected)


def test_sizes_are_the_processors(node):
    rules = [
        {"height": 3, "width": 5},
        {"shortest_edge": 512},
        {"shortest_edge": 333, "longest_edge": 500},
        {"max_height": 200, "max_width": 300},
    ]
    pictures = [(375, 500), (500, 375), (333, 333), (1, 900), (1001, 77), (2000, 3000)]
    program = """
import { targetSize } from "./input.js";
const sizes = given.rules.map((rule) => given.pictures.map((own) => targetSize(rule, ...own)));
writeFileSync("result.bin", JSON.stringify(sizes));
"""
    sizes = json.loads(node(program, {"rules": rules, "pictures": pictures}))
    expected = [[list(target_size(rule, *own)) for own in pictures] for rule in rules]
    assert sizes == expected


@pytest.mark.parametrize("labels", [1, 2, 40])
def test_class_maps_are_the_librarys(labels, node):
    program = """
import { classMap } from "./class_map.js";
const logits = new Float32Array(new Uint8Array(bytes()).buffer);
const map = classMap(logits, given.shape, given.size);
writeFileSync("result.bin", new Uint8Array(map.buffer));
"""
    random = np.random.default_rng(labels)
    for grid, size in [((7, 9), (50, 61)), ((7, 9), (5, 4)), ((1, 3), (20, 20))]:
        logits = random.normal(size=(1, *grid, labels)).astype(np.float32)
        given = {"shape": [labels, *grid], "size": size}
        data = logits[0].transpose(2, 0, 1).tobytes()
        found = np.frombuffer(node(program, given, data), np.uint16).reshape(size)
        expected, _ = class_map(jnp.asarray(logits), size)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("labels", [5, 300])
def test_the_mask_is_the_one_that_segmentation_saves(labels, node, tmp_path):
    program = """
import { indexPng } from "./png.js";
const map = new Uint16Array(new Uint8Array(bytes()).buffer);
const png = await indexPng(map, given.size, given.colours);
writeFileSync("result.bin", new Uint8Array(await png.arrayBuffer()));
"""
    id2label = {i: f"class {i}" for i in range(labels)}
    kind = np.uint8 if labels < 256 else np.uint16
    map_ = np.random.default_rng(0).integers(0, labels, (33, 21)).astype(kind)
    colours = [f"#{colour.tobytes().hex()}" for colour in palette_for(id2label)]
    given = {"size": map_.shape, "colours": colours}
    (tmp_path / "own.png").write_bytes(node(program, given, map_.astype("<u2").tobytes()))
    Segmentation(map_, id2label, Image.new("RGB", (21, 33))).save(tmp_path / "street.png")
    with Image.open(tmp_path / "own.png") as own, Image.open(tmp_path / "street.png") as saved:
        assert own.mode == saved.mode
        assert own.getpalette() == saved.getpalette()
        assert np.array_equal(np.asarray(own), np.asarray(saved))


FAKE_RUNTIME = """
export const env = {{ wasm: {{}} }};
export class Tensor {{}}
let runs = 0;
export const InferenceSession = {{
  create: async (model, options) => {{
    if ({fails_at} === "create") throw new Error("no device");
    globalThis.made.push([options.executionProviders[0], options.freeDimensionOverrides.height]);
    const run = async () => {{
      if ({fails_at} === "run" && runs++ > 0) throw new Error("device lost");
      return {{ logits: {{ data: "{kind}", dims: [1, 2, 3, 4] }} }};
    }};
    return {{ run, release: async () => {{}} }};
  }},
}};
"""


@pytest.mark.parametrize(
    ("adapter", "fails_at", "kind", "made"),
    [
        ("{}", None, "webgpu", ["webgpu", "webgpu"]),
        ("{}", "create", "wasm", ["wasm", "wasm"]),
        ("{}", "run", "wasm", ["webgpu", "wasm", "wasm"]),
        ("null", None, "wasm", ["wasm", "wasm"]),
        ("{ info: { isFallbackAdapter: true } }", None, "wasm", ["wasm", "wasm"]),
    ],
)
def test_webassembly_is_used_where_webgpu_fails(adapter, fails_at, kind, made, node, tmp_path):
    for name, failure in (("webgpu", fails_at), ("wasm", None)):
        script = FAKE_RUNTIME.format(kind=name, fails_at=json.dumps(failure))
        (tmp_path / f"ort.{name}.min.mjs").write_text(script)
    program = f"""
globalThis.self = globalThis;
globalThis.made = [];
Object.defineProperty(globalThis, "navigator", {{
  value: {{ gpu: {{ requestAdapter: async () => ({adapter}) }}, hardwareConcurrency: 32 }},
}});
console.warn = () => {{}};
self.crossOriginIsolated = true;
const {{ Engine }} = await import("./engine.js");
const engine = new Engine(new Uint8Array(1));
await engine.start([64, 96]);
const {{ logits, shape }} = await engine.run(new Float32Array(1), [64, 96], "photo");
await engine.run(new Float32Array(1), [32, 96], "film");
await engine.run(new Float32Array(1), [64, 96], "photo");
const found = {{ logits, shape, kind: engine.kind, threads: engine.threads, made }};
writeFileSync("result.bin", JSON.stringify(found));
"""
    found = json.loads(node(program))
    assert (found["logits"], found["kind"], found["threads"]) == (kind, kind, 8)
    assert found["shape"] == [2, 3, 4]
    assert [own for own, _ in found["made"]] == made
    assert [height for _, height in found["made"]][-2:] == [64, 32]  # a session for each use
