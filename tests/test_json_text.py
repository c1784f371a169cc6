import json
import os

from segformer_jax.json_text import json_bytes, readable

UTF8, LATIN1 = (os.fsdecode(name) for name in ("Köln".encode(), "Köln".encode("latin-1")))
ESCAPED = "K\udcc3\udcb6ln"  # UTF-8 as Python hands it out where the locale is ASCII


def test_names_in_utf_8_are_readable_in_any_locale():
    assert readable(f"{ESCAPED}, {UTF8} \udcc3 end") == "Köln, Köln \udcc3 end"
    assert json_bytes({"a": ESCAPED}, indent=None) == '{"a": "Köln"}\n'.encode()


def test_other_names_are_written_and_read_back_as_they_are():
    for name in (LATIN1, "a\ud800b"):
        assert json.loads(json_bytes([name])) == [name]
    assert os.fsencode(json.loads(json_bytes(LATIN1))) == "Köln".encode("latin-1")
