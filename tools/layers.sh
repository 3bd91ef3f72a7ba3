#!/bin/sh
# The rooms in layers: a file may include only rooms on lower lines (docs/ARCHITECTURE.md). Prints each violation.
cd "$(dirname "$0")/.." || exit 1
awk '
BEGIN {
    split("base:0 tensor:1 kernels:2 formats:2 backend:3 ops:4 arch:5 tokenizer:5 sample:6 chat:6 engine:7 " \
          "audio:8 markup:8 store:8 rag:8 train:8 convert:8 eval:8 hub:8 kvdisk:8 server:9 cli:10", rows, " ")
    for (i in rows) { split(rows[i], p, ":"); level[p[1]] = p[2] }
}
FNR == 1 { split(FILENAME, path, "/"); room = path[2]; if (!(room in level)) { print FILENAME ": room " room " has no layer"; bad = 1 } }
/^[ \t]*#[ \t]*include[ \t]*"[a-z]+\// {
    match($0, /"[^"]+"/); inc = substr($0, RSTART + 1, RLENGTH - 2); split(inc, q, "/")
    if (q[1] == room) next
    if (!(q[1] in level)) { print FILENAME ":" FNR ": unknown room " q[1]; bad = 1 }
    else if (level[q[1]] + 0 >= level[room] + 0) { print FILENAME ":" FNR ": " room " may not include " q[1]; bad = 1 }
    else if (q[2] != q[1] ".h" && q[2] !~ /\.def$/ ) { print FILENAME ":" FNR ": only " q[1] "/" q[1] ".h may be included from outside"; bad = 1 }
}
END { exit bad }' $(find src -name "*.[ch]" | sort)
