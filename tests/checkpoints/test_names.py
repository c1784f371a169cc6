"""Every tensor of every dialect has its place: names, layouts, and back bit for bit."""

import numpy as np
import pytest
import reference
from safetensors.numpy import load_file

from segformer_jax import SegformerConfig
from segformer_jax.checkpoints import names

KINDS = ["Model", "ForSemanticSegmentation", "ForImageClassification"]


def saved(kind, folder, **options):
    hf = reference.hf_model(kind)
    hf.save_pretrained(folder, **options)
    return hf, load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_old_and_new_names_are_the_same_parameters_and_go_back(kind, tmp_path):
    hf, old = saved(kind, tmp_path / "old")
    _, new = saved(kind, tmp_path / "new", save_original_format=False)
    assert old.keys() != new.keys() == hf.state_dict().keys()
    ours = names.to_flax(old)
    from_new = names.to_flax(new)
    assert ours.keys() == from_new.keys()
    assert all(np.array_equal(ours[name], from_new[name]) for name in ours)
    for original_names, theirs in ((True, old), (False, new)):
        back = names.to_hf(ours, original_names=original_names)
        assert back.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert back[name].dtype == tensor.dtype
            assert back[name].shape == tensor.shape
            assert back[name].tobytes() == tensor.tobytes()


def test_layouts_are_flax_s(tmp_path):
    _, old = saved("ForSemanticSegmentation", tmp_path)
    ours = names.to_flax(old)
    block = "segformer.stages.0.blocks.1"
    theirs = "segformer.encoder.block.0.1"
    kernel = old[f"{theirs}.attention.self.query.weight"]
    assert np.array_equal(ours[f"{block}.attention.q_proj.kernel"], kernel.T)
    kernel = old[f"{theirs}.mlp.dwconv.dwconv.weight"]
    assert np.array_equal(ours[f"{block}.mlp.dwconv.dwconv.kernel"][2, 1, 0], kernel[:, 0, 2, 1])
    kernel = old["segformer.encoder.patch_embeddings.1.proj.weight"]
    embeddings = ours["segformer.stages.1.patch_embeddings.proj.kernel"]
    assert np.array_equal(embeddings[0, 2], kernel[:, :, 0, 2].T)
    assert np.array_equal(
        ours["decode_head.linear_fuse.kernel"], old["decode_head.linear_fuse.weight"][:, :, 0, 0].T
    )
    assert np.array_equal(
        ours[f"{block}.attention.sequence_reduction.layer_norm.scale"],
        old[f"{theirs}.attention.self.layer_norm.weight"],
    )
    assert np.array_equal(
        ours["decode_head.batch_norm.var"], old["decode_head.batch_norm.running_var"]
    )


def test_every_path_is_one_of_the_model(tmp_path):
    from flax import nnx

    from segformer_jax import SegformerForSemanticSegmentation
    from segformer_jax.checkpoints.flat import flat_state

    hf, old = saved("ForSemanticSegmentation", tmp_path)
    config = SegformerConfig.from_dict(hf.config.to_dict())
    model = nnx.eval_shape(lambda: SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0)))
    wanted = {name: leaf.shape for name, leaf in flat_state(model).items()}
    assert {name: value.shape for name, value in names.to_flax(old).items()} == wanted


def test_unused_tensors_drop_out_and_unknown_ones_pass():
    given = {"decode_head.conv_seg.weight": np.ones(1), "extra.thing": np.ones(2)}
    assert list(names.to_flax(given)) == ["extra.thing"]
