#!/usr/bin/env bash
# Forward passes of b0 and b2, bfloat16, 32 pictures of 512×512, from parts and by fused kernels.
source "$(dirname "${BASH_SOURCE[0]}")/measure.sh"
measure 195 benchmarks.compare --works forward --variants b0 b2 --batches 32 --limit 170 \
  --contenders "ours, bfloat16" "ours, fused, bfloat16"
