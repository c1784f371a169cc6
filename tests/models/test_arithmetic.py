import pytest
import reference
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from segformer_jax import SegformerConfig
from segformer_jax.models.arithmetic import multiply_adds


@pytest.mark.parametrize("size", [(64, 64), (97, 131)])
def test_the_usual_count_is_what_torch_counts(size):
    hf = reference.hf_model("ForSemanticSegmentation")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hf(reference.nchw(reference.pixels(*size, batch=1)).float())

    config = SegformerConfig.from_dict(hf.config.to_dict())

    assert multiply_adds(config, *size, folded=False) == counter.get_total_flops() // 2


def test_the_encoder_alone_is_what_torch_counts():
    hf = transformers.SegformerModel(transformers.SegformerConfig(**reference.TINY)).eval()
    hf.set_attn_implementation("exact")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hf(torch.zeros(1, 3, 64, 96))

    config = SegformerConfig.from_dict(hf.config.to_dict())

    assert multiply_adds(config, 64, 96, head=False) == counter.get_total_flops() // 2


def test_folding_halves_b0_and_spares_three_fifths_of_b2():
    for variant, usual, ours in (("b0", 8.4e9, 4.1e9), ("b2", 62.3e9, 23.7e9)):
        config = getattr(SegformerConfig, variant)(num_labels=150)
        assert multiply_adds(config, 512, 512, folded=False) == pytest.approx(usual, rel=0.02)
        assert multiply_adds(config, 512, 512) == pytest.approx(ours, rel=0.02)


def test_a_picture_too_small_for_the_network_is_refused():
    with pytest.raises(ValueError, match="at least 29 pixels"):
        multiply_adds(SegformerConfig.b0(), 28, 64)
