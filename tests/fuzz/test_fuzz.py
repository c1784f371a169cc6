"""No damage of a file makes a reader crash, hang, look elsewhere or raise what it does not say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from segformer_jax.errors import WeightsError
from tests.fuzz import watching
from tests.fuzz.kinds import Reader, Sample
from tests.fuzz.readers import READERS
from tests.fuzz.watching import try_reader

ROOT = Path(__file__).resolve().parents[2]
INPUTS = 200  # of each reader


@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_a_reader_says_what_is_wrong_with_each_damaged_file(reader):
    found = try_reader(reader, seed=0, inputs=INPUTS)
    assert found.faults == []
    assert found.inputs == found.outcomes.total() == INPUTS
    assert len(found.outcomes) > 1, "some damage must be refused, and some read"


@pytest.mark.full
def test_a_minute_of_the_command_finds_nothing():
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "60", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in told] == list(READERS)
    assert all("faults 0" in line for line in told)


WISHES = {  # what a reader does, and what is said of it
    "crash": "the process ended with -6",
    "hang": "a hang of more than",
    "look elsewhere": "open '/etc/hostname'",
    "start a program": "os.system b'true'",
    "raise another error": "KeyError: 'x'",
    "name no file": "WeightsError that names no file: damaged",
}


def _samples() -> list[Sample]:
    return [Sample({"wish": b'"read"'}, "wish")]


def _damage(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    return json.dumps(rng.choice((*WISHES, "refuse", "read"))).encode()


def _read(folder: Path) -> None:
    match json.loads((folder / "wish").read_bytes()):
        case "crash":
            os.abort()
        case "hang":
            while True:
                pass
        case "look elsewhere":
            Path("/etc/hostname").read_bytes()
        case "start a program":
            os.system("true")
        case "raise another error":
            raise KeyError("x")
        case "name no file":
            raise WeightsError("damaged")
        case "refuse":
            raise WeightsError(f"{folder} is damaged")


def test_every_fault_is_found_and_its_input_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "KEPT", tmp_path)
    monkeypatch.setattr(watching, "HANG", 0.3)
    bad = Reader("bad", _samples, _damage, _read, (WeightsError,))

    found = try_reader(bad, seed=540, inputs=8)  # of this seed, one of each

    kept = [(json.loads((place / "wish").read_bytes()), kind) for kind, place in found.faults]
    assert {wish for wish, _ in kept} == set(WISHES)
    assert [kind for wish, kind in kept if not kind.startswith(WISHES[wish])] == []
    assert set(found.outcomes) == {"read", "WeightsError"}
    assert found.outcomes.total() + len(kept) == found.inputs == 8
