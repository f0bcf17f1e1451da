#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tools/demo.sh PROGRAM: what `make run` shows. A store in ./demo with the registry at
# 127.0.0.1:5000, an image packed from a small root file system, mounted, and run in a sandbox; then
# it waits. Ctrl-C (or SIGTERM) ends it and leaves nothing mounted and no process.
set -euo pipefail
cd "$(dirname "$0")/.."
lamina=$(realpath "$1")
demo=$PWD/demo
address=127.0.0.1:5000
export LAMINA_STORE=$demo/store LAMINA_RUN=$demo/run
server=
ready=no # then the store is ours, with what is mounted of it

die() {
	echo "make run: $*" >&2
	exit 1
}

finish() {
	local status=$?
	trap '' INT TERM HUP
	if [ -n "$server" ]; then
		[ "$ready" = no ] || "$lamina" umount --all || status=1
		kill -TERM "$server" 2>/dev/null || true
		wait "$server" || true
	fi
	exit "$status"
}
trap finish EXIT
trap 'exit 0' INT TERM HUP

# A root file system out of this machine's own busybox: a shell, the usual commands and a web server.
make_root() {
	local root=$1 busybox name library
	busybox=$(command -v busybox) || die "busybox is not installed; run make deps"
	rm -rf "$root"
	mkdir -p "$root"/{bin,etc,proc,dev,sys,tmp,var/www}
	chmod 1777 "$root/tmp"
	cp "$busybox" "$root/bin/busybox"
	"$busybox" --list | while read -r name; do
		[ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
	done
	# a busybox that is not static brings its libraries
	for library in $(ldd "$busybox" 2>/dev/null | grep -oE '/[^ ]+'); do
		install -D "$library" "$root$library"
	done
	printf 'root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000:web:/var/www:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\nweb:x:1000:\n' >"$root/etc/group"
	echo 'Hello from a sandbox over lamina.' >"$root/var/www/index.html"
	find "$root" -exec touch -h -d '2026-01-01 00:00:00Z' {} +
}

[ "$(id -u)" = 0 ] || die "mounting needs root: run \`sudo make run\`"
mkdir -p "$demo"
mkdir -p "$LAMINA_RUN"
chmod 700 "$LAMINA_RUN"

printf '[web]\nenabled = yes\n' >"$demo/lamina.conf"
"$lamina" serve --config "$demo/lamina.conf" --listen "$address" </dev/null >"$demo/serve.log" 2>&1 &
server=$!
for _ in $(seq 300); do
	[ -S "$LAMINA_STORE/control.sock" ] && "$lamina" images >/dev/null 2>&1 && break
	kill -0 "$server" 2>/dev/null || {
		tail -n 2 "$demo/serve.log" >&2
		die "the registry did not start at $address (is the port in use?); see demo/serve.log"
	}
	sleep 0.1
done
kill -0 "$server" 2>/dev/null || die "the registry did not start; see demo/serve.log"

ready=yes
echo "store:    $LAMINA_STORE"
echo "registry: http://$address, for browsers http://$address/web/"
make_root "$demo/root"
echo "packed:   $("$lamina" pack "$demo/root" demo:1 --cmd httpd --cmd -f --cmd -v --cmd -p --cmd 127.0.0.1:8080 --cmd -h \
	--cmd /var/www --user web --workdir /var/www)"
mkdir -p "$demo/mnt"
"$lamina" umount "$demo/mnt" 2>/dev/null || true
echo "mounted:  $("$lamina" mount demo:1 "$demo/mnt")"
echo "          $(head -n 1 "$demo/mnt/var/www/index.html")"
echo "sandbox:  $("$lamina" run demo:1 -- sh -c 'echo "$(id -un), process $$ of $(ls /proc | grep -c "^[0-9]"), in $(pwd)"' </dev/null)"

cat <<END

Now try, in another terminal:

  export LAMINA_STORE=$LAMINA_STORE
  $lamina images
  $lamina run demo:1                           # and then: curl http://127.0.0.1:8080/
  $lamina run -u root demo:1 -- sh             # a shell in a sandbox
  $lamina mounts
  skopeo copy --src-tls-verify=false docker://$address/demo:1 oci:/tmp/demo:1
  skopeo copy --dest-tls-verify=false oci:/tmp/demo:1 docker://$address/copy:1
  $lamina stats

Ctrl-C ends it.
END
wait "$server" || die "the server ended; see demo/serve.log"
