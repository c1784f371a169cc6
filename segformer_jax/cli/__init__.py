"""The command line (extra `cli`): one function per command, from which tyro makes the options.

It may import `training`, `evaluation`, `data`, `export`, `video`, `geo`, `cluster`, `server`,
`demo`, `convert`, `inference`, `checkpoints`, `models` and `images`.
"""

import importlib.util
import io
import os
import sys

from segformer_jax.cli import collector
from segformer_jax.cli.printing import by_line, say, shown_warnings

NEEDED = ("rich", "tqdm", "tyro")  # the extra `cli`


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits.

    The exit code is 0 for success, 1 if a comparison failed or an input is unreadable or damaged, 2
    for a user's mistake, 130 for an interrupted command.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # Windows' code pages have no → and no Δ
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with collector.no_last_search(), shown_warnings():
            code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        say("interrupted")
        code = 130
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1  # as rich does
    except (ValueError, OSError, ImportError, MemoryError) as error:
        say(f"error: {by_line(error)}")
        code = 2
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"the command line needs {', '.join(missing)}: pip install 'segformer-jax[cli]'"
        )
    from segformer_jax.cli.commands import run

    return run(arguments)
