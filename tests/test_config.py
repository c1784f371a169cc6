import copy
import json
import pickle

import pytest
import transformers

from segformer_jax import SegformerConfig, SegformerImageProcessor


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(depths=(2, 2, 2)),
            r"depths must hold one .*, 4 \(num_encoder_blocks\), got 3: \(2, 2, 2\)",
        ),
        (dict(num_encoder_blocks=3), r"3 \(num_encoder_blocks\), got 4"),
        (dict(num_attention_heads=(1, 2, 5, 7)), "stage 3: hidden size must be a multiple of the"),
        (dict(num_labels=0), "num_labels must be a positive integer, got 0"),
        (dict(id2label={}), "num_labels must be a positive integer, got 0"),
        (dict(hidden_sizes=(32, 0, 160, 256)), "hidden_sizes must be a positive integer, got 0"),
        (dict(strides=(4, 2, 2, -2)), "strides must be a positive integer, got -2"),
        (dict(decoder_hidden_size=2.5), "decoder_hidden_size must be a positive integer, got 2.5"),
        (dict(mlp_ratios=(0.01, 4, 4, 4)), "stage 0: mlp_ratio times hidden size .* got 0.01 × 32"),
        (dict(depths=7), "depths must hold one number per encoder stage, got 7"),
        (dict(hidden_act="tanh"), "hidden_act must be one of gelu, relu.*, got 'tanh'"),
        (dict(drop_path_rate=1.0), r"drop_path_rate must be a number in \[0, 1\), got 1.0"),
        (dict(drop_path_rate=None), "drop_path_rate must be a number .*got None"),
        (dict(drop_path_rate="0.1"), "drop_path_rate must be a number .*got '0.1'"),
        (
            dict(initializer_range=None),
            "initializer_range must be a number of at least 0, got None",
        ),
        (
            dict(id2label=["a", "b"]),
            r"id2label must name each class by its index.* got \['a', 'b'\]",
        ),
        (dict(id2label={"x": "y"}), "id2label must name each class .* got {'x': 'y'}"),
        (dict(problem_type="odd"), "problem_type must be .* got 'odd'"),
        (dict(num_labels=3, id2label={0: "a"}), "num_labels must be .* 1, got 3"),
        (
            dict(id2label={1: "a", 2: "b", 3: "c"}),
            "classes from 0 to 2 without a gap, got 1, 2, 3: ",
        ),
        (dict(id2label={i * 2: "x" for i in range(30)}), r"got 0, 2, .* 38, and 10 more: "),
    ],
)
def test_sizes_that_make_no_network_are_explained(changes, message):
    with pytest.raises(ValueError, match=message):
        SegformerConfig(**changes)


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match="model_type must be 'segformer', got 'vit'"):
        SegformerConfig.from_dict({"model_type": "vit"})


@pytest.mark.parametrize("variant", ["b0", "b1", "b2", "b3", "b4", "b5"])
def test_json_goes_to_transformers_and_back(variant, tmp_path):
    config = getattr(SegformerConfig, variant)(num_labels=19, drop_path_rate=0.2)
    config.save_pretrained(tmp_path)
    theirs = transformers.SegformerConfig.from_pretrained(tmp_path)
    for name in ("depths", "hidden_sizes", "strides", "sr_ratios", "num_attention_heads"):
        assert tuple(getattr(theirs, name)) == getattr(config, name)
    assert theirs.num_labels == 19
    assert theirs.drop_path_rate == 0.2
    theirs.save_pretrained(tmp_path)
    again = SegformerConfig.from_pretrained(tmp_path)
    assert {k: v for k, v in again.to_dict().items() if k != "transformers_version"} == (
        config.to_dict()
    )


def test_defaults_are_those_of_transformers():
    theirs = transformers.SegformerConfig().to_dict()
    ours = SegformerConfig().to_dict()
    for name, value in ours.items():
        assert json.loads(json.dumps(theirs[name])) == json.loads(json.dumps(value)), name


def test_unknown_keys_are_kept():
    values = {"model_type": "segformer", "downsampling_rates": [1, 4, 8, 16], "image_size": 224}
    config = SegformerConfig.from_dict(values)
    assert config.image_size == config.to_dict()["image_size"] == 224
    assert hash(SegformerConfig.from_dict({"image_size": [512, 256]}))
    assert config.to_dict()["downsampling_rates"] == [1, 4, 8, 16]


def test_labels_come_from_names_numbers_or_nothing():
    assert SegformerConfig.from_dict({}).num_labels == 2
    assert SegformerConfig.from_dict({"num_labels": 4}).id2label[3] == "LABEL_3"
    named = SegformerConfig.from_dict({"id2label": {"1": "b", "0": "a"}, "num_labels": 150})
    assert named.id2label == {0: "a", 1: "b"}
    assert named.num_labels == 2
    assert named.label2id == {"a": 0, "b": 1}
    assert named.with_labels(num_labels=7).num_labels == 7
    assert named.with_labels(num_labels=2).id2label == {0: "a", 1: "b"}


def test_a_config_is_a_value():
    config = SegformerConfig.b3(id2label={0: "a", 1: "b"})
    assert config == copy.deepcopy(config) == pickle.loads(pickle.dumps(config))
    assert hash(config) == hash(SegformerConfig.b3(id2label={0: "a", 1: "b"}))
    assert hash(config) != hash(SegformerConfig.b3(id2label={0: "a", 1: "c"}))
    with pytest.raises(TypeError, match=r"dataclasses\.replace"):
        config.id2label[0] = "c"
    with pytest.raises(
        TypeError, match=r"config or processor is frozen: .*replace\(processor, size"
    ):
        SegformerImageProcessor().size["height"] = 3


def test_strides_of_the_feature_maps_are_known():
    assert SegformerConfig.b0().feature_strides == (4, 8, 16, 32)
    assert SegformerConfig.b0().feature_sizes(97, 131) == ((25, 33), (13, 17), (7, 9), (4, 5))
