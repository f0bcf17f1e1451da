#!/bin/bash
# The command line: usage and exit status, JSON, names, removal and collection, the owner in the
# background, other commands through it, sandboxes by both runtimes, and that nothing stays behind.
set -u
cd "$(dirname "$0")/../.." || exit 1
[ "$(id -u)" = 0 ] || { echo "skipped: needs root: it mounts"; exit 77; }
for need in unshare jq bwrap crun busybox mandoc; do
	command -v $need >/dev/null || { echo "skipped: $need is not installed"; exit 77; }
done
if [ -z "${LAMINA_ISOLATED:-}" ]; then
	LAMINA_ISOLATED=1 exec timeout -k 10 280 unshare --mount --pid --net --fork --kill-child \
		--mount-proc --propagation private "$0"
fi
PYTHONPATH=tests/support python3 -c 'import lamina; lamina.loopback_up()' || exit 1

lamina=${LAMINA:-$PWD/build/release/lamina}
dir=$(mktemp -d)
export LAMINA_STORE=$dir/store LAMINA_RUN=$dir/run
passed=0 failed=0
trap '"$lamina" umount --all >/dev/null 2>&1; rm -rf "$dir"' EXIT

check() { # what, then a command that must succeed
	local what=$1
	shift
	if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL $what"; fi
}
same() { [ "$1" = "$2" ] || { printf '     got:    %s\n     wanted: %s\n' "$1" "$2"; false; }; }
status() { # wanted exit status, then a command
	local wanted=$1 got
	shift
	"$@" >"$dir/out" 2>"$dir/err" </dev/null
	got=$?
	[ $got = "$wanted" ] || { echo "     status $got: $*"; sed 's/^/     /' "$dir/err"; false; }
}
contains() { grep -qF -- "$2" "$1" || { echo "     no \"$2\" in:"; sed 's/^/     /' "$1"; false; }; }
owners() { pgrep -f -c 'serve --store' || true; }
gone() { # waits until no process has this in its command line
	for _ in $(seq 100); do
		pgrep -f "$1" >/dev/null || return 0
		sleep 0.1
	done
	pgrep -fa "$1"
	return 1
}

make_root() {
	mkdir -p "$1"/{bin,etc,tmp,data}
	cp "$(command -v busybox)" "$1/bin/busybox"
	for name in sh cat id pwd env echo ls touch sleep kill true; do ln -s busybox "$1/bin/$name"; done
	printf 'root:x:0:0::/root:/bin/sh\napp:x:101:102::/data:/bin/sh\n' >"$1/etc/passwd"
	printf 'root:x:0:\napp:x:102:\nextra:x:777:app\n' >"$1/etc/group"
	ldd "$1/bin/busybox" 2>/dev/null | grep -oE '/[^ ]+' | while read -r library; do
		install -D "$library" "$1$library"
	done
	chown -R 101:102 "$1/data"
}

# ---- usage ----
check "no command" status 2 "$lamina"
check "an unknown command" status 2 "$lamina" frobnicate
check "... and what to do" contains "$dir/err" "lamina --help"
check "an unknown option" status 2 "$lamina" images --frobnicate
check "... is named" contains "$dir/err" "--frobnicate"
check "too few arguments" status 2 "$lamina" tag one
check "too many arguments" status 2 "$lamina" tag one two three
check "a value is missing" status 2 "$lamina" mount --driver
check "a wrong choice" status 2 "$lamina" run --runtime frob x
check "--version" status 0 "$lamina" --version
check "--help" status 0 "$lamina" --help
check "... fails when it cannot be written" status 1 bash -c "'$lamina' --help >/dev/full"
for command in import export pack unpack images inspect tag rm mount umount mounts als run bundle serve gc fsck condense stats upgrade dump; do
	check "$command --help" status 0 "$lamina" $command --help
	check "... has its usage" contains "$dir/out" "usage: lamina $command"
	"$lamina" man $command >"$dir/page.1"
	check "$command(1) is right" same "$(mandoc -T lint -W warning "$dir/page.1" 2>&1)" ""
done
check "lamina(1) is right" same "$(mandoc -T lint -W warning tools/man/lamina.1 2>&1 | grep -v mandoc.db)" ""

