#!/usr/bin/env bash
# Exported files of SmolLM2-135M, read by programs that are not ours. Exit code 77 (skipped) without the model or tools/requirements.txt.
# Usage: export_peers.sh PROGRAM formats|llama|architectures        STABLEQAT_PYTHON names the Python that has the packages (default: python3)
set -euo pipefail

program=$1
what=$2
python=${STABLEQAT_PYTHON:-python3}
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../tools" && pwd)

skip() {
  echo "skipped: $*"
  exit 77
}
[[ $what == architectures || -f "${STABLEQAT_TEST_MODEL:-}" ]] || skip "STABLEQAT_TEST_MODEL names no model"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

export_model() { "$program" export --model "$STABLEQAT_TEST_MODEL" --overwrite -q "$@"; }

# Every weight, bit for bit.
compare_formats() {
  "$python" -c 'import compressed_tensors, gguf, safetensors, torch' 2>/dev/null || skip "no compressed-tensors, gguf, safetensors and torch for $python"
  local bits group
  for bits in 1.58 2 3 4; do
    for group in 0 64; do
      local grid=(--bits "$bits" --group-size "$group")
      export_model "${grid[@]}" --format hf --dtype float32 --output "$folder/reference"
      export_model "${grid[@]}" --format gguf --output "$folder/model.gguf"
      export_model "${grid[@]}" --format gguf --compat --output "$folder/compat.gguf"
      export_model "${grid[@]}" --format compressed-tensors --output "$folder/compressed"
      export_model "${grid[@]}" --format gptq --output "$folder/gptq1"
      export_model "${grid[@]}" --format gptq --gptq-version 2 --output "$folder/gptq2"
      "$python" "$tools/check_export.py" --reference "$folder/reference" --gguf "$folder/model.gguf" --gguf "$folder/compat.gguf" \
        --compressed-tensors "$folder/compressed" --gptq "$folder/gptq1" --gptq "$folder/gptq2"
    done
  done
}

# Rounded to 4 bits in groups the model still writes English, so that continuations mean something; beside it the same weights in F32, for which
# llama.cpp rounds nothing. A block type of each kind is loaded and encodes.
compare_llama() {
  "$python" -c 'import xllamacpp' 2>/dev/null || skip "no xllamacpp for $python"
  export_model --bits 4 --group-size 64 --format gguf --embedding q8_0 --output "$folder/4.gguf" --json "$folder/4.json"
  "$program" export --model "$folder/4.gguf" --format gguf --output "$folder/exact.gguf" -q
  "$python" -c 'import json, lzma, sys; print("\n\n".join(json.loads(line)["text"] for line in lzma.open(sys.argv[1], "rt"))[:20000])' \
    "$tools/../data/text/valid.jsonl.xz" >"$folder/text.txt"
  "$python" "$tools/compare_llama.py" --gguf "$folder/4.gguf" --report "$folder/4.json" --program "$program" --exact "$folder/exact.gguf" \
    --text "$folder/text.txt"
  local arguments
  for arguments in "--bits 3" "--bits 2" "--bits 2 --compat" "--bits 1.58" "--bits 1.58 --type tq1_0"; do
    # shellcheck disable=SC2086
    export_model $arguments --format gguf --embedding q8_0 --output "$folder/low.gguf" --json "$folder/low.json"
    "$python" "$tools/compare_llama.py" --gguf "$folder/low.gguf" --report "$folder/low.json" --program "$program" --token-ids-only
  done
}

# A tiny model of each architecture.
compare_architectures() { "$python" "$tools/compare_architectures.py" --program "$program"; }

case "$what" in
  formats) compare_formats ;;
  llama) compare_llama ;;
  architectures) compare_architectures ;;
  *) echo "export_peers.sh: unknown comparison $what" >&2 && exit 2 ;;
esac
