"""Public names are imported on first use, and the help of the command line needs none of them."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("segformer_jax", "segformer_jax.images", "segformer_jax.inference")


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
