#!/usr/bin/env bash
# Forward pass of b5, bfloat16, one picture of 1024×1024.
source "$(dirname "${BASH_SOURCE[0]}")/measure.sh"
measure 195 benchmarks.compare --works forward --variants b5 --sides 1024 --limit 170 \
  --contenders "ours, bfloat16" "transformers, bfloat16" "transformers, torch.compile, bfloat16"
