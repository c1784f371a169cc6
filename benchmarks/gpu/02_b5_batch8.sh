#!/usr/bin/env bash
# Forward pass of b5, bfloat16, 8 pictures of 512×512. Goal: 0.80 of torch.compile's time.
source "$(dirname "${BASH_SOURCE[0]}")/measure.sh"
measure 195 benchmarks.compare --works forward --variants b5 --batches 8 --limit 170 \
  --contenders "ours, bfloat16" "transformers, bfloat16" "transformers, torch.compile, bfloat16"
