"""Tests of what differs on macOS and Windows, as far as it can be tested on Linux."""

import ast
import ctypes
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jax
import pytest

from segformer_jax import process

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("segformer_jax", "convert", "examples")
LINUX_ALONE = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios"}
SIGNALS = {"SIGINT", "SIGTERM", "SIG_IGN", "SIG_DFL"}  # that Windows has too


@cache
def trees() -> dict[str, ast.Module]:
    files = (file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    return {str(own.relative_to(ROOT)): ast.parse(own.read_text(encoding="utf-8")) for own in files}


def nodes(*kinds: type) -> list[tuple[str, Any]]:
    return [
        (f"{file}:{node.lineno}", node)
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    ]


def test_text_files_are_opened_in_utf_8():
    def guesses(call: ast.Call) -> bool:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
        if name not in ("read_text", "write_text") and ast.unparse(call.func) != "open":
            return False
        mode = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
        binary = name == "open" and any("b" in ast.unparse(own) for own in mode)
        return not binary and "encoding" not in {word.arg for word in call.keywords}

    assert [place for place, call in nodes(ast.Call) if guesses(call)] == []


def test_no_module_and_no_signal_of_linux_alone_is_needed():
    imported = [
        (place, (alias.name if isinstance(node, ast.Import) else node.module) or "")
        for place, node in nodes(ast.Import, ast.ImportFrom)
        for alias in node.names
    ]
    assert [own for own in imported if own[1].split(".")[0] in LINUX_ALONE] == []
    signals = [
        (place, node.attr)
        for place, node in nodes(ast.Attribute)
        if ast.unparse(node.value) == "signal" and node.attr.startswith("SIG")
    ]
    assert signals
    assert [own for own in signals if own[1] not in SIGNALS] == []


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_memory_is_tuned_on_linux_alone(system, monkeypatch):
    def refuse(*_):
        raise AssertionError("the C library was opened")

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setattr(os, "setpriority", refuse, raising=False)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    process.keep_freed_memory()
    process.yield_to_others()
    process._leave_room(1 << 20)


def test_a_console_without_arrows_gets_their_numbers(tmp_path):
    program = "from segformer_jax.cli import main; main()"
    command = [sys.executable, "-c", program, "convert", "scene-b0", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}  # of Windows in western Europe
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(rb"scene-b0 \u2192 ")
