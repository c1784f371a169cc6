import pytest
from data.folders import write_json

from segformer_jax.data.classes import coding_of, read_id2label, read_palette, some_classes
from segformer_jax.data.masks import AS_THEY_ARE, IGNORED, WITHOUT_ZERO

NAMES = {0: "road", 1: "sky"}


def test_names_come_in_the_order_of_their_indices_from_the_folder_or_the_one_above(tmp_path):
    (tmp_path / "val").mkdir()
    write_json({"1": "sky", "0": "road"}, tmp_path / "id2label.json")
    assert list(read_id2label(tmp_path / "val").items()) == [(0, "road"), (1, "sky")]
    write_json({"0": "own"}, tmp_path / "val" / "id2label.json")
    assert read_id2label(tmp_path / "val") == {0: "own"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0": "a", "2": "b"}, "has the indices 0, 2: .*without a gap"),
        ({"zero": "a"}, "has the indices zero"),
        ({}, "has the indices none"),
        (["a", "b"], "has no class names"),
        ({"0": 1}, "has no class names"),
        ({str(i): "x" for i in range(256)}, "must name 1 to 255 classes, .* got 256"),
    ],
)
def test_other_class_files_are_refused(tmp_path, content, message):
    write_json(content, tmp_path / "id2label.json")
    with pytest.raises(ValueError, match=message):
        read_id2label(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_class_file_may_have_a_byte_order_mark(encoding, tmp_path):
    (tmp_path / "id2label.json").write_text('{"0": "Straße"}', encoding=encoding)
    assert read_id2label(tmp_path) == {0: "Straße"}


def test_a_missing_or_broken_class_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no id2label\.json in"):
        read_id2label(tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / "id2label.json").write_text(text)
        with pytest.raises(ValueError, match=r"id2label\.json can't be read as JSON"):
            read_id2label(tmp_path)


def test_a_palette_names_classes_by_name_or_index_and_what_is_ignored(tmp_path):
    write_json(
        {"sky": [1, 2, 3], "0": [[4, 5, 6], [7, 8, 9]], "ignore": [0, 0, 0]},
        tmp_path / "palette.json",
    )
    assert dict(read_palette(tmp_path, NAMES)) == {
        (1, 2, 3): 1,
        (4, 5, 6): 0,
        (7, 8, 9): 0,
        (0, 0, 0): IGNORED,
    }
    assert read_palette(tmp_path, {0: "ignore", 1: "sky"})[-1] == ((0, 0, 0), 0)


def test_one_class_alone_is_told_from_everything_else(tmp_path):
    palette = {"lesion": [255, 255, 255], "0": [0, 0, 0], "background": [9, 9, 9]}
    write_json(palette, tmp_path / "palette.json")
    assert dict(read_palette(tmp_path, {0: "lesion"})) == {
        (255, 255, 255): 1,
        (0, 0, 0): 0,
        (9, 9, 9): 0,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sea": [1, 2, 3]}, "the keys of .*, got 'sea'"),
        ({"sky": [1, 2]}, r"a colour in .* must be .*got \[1, 2\] for 'sky'"),
        ({"sky": [1, 2, 256]}, "each in 0…255"),
        ({"sky": "blue"}, "'blue' for 'sky'"),
        ({"sky": None}, "None for 'sky'"),
        (
            {"sky": [1, 2, 3], "road": [1, 2, 3]},
            r"must give each class another colour, got \[1, 2, 3\] for two",
        ),
        ([], "must be .* got something else"),
    ],
)
def test_other_palettes_are_refused(tmp_path, content, message):
    write_json(content, tmp_path / "palette.json")
    with pytest.raises(ValueError, match=message):
        read_palette(tmp_path, NAMES)


def coding(folder, *, reduce_zero_label=False):
    return coding_of(some_classes(folder), reduce_zero_label=reduce_zero_label)


def test_the_coding_follows_from_the_files(tmp_path):
    write_json({"0": "lesion"}, tmp_path / "id2label.json")
    assert coding(tmp_path).num_values == 2
    write_json({"0": "road", "1": "sky"}, tmp_path / "id2label.json")
    assert coding(tmp_path).table == AS_THEY_ARE
    assert coding(tmp_path, reduce_zero_label=True).table == WITHOUT_ZERO
    write_json({"sky": [1, 2, 3]}, tmp_path / "palette.json")
    assert coding(tmp_path).colours == (((1, 2, 3), 1),)
    with pytest.raises(
        ValueError, match="reduce_zero_label must be used with masks of indices only"
    ):
        coding(tmp_path, reduce_zero_label=True)
