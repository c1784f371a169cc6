# Sourced by the scripts beside it: settings, and the function that runs a command with a time limit.
#
# $1 of a script is the JSON file to which rows are added (benchmarks/gpu.json); further arguments are
# added to its commands. DRY=1 prints the commands. PYTHON, CACHE and JAX_PLATFORMS may be set.

RESULTS="$(realpath -m "${1:-$(dirname "${BASH_SOURCE[0]}")/../gpu.json}")"
MORE=("${@:2}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

# compiled programs are kept here, so that a second run compiles nothing
CACHE="${CACHE:-$PWD/out/gpu_cache}"
export JAX_COMPILATION_CACHE_DIR="$CACHE/jax"
export TORCHINDUCTOR_CACHE_DIR="$CACHE/inductor"
export TRITON_CACHE_DIR="$CACHE/triton"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda,cpu}" # an error, not the CPU, where JAX finds no GPU
export XLA_PYTHON_CLIENT_PREALLOCATE=false        # several processes share the GPU
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1

# measure SECONDS MODULE OPTION…: runs `python -m MODULE OPTION… --append FILE`
measure() {
  local seconds=$1 module=$2
  shift 2
  local command=("${PYTHON:-python}" -m "$module" "$@" --append "$RESULTS" "${MORE[@]}")
  if [ -n "${DRY:-}" ]; then
    printf '%q ' timeout "$seconds" "${command[@]}"
    echo
    return
  fi
  timeout --kill-after=5 "$seconds" "${command[@]}"
  local code=$?
  [ "$code" = 0 ] || echo "$module ended with $code (124: after $seconds s)" >&2
}
