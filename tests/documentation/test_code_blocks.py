"""What the pages tell readers to type works: every block runs, or says why it doesn't."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import huggingface_hub.constants
import pytest
from documentation.blocks import blocks_of, devices_of, program_of
from PIL import Image
from tiers import short
from training.runs import ROOT, compiled_once, write_model, write_shapes

from segformer_jax import SegformerImageProcessor

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST = [  # what a newcomer types first
    page for page in PAGES if page.stem in ("README", "quick_start", "from_transformers")
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Programs of all pages, compiled fast, and equal ones once."""
    folder = tmp_path_factory.mktemp("cache")
    with compiled_once(folder):
        yield folder


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """Where a reader sits: the examples, photos, data of three classes, a tiny model, no hub."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "photos").mkdir()
    with Image.open(ROOT / "examples" / "street.jpg") as street:
        for name, size in {"wide.jpg": (128, 96), "tall.jpg": (96, 128)}.items():
            street.resize(size).save(tmp_path / "photos" / name)
    shutil.copy(tmp_path / "photos" / "wide.jpg", tmp_path / "photo.jpg")
    (tmp_path / "list.txt").write_text("photos/wide.jpg\nphoto.jpg\n")
    write_film(tmp_path / "film.mp4", tmp_path / "photo.jpg", frames=4)
    with Image.open(tmp_path / "photo.jpg") as photo:
        photo.save(tmp_path / "orthophoto.tif")
    write_shapes(tmp_path / "FOLDER")
    write_shapes(tmp_path / "OTHER", train=2, val=1)
    write_model(tmp_path / "tiny")
    SegformerImageProcessor(size=64).save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_is_python(page):
    for block in blocks_of(page):
        if block.language == "python":
            compile(block.code if block.not_run else block.runnable(), str(block), "exec")


@pytest.mark.parametrize("page", short(PAGES, FIRST), ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, desk, cache):
    names = {"__name__": "__main__"}  # python blocks of a page go on from each other
    blocks = [block for block in blocks_of(page) if block.not_run is None]
    devices = devices_of(page)
    if devices > 1:
        assert {block.language for block in blocks} == {"python"}, page
        return run_on_devices(program_of(blocks), page, cache, devices)
    for block in blocks:
        if block.language == "python":
            code = "\n" * (block.line - 1) + block.runnable()  # so that errors name the page's line
            exec(compile(code, str(page), "exec"), names)
        else:
            run_in_bash(block, cache)


def write_film(file: Path, photo: Path, *, frames: int) -> None:
    with Image.open(photo) as picture, av.open(file, "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *picture.size, "yuv420p"
        for _ in range(frames):
            film.mux(stream.encode(av.VideoFrame.from_image(picture)))
        film.mux(stream.encode())


def environment_of(cache):
    own = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{own}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as `compiled_once` in this process
    }


def run_on_devices(program, page, cache, devices):
    file = Path("pages") / f"{page.stem}.py"
    file.parent.mkdir()
    file.write_text(program, encoding="utf-8")
    inherited = os.environ.get("XLA_FLAGS", "")
    flags = {"XLA_FLAGS": f"{inherited} --xla_force_host_platform_device_count={devices}"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        env=environment_of(cache) | flags,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stdout}{done.stderr}"


def run_in_bash(block, cache):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.runnable()],
        env=environment_of(cache),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{block}:\n{block.runnable()}{done.stdout}{done.stderr}"
