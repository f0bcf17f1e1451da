#!/bin/bash
# Real clients push to and pull from the registry: skopeo, podman, containerd (ctr) and docker,
# those of them that are installed. Digests must stay what they are. The image is made here;
# with $LAMINA_CORPUS (an OCI layout) every image of it goes through skopeo, podman and containerd, too.
# $REGISTRY=HOST:PORT tests a registry that runs already.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
lamina=${LAMINA:-$here/build/release/lamina}
[ "$(id -u)" -eq 0 ] || { echo "skipped: needs root: engines mount"; exit 77; }
for tool in skopeo jq python3 unshare curl; do
    command -v "$tool" >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
if [ -z "${LAMINA_ISOLATED-}" ]; then # as process 1 of its own namespaces: all of it ends with it
    export LAMINA_ISOLATED=1
    exec timeout -k 10 "${LAMINA_TEST_SECONDS:-280}" unshare --mount --pid --fork --kill-child --mount-proc \
        --propagation private "$0" "$@"
fi
unset LAMINA_ISOLATED
dir=$(mktemp -d /tmp/lamina-clients-XXXXXX)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    # engines leave mounts below their directories; the namespace is private
    grep -o " ${dir}[^ ]*" /proc/mounts | sort -r | xargs -r -n1 umount -l 2>/dev/null
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
passed=0 failed=0
check() { # what, command…
    local what=$1; shift
    if "$@" >"$dir/log" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1)); echo "FAIL $what: $*"; tail -n 15 "$dir/log"
    fi
}
equal() { [ -n "$1" ] && [ "$1" = "$2" ] || { echo "\"$1\" is not \"$2\""; return 1; }; }
wait_until() { # seconds, command…
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}

# An image of three gzip layers, one of them of some megabytes, with the host's architecture.
make_image() { # layout
    python3 - "$1" <<'PY'
import gzip, hashlib, io, json, os, platform, sys, tarfile
layout = sys.argv[1]
os.makedirs(layout + "/blobs/sha256")
def put(data):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{layout}/blobs/sha256/{digest}", "wb") as f:
        f.write(data)
    return {"digest": "sha256:" + digest, "size": len(data)}
def layer(files):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 1700000000, 0o644
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()
noise = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(150000))
layers = [layer([("etc/motd", b"hello\n")]), layer([("data/noise", noise)]), layer([("etc/motd", b"again\n"), ("empty", b"")])]
arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
config = put(json.dumps({"architecture": arch, "os": "linux", "config": {"Cmd": ["/none"]}, "history": [
    {"created_by": "layer %d" % i} for i in range(3)], "rootfs": {"type": "layers", "diff_ids": [
    "sha256:" + hashlib.sha256(l).hexdigest() for l in layers]}}).encode())
image = "application/vnd.oci.image."
manifest = put(json.dumps({"schemaVersion": 2, "mediaType": image + "manifest.v1+json",
    "config": dict(config, mediaType=image + "config.v1+json"),
    "layers": [dict(put(gzip.compress(l, 6, mtime=0)), mediaType=image + "layer.v1.tar+gzip") for l in layers]}).encode())
manifest.update(mediaType=image + "manifest.v1+json", annotations={"org.opencontainers.image.ref.name": "tiny"})
with open(layout + "/index.json", "w") as f:
    json.dump({"schemaVersion": 2, "manifests": [manifest]}, f)
with open(layout + "/oci-layout", "w") as f:
    f.write('{"imageLayoutVersion":"1.0.0"}')
PY
}
layout_digest() { # layout tag
    jq -r --arg t "$2" '.manifests[]|select(.annotations["org.opencontainers.image.ref.name"]==$t).digest' "$1/index.json"
}
pushed_digest() { # name:tag
    skopeo inspect --tls-verify=false --raw "docker://$registry/$1" | sha256sum | sed 's/^/sha256:/;s/ .*//'
}

