"""The page without a server as a visitor meets it, in Chromium, against `Segmenter`'s results."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import browser
import numpy as np
import pytest
import static_page
from PIL import Image
from static_page import choose, open_page, said, segment, shares

from segformer_jax import Segmentation, Segmenter
from segformer_jax.export.web.runtime import PACKAGE, VERSION
from segformer_jax.images.labels import palette_for

pytestmark = pytest.mark.full
SAME = 0.999  # of the pixels: float16 weights and Chromium's JPEG decoder decide near ties
GROWTH = 1.15  # of the memory after the first photos: collections of garbage come when they come


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Path:
    """The runtime from npm, in a folder of its own."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm: install Node.js")
    folder = tmp_path_factory.mktemp("runtime")
    command = ["npm", "install", "--silent", "--ignore-scripts", f"{PACKAGE}@{VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm can't install {PACKAGE}: {done.stderr.strip()[:200]}")
    return folder


@pytest.fixture(scope="module")
def address(runtime, tmp_path_factory):
    """The page below a path, served by Python's own server in another process."""
    if reason := browser.missing():
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("site")
    options = ["--runtime", runtime, "--example", browser.STREET]
    static_page.export("scene-b0", root / "deep" / "page", *options)
    with static_page.serving(root, "deep/page") as address:
        yield address


@pytest.fixture(scope="module")
def driver(tmp_path_factory, address):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(driver, address):
    """The page, freshly opened, when its model is loaded."""
    open_page(driver, address)
    return driver


@pytest.fixture(scope="module")
def street() -> Segmentation:
    return Segmenter.from_pretrained("scene-b0")(browser.STREET)


def message(driver) -> str:
    return browser.find(driver, ".view .message").text


def download(driver, button: str, file: Path) -> Image.Image:
    allowed = {"behavior": "allow", "downloadPath": str(file.parent)}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    browser.find(driver, button).click()
    browser.wait(file.exists)
    with Image.open(file) as picture:
        picture.load()
    return picture


def test_the_class_map_overlay_and_legend_are_segments(page, street, tmp_path):
    segment(page, browser.STREET)
    mask = download(page, ".download", tmp_path / "street.mask.png")
    same = np.mean(np.asarray(mask) == street.class_map)
    assert same >= SAME
    assert mask.getpalette()[: 3 * 32] == palette_for(street.id2label).flatten().tolist()
    expected = list(street.areas().items())
    assert [name for name, _ in shares(page)] == [name for name, _ in expected]
    for (_, share), (_, own) in zip(shares(page), expected, strict=True):
        assert abs(share - 100 * own) <= 0.15  # rounded to 0.1, and the pixels above
    page.execute_script(
        "const slider = document.querySelector('.opacity input'); slider.value = 100;"
        "slider.dispatchEvent(new Event('input'));"
    )
    overlay = download(page, ".download.overlay", tmp_path / "street.overlay.png")
    colours = palette_for(street.id2label)[np.asarray(mask)]
    assert np.array_equal(np.asarray(overlay.convert("RGB")), colours)


