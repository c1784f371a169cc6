"""`info`, `convert` and `verify`: shows, converts and checks checkpoints."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from segformer_jax.cli.class_names import read_class_names
from segformer_jax.cli.out_dir import output_folder
from segformer_jax.cli.printing import make_console, make_table, print_json


def info(
    model: Annotated[str, tyro.conf.Positional],
    size: tuple[int, int] = (512, 512),
    json: bool = False,
) -> int:
    """Print a model's layers, parameters, multiply-adds and labels.

    Args:
        model: a weights package, a folder, a name on the hub, or a variant, b0 to b5.
        size: height and width of the network's input, in pixels.
        json: print one JSON object instead of tables.
    """
    from segformer_jax.models.summary import summarize

    config, weights = _config_and_weights(model)
    about = summarize(config, *size) | {"weights": weights}
    if json:
        print_json({"model": model} | about)
    else:
        _print_info(model, about)
    return 0


def convert(
    source: Annotated[str, tyro.conf.Positional],
    out_dir: Annotated[Path, tyro.conf.Positional],
    verify: bool = False,
    weights: Literal["float", "float16", "int8"] = "float",
    id2label: Path | None = None,
) -> int:
    """Convert a checkpoint into a folder in Hugging Face's layout, without torch.

    Args:
        source: a name on the Hugging Face hub, a folder, or a file: .safetensors, .bin, .pth, .pt
            or .ckpt.
        out_dir: the folder for config.json, model.safetensors and preprocessor_config.json.
        verify: compare the result with PyTorch afterwards (needs torch and transformers).
        weights: float keeps the source's type, but int8 becomes float32; float16 is half as large
            as float32; int8 writes model.int8.safetensors, a quarter as large, which only this
            library reads.
        id2label: a file with the names of the classes, used instead of the source's own: JSON such
            as {"0": "road", "1": "sky"}, or a name a line.
    """
    from segformer_jax.convert.checkpoint import convert_checkpoint

    names = read_class_names(id2label)
    with output_folder(out_dir):
        kind = convert_checkpoint(source, out_dir, weights=weights, id2label=names)
    print(f"{source} → {out_dir}: {kind}{'' if weights == 'float' else f', in {weights}'}")
    return _verify(str(out_dir), image=None, json=False) if verify else 0


def verify(
    model: Annotated[str, tyro.conf.Positional],
    image: Path | None = None,
    published: bool = False,
    checkpoint: str | None = None,
    json: bool = False,
) -> int:
    """Compare a model with PyTorch, stage by stage; exit with 0 if they are equal, else with 1.

    Args:
        model: an installed weights package, a folder, or a name on the Hugging Face hub.
        image: the picture to compare on; by default random pixels.
        published: compare with the logits published for NVIDIA's checkpoints on COCO's
            000000039769.jpg instead (pass that file as --image); needs no torch.
        checkpoint: the name of the published row, if the model's name does not identify it.
        json: print one JSON object instead of a table.
    """
    if not published:
        return _verify(model, image=image, json=json)
    from segformer_jax.convert.published import compare_with_published

    if image is None:
        raise ValueError("--published needs COCO's val2017 picture: add --image 000000039769.jpg")
    report = compare_with_published(model, image, checkpoint=checkpoint)
    if json:
        print_json(report)
    else:
        for check in report["checks"]:
            print(
                f"{check['suite']}, {report['checkpoint']}: max |Δ| {check['max_difference']:.1e}, "
                f"allowed {check['tolerance']:.0e}"
            )
        print("equal" if report["equal"] else "DIFFERENT")
    return 0 if report["equal"] else 1


def _verify(model: str, *, image: Path | None, json: bool) -> int:
    from segformer_jax.convert.verify import compare_with_torch

    report = compare_with_torch(model, image=image)
    if json:
        print_json(report)
    else:
        _print_comparison(report)
    return 0 if report["equal"] else 1


def _config_and_weights(model: str) -> tuple[Any, str | None]:
    """Returns the config, and the format of the weights: "float", "int8", or None without any."""
    from segformer_jax import SegformerConfig
    from segformer_jax.checkpoints import files, hub
    from segformer_jax.checkpoints.pretrained import load_config

    if model in ("b0", "b1", "b2", "b3", "b4", "b5"):
        return getattr(SegformerConfig, model)(num_labels=150), None
    path = hub.resolve(model)
    config = load_config(path)
    if files.weights_file(path) is None:
        return config, None
    return config, "int8" if files.is_int8(path) else "float"


def _print_info(model: str, about: dict[str, Any]) -> None:
    title = f"{model}: {about['architecture']}"
    table = make_table("part", "shape of the output", "parameters", title=title)
    for row in about["layers"]:
        table.add_row(row["name"], row["output"], f"{row['parameters']:,}")
    table.add_section()
    table.add_row("all", "", f"{about['parameters']:,}")
    console = make_console()
    console.print(table)
    height, width = about["size"]
    console.print(
        f"multiply-adds at {height}×{width}: {about['multiply_adds_usual'] / 1e9:.2f} G as usually "
        f"computed, {about['multiply_adds'] / 1e9:.2f} G here",
        highlight=False,
    )
    if about["weights"] == "int8":
        console.print("weights: int8, with a float32 scale per output channel; float32 in use")
    if about["labels"]:
        names = ", ".join(about["labels"].values())
        console.print(f"{len(about['labels'])} labels: {names}", highlight=False)


def _print_comparison(report: dict[str, Any]) -> None:
    table = make_table(
        "", *(f"max |Δ|, {name}" for name in report["precisions"]), title=report["model"]
    )
    for stage, row in report["stages"].items():
        table.add_row(stage, *(f"{row[name]:.1e}" for name in report["precisions"]))
    table.add_section()
    agreement = report["argmax_agreement"]
    table.add_row("argmax", *(f"{100 * agreement[name]:.3f} %" for name in report["precisions"]))
    make_console().print(table)
    print("equal" if report["equal"] else "DIFFERENT", "to transformers", report["transformers"])
