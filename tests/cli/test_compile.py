"""`compile`, and `segment --programs`, as a user and a container meet them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from inference.tiny import make_checkpoint, make_picture
from training.runs import SMALL

from segformer_jax import SegformerImageProcessor

COUNTED = """
import atexit, jax
seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event.rpartition("/")[2]))
names = ("compile_requests_use_cache", "cache_hits", "cache_misses")
atexit.register(lambda: print("events", *map(seen.count, names)))
from segformer_jax.cli import main
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    small = {name: value for name, value in SMALL.items() if name != "num_labels"}
    return make_checkpoint(tmp_path_factory.mktemp("model"), **small)


@pytest.fixture
def photo(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    make_picture(70, 50).save(tmp_path / "photos" / "photo.png")
    return tmp_path / "photos" / "photo.png"


def in_container(*arguments, **more: str) -> tuple[str, str, tuple[int, ...]]:
    """Runs a command without a home: what it says, and how many programs were asked for, found."""
    environment = os.environ | {"HOME": os.devnull, "XDG_CACHE_HOME": os.devnull} | more
    del environment["JAX_COMPILATION_CACHE_DIR"]  # of the tests
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *printed, last = done.stdout.splitlines()
    return "\n".join(printed), done.stderr, tuple(map(int, last.split()[1:]))


def contents(folder: Path) -> dict:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def test_a_container_compiles_nothing_and_its_mask_is_the_same(run, model, photo, tmp_path):
    programs, out = tmp_path / "programs", tmp_path / "out"
    code, printed, said = run("compile", model, "--out", programs, "--batch-size", 1)
    assert (code, printed) == (0, f"{programs / 'programs.json'}\n")
    assert said == "segformer-jax: compiled for 64×96, 1 picture at once\n"
    options = ("segment", photo, "--model", model, "--outputs", "npy", "--out-dir")
    assert run(*options, out)[0] == 0
    before = contents(programs)
    _, said, (asked, found, kept) = in_container(
        *options, tmp_path / "other", SEGFORMER_JAX_PROGRAMS=str(programs)
    )
    assert said == ""
    assert asked == found > 3
    assert kept == 0
    assert (tmp_path / "other/photo.npy").read_bytes() == (out / "photo.npy").read_bytes()
    assert contents(programs) == before


@pytest.mark.full
def test_a_container_needs_the_programs_of_no_other_command(tmp_path):
    """As users have it: the default model, photos in batches, another process compiles."""
    programs, folder = tmp_path / "programs", tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        make_picture(300 + seed, 200, seed=seed).save(folder / f"{seed}.png")
    options = ("segment", folder, "--outputs", "npy", "--batch-size", 2, "--out-dir")
    in_container("compile", "scene-b0", "--batch-size", 2, "--out", programs)
    _, said, (asked, found, _) = in_container(*options, tmp_path / "a", "--programs", programs)
    assert asked == found > 3
    assert "aside" not in said
    in_container(*options, tmp_path / "b")
    for seed in range(3):
        a, b = ((tmp_path / name / f"{seed}.npy").read_bytes() for name in "ab")
        assert a == b


@pytest.mark.full
def test_programs_of_another_cpu_are_one_line_and_the_photo_is_segmented(
    run, model, photo, tmp_path, monkeypatch
):
    programs = tmp_path / "programs"
    assert run("compile", model, "--out", programs, "--batch-size", 1)[0] == 0
    manifest = json.loads((programs / "programs.json").read_text())
    manifest["made_for"]["features"] += ["avx512_next"]
    (programs / "programs.json").write_text(json.dumps(manifest))
    options = ("segment", photo, "--model", model, "--outputs", "npy", "--out-dir")
    assert run(*options, tmp_path / "a")[0] == 0
    folder = ("segment", photo.parent, *options[2:])
    code, _, said = run(*folder, tmp_path / "b", "--programs", programs)
    assert (code, said) == (
        0,
        f"segformer-jax: the programs in {programs} are left aside: compiled for a CPU with "
        "avx512_next, which this CPU lacks: compiling anew\n",
    )
    assert (tmp_path / "a/photo.npy").read_bytes() == (tmp_path / "b/photo.npy").read_bytes()
    assert run(*folder, tmp_path / "b")[0] == 0  # goes on without them
    monkeypatch.setenv("SEGFORMER_JAX_PROGRAMS", str(tmp_path / "missing"))
    code, _, said = run(*options, tmp_path / "c")
    assert (code, said.count("\n")) == (0, 1)
    assert "missing are left aside: they are damaged or can't be read (No such file" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compile", "MODEL", "--out", "OUT", "--size", 64, 12), "at least 13 pixels .* 64 12"),
        (("compile", "MODEL", "--out", "OUT", "--batch-size", 0), "--batch-size must be at least"),
        (("compile", "RATIO", "--out", "OUT"), "keeps the ratio of pictures.* --size"),
        (("compile", "MODEL", "--out", "PHOTO"), "the output folder must be a folder"),
        (("compile", "MODEL", "--out", "MODEL"), "got one with config.json.* was changed"),
        (("segment", "PHOTO", "--programs", "OUT"), "--programs must be a folder that .*No such"),
        (("segment", "PHOTO", "--programs", "MODEL"), "--programs must be a folder that"),
        (("serve", "MODEL", "--programs", "MODEL"), "--programs must be a folder that"),
    ],
)
def test_mistakes_are_one_line(arguments, message, run, model, photo, tmp_path):
    ratio = shutil.copytree(model, tmp_path / "ratio")
    SegformerImageProcessor(size={"shortest_edge": 64}).save_pretrained(ratio)
    names = {"MODEL": model, "RATIO": ratio, "PHOTO": photo, "OUT": tmp_path / "out"}
    before = contents(model)
    code, printed, said = run(*(names.get(word, word) for word in arguments))
    assert (code, printed, said.count("\n")) == (2, "", 1)
    assert re.search(message, said)
    assert contents(model) == before
    assert not (tmp_path / "out").exists()


def test_sizes_that_the_processor_never_makes_are_explained(run, model, tmp_path, monkeypatch):
    from segformer_jax.inference import compile_ahead

    given = {}
    monkeypatch.setattr(compile_ahead, "compile_ahead", lambda *_, **options: given.update(options))
    code, _, said = run("compile", model, "--out", tmp_path / "out", "--size", 64, 96, 32, 48)
    assert (code, given["sizes"]) == (0, [(64, 96), (32, 48)])
    assert "resizes every photo to 64×96; programs of other sizes are only for" in said
