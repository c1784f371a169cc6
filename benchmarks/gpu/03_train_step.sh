#!/usr/bin/env bash
# Training step of b0: 8 pictures of 256×256 in bfloat16 and TensorFloat-32, then torch.compile too.
source "$(dirname "${BASH_SOURCE[0]}")/measure.sh"
measure 120 benchmarks.train_step --dtypes bfloat16 float32
measure 75 benchmarks.train_step --dtypes bfloat16 --ways compile
