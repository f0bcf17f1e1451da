#!/bin/bash
# Real clients push to and pull from the registry: skopeo, podman, buildah, containerd (ctr), docker and lamina,
# those of them that are installed. Digests must stay what they are. The image is made here;
# with $LAMINA_CORPUS (an OCI layout) every image of it goes through skopeo, podman and containerd, too.
#
# Three registries are used: "plain"; "basic", with passwords over TLS by an authority of our own; and
# "bearer", with tokens over TLS. oras and cosign, which Debian 12 does not have, are played by
# tests/support/attach.py.
# $REGISTRY=HOST:PORT tests a registry that runs already, plain.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
lamina=${LAMINA:-$here/build/release/lamina}
[ "$(id -u)" -eq 0 ] || { echo "skipped: needs root: engines mount"; exit 77; }
for tool in skopeo jq python3 unshare curl; do
    command -v "$tool" >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
if [ -z "${LAMINA_ISOLATED-}" ]; then # as process 1 of its own namespaces: all of it ends with it
    export LAMINA_ISOLATED=1
    [ -n "${REGISTRY-}" ] && net=() || net=(--net)
    exec timeout -k 10 "${LAMINA_TEST_SECONDS:-280}" unshare --mount --pid "${net[@]}" --fork --kill-child \
        --mount-proc --propagation private "$0" "$@"
fi
unset LAMINA_ISOLATED
[ -n "${REGISTRY-}" ] || PYTHONPATH=$here/tests/support python3 -c 'import lamina; lamina.loopback_up()' || exit 1
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
    skopeo inspect "${one[@]}" --raw "docker://$registry/$1" | sha256sum | sed 's/^/sha256:/;s/ .*//'
}

# ---- the registries ----

