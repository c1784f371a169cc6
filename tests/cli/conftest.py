"""Commands run in the test's own process."""

import pytest

from segformer_jax import cli, process
from segformer_jax.cli import collector


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command in this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr(process, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(process, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(process, "set_up_training", lambda: None)
    monkeypatch.setattr(collector.gc, "freeze", lambda: None)  # other tests' garbage too
    monkeypatch.setattr(collector.gc, "unfreeze", lambda: None)

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run
