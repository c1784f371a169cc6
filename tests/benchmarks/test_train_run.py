"""The benchmark of training with its pictures runs, as a command."""

import subprocess
import sys
from pathlib import Path

import pytest
from data.folders import write_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.full
def test_it_compares_both_on_a_small_data_set(tmp_path):
    data = write_folder(tmp_path, count=4)
    command = [sys.executable, "-m", "benchmarks.train_run", "--data", str(data)]
    small = ["--batch-size", "2", "--crop", "32", "--turns", "1", "--steps", "1"]
    done = subprocess.run([*command, *small], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "transformers + torch" in done.stdout
