# Sourced: makes $peer (the harness, llamacpp.c) and $PEER_LIBS (llama.cpp's libraries), from npm's node-llama-cpp,
# once, under ~/.cache/nib-peers. Needs npm, git and a C compiler; nib itself needs none of this.
# PEER_ISA=haswell (or skylakex, icelake ...) keeps llama.cpp to that build of its CPU library.
peers=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nib-peers
version=3.22.1 # llama.cpp v0.5.0
mkdir -p "$cache"
if [ ! -d "$cache/libs" ]; then
    echo "fetching node-llama-cpp $version ..." >&2
    (cd "$cache" && npm install --ignore-scripts --no-save --prefix . "node-llama-cpp@$version" >npm.log 2>&1) ||
        { echo "npm could not install node-llama-cpp: see $cache/npm.log" >&2; exit 1; }
    git -c advice.detachedHead=false clone -q "$cache/node_modules/node-llama-cpp/llama/gitRelease.bundle" "$cache/headers"
    mkdir "$cache/libs.part"
    cp "$cache"/node_modules/@node-llama-cpp/linux-x64/bins/*/*.so "$cache/libs.part"
    mv "$cache/libs.part" "$cache/libs"
fi
peer=$cache/llamacpp
if [ ! -x "$peer" ] || [ "$peers/llamacpp.c" -nt "$peer" ]; then
    ${CC:-cc} -O2 -I"$cache/headers/include" -I"$cache/headers/ggml/include" "$peers/llamacpp.c" -o "$peer" \
        -L"$cache/libs" -l:libllama.v0.5.0.so -l:libggml.v0.5.0.so -l:libggml-base.so -Wl,--allow-shlib-undefined
fi
PEER_LIBS=$cache/libs
if [ -n "${PEER_ISA:-}" ]; then
    PEER_LIBS=$cache/libs-$PEER_ISA
    if [ ! -d "$PEER_LIBS" ]; then
        cp -r "$cache/libs" "$PEER_LIBS"
        find "$PEER_LIBS" -name 'libggml-cpu-*.so' ! -name "libggml-cpu-$PEER_ISA.so" -delete
    fi
fi
export PEER_LIBS LD_LIBRARY_PATH="$PEER_LIBS"
# The libraries are the peer's: nib must not see the path.
nib=${NIB:-$peers/../../build/nib}
command -v "$nib" >/dev/null || { echo "$nib is not there: build it (cmake --preset release && cmake --build build), or name one with NIB" >&2; exit 1; }
nib() { env -u LD_LIBRARY_PATH "$nib" "$@"; }
