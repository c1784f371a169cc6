"""Tests both built packages outside the checkout, the documents of a release and an example."""

import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import segformer_jax
from segformer_jax import Segmenter
from segformer_jax.images.labels import palette_for

ROOT = Path(__file__).resolve().parents[1]
STREET = ROOT / "examples" / "street.jpg"
OURS = re.compile(r"__editable__|segformer_jax")
VIEW = ("view.html", "view.css", "view.js")
LARGEST = {"segformer_jax": 600_000, "segformer_jax_scene_b0": 8_000_000}  # docs/release.md


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Builds both packages with `python -m build`, wheels from sdists; returns their folder."""
    folder = tmp_path_factory.mktemp("build")
    passing = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "out")
    shutil.copytree(ROOT, folder / "checkout", ignore=passing)
    for package in (folder / "checkout", folder / "checkout" / "weights" / "scene-b0"):
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist"]
        subprocess.run([*command, package], check=True, capture_output=True)
    return folder / "dist"


def wheel(built: Path, package: str) -> Path:
    (file,) = built.glob(f"{package}-*.whl")
    return file


class Installed:
    """A new environment with this project's wheels; other packages are linked from this one."""

    def __init__(self, folder: Path, *wheels: Path):
        venv.create(folder / "venv", symlinks=True)
        self.folder, self.programs = folder, folder / "venv" / "bin"
        others = folder / "others"
        others.mkdir()
        for packages in site.getsitepackages():
            for item in Path(packages).iterdir():
                if not OURS.match(item.name):  # `.pth` files work in site-packages only
                    (others / item.name).symlink_to(item)
        (own,) = (folder / "venv" / "lib").glob("python*/site-packages")
        (own / "others.pth").write_text(f"{others}\n")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        pip += ["--python", self.programs / "python"]
        install = ["install", "--quiet", "--no-index", "--no-deps", *wheels]
        subprocess.run([*pip, *install], check=True, env=self.environment())

    def environment(self) -> dict[str, str]:
        bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return bare | {"XDG_CACHE_HOME": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1"}

    def run(self, program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
        command = [self.programs / program, *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, env=self.environment(), capture_output=True, text=True
        )


@pytest.fixture(scope="module")
def both(built, tmp_path_factory) -> Installed:
    wheels = [wheel(built, package) for package in LARGEST]
    return Installed(tmp_path_factory.mktemp("both"), *wheels)


def test_a_wheel_holds_its_package_and_nothing_else(built):
    for package, largest in LARGEST.items():
        file = wheel(built, package)
        assert file.stat().st_size < largest
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        top = {name.split("/")[0] for name in names}
        assert top == {package, "-".join(file.name.split("-")[:2]) + ".dist-info"}


def test_the_librarys_wheel_holds_all_its_code_and_no_weights(built):
    with zipfile.ZipFile(wheel(built, "segformer_jax")) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    written = {f"segformer_jax/{file}" for file in python_files(ROOT / "segformer_jax")}
    written |= {f"segformer_jax/convert/{file}" for file in python_files(ROOT / "convert")}
    assert {name for name in names if name.endswith(".py")} == written
    others = {name for name in names if not name.endswith(".py")}
    assert {"segformer_jax/py.typed", "segformer_jax/convert/published_logits.json"} <= others
    page = {"segformer_jax/demo/header.html"} | {f"segformer_jax/view/{name}" for name in VIEW}
    static = "segformer_jax/export/web/static"
    page |= {f"{static}/{file.name}" for file in (ROOT / static).iterdir()}
    assert page <= others
    assert {Path(name).suffix for name in others - page} <= {".typed", ".json"}


def python_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.py")}


def test_the_sdist_holds_what_the_wheel_is_built_from_and_no_tests(built):
    (file,) = built.glob("segformer_jax-*.tar.gz")
    with tarfile.open(file) as archive:
        top = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"segformer_jax", "convert", "pyproject.toml", "LICENSE", "CHANGELOG.md"} <= top
    assert not top & {"tests", "weights", "examples", "docs", "benchmarks"}


def test_the_quick_start_runs_outside_the_checkout(both, tmp_path):
    shutil.copy(STREET, tmp_path / "street.jpg")
    done = both.run("segformer-jax", "segment", "street.jpg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CC BY-NC 4.0" in done.stderr
    with Image.open(tmp_path / "out" / "street.mask.png") as mask:
        written = np.asarray(mask)
    result = Segmenter.from_pretrained("scene-b0")(STREET)
    assert (written == result.class_map).mean() > 0.9999
    assert next(iter(result.areas())) in done.stdout
    with Image.open(tmp_path / "out" / "street.overlay.png") as overlay:
        assert overlay.size == written.shape[::-1]


def test_what_is_imported_is_what_was_installed(both, tmp_path):
    program = (
        "import segformer_jax, segformer_jax.convert.nvlabs, segformer_jax.convert.published\n"
        "print(segformer_jax.__file__, segformer_jax.convert.__file__, segformer_jax.__version__)"
    )
    done = both.run("python", "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    library, convert, version = done.stdout.split()
    assert library.startswith(str(both.folder))
    assert convert.startswith(library.removesuffix("__init__.py"))
    assert version == segformer_jax.__version__


def test_the_library_alone_says_which_weights_to_install_or_name(built, tmp_path):
    alone = Installed(tmp_path, wheel(built, "segformer_jax"))
    done = alone.run("segformer-jax", "segment", STREET, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "pip install segformer-jax-scene-b0" in line
    assert "--model" in line
    assert "CC BY-NC" not in line  # the licence of weights that are not installed
    assert not (tmp_path / "out").exists()


def test_the_container_copies_what_is_there():
    recipe = (ROOT / "examples" / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    copied = [
        name for line in re.findall("^COPY (.*) ", recipe, re.MULTILINE) for name in line.split()
    ]
    assert {"pyproject.toml", "segformer_jax", "convert", "weights/scene-b0"} <= {*copied}
    assert all((ROOT / name).exists() for name in copied)


def test_the_releases_papers_are_of_this_version():
    version = segformer_jax.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(.*?)\] - ", changes, re.MULTILINE).group(1) == version
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", version)
    assert {"message", "title", "authors"} <= citation.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2105.15203"}]


@pytest.mark.full  # .ci/run runs the example
def test_the_clothes_example_draws_photo_classes_and_legend(tmp_path):
    script = ROOT / "examples" / "clothes.py"
    out = tmp_path / "new" / "street.png"
    command = [sys.executable, script, STREET, "--model", "scene-b0", "--out", out]
    subprocess.run(command, check=True, cwd=tmp_path)
    with Image.open(out) as picture, Image.open(STREET) as original:
        width, height = original.size
        assert picture.width > 2 * width
        assert picture.height >= height
        colours = picture.crop((width, 0, 2 * width, height)).getcolors()
    result = Segmenter.from_pretrained("scene-b0")(STREET)
    own = palette_for(result.id2label)[[*np.unique(result.class_map)]]
    assert {colour for _, colour in colours} >= set(map(tuple, own.tolist()))


def test_the_public_names_are_there():
    assert all(hasattr(segformer_jax, name) for name in segformer_jax.__all__)
