"""Programs compiled ahead are taken where they fit, and left aside with a reason elsewhere."""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
from inference.tiny import make_checkpoint, make_picture
from training.runs import SMALL

from segformer_jax import SegformerImageProcessor, Segmenter
from segformer_jax.inference import compiled
from segformer_jax.inference.compile_ahead import compile_ahead
from segformer_jax.inference.programs import (
    CACHE,
    MANIFEST,
    VARIABLE,
    Manifest,
    _set,
    check_folder,
    probe,
    use_programs,
)

SIZES = [(64, 96), (33, 64)]
SETTINGS = (
    *CACHE,
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    small = {name: value for name, value in SMALL.items() if name != "num_labels"}
    return make_checkpoint(tmp_path_factory.mktemp("model"), **small)


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """Programs of the model for two sizes; tests change copies."""
    folder = tmp_path_factory.mktemp("made") / "programs"
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):  # as the tests
        compile_ahead(model, folder, sizes=SIZES, batch_size=1)
    return folder


@pytest.fixture
def programs(made, tmp_path):
    return shutil.copytree(made, tmp_path / "programs")


@pytest.fixture(autouse=True)
def own_cache(tmp_path):
    """JAX's cache is a new folder, and as before after the test."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    _set({"jax_compilation_cache_dir": str(tmp_path / "own")})
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield tmp_path / "own"
    _set(before)


@pytest.fixture
def events():
    """Names of JAX's events of compilation, of which each program has one or two."""
    seen = []

    def listen(event, **_):
        seen.append(event.rpartition("/")[2])

    jax.monitoring.register_event_listener(listen)
    yield seen
    jax.monitoring.unregister_event_listener(listen)


def run(model, picture):
    """Opens the model as a new process would, and segments a picture, and inputs of both sizes."""
    jax.clear_caches()
    compiled.forget_known()
    segmenter = Segmenter.from_pretrained(model)
    inputs = [np.asarray(picture.resize((w, h))) for h, w in SIZES]
    maps = segmenter.class_maps(inputs, SIZES)
    return segmenter(picture).class_map, *(classes for classes, _ in maps)


def contents(folder):
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def change(folder, **made_for):
    values = json.loads((folder / MANIFEST).read_text())
    values["made_for"] |= made_for
    (folder / MANIFEST).write_text(json.dumps(values))


@pytest.mark.full
def test_nothing_is_compiled_and_the_masks_are_the_same(model, programs, own_cache, events):
    picture = make_picture(70, 50)
    expected = run(model, picture)
    shutil.rmtree(own_cache)
    before = contents(programs)
    assert use_programs(model, programs) is None
    events.clear()
    found = run(model, picture)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert events.count("cache_hits") == events.count("compile_requests_use_cache") > 9
    assert contents(programs) == before
    copied = {file.name for file in own_cache.iterdir()}
    assert copied == set(before) - {MANIFEST}
    jax.jit(lambda x: x * 3 - 1)(np.ones(5, np.float32))  # another program is kept there
    assert len(list(own_cache.iterdir())) == len(copied) + 1
    assert contents(programs) == before


@pytest.mark.parametrize("own", [None, "a file", "limited", "the same"])
def test_without_a_cache_of_its_own_a_process_reads_the_folder_alone(
    own, model, programs, own_cache, events
):
    if own == "a file":
        own_cache.write_text("")
    elif own == "limited":
        jax.config.update("jax_compilation_cache_max_size", 1 << 20)
    else:
        jax.config.update("jax_compilation_cache_dir", own and str(programs))
    before = contents(programs)
    assert use_programs(model, programs) is None
    assert jax.config.jax_compilation_cache_dir == str(programs)
    events.clear()
    jax.jit(lambda x: x * 3 - 1)(np.ones(5, np.float32))
    assert "cache_hits" not in events
    assert probe(None)
    assert contents(programs) == before


def test_the_environment_names_a_folder(model, programs, monkeypatch):
    assert use_programs(model) is None
    monkeypatch.setenv(VARIABLE, "")
    assert use_programs(model) is None
    assert jax.config.jax_compilation_cache_dir != str(programs)
    monkeypatch.setenv(VARIABLE, str(programs / "missing"))
    assert "missing are left aside: they are damaged or can't be read (No such" in use_programs(
        model
    )
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv(VARIABLE, str(programs))
    assert use_programs(model) is None
    assert jax.config.jax_compilation_cache_dir == str(programs)


def other_cpu(folder):
    change(folder, features=["avx999", "sse2"])
    return "compiled for a CPU with avx999, which this CPU lacks"


