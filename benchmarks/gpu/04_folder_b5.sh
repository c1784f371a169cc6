#!/usr/bin/env bash
# A folder of 2,016 photos (63 batches of 32) through b5, bfloat16. Goal: 0.9 of the bare forward.
source "$(dirname "${BASH_SOURCE[0]}")/measure.sh"
measure 195 benchmarks.folder --photos 2016 --model b5 --labels 150 --dtype bfloat16 \
  --batch-size 32 --limit 140
