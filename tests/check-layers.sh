#!/bin/sh
# Checks the layering: cas includes no sibling; tiering, fusefs and registry
# include public headers of cas and never each other; private headers
# (*_int.h) are for files of their own folder, and for tests.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
deny() { # folder pattern
    found=$(grep -nE "^#[ ]*include \"($2)" "$1"/*.c "$1"/*.h 2>/dev/null)
    [ -z "$found" ] || { printf 'layering: %s may not include this:\n%s\n' "$1" "$found"; bad=1; }
}
deny cas 'tiering/|fusefs/|registry/|tools/|tests/|bench/'
# Encoders and parsers of deflate know nothing of the store.
deny cas/deflate 'tiering/|fusefs/|registry/|tools/|tests/|bench/|cas/[a-z_]*_int\.h|cas/(store|publish|object|blob)\.h'
deny tiering 'fusefs/|registry/|tools/|tests/|bench/|cas/[a-z_]*_int\.h'
deny fusefs 'tiering/|registry/|tools/|tests/|bench/|cas/[a-z_]*_int\.h'
deny registry 'tiering/|fusefs/|tools/|tests/|bench/|cas/[a-z_]*_int\.h'
# The decoder has what it needs to decode, and nothing of the store.
deny tools/decoder 'tests/|bench/|fusefs/|registry/|tiering/|[a-z]*/[a-z_]*_int\.h|cas/(store|publish|object|blob)\.h'
deny tools 'tests/|bench/|[a-z]*/[a-z_]*_int\.h'
names=$(ls cas cas/deflate tiering fusefs registry tools tools/decoder 2>/dev/null | grep -E '\.[ch]$' | sort | uniq -d)
[ -z "$names" ] || { printf 'layering: file names that are not unique in the tree: %s\n' "$names"; bad=1; }
exit $bad
