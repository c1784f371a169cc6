import json
import os

import pytest

from segformer_jax.checkpoints.json_file import read_json
from segformer_jax.cli.class_names import read_class_names
from segformer_jax.json_text import json_bytes, json_value, readable
from segformer_jax.training.progress import read_rows
from segformer_jax.training.record import read_record
from segformer_jax.training.settings import TrainSettings

UTF8, LATIN1 = (os.fsdecode(name) for name in ("Köln".encode(), "Köln".encode("latin-1")))
DEEP = "[" * 100_000
ESCAPED = "K\udcc3\udcb6ln"  # UTF-8 as Python hands it out where the locale is ASCII


def test_names_in_utf_8_are_readable_in_any_locale():
    assert readable(f"{ESCAPED}, {UTF8} \udcc3 end") == "Köln, Köln \udcc3 end"
    assert json_bytes({"a": ESCAPED}, indent=None) == '{"a": "Köln"}\n'.encode()


def test_other_names_are_written_and_read_back_as_they_are():
    for name in (LATIN1, "a\ud800b"):
        assert json.loads(json_bytes([name])) == [name]
    assert os.fsencode(json.loads(json_bytes(LATIN1))) == "Köln".encode("latin-1")


@pytest.mark.parametrize("text", [DEEP, b'{"a":' * 100_000, "{", b"\xff\xfe\xff"])
def test_what_is_no_json_is_a_value_error_however_deep(text):
    with pytest.raises(ValueError, match=r"deeply|Expecting|utf"):
        json_value(text)


def test_a_byte_order_mark_is_no_part_of_the_json():
    assert json_value(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    "read", [read_class_names, TrainSettings.from_file, read_record, read_json]
)
def test_a_reader_names_the_file_that_is_nested_too_deeply(read, tmp_path):
    file = tmp_path / "deep.json"
    file.write_text(DEEP)
    with pytest.raises(ValueError, match=r"deep\.json.*deeply"):
        read(file)


def test_a_journal_ends_where_a_line_is_damaged(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n' + DEEP)
    assert read_rows(file) == [{"step": 1}]
