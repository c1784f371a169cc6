"""Opens the page of `segformer-jax demo` in a real Chromium, as a visitor would.

`python tests/browser.py docs/demo.jpg` makes the screenshot of docs/browser.md.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
STREET = ROOT / "examples" / "street.jpg"
PROGRAM = [sys.executable, "-c", "from segformer_jax.cli import main; main()"]
PATIENCE = 120  # seconds; a loaded machine compiles slowly
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--force-color-profile=srgb",
    "--use-fake-device-for-media-stream",  # a camera that films a green disc
    "--use-fake-ui-for-media-stream",  # access to it is granted without asking
)


@contextlib.contextmanager
def serving(*models: str) -> Iterator[str]:
    """Runs `segformer-jax demo` as a user would, and yields its address."""
    command = [*PROGRAM, "demo", *models, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stderr is not None
        said = ""
        try:
            for line in server.stderr:
                said += line
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield found[0]
                    break
            else:
                raise AssertionError(f"no address in {said!r}")
        finally:
            server.terminate()
            said += server.communicate(timeout=PATIENCE)[1]
        assert server.returncode == 0, said


def missing() -> str:
    """Returns why there is no browser to test with, or an empty string if there is one."""
    programs = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if not programs:
        return ""
    return f"needs {' and '.join(programs)}: apt-get install chromium chromium-driver"


@contextlib.contextmanager
def chromium(profile: Path, *, width: int = 1280, height: int = 1060) -> Iterator[Any]:
    """Starts a headless Chromium with an empty profile; it saves downloads in `profile`."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for option in (*OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(option)
    options.binary_location = shutil.which("chromium") or ""
    options.add_experimental_option("prefs", {"download.default_directory": str(profile)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def wait(condition: Any) -> Any:
    """Calls `condition()` until its result is true, and returns that result."""
    limit = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < limit, "nothing came"
        time.sleep(0.05)
    return found


def find(driver: Any, selector: str) -> Any:
    """Waits until the element is shown, and returns it."""
    return wait(lambda: next((e for e in all_of(driver, selector) if e.is_displayed()), None))


def all_of(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def upload(driver: Any, photo: Path) -> None:
    """Replaces the photo on the page; returns as soon as the new one is sent."""
    empty_page(driver)
    wait(lambda: all_of(driver, "#photo input[type=file]"))[0].send_keys(str(photo))


def empty_page(driver: Any) -> None:
    find(driver, "#view .view")
    for button in all_of(driver, "#photo button[aria-label='Remove Image']"):
        button.click()
    find(driver, "#view .empty")


def legend(driver: Any) -> list[tuple[str, str]]:
    """Waits for the legend, and returns its rows as (class, share)."""
    rows = wait(
        lambda: driver.execute_script(
            "return [...document.querySelectorAll('#view .result:not([hidden]) .legend li')].map("
            "(row) => ['.name', '.share'].map((part) => row.querySelector(part).textContent))"
        )
    )
    return [(name, share) for name, share in rows]


def set_opacity(driver: Any, percent: int) -> None:
    """Moves the slider as a user would: sets its value and sends an input event."""
    driver.execute_script(
        "const slider = document.querySelector('#view .opacity input');"
        "slider.value = arguments[0]; slider.dispatchEvent(new Event('input', {bubbles: true}));",
        percent,
    )


def point_at(driver: Any, across: float, down: float) -> str:
    """Moves the pointer to a place in the picture, 0…1, and returns the class that is shown."""
    from selenium.webdriver import ActionChains

    canvas = find(driver, "#view canvas")
    x, y = (
        round((share - 0.5) * canvas.size[side])
        for share, side in ((across, "width"), (down, "height"))
    )
    ActionChains(driver, duration=0).move_to_element_with_offset(canvas, x, y).perform()
    return find(driver, "#view .pointed .label").text


def requests(driver: Any) -> list[str]:
    """Returns the addresses that the browser has requested since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def memory(driver: Any) -> int:
    """Returns the resident memory in bytes of the processes that show the driver's pages."""
    parents, sizes = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # a process that has just ended
            text, command = status.read_text(), status.with_name("cmdline").read_bytes()
            own = int(status.parent.name)
            parents[own] = int(re.search(r"^PPid:\s+(\d+)", text, re.MULTILINE)[1])
            resident = re.search(r"^VmRSS:\s+(\d+)", text, re.MULTILINE)
            if resident and b"--type=renderer" in command:
                sizes[own] = 1024 * int(resident[1])
    return sum(
        size for own, size in sizes.items() if _below(own, parents, driver.service.process.pid)
    )


def _below(process: int, parents: dict[int, int], ancestor: int) -> bool:
    while process in parents and process != ancestor:
        process = parents[process]
    return process == ancestor


def main(out: Path) -> None:
    """Saves a screenshot as a JPEG: the page with the street, with the pointer over a roof."""
    import tempfile

    os.environ.setdefault("PYTHONPATH", str(ROOT))
    with (
        serving() as address,
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile)) as driver,
    ):
        driver.get(address)
        upload(driver, STREET)
        legend(driver)
        point_at(driver, 0.51, 0.55)
        time.sleep(1)  # until the photo on the left is shown
        shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        shot.save(out, quality=85, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
