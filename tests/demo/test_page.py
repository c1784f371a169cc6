"""The page as a visitor meets it, in Chromium, against what `Segmenter` says of the same photo."""

import io
import json
import shutil
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import browser
import httpx
import numpy as np
import pytest
from PIL import Image, ImageFilter

from segformer_jax import Segmentation, Segmenter, cli
from segformer_jax.checkpoints import hub
from segformer_jax.images.labels import palette_for

JPEG = 12  # how far the photo's JPEG lets a colour of the screen be off, in 0…255


@pytest.fixture(scope="module")
def other_model(tmp_path_factory) -> Path:
    """Scene-b0, but its classes are called otherwise."""
    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(hub.resolve("scene-b0"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {index: f"my {name}" for index, name in config["id2label"].items()}
    config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def address(other_model):
    with browser.serving("scene-b0", str(other_model)) as address:
        yield address


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    if reason := browser.missing():
        pytest.skip(reason)
    with browser.chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(driver, address):
    """The page, freshly opened."""
    driver.get(address)
    browser.requests(driver)
    return driver


@pytest.fixture(scope="module")
def street() -> Segmentation:
    return Segmenter.from_pretrained("scene-b0")(browser.STREET)


@pytest.mark.full
def test_the_legend_has_the_classes_and_their_shares(page, street):
    browser.upload(page, browser.STREET)
    expected = [(label, f"{100 * share:.1f} %") for label, share in street.areas().items()]
    assert browser.legend(page) == expected


@pytest.mark.full
def test_the_overlay_follows_the_opacity_and_the_network_does_not_run_again(page, street):
    browser.upload(page, browser.STREET)
    browser.legend(page)
    browser.requests(page)
    colours = palette_for(street.id2label)[street.class_map]
    inside = np.zeros(colours.shape[:2], bool)
    inside[::16, ::16] = True
    inside &= unanimous(street.class_map, reach=4)
    assert inside.sum() > 500
    photo = np.asarray(street.image, np.float32)
    for percent in (0, 30, 100):
        browser.set_opacity(page, percent)
        shot = Image.open(io.BytesIO(browser.find(page, "#view .stage").screenshot_as_png))
        shown = np.asarray(shot.convert("RGB").resize(street.image.size), np.float32)
        expected = (1 - percent / 100) * photo + percent / 100 * colours
        off = np.abs(shown - expected)[inside]
        assert np.median(off) <= JPEG / 4
        if percent == 100:
            assert off.max() <= 1  # of the photo nothing is left
    assert browser.requests(page) == []


@pytest.mark.full
def test_the_pointer_reads_the_class_below_it(page, street):
    browser.upload(page, browser.STREET)
    browser.legend(page)
    height, width = street.class_map.shape
    seen = set()
    for row, column in zip(*np.nonzero(unanimous(street.class_map, reach=12)), strict=True):
        label = street.label(int(street.class_map[row, column]))
        if label not in seen:
            seen.add(label)
            across, down = (column + 0.5) / width, (row + 0.5) / height
            assert browser.point_at(page, across, down) == label
            assert (
                browser.find(page, "#view .legend li.here").get_dom_attribute("data-label") == label
            )
    assert len(seen) >= 4


@pytest.mark.full
def test_the_downloaded_mask_is_the_one_that_segment_writes(page, street, tmp_path):
    browser.upload(page, browser.STREET)
    browser.legend(page)
    page.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path / "got")}
    )
    browser.find(page, "#view .download").click()
    mask = tmp_path / "got" / "street.mask.png"
    browser.wait(mask.exists)
    street.save(tmp_path / "street.mask.png")
    assert mask.read_bytes() == (tmp_path / "street.mask.png").read_bytes()
    assert np.array_equal(np.asarray(Image.open(mask)), street.class_map)


@pytest.mark.full
def test_a_file_that_is_no_picture_gets_a_message_and_the_page_goes_on(page, street, tmp_path):
    (tmp_path / "notes.jpg").write_text("hello")
    browser.upload(page, tmp_path / "notes.jpg")
    message = browser.find(page, "#view .message").text
    assert message.startswith("notes.jpg is not a picture of a kind that Pillow or GDAL reads")
    browser.upload(page, browser.STREET)
    assert [name for name, _ in browser.legend(page)] == list(street.areas())


