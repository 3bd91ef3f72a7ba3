#!/bin/sh
# spills.sh BUILD_DIR: fails when a hot kernel keeps vectors on the stack inside a loop.
#
# A matmul or attention kernel that runs out of registers still computes the right thing, only slowly, and nothing else
# would tell. So its machine code is read: inside an innermost loop (a backward jump to its target, with no other such
# loop inside) a store of a zmm or ymm register (on arm64: q) to a fixed place at the stack pointer is a spill. (Loads alone are constants
# that found no register: as good as any operand in memory; they are counted, not refused.) Two a function pass; a
# kernel file may allow one N with "spills: FUNCTION N" in a comment that says why. Which functions are hot: HOT, below.
set -u
cd "$(dirname "$0")/.."
HOT=${NIB_SPILLS_HOT:-'(matmul|mm_|attn|dot|turn_|tile_|expand|^f32_|score|mix|quantise)'}

objects=$(find "$1" -path '*src/kernels/x86_*.o' -o -path '*src/kernels/arm_*.o' | sort)
[ -n "$objects" ] || { echo "spills: no kernels of an instruction set built here"; exit 0; }
bad=0
for o in $objects; do
    src=src/kernels/$(basename "$o" .o)
    allowed=$(sed -n 's/.*spills: \([A-Za-z0-9_]*\) \([0-9]*\).*/\1=\2/p' "$src" 2>/dev/null | tr '\n' ' ')
    case $src in
    */arm_*) disassemble='aarch64-linux-gnu-objdump' && command -v $disassemble >/dev/null || disassemble=objdump ;;
    *) disassemble='objdump -M intel' ;;
    esac
    $disassemble -d --no-show-raw-insn "$o" | awk -v hot="$HOT" -v file="$src" -v allowed="$allowed" '
    function hex(s,    i, v) {
        v = 0
        for (i = 1; i <= length(s); i++) v = v * 16 + index("0123456789abcdef", substr(s, i, 1)) - 1
        return v
    }
    function close_function(    i, k, n, inside) {
        if (fn == "" || fn !~ hot) return
        n_functions++
        n = 0
        for (k = 1; k <= n_jump; k++) {
            inside = 0
            for (i = 1; i <= n_jump; i++)
                if (i != k && to[k] <= to[i] && from[i] <= from[k] && !(to[i] == to[k] && from[i] == from[k])) inside = 1
            if (inside) continue
            n_loops++
            for (i = 1; i <= n_spill; i++)
                if (to[k] <= spill_at[i] && spill_at[i] <= from[k]) {
                    if (is_store[i]) n++
                    else n_loads++
                }
        }
        if (!(fn in limit)) limit[fn] = 2
        if (n > limit[fn]) {
            printf "%s: %s: expected at most %d vectors stored to the stack in innermost loops, found %d\n", file, fn, limit[fn], n
            failed = 1
        }
        total += n
    }
    BEGIN {
        m = split(allowed, rows, " ")
        for (i = 1; i <= m; i++) { split(rows[i], p, "="); limit[p[1]] = p[2] }
    }
    /^[0-9a-f]+ <.*>:$/ {
        close_function()
        fn = $2
        gsub(/[<>:]/, "", fn)
        sub(/\.(constprop|isra|part|cold).*/, "", fn)
        n_spill = n_jump = 0
        next
    }
    /^ *[0-9a-f]+:/ {
        at = $1
        sub(/:/, "", at)
        at = hex(at)
        # jne ADDRESS <...>; b.ne, cbz REG, tbz REG, BIT, ... ADDRESS <...> (not b: code moved out of the way comes back with it)
        if ($2 ~ /^(j|b\.|cbn?z$|tbn?z$)/ && match($0, /[ \t][0-9a-f]+ </)) {
            target = hex(substr($0, RSTART + 1, RLENGTH - 3))
            if (target <= at) { n_jump++; to[n_jump] = target; from[n_jump] = at }
        }
        if ($2 ~ /^(st|ld)(p|u?r)$/ && $3 ~ /^q/ && /\[(sp|x29)[],]/) {
            n_spill++
            spill_at[n_spill] = at
            is_store[n_spill] = $2 ~ /^st/
        }
        if (/[yz]mm[0-9]/ && /\[r[sb]p([-+]0x[0-9a-f]+)?\]/) {
            n_spill++
            spill_at[n_spill] = at
            is_store[n_spill] = $0 ~ /(PTR )?\[r[sb]p[^\]]*\],/
        }
    }
    END {
        close_function()
        printf "spills: %s: %d hot functions, %d innermost loops, in which the stack has %d vectors stored, %d loaded\n", \
            file, n_functions, n_loops, total, n_loads
        exit failed
    }' || bad=1
done
exit $bad