def other_jax(folder):
    versions = Manifest.read(folder).made_for.versions
    change(folder, versions=versions | {"jax": "0.1"})
    return f"compiled with jax 0.1, this is jax {jax.__version__}"


def other_model(folder):
    change(folder, config="0")
    return "compiled for another model"


def fewer_features(folder):
    """As on a CPU that has more: JAX looks for another name."""
    change(folder, features=[])
    values = json.loads((folder / MANIFEST).read_text())
    (name,) = (name for name in values["files"] if name.startswith("jit_probe"))
    del values["files"][name]
    (folder / name).unlink()
    (folder / MANIFEST).write_text(json.dumps(values))
    return "JAX"


def no_manifest(folder):
    (folder / MANIFEST).unlink()
    return "they are damaged or can't be read (No such file"


def cut_manifest(folder):
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])
    return "they are damaged or can't be read ("


def other_json(folder):
    (folder / MANIFEST).write_text('{"files": {"a": "b"}}')
    return "its format is not"


def outside(folder):
    values = json.loads((folder / MANIFEST).read_text())
    values["files"]["../secret"] = hashlib.sha256(b"").hexdigest()
    (folder / MANIFEST).write_text(json.dumps(values))
    return "it must list the folder's files"


def missing_file(folder):
    next(folder.glob("jit_forward*")).unlink()
    return "they are damaged or can't be read (No such file"


def changed_file(folder):
    file = next(folder.glob("jit_forward*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return f"{file.name} was changed"


@pytest.mark.parametrize(
    "damage",
    [
        *(other_cpu, other_jax, other_model, fewer_features, no_manifest, cut_manifest),
        *(other_json, outside, missing_file, changed_file),
    ],
)
def test_programs_that_do_not_fit_are_left_aside_and_say_why(damage, model, programs, own_cache):
    reason = damage(programs)
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    line = use_programs(model, programs)
    assert line.startswith(f"the programs in {programs} are left aside: ")
    assert reason in line
    assert line.endswith(": compiling anew")
    assert "\n" not in line
    assert {name: getattr(jax.config, name) for name in SETTINGS} == before
    assert not own_cache.exists()


def test_programs_of_another_type_are_left_aside(model, programs):
    assert "for float32, the model computes in bfloat16" in use_programs(
        model, programs, dtype="bfloat16"
    )


def test_a_folder_is_replaced_if_it_holds_programs_and_else_left_alone(model, programs):
    change(programs, config="old")
    compile_ahead(model, programs, sizes=[(64, 64)], batch_size=1)
    manifest = Manifest.read(programs)
    assert manifest.made_for.config != "old"
    assert manifest.sizes == [(64, 64)]
    assert {file.name for file in programs.iterdir()} == {MANIFEST, *manifest.files}
    (programs / "notes.txt").write_text("mine")
    before = contents(programs)
    with pytest.raises(ValueError, match=r"got one with notes\.txt"):
        compile_ahead(model, programs, sizes=[(64, 64)])
    assert contents(programs) == before
    assert [file.name for file in programs.parent.iterdir() if file.name.endswith(".part")] == []


def test_sizes_are_checked_before_anything_is_written(model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"at least 13 pixels for this network, got 64 4"):
        compile_ahead(model, out, sizes=[(64, 64), (64, 4)])
    ratio = shutil.copytree(model, tmp_path / "ratio")
    SegformerImageProcessor(size={"shortest_edge": 64}).save_pretrained(ratio)
    with pytest.raises(ValueError, match=r"keeps the ratio .*give the heights and widths"):
        compile_ahead(ratio, out)
    assert not out.exists()


def test_the_processors_size_is_the_default_and_every_size_of_a_batch_is_compiled(
    model, tmp_path, monkeypatch
):
    ran = []
    monkeypatch.setattr(Segmenter, "class_maps", lambda self, inputs, _: ran.append(len(inputs)))
    done = []
    manifest = compile_ahead(
        model, tmp_path / "out", batch_size=6, done=lambda *sizes: done.append(sizes)
    )
    assert manifest.sizes == [(64, 96)]
    assert manifest.batch_sizes == [1, 2, 4, 8]
    assert done == [(64, 96, 1), (64, 96, 2), (64, 96, 4), (64, 96, 8)]
    assert {1, 2, 4, 8} == {*ran}


def test_a_folder_without_a_manifest_is_refused_by_name(programs, tmp_path):
    check_folder(programs)
    with pytest.raises(ValueError, match=r"--programs must be a folder that segformer-jax compile"):
        check_folder(tmp_path)