@pytest.mark.full
def test_the_camera_and_the_example_are_photos_too(page, street):
    browser.find(page, "#photo button[aria-label='Capture from camera']").click()
    browser.find(page, "#photo [title='grant webcam access']").click()
    capture = browser.find(page, "#photo button[aria-label='capture photo']")
    filming = "return document.querySelector('#photo video').readyState >= 2"
    browser.wait(lambda: page.execute_script(filming))  # before the first frame a click is in vain
    capture.click()
    assert len(browser.legend(page)) > 0
    browser.empty_page(page)
    browser.find(page, ".gallery-item").click()
    browser.wait(lambda: [name for name, _ in browser.legend(page)] == list(street.areas()))


@pytest.mark.full
def test_nothing_is_asked_of_another_machine(driver, address):
    driver.get("about:blank")
    browser.requests(driver)
    driver.get(address)
    browser.upload(driver, browser.STREET)
    browser.legend(driver)
    asked = [url for url in browser.requests(driver) if not url.startswith(("data:", "blob:"))]
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith(f"{address}/")] == []
    assert "default-src 'self'" in httpx.get(address).headers["content-security-policy"]


@pytest.mark.full
def test_ten_uploads_at_once_all_answer(address, street, tmp_path):
    photos = []
    for index in range(10):
        photos.append(tmp_path / f"{index}.png")
        street.image.crop((0, 0, 200 + 10 * index, 200)).save(photos[-1])
    photos[5].write_text("hello")
    barrier = threading.Barrier(10)

    def ask(photo):
        barrier.wait()
        return answer(address, photo, "scene-b0")

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, photos))
    for index, view in enumerate(answers):
        if index == 5:
            assert view["message"].startswith("5.png is not a picture")
        else:
            assert (view["width"], view["height"]) == (200 + 10 * index, 200)
            assert view["mask_name"] == f"{index}.mask.png"


@pytest.mark.full
def test_the_model_is_chosen_by_its_name(address, other_model, street):
    view = answer(address, browser.STREET, str(other_model))
    assert [row["label"] for row in view["legend"]] == [f"my {name}" for name in street.areas()]
    assert (
        "no model 'b9' here; there is scene-b0, "
        in (answer(address, browser.STREET, "b9")["message"])
    )


@pytest.mark.full
def test_a_file_that_was_not_uploaded_is_refused(address):
    photo = {"path": str(browser.STREET), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AssertionError, match="not uploaded by a user"):
        call(address, [photo, "scene-b0"])
    assert httpx.get(f"{address}/gradio_api/file={browser.STREET}").status_code == 403


def test_a_gradio_that_may_take_files_that_were_not_uploaded_is_refused():
    from segformer_jax.demo.page import serve

    with pytest.raises(RuntimeError, match=r"uploaded files alone, got .*segformer-jax\[demo\]"):
        serve(SimpleNamespace(), listening=None)


def test_a_port_that_is_taken_is_one_line_and_exit_code_2(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as stopped:
            cli.main(["demo", "--port", str(port)])
    said = capsys.readouterr().err
    assert (stopped.value.code, said.count("\n")) == (2, 1)
    assert f"can't listen on 127.0.0.1, port {port}" in said


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "segformer_jax.demo.page", raising=False)  # imported above
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # set by the command; this takes it back
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["demo", "--port", "0"])
    assert stopped.value.code == 2
    assert "pip install 'segformer-jax[demo]'" in capsys.readouterr().err


def answer(address: str, photo: Path, model: str) -> dict:
    """The view of an uploaded photo, by the page's own two calls."""
    with httpx.Client(base_url=f"{address}/gradio_api", timeout=browser.PATIENCE) as client:
        sent = client.post("/upload", files={"files": (photo.name, photo.read_bytes())})
    file = {"path": sent.json()[0], "orig_name": photo.name, "meta": {"_type": "gradio.FileData"}}
    return call(address, [file, model])


def call(address: str, data: list) -> dict:
    with httpx.Client(base_url=f"{address}/gradio_api", timeout=browser.PATIENCE) as client:
        event = client.post("/call/segment", json={"data": data}).json()["event_id"]
        events = client.get(f"/call/segment/{event}").text
    assert "event: complete" in events, events
    return json.loads(events.split("event: complete\ndata: ")[1])[0]


def unanimous(class_map: np.ndarray, *, reach: int) -> np.ndarray:
    """Where all pixels nearby have one class: a scaled screen mixes the others."""
    classes, side = Image.fromarray(class_map), 2 * reach + 1
    lowest, highest = (
        np.asarray(classes.filter(kind(side)))
        for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
    )
    agree = np.zeros(class_map.shape, bool)
    inner = (slice(reach, -reach), slice(reach, -reach))
    agree[inner] = (lowest == highest)[inner]
    return agree
