"""Exports and opens the page without a server, as a visitor would; `browser` drives it.

`python tests/static_page.py docs/web.jpg` makes the screenshot of docs/browser.md: the page on a
desktop's screen, and beside it on a phone's.
"""

import contextlib
import io
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
from PIL import Image

PHONE = (430, 932)  # the window's width and height
EDGE = 24  # pixels between and around the two pictures


def export(model: str, folder: Path, *options: object) -> None:
    """Runs `segformer-jax export --format web` as a user would."""
    command = [*browser.PROGRAM, "export", model, folder, "--format", "web", *options]
    subprocess.run([str(own) for own in command], check=True, cwd=browser.ROOT)


@contextlib.contextmanager
def serving(root: Path, path: str) -> Iterator[str]:
    """Serves a folder by Python's own server in another process; yields a path's address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL) as server:
        try:
            browser.wait(lambda: _listens(port))
            yield f"http://127.0.0.1:{port}/{path}/"
        finally:
            server.terminate()


def said(driver: Any) -> str:
    """Returns the page's status line; "" while the page is being loaded."""
    from selenium.common.exceptions import WebDriverException

    with contextlib.suppress(WebDriverException):
        return driver.find_element("css selector", "#status").text
    return ""


def open_page(driver: Any, address: str) -> None:
    """Opens the page and waits until its model is loaded."""
    driver.get(address)
    browser.wait(lambda: said(driver) == "Ready.")


def choose(driver: Any, photo: Path) -> None:
    """Chooses a photo as by the file dialog; returns before it is segmented."""
    driver.find_element("css selector", "#file").send_keys(str(photo))


def segment(driver: Any, photo: Path) -> None:
    """Chooses a photo and waits for its result."""
    choose(driver, photo)
    browser.wait(lambda: re.fullmatch(rf"{re.escape(photo.name)}: [\d.]+ s\.", said(driver)))


def shares(driver: Any) -> list[tuple[str, float]]:
    """Returns the legend's rows as (class, per cent)."""
    rows = driver.execute_script(
        "return [...document.querySelectorAll('.legend li')].map((row) => "
        "['.name', '.share'].map((part) => row.querySelector(part).textContent))"
    )
    return [(name, float(share.removesuffix(" %"))) for name, share in rows]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _shot(driver: Any, width: int, height: int) -> Image.Image:
    """Returns the screen at a size, which phones have and windows can't be made as narrow as."""
    size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < height)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")


def main(out: Path) -> None:
    """Saves a screenshot as a JPEG: the street on a desktop and on a phone."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        export("scene-b0", Path(folder) / "page", "--example", browser.STREET)
        address = stack.enter_context(serving(Path(folder), "page"))
        driver = stack.enter_context(browser.chromium(Path(folder) / "profile"))
        open_page(driver, address)
        segment(driver, browser.STREET)
        shots = [_shot(driver, 1280, PHONE[1] - 2 * EDGE), _shot(driver, *PHONE)]
    width = sum(shot.width for shot in shots) + 3 * EDGE
    whole = Image.new("RGB", (width, PHONE[1] + 2 * EDGE), "#cbd5e1")
    left = EDGE
    for shot in shots:
        whole.paste(shot, (left, (whole.height - shot.height) // 2))
        left += shot.width + EDGE
    whole.save(out, quality=68, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
