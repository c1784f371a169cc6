"""The program that contains all commands."""

import tyro

from segformer_jax.cli.check_data import check_data
from segformer_jax.cli.checkpoints import convert, info, verify
from segformer_jax.cli.compile import compile
from segformer_jax.cli.convert_data import convert_data
from segformer_jax.cli.demo import demo
from segformer_jax.cli.export import export
from segformer_jax.cli.segment import segment
from segformer_jax.cli.serve import serve
from segformer_jax.cli.train import evaluate, train_command


def run(arguments: list[str]) -> int:
    """Runs the command that the first argument names; returns its exit code."""
    app = tyro.extras.SubcommandApp()
    commands = (
        *(segment, train_command(arguments), evaluate, check_data, convert_data, export),
        *(compile, serve, demo, info, convert, verify),
    )
    for command in commands:
        app.command(command)
    return app.cli(
        prog="segformer-jax",
        description="SegFormer in JAX: finds the class of every pixel of a picture.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )
