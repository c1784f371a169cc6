"""Rows are added to a shared file, and none that is in it is lost."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.append import append, new_run, read


def test_runs_are_kept_beside_each_other_with_command_machine_and_date(tmp_path):
    file = tmp_path / "folder" / "rows.json"
    first = new_run(file)
    append(file, first, [{"work": "a", "ms": 1.5}])
    second = new_run(file)
    append(file, second, [{"work": "c"}])
    append(file, first, [{"work": "b"}], not_run=["torch: out of memory"])
    runs = {run["started"]: run for run in json.loads(file.read_bytes())["runs"]}
    own = runs[first["started"]]
    assert own["rows"] == [{"work": "a", "ms": 1.5}, {"work": "b"}]
    assert own["not_run"] == ["torch: out of memory"]
    assert runs[second["started"]]["rows"] == [{"work": "c"}]
    assert own["command"].startswith("python ")
    assert own["machine"].keys() >= {"accelerator", "driver", "packages", "date"}


def test_a_write_that_fails_leaves_the_earlier_rows(tmp_path, monkeypatch):
    file = tmp_path / "rows.json"
    run = new_run(file)
    append(file, run, [{"work": "a"}])
    before = file.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        append(file, run, [{"work": "b"}])
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_writers_at_the_same_time_lose_no_rows(tmp_path):
    file = tmp_path / "rows.json"

    def write(number):
        run = {"started": str(number), "rows": [], "not_run": []}
        for part in range(5):
            append(file, run, [{"work": f"{number}.{part}"}])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert sum(len(run["rows"]) for run in read(file)) == 40


@pytest.mark.parametrize("text", ['{"runs": [{"rows": [', "[]", '{"runs": [{"rows": 3}]}', ""])
def test_a_damaged_file_is_refused_in_one_line_and_stays(text, tmp_path):
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(SystemExit, match=r"rows\.json must be JSON with .* nothing was written$"):
        new_run(file)
    with pytest.raises(SystemExit) as caught:
        append(file, {"started": "now", "rows": [], "not_run": []}, [{"work": "a"}])
    assert "\n" not in str(caught.value)
    assert file.read_text() == text