# ---- names, without an owner ----
make_root "$dir/root"
check "pack" status 0 "$lamina" pack "$dir/root" app:1 --cmd id --env GREETING=hello --user app --workdir /data
digest=$(cut -d' ' -f2 "$dir/out")
check "... is repeatable" same "$("$lamina" pack "$dir/root" app:again --cmd id --env GREETING=hello --user app --workdir /data)" "app:again $digest"
check "images" same "$("$lamina" images)" "$(printf 'app:1\t%s\napp:again\t%s' "$digest" "$digest")"
check "images --json" same "$("$lamina" --json images | jq -r '.images[0] | .name + " " + .digest')" "app:1 $digest"
check "--json behind the command" same "$("$lamina" images --json | jq '.images | length')" 2
check "inspect" same "$("$lamina" inspect app:1 | jq -r '.config.config.User')" app
check "inspect by digest" same "$("$lamina" inspect "app@$digest" | jq -r .digest)" "$digest"
check "an image that is not there" status 1 "$lamina" inspect nothing:1
check "... says so, in the form that is promised" contains "$dir/err" "lamina: inspect: "
check "a bad name" status 1 "$lamina" inspect 'BAD NAME'
check "tag" status 0 "$lamina" tag app:1 other/name:x
check "export" status 0 "$lamina" export other/name:x "oci-archive:$dir/app.tar"
check "import elsewhere" status 0 "$lamina" --store "$dir/second" import "oci-archive:$dir/app.tar" copy:1
check "... has its digest" contains "$dir/out" "copy:1 $digest"
check "a relative path" status 0 env -C "$dir" "$lamina" --store second export copy:1 oci:layout:t
check "... is the caller's" test -f "$dir/layout/index.json"
check "import of nothing" status 1 "$lamina" import "oci:$dir/nothing"
check "a kind is missing" status 1 "$lamina" import "$dir/app.tar"
check "unpack" status 0 "$lamina" unpack app:1 "$dir/unpacked"
check "... gives what was packed" diff -r --no-dereference "$dir/root" "$dir/unpacked"
check "unpack into what is not empty" status 1 "$lamina" unpack app:1 "$dir/unpacked"
check "rm" status 0 "$lamina" rm app:1
check "... leaves the other tags" same "$("$lamina" images | cut -f1 | xargs)" "app:again other/name:x"
check "gc keeps what they lead to" status 0 "$lamina" gc --grace 0
check "unpack after gc" status 0 "$lamina" unpack app:again "$dir/again"
check "rm of all" status 0 "$lamina" rm app:again other/name:x
check "gc frees it" status 0 "$lamina" gc --grace 0
check "... all of it" same "$("$lamina" --json stats | jq '[.blobs, .objects, .manifests, .tags] | add')" 0
check "fsck" status 0 "$lamina" fsck
check "rebuild" status 0 "$lamina" fsck --rebuild
check "upgrade" status 0 "$lamina" upgrade
check "stats" status 0 "$lamina" stats
check "no owner was left behind" same "$(owners)" 0

# ---- mounts, and an owner in the background ----
"$lamina" pack "$dir/root" app:1 --cmd id --env GREETING=hello --user app --workdir /data >/dev/null
mkdir "$dir/mnt"
check "mounts without any" same "$("$lamina" mounts)" ""
check "mount" same "$("$lamina" mount app:1 "$dir/mnt")" "$dir/mnt"
check "... shows the image" diff -r --no-dereference "$dir/root" "$dir/mnt"
check "... is listed" same "$("$lamina" mounts)" "$(printf '%s\tapp:1\toverlay\tro\t-' "$dir/mnt")"
check "an owner runs" same "$(owners)" 1
check "commands go through it" same "$("$lamina" images | cut -f1)" app:1
check "what needs the store closed says who has it" status 1 "$lamina" fsck --rebuild
check "... by number" contains "$dir/err" "owns the store"
check "rm of what is mounted" status 0 "$lamina" rm app:1
check "gc keeps what is mounted" status 0 "$lamina" gc --grace 0
echo 3 >/proc/sys/vm/drop_caches
check "... all of it" diff -r --no-dereference "$dir/root" "$dir/mnt"
"$lamina" pack "$dir/root" app:1 --cmd id --env GREETING=hello --user app --workdir /data >/dev/null
check "mount of an image that is not there" status 1 "$lamina" mount nothing:1 "$dir/mnt"
check "mount on nothing" status 1 "$lamina" mount app:1 "$dir/nothing"
check "umount" status 0 "$lamina" umount "$dir/mnt"
check "umount of what is not mounted" status 1 "$lamina" umount "$dir/mnt"
check "leases went with the mounts" same "$("$lamina" --json stats | jq .leases)" 0
check "two at once" bash -c "'$lamina' umount --all; mkdir -p '$dir/m1' '$dir/m2'
	'$lamina' mount app:1 '$dir/m1' >/dev/null & '$lamina' mount app:1 '$dir/m2' >/dev/null; wait \$!"
