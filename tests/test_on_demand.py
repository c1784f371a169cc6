"""Public names are imported on first use, and the help of the command line needs none of them."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from segformer_jax import cli

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("segformer_jax", "segformer_jax.export", "segformer_jax.images")


@pytest.mark.parametrize("command", [(), ("segment",), ("train",), ("evaluate",), ("info",)])
def test_the_help_imports_neither_jax_nor_numpy(command):
    program = (
        "import atexit, sys\n"
        "from segformer_jax.cli import main\n"
        "heavy = ('jax', 'flax', 'numpy', 'PIL', 'huggingface_hub')\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules]))\n"
        f"main([*{command!r}, '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: segformer-jax" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_package_is_the_command_too():
    command = [sys.executable, "-m", "segformer_jax", "segment", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "usage: segformer-jax segment" in done.stdout) == (0, True)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_what_type_checkers_read(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    read = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(read) == sorted(module.__all__)
    assert {*module.__all__} <= {*dir(module)}
    for name, home in read.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


def test_modules_are_there_on_first_use_and_other_names_are_refused():
    program = (
        "import segformer_jax\n"
        "print(segformer_jax.models.paper_init.__name__, segformer_jax.bilinear.__name__)\n"
        "segformer_jax.Segmentor"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["paper_init", "segformer_jax.bilinear"]
    last = "AttributeError: module 'segformer_jax' has no attribute 'Segmentor'"
    assert done.stderr.splitlines()[-1].startswith(last)


@pytest.mark.parametrize("package", ["rich", "tqdm", "tyro"])
def test_without_the_extra_the_command_line_says_what_to_install(package):
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from segformer_jax.cli import main; main(['info', 'b0'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = f"error: the command line needs {package}: pip install 'segformer-jax[cli]'"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"segformer-jax: {said}\n"


def test_the_command_line_alone_imports_what_the_extra_brings():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brought = [own.split(">=")[0] for own in project["optional-dependencies"]["cli"]]
    assert brought == [*cli.NEEDED]
    wanted = re.compile(rf"^ *(?:import|from) (?:{'|'.join(brought)})\b", re.MULTILINE)
    files = [*(ROOT / "segformer_jax").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]
    importing = {own.parent.name for own in files if wanted.search(own.read_text(encoding="utf-8"))}
    assert importing == {"cli"}
