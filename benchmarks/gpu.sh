#!/usr/bin/env bash
# Runs what needs a GPU, on a machine that has a driver and LibTorch but neither a network nor our build.
set -euo pipefail

usage() {
  cat <<'END'
usage: benchmarks/gpu.sh pack FILE.tar.gz   builds the cuda preset and packs what `run` needs
       benchmarks/gpu.sh run FILE.tar.gz    on the machine with the GPU: runs the tests; exit code 0 when all pass and none is skipped
       benchmarks/gpu.sh bench FILE.tar.gz [--flag ...]   there: `stableqat bench step` with these flags; without any,
                                            steps of Llama-3.2-1B's shape, 2048 tokens, 4 bits, without and with CUDA graphs
LibTorch is STABLEQAT_LIBTORCH (its lib folder is used), else that of python3's torch; it has to be the whole one, with CUDA.
END
}

# Shared libraries of a program that are neither LibTorch's, nor of the C and C++ run time.
other_libraries() {
  ldd "$1" | awk '$3 ~ /^\// { print $3 }' |
    grep -vE '/lib(torch|torch_cpu|c10|gomp|cudart|cupti|c|m|dl|rt|pthread|util|gcc_s|stdc\+\+)\.so|/lib(torch|cudart|cupti|gomp)[^/]*$'
}

pack() {
  local file="$1" folder
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  source tools/setup.sh
  cmake --preset cuda --log-level=WARNING
  cmake --build --preset cuda --target stableqat stableqat_cuda stableqat_cuda_graph kernels_cuda_test cuda_training_test
  folder="$(mktemp -d)"
  cp build/cuda/lib/libstableqat_cuda{,_graph}.so build/cuda/apps/stableqat/stableqat build/cuda/tests/{kernels_cuda_test,cuda_training_test} "$folder"
  other_libraries build/cuda/apps/stableqat/stableqat | xargs -I{} cp -L {} "$folder"
  strip "$folder"/*
  tar -C "$folder" -czf "$file" .
  rm -r "$folder"
  du -h "$file"
}

libtorch() {
  if [[ -n "${STABLEQAT_LIBTORCH:-}" ]]; then
    printf '%s/lib' "$STABLEQAT_LIBTORCH"
  else
    python3 -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent / "lib")'
  fi
}

unpack() {
  folder="$(mktemp -d)"
  trap 'rm -r "$folder"' EXIT
  tar -C "$folder" -xzf "$1"
  export LD_LIBRARY_PATH="$folder:$(libtorch):${LD_LIBRARY_PATH:-}"
}

run() {
  local test code=0
  unpack "$1"
  for test in kernels_cuda_test cuda_training_test; do
    "$folder/$test" | tee "$folder/log" || code=1
    ! grep -q SKIPPED "$folder/log" || code=1
  done
  return "$code"
}

bench() {
  local graph
  unpack "$1"
  if (($# > 1)); then
    "$folder/stableqat" bench step --train.device cuda "${@:2}"
    return
  fi
  for graph in false true; do
    echo "train.cuda_graph $graph"
    "$folder/stableqat" bench step --train.device cuda --train.cuda_graph "$graph" --shape llama-3.2-1b --batch 1 --seq 2048 --bits 4 \
      --methods none,stableqat,dsq --quantization.scale_init absmax
  done
}

case "${1:-}" in
  pack | run | bench)
    (($# == 2)) || { [[ "$1" == bench ]] && (($# > 2)); } || { usage >&2 && exit 2; }
    "$1" "$(realpath -m "$2")" "${@:3}"
    ;;
  -h | --help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
