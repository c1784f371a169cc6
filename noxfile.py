"""The commands of CONTRIBUTING.md by name, in the environment that nox is installed in.

`.venv/bin/nox -l` lists them, `.venv/bin/nox -s lint types` runs two.
"""

import shlex
import shutil
import sys
from pathlib import Path

import nox

COMMANDS = {
    "quick": ["pytest -q -n 2 -m quick"],
    "tests": ["pytest -q -n 2"],
    "full": ["pytest -q -n 2 -m full"],
    "optimized": ["pytest -q -n 2 -m ''"],
    # Flax's tree mode: it changes only how modules are split, so the tests of models suffice
    "graph": ["NNX_GRAPH_MODE=false NNX_GRAPH_UPDATES=false pytest -q -n 2 tests/models"],
    "lint": ["ruff check", "ruff format --check"],
    "types": ["pyrefly check"],
    # a test of the full tier runs the notebooks
    "docs": [
        "pip install -q --no-compile -e '.[docs]'",
        "sphinx-build -q -W --keep-going -D nb_execution_mode=off docs out/docs",
    ],
    "wheels": [
        "python -m build",
        "python -m build weights/scene-b0 --outdir dist",
        "twine check --strict dist/*",
    ],
}

NEWEST = ("3.12", "3.13")  # versions of Python that the session `newest` tests
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "quick"]


def add(name: str, commands: list[str]) -> None:
    """Adds a session that runs commands, which may begin with NAME=value."""

    @nox.session(name=name)
    def run(session: nox.Session) -> None:
        for command in commands:
            words = shlex.split(command)
            environment = {}
            while "=" in words[0]:
                key, environment[key] = words.pop(0).split("=")
            words[0] = shutil.which(words[0], path=Path(sys.executable).parent) or words[0]
            session.run(*words, env=environment, external=True)


for name, commands in COMMANDS.items():
    add(name, commands)


@nox.session(python=NEWEST, venv_backend="venv")
def newest(session: nox.Session) -> None:
    """The quick tests with the newest release of everything that the requirements admit."""
    eager = ("--no-compile", "--upgrade", "--upgrade-strategy", "eager")
    session.install(*eager, "-e", ".[test]", "-e", "weights/scene-b0")
    session.run("pip", "list", "--format", "freeze")
    session.run(*COMMANDS["quick"][0].split())
