"""`segment FOLDER` as a user meets it: structure, reports, and going on after any end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from tiny import write_tiny

from segformer_jax import Segmenter, cli
from segformer_jax.cli.segment_request import Request

STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from segformer_jax.cli import main; main()"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def segmenter(model) -> Segmenter:
    return Segmenter.from_pretrained(model, batch_size=2)


@pytest.fixture
def run(model, segmenter, monkeypatch, capsys):
    """Runs `segment` in this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr(Request, "segmenter", lambda request: segmenter)  # compiled once

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["segment", *map(str, arguments), "--model", str(model)])
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five pictures of three sizes in folders, and a damaged one."""
    for i, name in enumerate(("a", "b", "in/a", "in/deep/c", "in/deep/d")):
        make_photo(tmp_path / "photos" / f"{name}.jpg", i, (90 + 20 * (i % 3), 70))
    (tmp_path / "photos" / "in" / "broken.jpg").write_bytes(STREET.read_bytes()[:5000])
    return tmp_path / "photos"


def make_photo(file: Path, index: int, size: tuple[int, int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    box = (index % 60, index % 60, index % 60 + 600, index % 60 + 500)
    Image.open(STREET).resize(size, box=box).save(file)


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Every result with its inode and time: both are others when it is written again."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    own = ("report.json", "segment.json")
    return {
        str(file.relative_to(folder)): (file.stat().st_ino, file.stat().st_mtime_ns)
        for file in files
        if file.name not in own
    }


def test_results_keep_the_folders_and_what_cannot_be_read_is_reported(
    run, segmenter, photos, tmp_path
):
    out = photos / "out"  # inside, and yet no input of the second run
    code, printed, said = run(photos, "--out-dir", out, "--outputs", "mask", "npy", "--json")
    assert code == 1
    names = ("a", "b", "in/a", "in/deep/c", "in/deep/d")
    assert set(written(out)) == {f"{name}{end}" for name in names for end in (".mask.png", ".npy")}
    for name in names:
        expected = segmenter([photos / f"{name}.jpg"] * 2)[0].class_map
        assert np.array_equal(np.load(out / f"{name}.npy"), expected)
        assert np.array_equal(np.asarray(Image.open(out / f"{name}.mask.png")), expected)
    report = json.loads(printed)
    assert report == json.loads((out / "report.json").read_text())
    assert (report["pictures"], report["done"], report["done_before"]) == (6, 5, 0)
    [failed] = report["failed"]
    assert failed["image"] == str(photos / "in" / "broken.jpg")
    assert "broken.jpg is damaged" in failed["error"]
    assert failed["error"] in said
    assert 0 <= report["device_waited_share"] <= 1
    assert report["images_per_second"] == pytest.approx(5 / report["seconds"], rel=0.05)


def test_the_same_command_does_only_what_is_missing(run, photos, tmp_path):
    out, options = tmp_path / "out", ("--outputs", "overlay", "mask")
    (photos / "in" / "broken.jpg").unlink()
    assert run(photos, "--out-dir", out, *options)[0] == 0
    before = written(out)
    assert len(before) == 10
    (out / "b.overlay.png").unlink()
    settings = json.loads((out / "segment.json").read_text())
    for name in ("flip_direction", "threshold"):  # which protocols have not always had
        del settings["protocol"][name]
    (out / "segment.json").write_text(json.dumps(settings))
    for name in (".b.overlay.png.0123abcd.part", ".other.png.0123abcd.part"):
        (out / name).touch()
    code, printed, _ = run(photos, "--out-dir", out, *options)
    assert (code, "there already: 4" in printed) == (0, True)
    after = written(out)
    assert {name for name in before if after[name] != before[name]} <= {
        "b.overlay.png",
        "b.mask.png",
    }
    assert after.keys() - before.keys() == {".other.png.0123abcd.part"}  # somebody else's
    assert run(photos, "--out-dir", out, *options)[0] == 0
    assert written(out) == after


def test_results_of_other_settings_are_not_mixed(run, photos, tmp_path):
    out = tmp_path / "out"
    (photos / "in" / "broken.jpg").unlink()
    assert run(photos, "--out-dir", out)[0] == 0
    before = written(out)
    overlay = (out / "a.overlay.png").read_bytes()
    code, _, said = run(photos, "--out-dir", out, "--alpha", "0.9")
    assert (code, "made with alpha 0.5, not 0.9" in said) == (2, True)
    code, _, said = run(photos / "in", "--out-dir", out)
    assert (code, "made with pictures" in said) == (2, True)
    assert run(photos, "--out-dir", out, "--alpha", "0.9", "--outputs", "mask")[0] == 0
    assert written(out) == before  # alpha is of no account to masks
    assert run(photos, "--out-dir", out, "--alpha", "0.9", "--overwrite")[0] == 0
    assert (out / "a.overlay.png").read_bytes() != overlay
    (out / "segment.json").unlink()
    code, _, said = run(photos, "--out-dir", out)
    assert (code, "segment.json, which records how it was made, is missing" in said) == (2, True)


def test_missing_files_of_a_list_are_reported(run, photos, tmp_path):
    (photos / "list.txt").write_text("# two\nb.jpg\nnone.jpg\n\nin/a.jpg\n")
    code, printed, said = run(photos / "list.txt", "--out-dir", tmp_path / "out", "--json")
    assert (code, "there is no file" in said) == (1, True)
    report = json.loads(printed)
    assert (report["pictures"], report["done"]) == (3, 2)
    assert [own["image"] for own in report["failed"]] == [str(photos / "none.jpg")]
    assert (tmp_path / "out" / "in" / "a.mask.png").exists()


@pytest.fixture
def tiles(tmp_path) -> Path:
    """Photos beside GeoTIFFs of 8 and 16 bits, one in a VRT, one placed by a world file."""
    folder, (width, height) = tmp_path / "tiles", (90, 70)
    make_photo(folder / "photo.jpg", 0, (width, height))
    make_photo(folder / "world.tif", 1, (width, height))
    (folder / "world.tfw").write_text("0.5\n0\n0\n-0.5\n500000\n5600000\n")
    pixels = np.moveaxis(np.asarray(Image.open(folder / "photo.jpg")), -1, 0)
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_600_000)}
    for name, values in (("in/a", pixels), ("b", pixels.astype(np.uint16) * 257)):
        (folder / name).parent.mkdir(exist_ok=True)
        size = {"count": 3, "height": height, "width": width, "dtype": values.dtype}
        with rasterio.open(folder / f"{name}.tif", "w", driver="GTiff", **size, **place) as file:
            file.write(values)
    rasterio.shutil.copy(folder / "b.tif", folder / "c.vrt", driver="VRT")
    return folder


def test_a_folder_of_rasters_and_photos_gives_what_each_gives_alone(run, tiles, tmp_path):
    (tiles / "damaged.tif").write_bytes(b"II*\0 and no more")
    out, alone = tmp_path / "out", tmp_path / "alone"
    options = ("--outputs", "mask", "json", "--json")
    code, printed, said = run(tiles, "--out-dir", out, *options)
    assert code == 1
    report = json.loads(printed)
    assert (report["pictures"], report["done"]) == (6, 5)
    assert [own["image"] for own in report["failed"]] == [str(tiles / "damaged.tif")]
    assert "damaged.tif can't be read" in report["failed"][0]["error"] in said
    for name in ("photo.jpg", "world.tif", "in/a.tif", "b.tif", "c.vrt"):
        folder = (alone / name).parent
        assert run(tiles / name, "--out-dir", folder, *options)[0] == 0
        for own in folder.glob(f"{Path(name).stem}.*"):
            assert own.read_bytes() == (out / own.relative_to(alone)).read_bytes()
    with rasterio.open(out / "in" / "a.mask.tif") as mask:
        assert (mask.crs.to_epsg(), mask.transform.c) == (32632, 500_000)
    with rasterio.open(out / "world.mask.tif") as mask:
        assert mask.transform.a == 0.5
    (tiles / "damaged.tif").unlink()
    before = written(out)
    assert run(tiles, "--out-dir", out, *options)[0] == 0
    assert written(out) == before
    assert run(tiles, "--out-dir", out, *options, "--overwrite")[0] == 0
    assert {name for name, own in written(out).items() if own == before[name]} == set()
    bands = ("--bands", 3, 2, 1, "--outputs", "mask")
    assert run(f"{tiles}/**/*.tif", "--out-dir", tmp_path / "b", *bands)[0] == 0
    code, _, said = run(tiles, "--out-dir", tmp_path / "c", *bands)
    assert (code, "photo.jpg: leave it out" in said) == (2, True)
    code, _, said = run(tiles, "--out-dir", tmp_path / "c", "--outputs", "npy")
    assert (code, "--outputs must not have npy for a raster, got" in said) == (2, True)


def test_rasters_named_one_by_one_go_on_after_one_that_cannot_be_read(run, tiles, tmp_path):
    damaged, missing, out = tiles / "damaged.tif", tiles / "missing.tif", tmp_path / "out"
    damaged.write_bytes((tiles / "b.tif").read_bytes()[:3000])  # a header, and few of the pixels
    images = (damaged, tiles / "world.tif", missing, tiles / "c.vrt")
    code, printed, said = run(*images, "--out-dir", out, "--outputs", "mask")
    assert (code, written(out).keys()) == (1, {"world.mask.tif", "c.mask.tif"})
    assert str(out / "c.mask.tif") in printed
    assert all(own in said for own in ("damaged.tif", "missing.tif", "could not be read: 2"))
    code, printed, _ = run(*images, "--out-dir", out, "--outputs", "mask", "--json")
    report = json.loads(printed)
    assert [own["image"] for own in report["images"]] == [str(images[1]), str(images[3])]
    assert [own["image"] for own in report["failed"]] == [str(damaged), str(missing)]
    for image in (damaged, missing):
        code, printed, said = run(image, "--out-dir", tmp_path / "none", "--outputs", "mask")
        assert (code, printed, said.count("\n")) == (2, "", 1)
        assert said.startswith("segformer-jax: error: ")
        assert image.name in said
    code, _, said = run(tiles / "b.tif", tiles / "photo.jpg", "--out-dir", out)
    assert (code, "can't be mixed with other pictures" in said) == (2, True)


def test_polygons_of_rasters_and_photos(run, tiles, tmp_path):
    out = tmp_path / "out"
    assert run(tiles, "--out-dir", out, "--outputs", "polygons", "--min-area", 9)[0] == 0
    assert not list(out.rglob("*.tif*"))  # the mask that a raster's are made from
    placed, photo = (json.loads((out / f"{name}.geojson").read_bytes()) for name in ("b", "photo"))
    assert "crs" in placed
    assert "crs" not in photo
    assert min(own["properties"]["pixels"] for own in photo["features"]) >= 9
    code, _, said = run(tiles, "--out-dir", out, "--outputs", "polygons", "--min-area", 5)
    assert (code, "made with min_area 9, not 5" in said) == (2, True)
    code, _, said = run(tiles, "--out-dir", out, "--simplify", 1)
    assert (code, "--simplify can be used with polygons only" in said) == (2, True)


def test_predictions_go_back_into_annotation_tools(run, photos, tmp_path):
    out = tmp_path / "out"
    run(photos, "--out-dir", out, "--outputs", "coco", "labelme", "npy")
    whole = json.loads((out / "coco.json").read_bytes())
    names = {own["id"]: own["file_name"] for own in whole["images"]}
    assert set(names.values()) == {"a.jpg", "b.jpg", "in/a.jpg", "in/deep/c.jpg", "in/deep/d.jpg"}
    ids = [own["id"] for own in whole["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    for image, name in names.items():
        stem = name.removesuffix(".jpg")
        pixels = np.bincount(np.load(out / f"{stem}.npy").reshape(-1), minlength=7)
        found = [own for own in whole["annotations"] if own["image_id"] == image]
        for category in whole["categories"]:
            area = sum(own["area"] for own in found if own["category_id"] == category["id"])
            assert area == pixels[category["id"] - 1]
        labelme = json.loads((out / f"{stem}.labelme.json").read_bytes())
        assert (out / stem).parent.joinpath(labelme["imagePath"]).samefile(photos / name)
        assert len(labelme["shapes"]) == len(found)


def test_a_report_is_written_whatever_the_pictures_are_called(run, photos, tmp_path):
    broken = photos / "in" / "broken.jpg"
    latin = broken.rename(broken.with_name(os.fsdecode(b"K\xf6ln.jpg")))
    shutil.copy(latin, latin.with_name(os.fsdecode("街角.jpg".encode())))
    long = (photos / "a.jpg").rename(photos / f"{'a' * 248}.jpg")  # 258 bytes with .mask.png
    code, _, said = run(photos, "--out-dir", tmp_path / "out", "--outputs", "mask")
    assert (code, "rename the picture" in said) == (1, True)
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    failed = {own["image"]: own["error"] for own in report["failed"]}
    assert failed.keys() == {str(latin), str(latin.with_name("街角.jpg")), str(long)}
    assert all(image in error for image, error in failed.items())
    assert report["done"] == 4


BAD = {
    "an empty folder": "holds no picture",
    "no hits": "no file fits the pattern",
    "no list": "there is no list file",
    "two of a name": "would both be written as a",
    "results among the pictures": "must not be the folder of the pictures",
    "two folders": "can't be mixed with other pictures",
    "the report's name": "which the command writes itself",
    "smoothing": "--smoothing can be used with films only",
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_begin_is_one_line(case, run, photos, tmp_path):
    sources, options, out = [photos], [], tmp_path / "out"
    match case:
        case "an empty folder":
            (tmp_path / "empty").mkdir()
            sources = [tmp_path / "empty"]
        case "no hits":
            sources = [photos / "*.gif"]
        case "no list":
            sources = [photos / "none.txt"]
        case "two of a name":
            make_photo(photos / "a.png", 0, (50, 50))
        case "results among the pictures":
            out = photos
        case "two folders":
            sources = [photos, photos / "in"]
        case "the report's name":
            make_photo(photos / "report.jpg", 0, (50, 50))
            options = ["--outputs", "json"]
        case "smoothing":
            options = ["--smoothing", "0.5"]
    before = written(tmp_path)
    code, printed, said = run(*sources, "--out-dir", out, *options)
    assert (code, printed, said.count("\n")) == (2, "", 1)
    assert BAD[case] in said
    assert written(tmp_path) == before


@pytest.mark.full
def test_a_killed_and_an_interrupted_run_go_on_and_nothing_is_done_twice(model, tmp_path):
    count = 150
    for i in range(count):
        make_photo(tmp_path / "photos" / f"{i % 3}" / f"{i}.jpg", i, (100, 80))
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-c", PROGRAM, "segment", str(tmp_path / "photos")),
        *("--model", str(model), "--out-dir", str(out), "--batch-size", "2"),
    ]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    def stopped_by(number: int, *, after: int) -> tuple[int, dict[str, tuple[int, int]]]:
        running = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 240
        while time.monotonic() < limit and len(list(out.rglob("*.mask.png"))) < after:
            time.sleep(0.01)
        running.send_signal(number)
        return running.wait(timeout=120), written(out)

    code, first = stopped_by(signal.SIGKILL, after=20)
    assert code == -signal.SIGKILL
    assert len(first) < 2 * count
    code, second = stopped_by(signal.SIGINT, after=60)
    assert code == 130
    assert len(second) < 2 * count
    assert not [name for name in second if name.endswith(".part")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    third = written(out)
    assert len(third) == 2 * count
    for before in (first, second):  # a picture is done when both of its files are there
        masks = [name for name in before if name.endswith(".mask.png")]
        whole = [name for name in masks if name.replace(".mask", ".overlay") in before]
        assert len(whole) >= 20
        assert all(third[name] == before[name] for name in whole)
    assert f"there already: {len([n for n in second if n.endswith('.mask.png')])}" in done.stdout
    for name in third:
        Image.open(out / name).load()


def test_a_phones_folder_names_what_is_not_read_and_does_the_rest(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    photos, out = tmp_path / "photos", tmp_path / "out"
    make_photo(photos / "a.jpg", 0, (90, 70))
    (photos / "b.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(photos / "c.tif")
    for name in ("d.xmp", "e.xmp", "LIESMICH"):
        (photos / name).write_text("no picture")
    code, _, err = run(photos, "--out-dir", out, "--outputs", "mask")
    assert code == 1
    assert (out / "a.mask.png").exists()
    report = json.loads((out / "report.json").read_text())
    assert [Path(failed["image"]).name for failed in report["failed"]] == ["b.HEIC", "c.tif"]
    assert report["other_files"] == {"": 1, ".xmp": 2}
    for words in ("b.HEIC is a HEIC picture", "c.tif must have finite values", "2 .xmp"):
        assert words in err


@pytest.mark.filterwarnings("default::segformer_jax.errors.ImageWarning")
def test_dark_pictures_are_told_at_most_20_times(run, tmp_path):
    dark = np.random.default_rng(0).integers(0, 4096, (20, 30), dtype=np.uint16)
    for index in range(22):
        file = tmp_path / "photos" / f"{index:02}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(dark).save(file)
    _, _, err = run(tmp_path / "photos", "--out-dir", tmp_path / "out", "--outputs", "mask")
    assert err.count("is nearly black") == 20
    assert "2 more warnings" in err
