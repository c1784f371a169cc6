#!/usr/bin/env bash
# Forward pass of b0, bfloat16, 1 and 8 pictures of 512×512.
source "$(dirname "${BASH_SOURCE[0]}")/measure.sh"
measure 195 benchmarks.compare --works forward --variants b0 --batches 1 8 --limit 170 \
  --contenders "ours, bfloat16" "transformers, bfloat16" "transformers, torch.compile, bfloat16"
