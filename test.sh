#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests.
set -euo pipefail

usage() {
  cat <<'END'
usage: ./test.sh [--all] [--sanitize] [ARGUMENT OF CTEST ...]
  (none)       every test but those labelled "long"
  --all        these too
  --sanitize   only the tests that need no LibTorch, with AddressSanitizer and UndefinedBehaviorSanitizer
Other arguments go to ctest, for example: ./test.sh -R Tokenizer
Builds and tests use every core, or CMAKE_BUILD_PARALLEL_LEVEL and CTEST_PARALLEL_LEVEL of them.
END
}

preset=release
target=all
skip=long  # one expression for ctest; "nothing" is no label
selection=()
while (($#)); do
  case "$1" in
    --all) skip="${skip/long/nothing}" ;;
    --sanitize)
      preset=asan-ubsan
      target=plain_tests
      skip+="|torch"
      selection=(--exclude-regex '_NOT_BUILT$')
      ;;
    -h | --help)
      usage
      exit
      ;;
    *) break ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")"
source tools/setup.sh
export STABLEQAT_TEST_MODEL="${STABLEQAT_TEST_MODEL:-$STABLEQAT_MODEL}"
export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}"
export CTEST_PARALLEL_LEVEL="${CTEST_PARALLEL_LEVEL:-$(nproc)}"

cmake --preset "$preset" --log-level=WARNING
cmake --build --preset "$preset" --target "$target"
printf 'test.sh: build/%s is built, after %d s\n' "$preset" "$SECONDS"

ctest --preset "$preset" --label-exclude "$skip" "${selection[@]}" "$@"