declare -A registries=()
password='pass:word'
# Sets $registry and what each client has to be told to use it.
use() { # plain|basic|bearer
    mode=$1 registry=${registries[$1]}
    if [ "$mode" = plain ]; then
        src=(--src-tls-verify=false) dest=(--dest-tls-verify=false) one=(--tls-verify=false) nobody=("${one[@]}")
        ctr_options=(--plain-http) ctr_nobody=("${ctr_options[@]}")
    else
        local user=worker:$password
        src=(--src-cert-dir "$dir/certs" --src-creds "$user") dest=(--dest-cert-dir "$dir/certs" --dest-creds "$user")
        nobody=(--cert-dir "$dir/certs") one=(--cert-dir "$dir/certs" --creds "$user")
        # else containerd takes 127.0.0.0/8 for plain
        ctr_nobody=(--hosts-dir "$dir/hosts") ctr_options=(--hosts-dir "$dir/hosts" --user "$user")
        mkdir -p "$dir/hosts/$registry"
        printf 'server = "https://%s"\n[host."https://%s"]\nca = "%s"\n' "$registry" "$registry" "$dir/certs/ca.crt" \
            >"$dir/hosts/$registry/hosts.toml"
    fi
}
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
serve() { # mode
    local home=$dir/$1 port; port=$(free_port)
    mkdir -m 700 "$home" "$home/run"
    registries[$1]=127.0.0.1:$port
    { echo "[registry]"; echo "listen = 127.0.0.1:$port"; [ "$1" = plain ] || cat <<END; } >"$home/lamina.ini"
[tls]
cert = $dir/localhost.pem
key = $dir/localhost.key
[access]
htpasswd = $dir/htpasswd
challenge = $1
[rule worker]
repositories = **
users = worker
actions = all
[rule reader]
repositories = skopeo/**
users = reader
actions = pull
[rule public]
repositories = public/**
users = anonymous
actions = pull
END
    LAMINA_RUN="$home/run" "$lamina" --store "$home/store" serve --config "$home/lamina.ini" >"$home/serve.log" 2>&1 &
    pids+=($!)
}
answers() { # mode
    local status; status=$(curl -s -o /dev/null -w '%{http_code}' --cacert "$dir/certs/ca.crt" \
        "$([ "$1" = plain ] && echo http || echo https)://${registries[$1]}/v2/")
    [ "$status" = "$([ "$1" = plain ] && echo 200 || echo 401)" ]
}
make_secrets() {
    PYTHONPATH=$here/tests/support python3 - "$dir" "$password" <<'PY' || return 1
import os, shutil, sys
from registryaccess import Authority, htpasswd
folder, password = sys.argv[1:]
authority = Authority(folder)
authority.issue("localhost")
os.mkdir(folder + "/certs")
shutil.copy(authority.cert, folder + "/certs/ca.crt")
with open(folder + "/htpasswd", "w") as f:
    f.write(htpasswd({"worker": password, "reader": "r"}))
PY
}

try_skopeo() { # layout tag
    local layout=$1 tag=$2 out digest
    digest=$(layout_digest "$layout" "$tag"); out=$(mktemp -d "$dir/out-XXXXXX")
    check "skopeo pushes $tag" skopeo copy -q --preserve-digests "${dest[@]}" \
        "oci:$layout:$tag" "docker://$registry/skopeo/$tag:v1"
    check "skopeo: digest of $tag in the registry" equal "$(pushed_digest "skopeo/$tag:v1")" "$digest"
    check "skopeo pushes $tag again" skopeo copy -q --preserve-digests "${dest[@]}" \
        "oci:$layout:$tag" "docker://$registry/skopeo/again/$tag:v1"
    check "skopeo pulls $tag" skopeo copy -q --preserve-digests "${src[@]}" \
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
    check "podman pulls $tag" "${podman[@]}" pull -q "${one[@]}" "$registry/skopeo/$tag:v1"
    check "podman: digest of $tag pulled" equal "$(podman_of '{{.Digest}}' "skopeo/$tag:v1")" "$2"
    id=$(podman_of '{{.Id}}' "skopeo/$tag:v1")
    check "podman pushes $tag" "${podman[@]}" push -q "${one[@]}" --digestfile "$dir/podman-digest" \
        "$registry/skopeo/$tag:v1" "$registry/podman/$tag:v1"
    check "podman: digest of $tag in the registry" equal "$(pushed_digest "podman/$tag:v1")" "$(cat "$dir/podman-digest")"
    check "podman removes $tag" "${podman[@]}" rmi -a -f
    check "podman pulls $tag that it pushed" "${podman[@]}" pull -q "${one[@]}" "$registry/podman/$tag:v1"
    check "podman: the same image $tag" equal "$(podman_of '{{.Id}}' "podman/$tag:v1")" "$id"
}
try_podman_zstd() { # tag, as try_podman left it
    local tag=$1 id; id=$(podman_of '{{.Id}}' "podman/$tag:v1")
    check "podman pushes zstd layers" "${podman[@]}" push -q "${one[@]}" --format oci --compression-format zstd \
        --digestfile "$dir/podman-digest" "$registry/podman/$tag:v1" "$registry/podman/zstd:v1"
    check "podman: digest of zstd layers" equal "$(pushed_digest podman/zstd:v1)" "$(cat "$dir/podman-digest")"
    check "podman removes again" "${podman[@]}" rmi -a -f
    check "podman pulls zstd layers" "${podman[@]}" pull -q "${one[@]}" "$registry/podman/zstd:v1"
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
    check "containerd pulls $tag" "${ctr[@]}" pull "${ctr_options[@]}" --snapshotter native "$registry/skopeo/$tag:v1"
    check "containerd: digest of $tag pulled" equal \
        "$("${ctr[@]}" ls | awk -v n="$registry/skopeo/$tag:v1" '$1 == n {print $3}')" "$2"
    check "containerd tags $tag" "${ctr[@]}" tag "$registry/skopeo/$tag:v1" "$registry/containerd/$tag:v1"
    check "containerd pushes $tag" "${ctr[@]}" push "${ctr_options[@]}" "$registry/containerd/$tag:v1"
    check "containerd: digest of $tag in the registry" equal "$(pushed_digest "containerd/$tag:v1")" "$2"
    check "containerd pushes $tag again" "${ctr[@]}" push "${ctr_options[@]}" "$registry/containerd/$tag:v1"
}

docker=(docker --config "$dir/docker-config" -H "unix://$dir/docker.sock")
start_docker() {
    dockerd --data-root "$dir/docker" --exec-root "$dir/docker-run" --pidfile "$dir/docker.pid" \
        -H "unix://$dir/docker.sock" --iptables=false --ip6tables=false --bridge=none --storage-driver vfs \
        --insecure-registry "${registries[plain]}" >"$dir/dockerd.log" 2>&1 &
    pids+=($!)
    wait_until 40 "${docker[@]}" version && return
    check "dockerd starts" false; tail -n 5 "$dir/dockerd.log"; return 1
}
# The daemon takes any certificate of a registry on 127.0.0.0/8.
try_docker() { # digest
    local d=("${docker[@]}")
    [ "$mode" = plain ] || check "docker logs in" "${d[@]}" login -u worker -p "$password" "$registry"
    check "docker pulls" "${d[@]}" pull -q "$registry/skopeo/tiny:v1"
    check "docker: digest pulled" equal "$registry/skopeo/tiny@$1" \
        "$("${d[@]}" image inspect -f '{{range .RepoDigests}}{{println .}}{{end}}' "$registry/skopeo/tiny:v1" |
            grep "^$registry/skopeo/")"
    local id; id=$("${d[@]}" image inspect -f '{{.Id}}' "$registry/skopeo/tiny:v1")
    check "docker tags" "${d[@]}" tag "$registry/skopeo/tiny:v1" "$registry/docker/tiny:v1"
    check "docker pushes" "${d[@]}" push -q "$registry/docker/tiny:v1"
    check "docker: digest in the registry" equal "$registry/docker/tiny@$(pushed_digest docker/tiny:v1)" \
        "$("${d[@]}" image inspect -f '{{range .RepoDigests}}{{println .}}{{end}}' "$id" | grep "^$registry/docker/")"
    check "docker removes" "${d[@]}" rmi -f "$id"
    check "docker pulls what it pushed" "${d[@]}" pull -q "$registry/docker/tiny:v1"
    check "docker: the same image" equal "$("${d[@]}" image inspect -f '{{.Id}}' "$registry/docker/tiny:v1")" "$id"
}


# ---- who may, and who may not ----

refused() { ! "$@"; }
try_rights() { # digest
    local copy=(skopeo copy -q --preserve-digests) ref=$registry/skopeo/tiny:v1
    check "$mode: no authority is trusted" refused skopeo inspect --creds "worker:$password" "docker://$ref"
    check "$mode: nobody looks" refused skopeo inspect "${nobody[@]}" "docker://$ref"
    check "$mode: a wrong password" refused skopeo inspect "${nobody[@]}" --creds worker:wrong "docker://$ref"
    check "$mode: a reader looks" skopeo inspect "${nobody[@]}" --creds "reader:r" "docker://$ref"
    check "$mode: a reader does not push" refused "${copy[@]}" --dest-cert-dir "$dir/certs" --dest-creds reader:r \
        "oci:$dir/tiny:tiny" "docker://$registry/skopeo/tiny:v2"
    check "$mode: what is public is pushed" "${copy[@]}" "${src[@]}" "${dest[@]}" "docker://$ref" "docker://$registry/public/tiny:v1"
    check "$mode: nobody pulls what is public" "${copy[@]}" --src-cert-dir "$dir/certs" "docker://$registry/public/tiny:v1" "dir:$dir/public-$mode"
    check "$mode: between registries" skopeo copy -q --preserve-digests --src-tls-verify=false "${dest[@]}" \
        "docker://${registries[plain]}/skopeo/tiny:v1" "docker://$registry/copied/tiny:v1"
    check "$mode: digest of the copy" equal "$(pushed_digest copied/tiny:v1)" "$1"
}
try_list_and_delete() {
    local ref=$registry/skopeo/gone
    check "$mode: skopeo copies within" skopeo copy -q "${src[@]}" "${dest[@]}" "docker://$registry/skopeo/tiny:v1" "docker://$ref:a"
    check "$mode: skopeo copies a tag" skopeo copy -q "${src[@]}" "${dest[@]}" "docker://$ref:a" "docker://$ref:b"
    check "$mode: skopeo lists tags" equal "$(skopeo list-tags "${one[@]}" "docker://$ref" | jq -r '.Tags|join(" ")')" "a b"
    check "$mode: skopeo deletes" skopeo delete "${one[@]}" "docker://$ref:a"
    check "$mode: it is gone" refused skopeo inspect "${one[@]}" "docker://$ref:a"
}
try_attach() { # digest
    local options=(); [ "$mode" = plain ] || options=(--ca "$dir/certs/ca.crt" --user worker --password "$password")
    check "$mode: artifacts are attached, as by oras and cosign" python3 "$here/tests/support/attach.py" "${options[@]}" \
        "$registry" skopeo/tiny "$1"
}

buildah=(buildah --root "$dir/buildah" --runroot "$dir/buildah-run" --storage-driver vfs)
try_buildah() {
    local name; name=$("${buildah[@]}" from -q "${one[@]}" "$registry/skopeo/tiny:v1")
    check "$mode: buildah starts from an image" test -n "$name"
    check "$mode: buildah configures" "${buildah[@]}" config --label "mode=$mode" "$name"
    check "$mode: buildah commits to the registry" "${buildah[@]}" commit -q "${one[@]}" "$name" "docker://$registry/buildah/tiny:v1"
    check "$mode: what buildah made" equal "$(skopeo inspect "${one[@]}" "docker://$registry/buildah/tiny:v1" | jq -r .Labels.mode)" "$mode"
    check "$mode: buildah pulls" "${buildah[@]}" pull -q "${one[@]}" "$registry/buildah/tiny:v1"
    check "$mode: buildah pushes" "${buildah[@]}" push -q "${one[@]}" "$registry/buildah/tiny:v1" "docker://$registry/buildah/tiny:v2"
    "${buildah[@]}" rm -a >/dev/null 2>&1; "${buildah[@]}" rmi -a -f >/dev/null 2>&1
}
try_nobody() {
    local public=$registry/public/tiny:v1
    if command -v podman >/dev/null; then
        check "$mode: podman pulls what is public" "${podman[@]}" pull -q "${nobody[@]}" "$public"
        check "$mode: podman pulls nothing else" refused "${podman[@]}" pull -q "${nobody[@]}" "$registry/skopeo/tiny:v1"
    fi
    [ -z "$containerd" ] || check "$mode: containerd pulls what is public" \
        "${ctr[@]}" pull "${ctr_nobody[@]}" --snapshotter native "$public"
    if [ -n "$dockerd" ] && [ "$mode" = bearer ]; then # by Basic, docker asks for a password before anything
        check "$mode: docker logs out" "${docker[@]}" logout "$registry"
        check "$mode: docker pulls what is public" "${docker[@]}" pull -q "$public"
        check "$mode: docker pulls nothing else" refused "${docker[@]}" pull -q "$registry/skopeo/tiny:v1"
    fi
}

# Our own client, with a store of its own. No authority is trusted: certs.d is the host's.
lamina_client() { LAMINA_RUN="$dir/client-run" "$lamina" --store "$dir/client" "$@"; }
try_lamina() { # digest
    local options=(--plain-http); mkdir -p -m 700 "$dir/client-run"
    [ "$mode" = plain ] || options=(--tls-verify no --user "worker:$password")
    check "$mode: lamina pulls" lamina_client pull "${options[@]}" "$registry/skopeo/tiny:v1" "$mode/tiny:v1"
    check "$mode: lamina pushes" lamina_client push "${options[@]}" "$mode/tiny:v1" "$registry/lamina/tiny:v1"
    check "$mode: digest of what lamina pushed" equal "$(pushed_digest lamina/tiny:v1)" "$1"
    [ "$mode" = plain ] || check "$mode: lamina is refused without a name" refused lamina_client pull --tls-verify no \
        "$registry/skopeo/tiny:v1" refused:v1
    [ "$mode" = plain ] || check "$mode: lamina pulls what is public" lamina_client pull --tls-verify no \
        "$registry/public/tiny:v1" "$mode/public:v1"
}

# ---- all of it ----

has() { command -v "$1" >/dev/null || { echo "skipped: $1 is not installed"; return 1; }; }
modes=(plain basic bearer)
[ -z "${REGISTRY-}" ] || modes=(plain)
command -v openssl >/dev/null || { echo "skipped: openssl is not installed"; modes=(plain); }
if [ -n "${REGISTRY-}" ]; then registries[plain]=$REGISTRY; else
    [ ${#modes[@]} -eq 1 ] || check "keys and certificates are made" make_secrets
    for mode in "${modes[@]}"; do serve "$mode"; done
fi
for mode in "${modes[@]}"; do
    if ! wait_until 20 answers "$mode"; then
        echo "FAIL the registry does not answer ($mode)"; cat "$dir/$mode/serve.log"; echo "0 passed, 1 failed"; exit 1
    fi
done
make_image "$dir/tiny"
tiny=$(layout_digest "$dir/tiny" tiny)
corpus=() containerd='' dockerd=''
if [ -n "${LAMINA_CORPUS-}" ] && [ -f "$LAMINA_CORPUS/index.json" ]; then
    mapfile -t corpus < <(jq -r '.manifests[].annotations["org.opencontainers.image.ref.name"]' "$LAMINA_CORPUS/index.json")
fi
if has containerd && start_containerd; then containerd=yes; fi
if has dockerd && start_docker; then dockerd=yes; fi
for mode in "${modes[@]}"; do
    use "$mode"
    try_skopeo "$dir/tiny" tiny
    try_list_and_delete
    try_attach "$tiny"
    [ "$mode" = plain ] || try_rights "$tiny"
    try_lamina "$tiny"
    if has podman; then
        "${podman[@]}" rmi -a -f >/dev/null 2>&1
        try_podman tiny "$tiny"
        try_podman_zstd tiny
    fi
    if has buildah; then try_buildah; fi
    [ -z "$containerd" ] || try_containerd tiny "$tiny"
    if [ -n "$dockerd" ]; then try_docker "$tiny"; fi
    [ "$mode" = plain ] || try_nobody
done
use plain
for tag in "${corpus[@]}"; do
    try_skopeo "$LAMINA_CORPUS" "$tag"
    digest=$(layout_digest "$LAMINA_CORPUS" "$tag")
    ! command -v podman >/dev/null || try_podman "$tag" "$digest"
    [ -z "$containerd" ] || try_containerd "$tag" "$digest"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
