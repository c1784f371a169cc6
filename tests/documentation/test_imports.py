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


DOORS = {("images", "checkpoints"), ("models", "checkpoints")}  # `from_pretrained` and its kin


def test_a_room_imports_what_it_says_it_may_and_no_more():
    allowed = imports.allowed()
    for room, others in imports.arrows(on_demand=True).items():
        more = {other for other in others if (room, other) not in DOORS} - allowed.get(room, set())
        assert not more, f"{room} imports {', '.join(sorted(more))}"


def test_what_rooms_may_import_goes_one_way():
    allowed = imports.allowed() | {"bilinear": set()}
    allowed["convert"] = imports.allowed(ROOT)["convert"]
    assert imports.floors(allowed)[0] == ["cli"]


def test_every_room_is_on_the_page_with_what_it_may_import():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)/` \|.*\| (.*) \|$", page, re.MULTILINE))
    stated = {room: set(re.findall(r"`(\w+)`", others)) for room, others in rows.items()}
    assert stated == imports.allowed() | {"convert": imports.allowed(ROOT)["convert"]}


def test_no_two_files_of_different_rooms_have_one_name():
    names = [file.name for file in imports.PACKAGE.rglob("*.py") if file.name != "__init__.py"]
    assert not {name for name in names if names.count(name) > 1}


def test_files_import_one_another_in_no_circle():
    imports.floors(imports.between_files())


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
