#!/usr/bin/env bash
# The main job on real data: SmolLM2-135M becomes a 3-bit model. Installs what is missing, builds the program, and measures perplexity on
# held-out text in full precision, after plain rounding and after quantization-aware training.
set -euo pipefail

usage() {
  cat <<'END'
usage: ./quickstart.sh [--resume] [ARGUMENT OF stableqat train ...]
  (none)     starts anew; an earlier quickstart/ folder is removed
  --resume   continues the last run's training from its newest checkpoint
Other arguments go to the training, for example: ./quickstart.sh --train.max_steps 5
Leaves quickstart/last_checkpoint (a Hugging Face directory) and quickstart/report.json (settings, seconds per stage, perplexities).
END
}

resume=never
case "${1:-}" in
  -h | --help)
    usage
    exit
    ;;
  --resume)
    resume=auto
    shift
    ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")"
recipe=recipes/quickstart.yaml
valid=data/text/valid.jsonl.xz
bits=3
scale_init=mse
context=512
eval_tokens=16384  # the first 32 blocks of the held-out text: under a minute per evaluation on two cores
prompt="The history of the printing press begins"
output=quickstart

# Shows a command as the user would type it, then runs it.
run() {
  local word
  printf '\n$'
  for word; do
    [[ "$word" =~ ^[A-Za-z0-9_./=-]+$ ]] || word="${word@Q}"
    printf ' %s' "$word"
  done
  printf '\n'
  "$@"
}

# end_stage NAME: notes the seconds since the stage before it ended.
stages=()
stage_start=0
end_stage() {
  stages+=("$1=$((SECONDS - stage_start))")
  stage_start=$SECONDS
}

source tools/setup.sh
end_stage setup

export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}"
cmake --preset release --log-level=WARNING
cmake --build --preset release --target stableqat
PATH="$PWD/build/release/apps/stableqat:$PATH"
end_stage build

[[ "$resume" == auto ]] || rm -rf "$output"
mkdir -p "$output"

run stableqat eval --model "$STABLEQAT_MODEL" --ppl "$valid" --context "$context" --max-tokens "$eval_tokens" --json "$output/full_precision.json"
end_stage full_precision
run stableqat eval --model "$STABLEQAT_MODEL" --bits "$bits" --scale-init "$scale_init" \
  --ppl "$valid" --context "$context" --max-tokens "$eval_tokens" --json "$output/rounded.json"
end_stage rounded

run stableqat train --config "$recipe" --model.path "$STABLEQAT_MODEL" \
  --quantization.bits "$bits" --quantization.scale_init "$scale_init" \
  --train.output_dir "$output" --train.resume "$resume" "$@" || {
  code=$?
  ((code != 130)) || printf 'quickstart.sh: stopped; ./quickstart.sh --resume goes on from the checkpoint\n' >&2
  exit "$code"
}
end_stage train

run stableqat eval --model "$output/last_checkpoint" --ppl "$valid" --context "$context" --max-tokens "$eval_tokens" --json "$output/trained.json"
end_stage trained
run stableqat generate --model "$output/last_checkpoint" --prompt "$prompt" --max-tokens 40
end_stage generate

python3 - "$output" "recipe=$recipe" "bits=$bits" "scale_init=$scale_init" "context=$context" "eval_tokens=$eval_tokens" "valid=$valid" \
  "model=${STABLEQAT_MODEL##*/}" "threads=$(nproc)" "train_arguments=$*" -- "${stages[@]}" <<'END'
import json
import pathlib
import sys

output = pathlib.Path(sys.argv[1])
split = sys.argv.index("--")
settings = dict(pair.split("=", 1) for pair in sys.argv[2:split])
settings |= {key: int(settings[key]) for key in ("bits", "context", "eval_tokens", "threads")}
seconds = {name: int(value) for name, value in (pair.split("=") for pair in sys.argv[split + 1:])}
names = ("full_precision", "rounded", "trained")
perplexity = {name: json.loads((output / f"{name}.json").read_text())["perplexity"] for name in names}

report = {"settings": settings, "seconds": seconds, "perplexity": perplexity}
(output / "report.json").write_text(json.dumps(report, indent=2) + "\n")

bits = settings["bits"]
print(f"\n{'':26}{'perplexity':>12}{'x full precision':>18}{'seconds':>9}")
for name, title in zip(names, ("full precision", f"rounded to {bits} bits", f"trained with {bits} bits")):
    print(f"{title:26}{perplexity[name]:12,.2f}{perplexity[name] / perplexity['full_precision']:18,.2f}{seconds[name]:9d}")
print("\nother stages: " + ", ".join(f"{name} {value} s" for name, value in seconds.items() if name not in names))
print(f"model: {output}/last_checkpoint   report: {output}/report.json")
END
