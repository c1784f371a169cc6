"""The command line: one function per command, their arguments made by tyro."""

import os
import sys
import warnings

import tyro

from segformer_jax.cli.checkpoints import convert, info, verify
from segformer_jax.cli.demo import demo
from segformer_jax.cli.export import export
from segformer_jax.cli.printing import one_line, say, show_warning
from segformer_jax.cli.segment import segment
from segformer_jax.cli.serve import serve
from segformer_jax.cli.train import evaluate, train_command


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; exits 0, 1 if a comparison failed, 2 for a user's mistake, 130 on Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            app = tyro.extras.SubcommandApp()
            commands = (
                *(segment, train_command(arguments), evaluate, export),
                *(serve, demo, info, convert, verify),
            )
            for command in commands:
                app.command(command)
            code = app.cli(
                prog="segformer-jax",
                description="SegFormer in JAX: finds the class of every pixel of a picture.",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
        sys.stdout.flush()
    except KeyboardInterrupt:
        say("interrupted")
        code = 130
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1  # as rich does
    except (ValueError, OSError, ImportError, MemoryError) as error:
        say(f"error: {one_line(error)}")
        code = 2
    sys.exit(code)
