#!/usr/bin/env bash
# Builds every fuzzer with clang and runs each for a while on its seeds; fails when one finds something.
# Usage: tests/fuzz/run.sh [--seconds N] [NAME ...]      N defaults to 60; NAME (gguf, safetensors, ...) to all of them.
# Inputs that reach new code are added to build/fuzz/corpus/NAME, failing ones are written to build/fuzz/findings/NAME-*.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${STABLEQAT_FUZZ_BUILD:-$root/build/fuzz}
seconds=60
names=()
while (($# > 0)); do
  case $1 in
    --seconds) seconds=${2:?--seconds needs a number}; shift 2 ;;
    -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    -*) echo "run.sh: unknown option $1" >&2; exit 2 ;;
    *) names+=("$1"); shift ;;
  esac
done
if ((${#names[@]} == 0)); then
  for source in "$root"/tests/fuzz/*_fuzzer.cc; do
    names+=("$(basename "$source" _fuzzer.cc)")
  done
fi

compiler=${CLANGXX:-clang++}
command -v "$compiler" >/dev/null || {
  echo "run.sh: $compiler not found; the fuzzers need clang (apt-get install clang) or CLANGXX=/path/to/clang++" >&2
  exit 2
}
cmake -S "$root/tests/fuzz" -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" >/dev/null
cmake --build "$build" --target "${names[@]/%/_fuzzer}"

mkdir -p "$build/findings"
failed=()
for name in "${names[@]}"; do
  mkdir -p "$build/corpus/$name"
  log=$build/$name.log
  echo "$name: $seconds s"
  if "$build/${name}_fuzzer" -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=512 \
    -artifact_prefix="$build/findings/$name-" "$build/corpus/$name" "$root/tests/fuzz/corpus/$name" 2>"$log"; then
    grep -E '^(Done|stat::number_of)' "$log" || true
  else
    tail -n 40 "$log" >&2
    failed+=("$name")
  fi
done
if ((${#failed[@]} > 0)); then
  echo "findings in: ${failed[*]} (inputs in $build/findings)" >&2
  exit 1
fi