check "... both stand" test -f "$dir/m1/bin/busybox" -a -f "$dir/m2/bin/busybox"
check "umount --all" status 0 "$lamina" umount --all
check "... ends every process" gone "$LAMINA_STORE"
check "... and every mount" same "$(grep -c "$dir" /proc/mounts)" 0

# ---- sandboxes ----
for runtime in bwrap crun; do
	run=("$lamina" run --runtime $runtime)
	check "$runtime: the image's command, user and directory" same "$("${run[@]}" app:1 </dev/null)" \
		"uid=101(app) gid=102(app) groups=102(app),777(extra)"
	check "$runtime: arguments" same "$("${run[@]}" app:1 -- sh -c 'echo $GREETING $HOME $(pwd)' </dev/null)" "hello /data /data"
	check "$runtime: options" same "$("${run[@]}" -u 5:6 -w / -e GREETING=hi -e OTHER=x app:1 -- sh -c 'echo $(id -u):$(id -g) $(pwd) $GREETING $OTHER' </dev/null)" "5:6 / hi x"
	check "$runtime: exit status" status 7 "${run[@]}" app:1 -- sh -c 'exit 7'
	check "$runtime: killed by a signal" status 137 "${run[@]}" app:1 -- sh -c 'kill -9 $$'
	check "$runtime: an unknown user" status 1 "${run[@]}" -u nobody-here app:1
	check "$runtime: writes are possible" status 0 "${run[@]}" -u root app:1 -- touch /new
	check "$runtime: and forgotten" status 1 "${run[@]}" -u root app:1 -- cat /new
	check "$runtime: --read-only" status 1 "${run[@]}" --read-only -u root app:1 -- touch /new
	check "$runtime: /tmp of a read-only one" status 0 "${run[@]}" --read-only app:1 -- touch /tmp/new
	check "$runtime: --upper" status 0 "${run[@]}" --upper "$dir/upper-$runtime" -u root app:1 -- sh -c 'echo kept >/new'
	check "$runtime: ... is found again" same "$("${run[@]}" --upper "$dir/upper-$runtime" app:1 -- cat /new </dev/null)" kept
	check "$runtime: --bind" same "$("${run[@]}" --bind "$dir/root/etc:/host:ro" app:1 -- ls /host </dev/null | xargs)" "group passwd"
	check "$runtime: --network none" same "$("${run[@]}" --network none app:1 -- cat /proc/net/dev </dev/null | grep -c :)" 1
	check "$runtime: PIDs of its own" same "$("${run[@]}" app:1 -- sh -c '[ $$ -lt 10 ] && echo few' </dev/null)" few
	"${run[@]}" app:1 -- sh -c 'trap "exit 9" TERM; echo ready; while :; do sleep 0.05; done' >"$dir/ready" </dev/null &
	for _ in $(seq 100); do grep -q ready "$dir/ready" && break; sleep 0.1; done
	kill -TERM $!
	wait $!
	check "$runtime: SIGTERM is passed on" same $? 9
	"${run[@]}" app:1 -- sh -c 'echo ready; sleep 1234' >"$dir/ready" </dev/null &
	for _ in $(seq 100); do grep -q ready "$dir/ready" && break; sleep 0.1; done
	kill -KILL $!
	wait $! 2>/dev/null
	check "$runtime: killed, it takes its program along" gone "sleep 1234"
	for _ in $(seq 100); do [ -z "$(ls "$LAMINA_RUN/run")" ] && break; sleep 0.1; done
	check "$runtime: ... and its mount" same "$("$lamina" mounts)$(ls "$LAMINA_RUN/run" "$LAMINA_STORE/sandboxes" | grep -c '[0-9a-f]\{32\}$')" 0
done
check "a command that is not in the image" status 127 "$lamina" run app:1 -- nonexistent
check "... is named" contains "$dir/err" nonexistent
check "a closed stdin, stdout and stderr" bash -c "'$lamina' run app:1 -- true <&- >&- 2>&-"
check "fsck at the end" status 0 "$lamina" fsck

echo "$passed passed, $failed failed"
[ $failed = 0 ]
