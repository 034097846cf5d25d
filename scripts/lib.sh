# shellcheck shell=bash
# Shared by scripts/run, scripts/test and .ci/run; sourced, never run. Everything here speaks on
# stderr: stdout belongs to the caller.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# --- packages -----------------------------------------------------------------------------------

missing=()

# want PACKAGE COMMAND...: PACKAGE is missing unless COMMAND succeeds. What is looked for is the
# thing itself, so that a cmake from pip or a library in /usr/local is as good as the package.
want() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}

on_path() { command -v "$1"; }
header() { [ -e "/usr/include/$1" ] || [ -e "/usr/local/include/$1" ]; }

# GCC 12 or clang 14 and newer.
compiler_is_new_enough() {
  local major
  major=$("$1" -dumpversion 2>/dev/null) || return 1
  major=${major%%.*}
  case $("$1" --version) in
    *clang*) [ "$major" -ge 14 ] ;;
    *) [ "$major" -ge 12 ] ;;
  esac
}

# Prints the C++ compiler to use; fails if there is none.
find_compiler() {
  local c
  if [ -n "${CXX:-}" ]; then
    echo "$CXX"
    return
  fi
  for c in c++ g++ g++-{15..12} clang++ clang++-{21..14}; do
    if command -v "$c" >/dev/null && compiler_is_new_enough "$c"; then
      echo "$c"
      return
    fi
  done
  return 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "packages are missing and there is no sudo; as root: apt-get install ${missing[*]}"
  fi
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >>"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; die "apt-get $1 failed (all of it: $log)"; }
}

# Debian 12 and Ubuntu 24.04 have a new enough g++; Ubuntu 22.04 has g++ 11 and, beside it, g++-12.
compiler_package() {
  local version
  version=$(apt-cache policy g++ | sed -n 's/^ *Candidate: *\([0-9]*:\)\{0,1\}\([0-9]*\).*/\2/p')
  if [ "${version:-0}" -ge 12 ]; then echo g++; else echo g++-12; fi
}

# Installs what `want` found missing, and a compiler if there is none.
install_missing() {
  local need_compiler=no
  find_compiler >/dev/null || need_compiler=yes
  [ "${#missing[@]}" -gt 0 ] || [ "$need_compiler" = yes ] || return 0
  [ "$need_compiler" = no ] || missing+=("g++ >= 12")
  command -v apt-get >/dev/null ||
    die "these are missing, and this system has no apt-get to install them: ${missing[*]}"
  mkdir -p "$root/build"
  log=$root/build/apt.log
  : >"$log"
  say "installing: ${missing[*]}"
  apt_get update
  [ "$need_compiler" = no ] || missing[-1]=$(compiler_package)
  apt_get install -y --no-install-recommends "${missing[@]}"
  missing=()
}

want_build_tools() {
  want cmake on_path cmake
  want ninja-build on_path ninja
  want nlohmann-json3-dev header nlohmann/json.hpp
  want libcli11-dev header CLI/CLI.hpp
  want libpcre2-dev header pcre2.h
  want libutf8proc-dev header utf8proc.h
  want libsentencepiece-dev header sentencepiece_processor.h
  want libedit-dev header histedit.h
}

want_test_tools() {
  want libgtest-dev header gtest/gtest.h
  want python3 on_path python3
}

# --- building -----------------------------------------------------------------------------------

# configured PRESET [LINE]: build/PRESET can be built; its CMake cache has LINE. The build of a
# checkout that was moved or copied does not count: CMake would refuse it.
configured() {
  local dir=$root/build/$1
  [ -f "$dir/build.ninja" ] &&
    grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$dir/CMakeCache.txt" &&
    { [ $# -lt 2 ] || grep -qxF -- "$2" "$dir/CMakeCache.txt"; }
}

# configure PRESET DEFINITION...
configure() {
  local preset=$1
  shift
  if ! configured "$preset"; then
    rm -rf "${root:?}/build/$preset"
    set -- "-DCMAKE_CXX_COMPILER=$(find_compiler)" "$@"
  fi
  (cd "$root" && cmake --preset "$preset" "$@") >&2
}

# build PRESET TARGET...: silent where there is nothing to do.
build() {
  local dir=$root/build/$1
  shift
  case $(ninja -C "$dir" -n "$@" 2>&1) in *"no work to do"*) return 0 ;; esac
  ninja -C "$dir" -j "$(nproc)" "$@" >&2
}
