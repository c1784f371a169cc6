"""Lists of classes as CVAT, Roboflow, labelme and Kaggle write them."""

import pytest

from segformer_jax.data.classes import coding_of, own_classes, some_classes
from segformer_jax.data.masks import IGNORED, NO_CLASS

LABELMAP = """# label:color_rgb:parts:actions
background:0,0,0::
cat:48,112,32::
dog:::
"""


def classes(folder, name, text, **options):
    (folder / name).write_text(text, encoding="utf-8", **options)
    found = own_classes(folder)
    assert found is not None
    assert found.source == name
    return found


def test_a_labelmap_of_cvat_has_names_and_colours(tmp_path):
    found = classes(tmp_path, "labelmap.txt", "\ufeff" + LABELMAP)
    assert found.id2label == {0: "background", 1: "cat", 2: "dog"}
    voc_second = (0, 128, 0)
    assert found.colours == (((0, 0, 0), 0), ((48, 112, 32), 1), (voc_second, 2))
    assert str(found) == "3 classes from labelmap.txt"


def test_roboflows_pixel_values_may_have_gaps(tmp_path):
    found = classes(tmp_path, "_classes.csv", "Pixel Value, Class\n3, sky\n0, background\n")
    assert found.id2label == {0: "background", 1: "sky"}
    assert [found.table[value] for value in (0, 1, 3, 255)] == [0, NO_CLASS, 1, IGNORED]
    with pytest.raises(ValueError, match=r"must not be used with _classes\.csv"):
        coding_of(found, reduce_zero_label=True)


def test_names_and_colours_of_a_class_dict(tmp_path):
    found = classes(tmp_path, "class_dict.csv", "name,r,g,b\nroad,1,2,3\nsky,4,5,6\n")
    assert found.id2label == {0: "road", 1: "sky"}
    assert found.colours == (((1, 2, 3), 0), ((4, 5, 6), 1))


@pytest.mark.parametrize("name", ["class_names.txt", "classes.txt", "labels.txt", "codes.txt"])
def test_a_name_a_line(tmp_path, name):
    found = classes(tmp_path, name, "__ignore__\n_background_\n\ntraffic light\n")
    assert found.id2label == {0: "_background_", 1: "traffic light"}


def test_id2label_wins_over_other_lists_and_takes_a_palette(tmp_path):
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    (tmp_path / "palette.json").write_text('{"b": [9, 9, 9]}')
    (tmp_path / "id2label.json").write_text('{"0": "a", "1": "b"}')
    found = own_classes(tmp_path)
    assert found is not None
    assert found.colours == (((9, 9, 9), 1),)
    assert str(found) == "2 classes from id2label.json, colours from palette.json"
    (tmp_path / "sub").mkdir()
    assert own_classes(tmp_path / "sub") == found


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labelmap.txt", "a:1,2::", r"a colour in .*labelmap\.txt must be red, green .* got 1,2"),
        ("labelmap.txt", "a:1,2,3::\nb:1,2,3::", r"another colour, got \(1, 2, 3\) for two"),
        ("labelmap.txt", "# nothing\n", r"labelmap\.txt must name 1 to 255 classes.*got 0"),
        ("_classes.csv", "Pixel Value, Class\nx, sky\n", "must hold lines as .* got 'x, sky'"),
        ("_classes.csv", "Pixel Value, Class\n1, a\n1, b\n", "got '1, b'"),
        ("class_dict.csv", "name,r,g,b\nroad,1,2\n", "a colour in .* got 1,2"),
        ("class_dict.csv", f"name,r,g,b\nroad,1,2,{'9' * 5000}\n", "a colour in .* got 1,2,9{76}$"),
        ("_classes.csv", f"Pixel Value, Class\n{'9' * 5000}, a\n", "lines as .* got '9{80}'$"),
        ("class_dict.csv", f"name,r,g,b\n{'a' * 200_000},1,2,3\n", r"dict\.csv can't be read"),
    ],
)
def test_damaged_lists_are_refused_by_name(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        own_classes(tmp_path)


def test_a_list_that_is_no_text_is_named(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"classes\.txt can't be read as UTF-8"):
        own_classes(tmp_path)


def test_without_any_list_the_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no id2label\.json in.*labelmap\.txt, _classes\.csv"):
        some_classes(tmp_path)
    assert some_classes(tmp_path, teacher={0: "a"}).id2label == {0: "a"}
