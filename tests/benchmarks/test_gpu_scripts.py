"""The scripts of benchmarks/gpu are valid, and their commands have the options that they name."""

import functools
import importlib.util
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import tyro

from benchmarks import compare, folder, train_step
from benchmarks.contender import CONTENDERS

FOLDER = Path(compare.__file__).parent / "gpu"
SCRIPTS = sorted(FOLDER.glob("0*.sh"))
MAINS = {
    "benchmarks.compare": compare.compare,
    "benchmarks.train_step": train_step.main,
    "benchmarks.folder": folder.main,
}


def commands(script, *arguments):
    """Returns the words of the commands that a script would run."""
    done = subprocess.run(
        ["bash", script, *arguments],
        env=os.environ | {"DRY": "1", "PYTHON": "python"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [shlex.split(line) for line in done.stdout.splitlines()]


def parse(main, options):
    """Returns the arguments that `main` would be called with; unknown options end the process."""

    @functools.wraps(main)
    def arguments(*given, **named):
        return named

    return tyro.cli(arguments, args=options)


def test_all_scripts_are_there():
    assert [script.name[:2] for script in SCRIPTS] == [f"0{n}" for n in range(1, 9)]


@pytest.mark.parametrize("script", [*SCRIPTS, FOLDER / "measure.sh"], ids=lambda s: s.name)
def test_a_script_is_valid(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_runs_commands_that_exist_for_at_most_200_seconds(script, tmp_path):
    given = commands(script, tmp_path / "rows.json", "--rounds", "2")
    for words in given:
        assert words[:1] + words[2:4] == ["timeout", "python", "-m"]
        options = words[5:]
        found = parse(MAINS[words[4]], options)
        assert found["append"] == tmp_path / "rows.json"
        assert found["rounds"] == 2
        for name in found.get("contenders", ()):
            assert importlib.util.find_spec(f"benchmarks.peers.{CONTENDERS[name].module}")
    assert sum(int(words[1]) for words in given) <= 200


def test_rows_go_to_gpu_json_beside_the_folder():
    (words,) = commands(SCRIPTS[0])
    assert Path(words[words.index("--append") + 1]) == FOLDER.parent / "gpu.json"
