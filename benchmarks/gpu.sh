#!/usr/bin/env bash
# Runs what needs a GPU, on a machine that has a driver and LibTorch but neither a network nor our build.
set -euo pipefail

usage() {
  cat <<'END'
usage: benchmarks/gpu.sh pack FOLDER    builds the cuda preset and puts what `run` needs into FOLDER
       benchmarks/gpu.sh run FOLDER     on the machine with the GPU: runs the tests; exit code 0 when all pass and none is skipped
LibTorch is STABLEQAT_LIBTORCH (its lib folder is used), else that of python3's torch.
END
}

pack() {
  local folder="$1"
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  source tools/setup.sh
  cmake --preset cuda --log-level=WARNING
  cmake --build --preset cuda --target stableqat_cuda kernels_cuda_test
  mkdir -p "$folder"
  cp build/cuda/lib/libstableqat_cuda.so build/cuda/tests/kernels_cuda_test benchmarks/gpu.sh "$folder"
  strip "$folder/kernels_cuda_test"
  du -sh "$folder"
}

libtorch() {
  if [[ -n "${STABLEQAT_LIBTORCH:-}" ]]; then
    printf '%s/lib' "$STABLEQAT_LIBTORCH"
  else
    python3 -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent / "lib")'
  fi
}

run() {
  local folder="$1" log
  log="$(mktemp)"
  trap 'rm -f "$log"' RETURN
  LD_LIBRARY_PATH="$folder:$(libtorch):${LD_LIBRARY_PATH:-}" "$folder/kernels_cuda_test" | tee "$log"
  ! grep -q SKIPPED "$log"
}

case "${1:-}" in
  pack | run)
    (($# == 2)) || { usage >&2 && exit 2; }
    "$1" "$(realpath -m "$2")"
    ;;
  -h | --help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