try_skopeo() { # layout tag
    local layout=$1 tag=$2 out digest
    digest=$(layout_digest "$layout" "$tag"); out=$(mktemp -d "$dir/out-XXXXXX")
    check "skopeo pushes $tag" skopeo copy -q --preserve-digests --dest-tls-verify=false \
        "oci:$layout:$tag" "docker://$registry/skopeo/$tag:v1"
    check "skopeo: digest of $tag in the registry" equal "$(pushed_digest "skopeo/$tag:v1")" "$digest"
    check "skopeo pushes $tag again" skopeo copy -q --preserve-digests --dest-tls-verify=false \
        "oci:$layout:$tag" "docker://$registry/skopeo/again/$tag:v1"
    check "skopeo pulls $tag" skopeo copy -q --preserve-digests --src-tls-verify=false \
        "docker://$registry/skopeo/$tag@$digest" "oci:$out:$tag"
    check "skopeo: digest of $tag pulled" equal "$(layout_digest "$out" "$tag")" "$digest"
    for blob in "$out"/blobs/sha256/*; do
        cmp -s "$blob" "$layout/blobs/sha256/${blob##*/}" || check "skopeo: blob ${blob##*/} of $tag" false
    done
    rm -rf "$out"
}

podman=(podman --root "$dir/podman" --runroot "$dir/podman-run" --storage-driver "${PODMAN_DRIVER:-vfs}" \
    --cgroup-manager cgroupfs)
podman_of() { "${podman[@]}" image inspect -f "$1" "$registry/$2"; }
try_podman() { # tag digest
    local tag=$1 id
    check "podman pulls $tag" "${podman[@]}" pull -q --tls-verify=false "$registry/skopeo/$tag:v1"
    check "podman: digest of $tag pulled" equal "$(podman_of '{{.Digest}}' "skopeo/$tag:v1")" "$2"
    id=$(podman_of '{{.Id}}' "skopeo/$tag:v1")
    check "podman pushes $tag" "${podman[@]}" push -q --tls-verify=false --digestfile "$dir/podman-digest" \
        "$registry/skopeo/$tag:v1" "$registry/podman/$tag:v1"
    check "podman: digest of $tag in the registry" equal "$(pushed_digest "podman/$tag:v1")" "$(cat "$dir/podman-digest")"
    check "podman removes $tag" "${podman[@]}" rmi -a -f
    check "podman pulls $tag that it pushed" "${podman[@]}" pull -q --tls-verify=false "$registry/podman/$tag:v1"
    check "podman: the same image $tag" equal "$(podman_of '{{.Id}}' "podman/$tag:v1")" "$id"
}
try_podman_zstd() { # tag, as try_podman left it
    local tag=$1 id; id=$(podman_of '{{.Id}}' "podman/$tag:v1")
    check "podman pushes zstd layers" "${podman[@]}" push -q --tls-verify=false --format oci --compression-format zstd \
        --digestfile "$dir/podman-digest" "$registry/podman/$tag:v1" "$registry/podman/zstd:v1"
    check "podman: digest of zstd layers" equal "$(pushed_digest podman/zstd:v1)" "$(cat "$dir/podman-digest")"
    check "podman removes again" "${podman[@]}" rmi -a -f
    check "podman pulls zstd layers" "${podman[@]}" pull -q --tls-verify=false "$registry/podman/zstd:v1"
    check "podman: the same image from zstd" equal "$(podman_of '{{.Id}}' podman/zstd:v1)" "$id"
}

ctr=(ctr -a "$dir/containerd.sock" images)
start_containerd() {
    containerd --root "$dir/containerd" --state "$dir/containerd-run" --address "$dir/containerd.sock" \
        >"$dir/containerd.log" 2>&1 &
    pids+=($!)
    wait_until 30 "${ctr[@]}" ls && return
    check "containerd starts" false; tail -n 5 "$dir/containerd.log"; return 1
}
try_containerd() { # tag digest
    local tag=$1
    check "containerd pulls $tag" "${ctr[@]}" pull --plain-http --snapshotter native "$registry/skopeo/$tag:v1"
    check "containerd: digest of $tag pulled" equal \
        "$("${ctr[@]}" ls | awk -v n="$registry/skopeo/$tag:v1" '$1 == n {print $3}')" "$2"
    check "containerd tags $tag" "${ctr[@]}" tag "$registry/skopeo/$tag:v1" "$registry/containerd/$tag:v1"
    check "containerd pushes $tag" "${ctr[@]}" push --plain-http "$registry/containerd/$tag:v1"
    check "containerd: digest of $tag in the registry" equal "$(pushed_digest "containerd/$tag:v1")" "$2"
    check "containerd pushes $tag again" "${ctr[@]}" push --plain-http "$registry/containerd/$tag:v1"
}

