"""Finds or downloads the folder of a checkpoint; the only code that talks to the hub."""

import warnings
from fnmatch import fnmatch
from importlib import metadata, util
from pathlib import Path
from typing import Any

from segformer_jax.checkpoints.int8 import INT8_FILE
from segformer_jax.errors import WeightsError

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
ENTRY_POINTS = "segformer_jax.weights"
SMALL_FILES = ("config.json", "preprocessor_config.json", "README.md")
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")


def resolve(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    subfolder: str = "",
    **unknown: Any,
) -> Path:
    """Returns the local folder or file of a checkpoint, downloaded from the hub on first use.

    A name is looked up as an installed weights package, then as a path, then on the Hugging Face
    hub. A `Path`, or a string that begins with "./", is only looked up as a path. From the hub, the
    configs and one kind of weights are downloaded: safetensors, else pickles, else int8,
    else PEFT's adapters.

    Args:
        name_or_path: "scene-b0", a path, or a name on the hub, such as "nvidia/mit-b0".
        revision: branch, tag or commit on the hub.
        token: for private and gated repositories; None uses that of the logged-in user.
        cache_dir: folder of the downloaded files.
        local_files_only: use only files that have been downloaded before.
        subfolder: folder of the checkpoint inside the folder or repository.
        unknown: other options that `from_pretrained` was given; any of them is an error.

    Raises:
        TypeError: an option is unknown.
        WeightsError: nothing of that name exists, or the hub can't be reached; the message says
            what to do.
    """
    if unknown:
        raise TypeError(
            f"from_pretrained has no option {', '.join(unknown)}: besides the "
            "arguments in its docstring it takes revision, token, cache_dir, "
            "local_files_only and subfolder"
        )
    name = str(name_or_path)
    package = None if isinstance(name_or_path, Path) else _weights_packages().get(name)
    path = Path(name_or_path).expanduser()
    if package is not None:
        folder = _folder_of(package)
        if path.exists():  # Python shows the same warning from the same line only once
            warnings.warn(
                f"{name} is the name of an installed weights package and of the folder "
                f"{path.absolute()}: the package in {folder} is used; write ./{name} to "
                "use the folder",
                stacklevel=1,
            )
        return _inside(folder, subfolder)
    if path.exists():
        return _inside(path, subfolder)
    if isinstance(name_or_path, Path) or name.count("/") != 1 or name[0] in "./~":
        raise WeightsError(_unknown(name))
    return _inside(
        _download(
            name,
            prefix=f"{subfolder.strip('/')}/" if subfolder else "",
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        ),
        subfolder,
    )


def upload(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload SegFormer",
) -> str:
    """Uploads a folder to a model repository on the hub; returns the address of the commit.

    The repository is created if it does not exist.

    Raises:
        WeightsError: the hub refuses the upload or can't be reached; or the weights are int8 and
            the repository holds float ones, which would be read instead.
    """
    import huggingface_hub

    try:
        huggingface_hub.create_repo(repo_id, token=token, private=private, exist_ok=True)
        if (Path(folder) / INT8_FILE).is_file():
            _check_no_floats(
                repo_id, huggingface_hub.list_repo_files(repo_id, token=token, revision=revision)
            )
        commit = huggingface_hub.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            token=token,
            revision=revision,
            commit_message=commit_message,
        )
    except WeightsError:
        raise
    except Exception as error:  # of the hub library, any HTTP client, or a disk
        raise WeightsError(f"uploading to {repo_id} failed: {_first_line(error)}") from error
    return str(commit)


def _download(repo_id: str, *, prefix: str, **options: Any) -> Path:
    import huggingface_hub

    def fetch(files: tuple[str, ...]) -> Path:
        patterns = [prefix + file for file in files]
        return Path(huggingface_hub.snapshot_download(repo_id, allow_patterns=patterns, **options))

    try:
        for kind in (SAFETENSORS, PICKLES, (INT8_FILE,), ADAPTERS):
            folder = fetch(SMALL_FILES + kind)
            if any(any((folder / prefix).glob(pattern)) for pattern in kind):
                break
    except Exception as error:  # of the hub library, any HTTP client, or a disk
        raise WeightsError(_unavailable(repo_id, error)) from error
    if not (folder / prefix).is_dir():
        raise WeightsError(f"{repo_id} has no folder {prefix or '/'}")
    return folder


def _check_no_floats(repo_id: str, held: list[str]) -> None:
    floats = [file for file in held for kind in SAFETENSORS + PICKLES if fnmatch(file, kind)]
    if floats:
        raise WeightsError(
            f"{repo_id} holds {floats[0]}, which is read before {INT8_FILE}: push int8 weights to "
            "another repository, or remove the float ones there"
        )


def _unavailable(repo_id: str, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"{repo_id} is gated: accept its terms on the hub and log in (hf auth login)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no {repo_id} on the hub, or it is private: check the name, or log in "
            "(hf auth login)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no such revision: {_first_line(error)}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{repo_id} is not in the local cache, and the hub can't be reached: check the network "
            "(or local_files_only, HF_HUB_OFFLINE), or give a folder"
        )
    return (
        f"{repo_id} could not be downloaded ({_first_line(error)}): check the name and "
        "the network, or give a folder"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unknown(name: str) -> str:
    installed = ", ".join(sorted(_weights_packages())) or "none"
    if name == "street-b0":
        return (
            f"street-b0 was replaced by scene-b0 (installed: {installed}): pip install "
            "segformer-jax-scene-b0, and use that name (--model scene-b0)"
        )
    start = (
        f"there is no model {name!r}: no such folder or weights package (installed: {installed})"
    )
    package = f"pip install segformer-jax-{name}, " if name == "scene-b0" else ""
    return (
        f"{start}; {package}or use a name on the hub, such as "
        "nvidia/segformer-b0-finetuned-ade-512-512, or a folder (--model)"
    )


def _weights_packages() -> dict[str, str]:
    """Returns the importable package of each short name."""
    return {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINTS)}


def _folder_of(package: str) -> Path:
    spec = util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            f"the weights package {package} is installed, but its files can't be "
            "found: reinstall it with pip install --force-reinstall"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _inside(folder: Path, subfolder: str) -> Path:
    path = folder / subfolder if subfolder else folder
    if not path.exists():
        raise WeightsError(f"there is no folder {subfolder} in {folder}: correct subfolder")
    return path
