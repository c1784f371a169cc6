#!/usr/bin/env bash
# Forward pass of b0, bfloat16, 32 pictures of 512×512, and torch.compile's slowest, best tuned mode.
source "$(dirname "${BASH_SOURCE[0]}")/measure.sh"
measure 195 benchmarks.compare --works forward --variants b0 --batches 32 --limit 170 \
  --contenders "ours, bfloat16" "transformers, torch.compile max-autotune, bfloat16"
