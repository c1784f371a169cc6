"""`python -m benchmarks.web_runtimes A.onnx B.tflite` compares runtimes for browsers, in Chromium.

Both files are one model: `segformer-jax export MODEL A.onnx --batch 1`, and
`segformer-jax export MODEL B.tflite --size H W`. ONNX Runtime Web and LiteRT.js, from npm, run them
by WebAssembly in turns. Needs Debian's chromium, chromium-driver and npm.
"""

import functools
import json
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import tyro

from segformer_jax.export.web.runtime import PACKAGE, VERSION

PACKAGES = (f"{PACKAGE}@{VERSION}", "@litertjs/core@2.5.3")
PAGE = Path(__file__).with_suffix(".html")
PATIENCE = 600  # seconds


class Handler(SimpleHTTPRequestHandler):
    """Serves files with the headers that threads need."""

    def end_headers(self) -> None:
        """Adds them."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


def compare(
    onnx: Annotated[Path, tyro.conf.Positional],
    tflite: Annotated[Path, tyro.conf.Positional],
    size: tuple[int, int] = (288, 384),
    threads: tuple[int, ...] = (1, 2),
    rounds: int = 30,
) -> None:
    """Prints a row for each number of threads: milliseconds, and LiteRT.js ÷ ONNX Runtime Web.

    Args:
        onnx: the model with inputs of any size, channels first.
        tflite: the model for inputs of `size`, channels last.
        size: height and width in pixels.
        threads: numbers of threads.
        rounds: runs of each file.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install = ["npm", "install", "--silent", "--ignore-scripts", *PACKAGES]
        subprocess.run(install, cwd=folder, check=True)
        shutil.copy(onnx, folder / "model.onnx")
        shutil.copy(tflite, folder / "model.tflite")
        shutil.copy(PAGE, folder / "index.html")
        handler = functools.partial(Handler, directory=name)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for count in threads:
                options = dict(height=size[0], width=size[1], threads=count, rounds=rounds)
                found = measure(f"http://127.0.0.1:{server.server_port}/", options)
                print(f"{count} threads: {row(found)}")
            server.shutdown()


def measure(address: str, options: dict[str, int]) -> dict[str, Any]:
    """Returns what the page measures, in a new browser."""
    from selenium import webdriver

    chrome = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        chrome.add_argument(option)
    chrome.binary_location = shutil.which("chromium") or ""
    driver = webdriver.Chrome(chrome, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(PATIENCE)
        driver.get(f"{address}#{urllib.parse.quote(json.dumps(options))}")
        return driver.execute_async_script("window.compare().then(arguments[0])")
    finally:
        driver.quit()


def row(found: dict[str, Any]) -> str:
    """Returns the times of both runtimes in a line."""
    ours, theirs = (found[name] for name in ("litert", "onnxruntime"))
    ratio = median(a / b for a, b in zip(ours["times"], theirs["times"], strict=True))
    parts = [
        f"{name} opens {own['opening']:.0f}, first {own['firstRun']:.0f}, "
        f"median {median(own['times']):.0f}, least {min(own['times']):.0f}"
        for name, own in (("ONNX Runtime Web", theirs), ("LiteRT.js", ours))
    ]
    return f"{'; '.join(parts)}; ratio {ratio:.2f}; Δ logits {found['difference']:.1e}"


if __name__ == "__main__":
    tyro.cli(compare)
