"""The picture of the rooms is the code's, and its arrows go one way."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import imports  # noqa: E402


def test_the_picture_is_of_today():
    drawn = imports.drawn(imports.arrows())
    assert (ROOT / "docs" / "imports.svg").read_text(encoding="utf-8") == drawn, (
        "run: python docs/imports.py docs/imports.svg"
    )


def test_operations_know_no_network_and_the_network_no_files():
    found = imports.arrows()
    assert found["ops"] <= {"bilinear"}
    assert found["models"] <= {"ops"}
    assert "training" not in found["inference"]


def test_rooms_that_import_one_another_are_named():
    with pytest.raises(ValueError, match="import one another: a, b"):
        imports.floors({"a": {"b"}, "b": {"a"}, "c": set()})


def test_imports_are_found_in_files_and_folders(tmp_path):
    package = tmp_path / "thing"
    (package / "high").mkdir(parents=True)
    (package / "low.py").write_text("import os\n")
    (package / "high" / "top.py").write_text(
        "from thing.low import x\nfrom thing import errors\n\ndef f():\n    import thing.later\n"
    )
    (package / "later.py").write_text("")
    assert imports.arrows(package) == {"high": {"low"}, "low": set(), "later": set()}


def test_every_file_on_the_page_is_there():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"`((?:\w+/)*\w+\.py)`", page)
    assert len(names) > 25
    for name in names:
        assert (ROOT / name).is_file() or (ROOT / "segformer_jax" / name).is_file(), name
