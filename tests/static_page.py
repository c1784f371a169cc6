"""Exports and opens the page without a server, as a visitor would; `browser` drives it.

`python tests/static_page.py docs/web.jpg` makes the screenshot of docs/browser.md: the page on a
desktop's screen, and beside it on a phone's. `python tests/static_page.py` measures that page's
times and memory.
"""

import contextlib
import io
import re
import socket
import subprocess
import sys
import tempfile
import time
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


@contextlib.contextmanager
def exported() -> Iterator[tuple[str, Path]]:
    """Yields the address of a page of scene-b0, and a folder for other files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export("scene-b0", folder / "page", "--example", browser.STREET)
        with serving(folder, "page") as address:
            yield address, folder


def measure() -> None:
    """Prints seconds to the first result and to later ones, memory, and the camera's frames."""
    with exported() as (address, folder), Image.open(browser.STREET) as street:
        for attempt in range(4):
            with browser.chromium(folder / f"profile {attempt}") as driver:
                driver.get("about:blank")
                start = time.monotonic()
                open_page(driver, address)
                segment(driver, browser.STREET)
                print(f"first result: {time.monotonic() - start:.1f} s")
        with browser.chromium(folder / "profile") as driver:
            open_page(driver, address)
            memory = []
            for number in range(20):
                photo = folder / f"{number}.jpg"
                street.rotate(number).save(photo)
                segment(driver, photo)
                memory.append(browser.memory(driver) >> 20)
            print(said(driver), f"MB after each photo: {memory}")
            large = folder / "large.jpg"
            street.resize((7000, 5100)).save(large)
            segment(driver, large)
            print(said(driver), f"{browser.memory(driver) >> 20} MB")
            browser.find(driver, "#camera").click()
            browser.wait(lambda: said(driver).startswith("Filming"))
            for _ in range(5):
                time.sleep(1.2)
                print(said(driver))


def main(out: Path) -> None:
    """Saves a screenshot as a JPEG: the street on a desktop and on a phone."""
    with exported() as (address, folder), browser.chromium(folder / "profile") as driver:
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
    main(Path(sys.argv[1])) if sys.argv[1:] else measure()