def test_the_pointer_reads_the_class_below_it(page, street):
    segment(page, browser.STREET)
    height, width = street.class_map.shape
    canvas = page.find_element("css selector", ".stage .classes")
    for row, column in ((height // 10, width // 2), (height - height // 6, width // 2)):
        page.execute_script(
            "const [canvas, across, down] = arguments; const box = canvas.getBoundingClientRect();"
            "canvas.dispatchEvent(new PointerEvent('pointermove', {bubbles: true,"
            "clientX: box.left + across * box.width, clientY: box.top + down * box.height}));",
            canvas,
            (column + 0.5) / width,
            (row + 0.5) / height,
        )
        label = browser.find(page, ".pointed .label").text
        assert label == street.label(int(street.class_map[row, column]))


def test_threads_come_by_the_service_worker_and_the_page_says_so(page):
    threads = min(8, os.cpu_count() or 1)
    ways = "one thread" if threads == 1 else f"{threads} threads"
    engine = browser.find(page, "#engine").text
    assert engine == f"The network runs by WebAssembly on {ways}."
    assert "not sent anywhere" in page.find_element("css selector", "header").text


def test_without_the_service_worker_it_is_one_thread_and_the_same_classes(
    address, street, tmp_path
):
    with browser.chromium(tmp_path / "profile") as driver:
        hide = "Object.defineProperty(Navigator.prototype, 'serviceWorker', {value: undefined})"
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": hide})
        driver.get(address)
        segment(driver, browser.STREET)
        assert "on one thread. More threads need" in browser.find(driver, "#engine").text
        assert [name for name, _ in shares(driver)] == list(street.areas())


def test_bad_files_get_a_message_and_the_page_goes_on(page, street, tmp_path):
    (tmp_path / "notes.jpg").write_text("hello")
    choose(page, tmp_path / "notes.jpg")
    assert message(page) == (
        "notes.jpg is not a picture that this browser can read: choose a JPEG, PNG or WebP."
    )
    Image.new("L", (8000, 5000)).save(tmp_path / "large.png")
    choose(page, tmp_path / "large.png")
    large = "large.png has 40.0 megapixels, and the most are 36.0: make it smaller."
    browser.wait(lambda: message(page) == large)
    segment(page, browser.STREET)
    assert [name for name, _ in shares(page)] == list(street.areas())


def test_a_browser_without_simd_is_told(address, tmp_path):
    with browser.chromium(tmp_path / "profile") as driver:
        old = "WebAssembly.validate = () => false"
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": old})
        driver.get(address)
        assert message(driver).startswith("This browser is too old: it lacks WebAssembly's SIMD")


def test_too_little_memory_is_told(page):
    page.execute_script(
        "URL.createObjectURL = () => {throw new RangeError('Array buffer allocation failed')}"
    )
    choose(page, browser.STREET)
    assert message(page).startswith("street.jpg needs more memory than this browser gives")


def test_no_request_leaves_the_folder(driver, address):
    driver.get("about:blank")
    browser.requests(driver)
    open_page(driver, address)
    segment(driver, browser.STREET)
    asked = browser.requests(driver)
    assert len([url for url in asked if url.startswith(address)]) > 8
    others = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert others == []
    assert blocked(driver, "http://127.0.0.1:9/x") == "TypeError"  # by the page's policy


def blocked(driver, url: str) -> str:
    return driver.execute_async_script(
        "fetch(arguments[0]).then(() => 'sent', (error) => error.name).then(arguments[1])", url
    )


def test_ten_photos_do_not_grow_the_memory(page, street, tmp_path):
    sizes = []
    for number in range(10):
        photo = tmp_path / f"{number}.png"
        street.image.rotate(number).save(photo, compress_level=1)
        segment(page, photo)
        sizes.append(browser.memory(page))
    assert sizes[-1] <= GROWTH * max(sizes[:3])


def test_the_camera_is_segmented_until_it_is_stopped(page):
    button = browser.find(page, "#camera")
    button.click()
    browser.wait(lambda: re.match(r"Filming: [\d.]+ frames a second at \d+ × \d+", said(page)))
    assert shares(page)
    button.click()
    browser.wait(lambda: button.text == "Start the camera")
    assert said(page) == "The camera is off."
    assert page.execute_script("return document.querySelector('video').srcObject") is None


def test_without_a_camera_it_is_told(page):
    page.execute_script(
        "navigator.mediaDevices.getUserMedia = () => "
        "Promise.reject(new DOMException('none', 'NotFoundError'))"
    )
    browser.find(page, "#camera").click()
    assert message(page) == "There is no camera: connect one, or choose a photo."


def test_the_example_and_a_dropped_and_a_pasted_photo_are_segmented(page, street):
    browser.find(page, "#example").click()
    browser.wait(lambda: said(page).startswith("example.jpg: "))
    assert [name for name, _ in shares(page)] == list(street.areas())
    for kind, target, field in (
        ("drop", ".drop", "dataTransfer"),
        ("paste", "body", "clipboardData"),
    ):
        page.execute_async_script(
            "const [kind, target, field, done] = arguments;"
            "fetch('example.jpg').then((answer) => answer.blob()).then((blob) => {"
            "const data = new DataTransfer(); data.items.add(new File([blob], `${kind}.jpg`));"
            "const event = new Event(kind, {bubbles: true, cancelable: true});"
            "Object.defineProperty(event, field, {value: data});"
            "document.querySelector(target).dispatchEvent(event); done()})",
            kind,
            target,
            field,
        )
        browser.wait(lambda kind=kind: said(page).startswith(f"{kind}.jpg: "))
