#!/usr/bin/env bash
# Training step of b0: 8 pictures of 256×256 in TensorFloat-32 and bfloat16, then torch.compile too.
source "$(dirname "${BASH_SOURCE[0]}")/measure.sh"
measure 110 benchmarks.train_step --dtypes float32 bfloat16
measure 85 benchmarks.train_step --dtypes bfloat16 --ways compile
