"""How the pages are built: `sphinx-build -W docs out/docs`, without the network."""

import importlib
import inspect
import pkgutil
import re
import tomllib
from pathlib import Path

from flax import nnx

import segformer_jax

HERE = Path(__file__).parent

project = "segformer-jax"
author = "the authors of segformer-jax"
copyright = "under Apache-2.0"
version = release = segformer_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**.ipynb_checkpoints"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # a build for readers runs the notebooks, and their errors fail it
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

default_role = "code"  # docstrings write `names` as Markdown does
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    "special-members": "__call__",
    "inherited-members": "Module, Rngs, dict, Exception, BaseException",  # nothing of these
}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has them, and "b *grid c" is no markup
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"segformer-jax {version}"


def api_page(package: str) -> str:
    """A package's docstring, and all that its modules document, as reStructuredText."""
    room = importlib.import_module(package)
    modules = [found.name for found in pkgutil.iter_modules(room.__path__) if not found.ispkg]
    lines = [package, "=" * len(package), "", inspect.cleandoc(room.__doc__ or "")]
    for name in modules:
        lines += ["", name, "-" * len(name), ""]
        lines.append(f".. automodule:: {package}.{name}")
    return "\n".join([*lines, ""])


def write_api_pages() -> None:
    """One page for every package that is shipped, so that none is forgotten."""
    settings = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    for package in settings["tool"]["setuptools"]["packages"]:
        page, text = HERE / "api" / f"{package}.rst", api_page(package)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def readable(app, what, name, obj, options, signature, returns):
    """A signature as its source has it.

    Flax's modules are made by their `__init__`, but Sphinx asks the metaclass, which takes all.
    """
    if what == "class" and issubclass(obj, nnx.Module):
        own = inspect.signature(obj.__init__)
        signature = str(own.replace(parameters=list(own.parameters.values())[1:]))
    return tuple(text and _as_written(text) for text in (signature, returns))


def _as_written(text: str) -> str:
    text = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", text.replace("<factory>", "{}"))
    return re.sub(r"(jaxlib\._jax|flax\.nnx\.rnglib)\.", "", text)


def setup(app):
    write_api_pages()
    app.connect("autodoc-process-signature", readable)
