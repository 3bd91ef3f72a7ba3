#!/bin/sh
# arm64.sh BUILD_DIR "PACKAGES": builds nib for 64-bit ARM and runs its arithmetic there, under qemu.
#
# The target's libraries are the system's own packages for arm64, downloaded with an apt state of our own and unpacked
# into BUILD_DIR/sysroot: nothing of this machine's packages changes, and no root is needed.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "$1"
dir=$(cd "$1" && pwd)
packages="$2 libcmocka-dev libc6"

if [ "$(cat "$dir/sysroot.packages" 2>/dev/null)" != "$packages" ]; then
    command -v apt-get >/dev/null || { echo "phase skipped: no apt-get to fetch libraries for arm64"; exit 0; }
    rm -rf "$dir/apt" "$dir/sysroot"
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/sysroot"
    : >"$dir/apt/status"
    set -- -q -y -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= \
        -o Debug::NoLocking=1 -o Dir::State="$dir/apt" -o Dir::State::lists="$dir/apt/lists" \
        -o Dir::State::status="$dir/apt/status" -o Dir::Cache="$dir/apt/cache"
    apt-get "$@" update
    apt-get "$@" install --download-only --no-install-recommends $packages
    for deb in "$dir"/apt/cache/archives/*.deb; do dpkg-deb -x "$deb" "$dir/sysroot"; done
    rm -rf "$dir/apt"
    echo "$packages" >"$dir/sysroot.packages"
fi

export PKG_CONFIG_LIBDIR="$dir/sysroot/usr/lib/aarch64-linux-gnu/pkgconfig:$dir/sysroot/usr/share/pkgconfig"
export PKG_CONFIG_SYSROOT_DIR="$dir/sysroot"
cmake -S . -B "$dir" -G Ninja -DCMAKE_BUILD_TYPE=Release -DNIB_WERROR=ON \
    -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64.cmake" -DCMAKE_SYSROOT="$dir/sysroot"
ninja -C "$dir" -j "$(nproc)" tests_arithmetic
# What computes; the command and whatever is slow under emulation was tested natively.
NIB_TEST_QUICK=1 ctest --test-dir "$dir" -L arithmetic -j "$(nproc)" --output-on-failure --no-tests=error
tools/spills.sh "$dir"