try_docker() { # digest
    dockerd --data-root "$dir/docker" --exec-root "$dir/docker-run" --pidfile "$dir/docker.pid" \
        -H "unix://$dir/docker.sock" --iptables=false --ip6tables=false --bridge=none --storage-driver vfs \
        --insecure-registry "$registry" >"$dir/dockerd.log" 2>&1 &
    pids+=($!)
    local d=(docker -H "unix://$dir/docker.sock")
    wait_until 40 "${d[@]}" version || { check "dockerd starts" false; tail -n 5 "$dir/dockerd.log"; return; }
    check "docker pulls" "${d[@]}" pull -q "$registry/skopeo/tiny:v1"
    check "docker: digest pulled" equal \
        "$("${d[@]}" image inspect -f '{{index .RepoDigests 0}}' "$registry/skopeo/tiny:v1")" "$registry/skopeo/tiny@$1"
    local id; id=$("${d[@]}" image inspect -f '{{.Id}}' "$registry/skopeo/tiny:v1")
    check "docker tags" "${d[@]}" tag "$registry/skopeo/tiny:v1" "$registry/docker/tiny:v1"
    check "docker pushes" "${d[@]}" push -q "$registry/docker/tiny:v1"
    check "docker: digest in the registry" equal "$registry/docker/tiny@$(pushed_digest docker/tiny:v1)" \
        "$("${d[@]}" image inspect -f '{{range .RepoDigests}}{{println .}}{{end}}' "$id" | grep "^$registry/docker/")"
    check "docker removes" "${d[@]}" rmi -f "$id"
    check "docker pulls what it pushed" "${d[@]}" pull -q "$registry/docker/tiny:v1"
    check "docker: the same image" equal "$("${d[@]}" image inspect -f '{{.Id}}' "$registry/docker/tiny:v1")" "$id"
}

if [ -n "${REGISTRY-}" ]; then registry=$REGISTRY; else
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    registry=127.0.0.1:$port
    LAMINA_RUN="$dir/run" "$lamina" --store "$dir/store" serve --listen "$registry" >"$dir/serve.log" 2>&1 &
    pids+=($!)
fi
if ! wait_until 20 curl -sf "http://$registry/v2/"; then
    echo "FAIL the registry does not answer"; cat "$dir/serve.log"; echo "0 passed, 1 failed"; exit 1
fi
make_image "$dir/tiny"
tiny=$(layout_digest "$dir/tiny" tiny)
try_skopeo "$dir/tiny" tiny
corpus=()
if [ -n "${LAMINA_CORPUS-}" ] && [ -f "$LAMINA_CORPUS/index.json" ]; then
    mapfile -t corpus < <(jq -r '.manifests[].annotations["org.opencontainers.image.ref.name"]' "$LAMINA_CORPUS/index.json")
    for tag in "${corpus[@]}"; do try_skopeo "$LAMINA_CORPUS" "$tag"; done
fi
if command -v podman >/dev/null; then
    try_podman tiny "$tiny"
    try_podman_zstd tiny
    for tag in "${corpus[@]}"; do try_podman "$tag" "$(layout_digest "$LAMINA_CORPUS" "$tag")"; done
else echo "skipped: podman is not installed"; fi
if command -v containerd >/dev/null; then
    if start_containerd; then
        try_containerd tiny "$tiny"
        for tag in "${corpus[@]}"; do try_containerd "$tag" "$(layout_digest "$LAMINA_CORPUS" "$tag")"; done
    fi
else echo "skipped: containerd is not installed"; fi
if command -v dockerd >/dev/null; then try_docker "$tiny"; else echo "skipped: dockerd is not installed"; fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
