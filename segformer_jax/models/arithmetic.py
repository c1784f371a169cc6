"""Counts the multiply-adds of a SegFormer for one picture, as usually computed and folded."""

from segformer_jax.config import SegformerConfig


def multiply_adds(
    config: SegformerConfig, height: int, width: int, *, folded: bool = True, head: bool = True
) -> int:
    """Counts the multiply-adds of convolutions, linear layers and attention for one picture.

    Args:
        config: the network.
        height: height of the network's input, in pixels.
        width: width of the network's input, in pixels.
        folded: count the decode head as this library computes it; False counts it as written in
            the paper, which is what papers and tables quote.
        head: whether to count the decode head.

    Raises:
        ValueError: a side is below `config.minimum_size`.
    """
    if min(height, width) < config.minimum_size:
        raise ValueError(
            f"the size must have sides of at least {config.minimum_size} pixels for "
            f"this network, got {height} × {width}"
        )
    sizes = config.feature_sizes(height, width)
    count = sum(_stage(config, stage, *size) for stage, size in enumerate(sizes))
    if not head:
        return count
    tokens, width_of_head = [h * w for h, w in sizes], config.decoder_hidden_size
    projections = sum(n * c for n, c in zip(tokens, config.hidden_sizes, strict=True))
    count += projections * width_of_head
    if not folded:
        count += tokens[0] * config.num_encoder_blocks * width_of_head**2
    return count + tokens[0] * width_of_head * config.num_labels


def _stage(config: SegformerConfig, stage: int, h: int, w: int) -> int:
    width, ratio = config.hidden_sizes[stage], config.sr_ratios[stage]
    inputs = config.hidden_sizes[stage - 1] if stage else config.num_channels
    hidden = int(width * config.mlp_ratios[stage])
    tokens, keys = h * w, (h // ratio) * (w // ratio)
    embeddings = tokens * config.patch_sizes[stage] ** 2 * inputs * width
    reduction = keys * ratio**2 * width**2 if ratio > 1 else 0
    attention = (2 * tokens + 2 * keys) * width**2 + 2 * tokens * keys * width
    mlp = tokens * hidden * (2 * width + 9)
    return embeddings + config.depths[stage] * (reduction + attention + mlp)
