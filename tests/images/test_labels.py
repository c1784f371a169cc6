import itertools
import json

import numpy as np
import pytest

from segformer_jax import SegformerConfig
from segformer_jax.images.labels import CLASS_SETS, distinct_names, palette_for, voc_colour


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ade20k", 150),
        ("cityscapes", 19),
        ("pascal_voc", 21),
        ("camvid", 11),
        ("coco_stuff", 171),
        ("scene", 32),
    ],
)
def test_each_data_set_gets_its_own_palette(name, count):
    classes = CLASS_SETS[name]
    assert len(set(classes.names)) == len(classes.names) == len(classes.colours) == count
    palette = palette_for(dict(enumerate(classes.names)))
    assert palette.dtype == np.uint8
    assert np.array_equal(palette, classes.colours)


def test_well_known_classes_have_their_well_known_colours():
    for name, label, colour in [
        ("ade20k", "wall", (120, 120, 120)),
        ("ade20k", "flag", (92, 0, 255)),
        ("cityscapes", "road", (128, 64, 128)),
        ("cityscapes", "bicycle", (119, 11, 32)),
        ("pascal_voc", "background", (0, 0, 0)),
        ("pascal_voc", "person", (192, 128, 128)),
        ("pascal_voc", "tvmonitor", (0, 64, 128)),
        ("camvid", "pavement", (60, 40, 222)),
        ("scene", "other", (64, 64, 64)),
        ("scene", "road", (128, 64, 128)),
    ]:
        classes = CLASS_SETS[name]
        assert classes.colours[classes.names.index(label)] == colour


def test_ade20k_alone_gives_one_colour_twice_as_published():
    seen = {name: len(set(classes.colours)) for name, classes in CLASS_SETS.items()}
    counts = {name: len(classes.colours) for name, classes in CLASS_SETS.items()}
    assert {name: counts[name] - seen[name] for name in seen if counts[name] != seen[name]} == {
        "ade20k": 1  # road and runway
    }


def test_most_scene_classes_keep_the_colours_of_ade20k_and_none_are_alike():
    scene, ade20k = (
        dict(zip(CLASS_SETS[name].names, CLASS_SETS[name].colours, strict=True))
        for name in ("scene", "ade20k")
    )
    own = {"window": "windowpane"}
    moved = {name for name in scene if scene[name] != ade20k.get(own.get(name, name))}
    assert moved == {
        "other", "road", "cabinet", "earth", "door", "plant", "water", "painting", "sofa", "shelf",
        "mirror", "rug",
    }  # fmt: skip
    lab = {name: cielab(colour) for name, colour in scene.items()}
    for one, other in itertools.combinations(lab, 2):
        assert np.linalg.norm(lab[one] - lab[other]) > 10, (one, other)  # 2.3 is noticed at best


def cielab(colour: tuple[int, int, int]) -> np.ndarray:
    """Coordinates whose distances are about those that the eye sees: L*, a*, b* for D65."""
    values = np.array(colour) / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / (0.9505, 1, 1.089)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_scene_b0_has_these_colours():
    config = SegformerConfig.from_pretrained("scene-b0")
    assert tuple(config.id2label.values()) == CLASS_SETS["scene"].names
    assert np.array_equal(palette_for(config.id2label), CLASS_SETS["scene"].colours)


def test_case_spaces_and_punctuation_do_not_matter():
    palette = palette_for({0: "Traffic Light ", 1: "traffic_sign", 2: "RIDER"})
    assert palette.tolist() == [[250, 170, 30], [220, 220, 0], [255, 0, 0]]


def test_a_subset_keeps_the_customary_colours_and_the_rest_gets_others():
    names = {0: "road", 1: "sidewalk", 2: "unicorn", 3: "vegetation", 4: "sheep", 5: "dragon"}
    palette = palette_for(names)
    cityscapes = dict(zip(CLASS_SETS["cityscapes"].names, CLASS_SETS["cityscapes"].colours))  # noqa: B905
    for index in (0, 1, 3):
        assert tuple(palette[index]) == cityscapes[names[index]]
    assert tuple(palette[4]) == voc_colour(17)
    assert len({tuple(colour) for colour in palette}) == len(palette)


@pytest.mark.parametrize("count", [1, 5, 300, 1000])
def test_unknown_names_get_distinct_colours_always_the_same(count):
    names = {i: f"LABEL_{i}" for i in range(count)}
    palette = palette_for(names)
    assert palette.shape == (count, 3)
    assert len({tuple(colour) for colour in palette}) == count
    assert np.array_equal(palette, palette_for(names))


def test_a_name_given_twice_does_not_give_a_colour_twice():
    palette = palette_for({0: "road", 1: "road", 2: "sky"})
    assert len({tuple(colour) for colour in palette}) == 3


def test_names_given_twice_are_told_apart_by_their_index():
    names = distinct_names({0: "other", 1: "road", 7: "other"})
    assert names == {0: "other (0)", 1: "road", 7: "other (7)"}


def test_gaps_and_nothing_at_all_are_fine():
    assert palette_for({2: "road", 5: "sky"}).shape == (6, 3)
    assert palette_for({}).shape == (0, 3)


def test_camvids_names_are_those_of_its_labels(shared):
    names = json.loads((shared / "data/camvid/id2label.json").read_text())
    assert tuple(names.values()) == CLASS_SETS["camvid"].names
