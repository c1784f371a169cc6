import json

import pytest

from segformer_jax.cli.class_names import read_class_names


@pytest.mark.parametrize(
    "text",
    ['{"0": "sky", "1": "a road"}', '\ufeff["sky", "a road"]', "sky\na road\n\n",
     json.dumps({"model_type": "segformer", "id2label": {"0": "sky", "1": "a road"}})],
)  # fmt: skip
def test_names_are_read_from_json_or_lines(tmp_path, text):
    (tmp_path / "names").write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / "names") == {0: "sky", 1: "a road"}


def test_no_file_gives_no_names_and_a_wrong_one_is_named(tmp_path):
    assert read_class_names(None) is None
    for content in ("{", '{"sky": 0}', '{"id2label": 3}'):
        (tmp_path / "names.json").write_text(content)
        with pytest.raises(ValueError, match=r"--id2label must name a file .*names\.json"):
            read_class_names(tmp_path / "names.json")
    with pytest.raises(ValueError, match="which can't be read"):
        read_class_names(tmp_path)
