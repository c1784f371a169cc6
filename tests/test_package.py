"""What is built and shipped: the wheel without weights, the examples."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("segformer_jax", "convert"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return next((folder / "dist").glob("*.whl"))


def test_the_wheel_holds_the_code_and_no_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "segformer_jax/py.typed" in names
    assert "segformer_jax/convert/published_logits.json" in names
    assert {f"segformer_jax/serve/view.{kind}" for kind in ("html", "css", "js")} <= set(names)
    assert not [name for name in names if name.endswith((".safetensors", ".bin", ".jpg"))]
    assert not [name for name in names if name.startswith(("tests", "weights", "convert"))]


def test_convert_is_imported_from_the_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import segformer_jax, segformer_jax.convert.nvlabs as n, segformer_jax.convert.published\n"
        "assert n.__file__.startswith(segformer_jax.__path__[0]), n.__file__\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)


def test_the_clothes_example_draws_photo_classes_and_legend(tmp_path):
    script = ROOT / "examples" / "clothes.py"
    photo = ROOT / "examples" / "street.jpg"
    out = tmp_path / "new" / "street.png"
    command = [sys.executable, script, photo, "--model", "street-b0", "--out", out]
    subprocess.run(command, check=True, cwd=tmp_path)
    with Image.open(out) as picture, Image.open(photo) as original:
        width, height = original.size
        assert picture.width > 2 * width
        assert picture.height >= height
        colours = picture.crop((width, 0, 2 * width, height)).getcolors()
    assert 5 <= len(colours) <= 11


def test_the_public_names_are_there():
    import segformer_jax

    assert all(hasattr(segformer_jax, name) for name in segformer_jax.__all__)
