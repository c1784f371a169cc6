"""Fixtures that several test folders share, and the list of the quick tests."""

import gc
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
TESTS = Path(__file__).resolve().parent
QUICKLY_COMPILED = "--xla_cpu_use_fusion_emitters=false"  # in a third of the time
QUICK = (  # fast tests that tend to fail first, for each folder; one is of equality with PyTorch
    "checkpoints/test_flat.py",
    "checkpoints/test_names.py",
    "documentation/test_imports.py",
    "evaluation/test_metrics.py",
    "images",
    "inference/test_protocol.py",
    "models/test_equality.py::test_segmentation_equals_transformers[-97x131-eval]",
    "test_atomic.py",
    "test_commands.py",
    "test_config.py",
    "test_every_system.py",
    "test_on_demand.py",
    "training/test_settings.py",
)


def pytest_configure(config):
    """Lets processes and runs share compiled programs; only `-m ''` optimises them well."""
    # the processes that tests start would each compile every module anew
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Ray gives its workers the lowest priority but four, so that other tests would starve them
    os.environ.setdefault("RAY_worker_niceness", "0")
    fast = config.option.markexpr != ""
    if fast and jax.__version_info__ < (0, 12):  # a flag that XLA does not know ends the process
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY_COMPILED}"
    options = {
        "jax_compilation_cache_dir": str(TESTS.parent / "out" / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.3,
        "jax_disable_most_optimizations": fast,
    }
    for name, value in options.items():
        if name.upper() not in os.environ:
            os.environ[name.upper()] = str(value)  # for the processes that tests start
            jax.config.update(name, value)


def pytest_ignore_collect(collection_path, config):
    """Skips files without quick tests for `-m quick`, because importing them takes long."""
    if config.option.markexpr == "quick" and collection_path.suffix == ".py":
        name = collection_path.relative_to(TESTS).as_posix()
        if not any(name.startswith(own) or own.startswith(name) for own in QUICK):
            return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Imports all without a search for garbage; what was imported is not searched later either."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Marks the tests that QUICK lists as quick."""
    for item in items:
        name = f"{item.path.relative_to(TESTS).as_posix()}::{item.name}"
        if name.startswith(QUICK):
            item.add_marker("quick")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Frees the compiled programs after each test file, so that they do not accumulate."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def strict():
    """Forbids implicit promotion of types and ranks, as careful users of JAX do."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def cpu_forms():
    """Traces the operations' forms for CPUs alone, as `Segmenter` and training do on a CPU."""
    from segformer_jax import ops  # not above: its arrays' shapes are checked once pytest is set up

    with ops.use("cpu"):
        yield


@pytest.fixture
def optimized():
    """Enables XLA's optimisations, for tests of what only the optimised program shows."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def shared() -> Path:
    """Returns the folder of pictures and a trained checkpoint, kept outside the repository."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder of data sets beside the repository, ../shared")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
