"""Gets the files of ONNX Runtime Web: from a folder, a URL, or npm."""

import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
FILES = (*WASM, *WEBGPU)
HEADER = re.compile(rb"ONNX Runtime Web v(\S+)")


def copy_runtime(source: str | Path | None, folder: Path) -> str:
    """Copies the runtime's files into a folder and returns their version.

    Args:
        source: a folder with the files, or with them in dist/; a URL below which they are; None
            downloads the tested version with npm.
        folder: where they are written.

    Raises:
        ValueError: the source is not the runtime, can't be read or downloaded, or npm is missing.
    """
    if source is None:
        _from_npm(folder)
    elif re.match("https?://", str(source)):
        _from_url(str(source).rstrip("/"), folder)
    else:
        _from_folder(Path(source), folder)
    return _version(folder, source)


def _from_folder(source: Path, folder: Path) -> None:
    places = (source, source / "dist", source / "node_modules" / PACKAGE / "dist")
    found = next((own for own in places if (own / FILES[0]).is_file()), source)
    missing = [name for name in FILES if not (found / name).is_file()]
    if missing:
        raise ValueError(
            f"the runtime must be a folder of the npm package {PACKAGE}, got {source} without "
            f"{', '.join(missing)}: run npm install {PACKAGE}@{VERSION} there, or leave --runtime "
            "out"
        )
    for name in FILES:
        shutil.copyfile(found / name, folder / name)


def _from_url(source: str, folder: Path) -> None:
    for name in FILES:
        try:
            with (
                urllib.request.urlopen(f"{source}/{name}", timeout=60) as answer,
                (folder / name).open("wb") as file,
            ):
                shutil.copyfileobj(answer, file)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the runtime's {name} can't be downloaded from {source} ({error}): give the URL "
                f"of the folder dist of {PACKAGE} {VERSION}, or a folder"
            ) from error


def _from_npm(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"the runtime is downloaded by npm, which is not installed: install Node.js, or give a "
            f"folder with {PACKAGE} {VERSION} (--runtime FOLDER)"
        )
    with tempfile.TemporaryDirectory() as own:
        command = [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        done = subprocess.run(command, cwd=own, capture_output=True, text=True)
        packed = next(Path(own).glob("*.tgz"), None)
        if done.returncode or packed is None:
            said = " ".join((done.stderr or done.stdout).split())
            raise ValueError(
                f"npm pack {PACKAGE}@{VERSION} failed ({said[:200]}): check the network, or give "
                "a folder (--runtime FOLDER)"
            )
        with tarfile.open(packed) as archive:
            archive.extractall(own, filter="data")
        _from_folder(Path(own) / "package", folder)


def _version(folder: Path, source: str | Path | None) -> str:
    """Returns the version that the script states."""
    with (folder / FILES[0]).open("rb") as file:
        found = HEADER.search(file.read(500))
    if found is None:
        raise ValueError(
            f"the runtime must be {PACKAGE}, got a {FILES[0]} in {source} that does not state its "
            "version: take the files from npm"
        )
    return found[1].decode()
