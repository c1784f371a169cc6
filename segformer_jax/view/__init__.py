"""A photo under its classes, for pages in the browser: HTML, style and script.

It may import nothing. The pages of `demo` and `export` are built from these files.
"""

from importlib import resources


def asset(name: str) -> str:
    """Returns the text of view.html, view.css or view.js."""
    return resources.files("segformer_jax.view").joinpath(name).read_text(encoding="utf-8")
