import numpy as np
import pytest
from images.test_polygons import maps
from rasterio import features

from segformer_jax.images.annotations import coco, labelme, without_holes
from segformer_jax.images.polygons import polygons_of

NAMES = {0: "sky", 1: "road", 2: "tree", 3: "car", 4: "pole"}


def test_rings_without_holes_give_the_map_back(rng):
    for class_map in maps(rng):
        found = list(polygons_of(class_map))
        shapes = [
            ({"type": "Polygon", "coordinates": [[*map(tuple, ring), tuple(ring[0])]]}, own.index)
            for own in found
            for ring in [without_holes(own).tolist()]
        ]
        again = features.rasterize(shapes, out_shape=class_map.shape, fill=-1, dtype="int32")
        assert np.array_equal(again, class_map)
        for own in polygons_of(class_map, simplify=2.0):
            assert len(without_holes(own)) >= sum(map(len, own.rings))


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools with NumPy 2
def test_cocos_own_tool_gives_the_map_back(rng):
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for class_map in maps(rng):
        height, width = class_map.shape
        found = coco(polygons_of(class_map), NAMES, file_name="a.jpg", size=class_map.shape)
        again, often = np.full(class_map.shape, -1), np.zeros(class_map.shape, int)
        for own in found["annotations"]:
            drawn = mask.decode(mask.merge(mask.frPyObjects(own["segmentation"], height, width)))
            assert drawn.sum() == own["area"]
            assert mask.toBbox(mask.encode(np.asfortranarray(drawn))).tolist() == own["bbox"]
            again[drawn > 0] = own["category_id"] - 1
            often += drawn
        assert np.array_equal(again, class_map)
        assert (often == 1).all()


def test_files_say_which_picture_they_are_of():
    class_map = np.array([[0, 1, 1]], np.uint8)
    found = coco(polygons_of(class_map), NAMES, file_name="in/a.jpg", size=(1, 3))
    assert found["images"] == [{"id": 1, "file_name": "in/a.jpg", "height": 1, "width": 3}]
    assert {own["name"]: own["id"] for own in found["categories"]} == {
        name: index + 1 for index, name in NAMES.items()
    }
    road = max(found["annotations"], key=lambda own: own["area"])
    assert (road["category_id"], road["area"], road["bbox"]) == (2, 2, [1, 0, 2, 1])
    found = labelme(polygons_of(class_map), NAMES, file_name="../a.jpg", size=(1, 3))
    assert (found["imagePath"], found["imageHeight"], found["imageWidth"]) == ("../a.jpg", 1, 3)
    shapes = {own["label"]: own for own in found["shapes"]}
    assert shapes["sky"]["shape_type"] == "polygon"
    assert sorted(shapes["sky"]["points"]) == [[0, 0], [0, 1], [1, 0], [1, 1]]
