#!/bin/sh
# run.sh BUILD_DIR CC SCRATCH: installs the build, then uses it as a stranger would.
set -eu
build=$1 cc=$2 root=$3
rm -rf "$root"
cmake --install "$build" --prefix "$root/usr" >/dev/null
cd "$root"
check() { "$@" || { echo "failed: $*"; exit 1; }; }

check usr/bin/nib --version
for f in usr/include/nib.h usr/share/bash-completion/completions/nib usr/share/zsh/site-functions/_nib \
    usr/share/fish/vendor_completions.d/nib.fish usr/share/man/man1/nib.1; do
    check test -s $f
done
check bash -n usr/share/bash-completion/completions/nib

cat >use.c <<'C'
#include <nib.h>
#include <stdio.h>
int main(void) { return puts(nib_version()) < 0; }
C
pc=$(dirname "$(find . -name nib.pc)")
lib=$(cd "$pc/.." && pwd)
export PKG_CONFIG_PATH="$PWD/$pc"
use() { pkg-config --define-prefix "$@" nib; }
version=$(use --modversion)
check $cc use.c -o shared $(use --cflags --libs) -Wl,-rpath,"$lib"
check test "$(./shared)" = "$version"
check $cc use.c -o static $(use --cflags) "$lib/libnib.a" $(use --static --libs | sed 's/-lnib\>//')
check test "$(./static)" = "$version"

mkdir consumer
cat >consumer/CMakeLists.txt <<'C'
cmake_minimum_required(VERSION 3.22)
project(consumer C)
find_package(nib 0.1 REQUIRED)
add_executable(with_shared ../use.c)
target_link_libraries(with_shared nib::nib)
add_executable(with_static ../use.c)
target_link_libraries(with_static nib::static)
C
check cmake -G Ninja -S consumer -B consumer/build -DCMAKE_PREFIX_PATH="$root/usr" -DCMAKE_C_COMPILER="$cc" >/dev/null
check ninja -C consumer/build >/dev/null
check test "$(consumer/build/with_shared)" = "$version"
check test "$(consumer/build/with_static)" = "$version"
echo "installed nib $version works from pkg-config and CMake, shared and static"

if command -v dpkg-deb >/dev/null; then
    cd "$build"
    rm -f nib_*.deb
    check cpack -G DEB >/dev/null
    deb=$(ls nib_*.deb)
    dpkg-deb -f "$deb" Depends
    check dpkg-deb -c "$deb" >"$root/contents"
    for f in ./usr/bin/nib ./usr/share/man/man1/nib.1; do check grep -q "$f" "$root/contents"; done
    echo "packed $deb"
fi
