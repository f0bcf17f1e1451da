#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Several nodes over one bucket (spec/cluster.md), each in a network namespace of its own. Clients push
to all of them at once, tags of their own and one that they fight for; meanwhile one node is killed,
one is cut off from the bucket, one has a slow disk, and all collect. In the end whatever was
acknowledged is read from a node that knows nothing; then all is deleted, and the bucket is empty.

The bucket is one of ours (tests/support/badbucket.py); with --gateway it is Ceph's."""
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rgw
from badbucket import BadBucket
from lamina import PROGRAM, Checks, isolate, need, skip, wait_for

NET = "10.77.0."
BUCKET = NET + "1"
PORT = 5000
GATEWAY = "--gateway" in sys.argv  # it is slower by far
FRESH_S, GRACE_S, GC_S = 2, 12 if GATEWAY else 4, 1
CHAOS_S = float(os.environ.get("LAMINA_CLUSTER_S", "60" if GATEWAY else "24"))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SLACK_S = 3  # a request, on a busy machine


def sh(*args):
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        skip(f"{' '.join(args)}: {done.stdout.strip()}")


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class OwnBucket:
    """Of badbucket.py. It need not be able to delete under a condition."""

    def __init__(self):
        self.server = BadBucket(host="0.0.0.0")
        self.server.settings["conditional_delete"] = "--no-conditional-delete" not in sys.argv
        self.endpoint = f"http://{BUCKET}:{self.server.port}"
        self.keys = "AKIDTEST", "secret/of+tests"

    def objects(self):
        """Keys of those that are not empty."""
        with self.server.lock:
            return sorted(k for k, o in self.server.buckets["bucket"].items() if o.data)

    def close(self):
        self.server.close()


class CephBucket:
    """Of the gateway, which listens on loopback: it is passed on to where nodes reach it."""

    def __init__(self):
        self.gateway = rgw.Gateway(parent=os.environ.get("LAMINA_TEST_DIR"))
        self.gateway.__enter__()
        self.keys = self.gateway.access_key, self.gateway.secret_key
        self.listener = socket.create_server((BUCKET, 0), backlog=200)
        self.endpoint = f"http://{BUCKET}:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self.gateway.port))
            except OSError:
                return
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self.pass_on, args=ends, daemon=True).start()

    @staticmethod
    def pass_on(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def objects(self):
        listed = subprocess.run(["radosgw-admin", "-c", self.gateway.conf, "bucket", "list", "--bucket=bucket",
                                 "--max-entries=100000"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                env=self.gateway.env(), check=True).stdout
        return sorted(o["name"] for o in json.loads(listed) if o["meta"]["size"] > 0)

    def close(self):
        self.listener.close()
        self.gateway.stop()


class Node:
    def __init__(self, number, directory, bucket):
        self.number, self.endpoint = number, bucket.endpoint
        self.dir = f"{directory}/node{number}"
        self.space, self.host = f"node{number}", f"{NET}{10 + number}"
        os.makedirs(self.dir + "/run", mode=0o700)
        self.env = dict(os.environ, LAMINA_STORE=self.dir + "/store", LAMINA_RUN=self.dir + "/run", LC_ALL="C.UTF-8",
                        AWS_ACCESS_KEY_ID=bucket.keys[0], AWS_SECRET_ACCESS_KEY=bucket.keys[1])
        self.process = None
        sh("ip", "netns", "add", self.space)
        sh("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", self.space)
        sh("ip", "link", "set", f"v{number}", "master", "br0", "up")
        self.ip("addr", "add", self.host + "/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")
        self.ip("link", "set", "lo", "up")

    def ip(self, *args):
        sh("ip", "-n", self.space, *args)

    def run(self, *args, timeout=60):
        return subprocess.run(["ip", "netns", "exec", self.space, PROGRAM, *args], env=self.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, check=False)

    def join(self):
        return self.run("cluster", "join", "s3://bucket/prod", "--endpoint", self.endpoint, "--name", self.space,
                        "--fresh", str(FRESH_S), "--grace", str(GRACE_S), "--gc-every", str(GC_S))

    def start(self, slow=False):
        if slow:
            self.env["LAMINA_SLOW_IO"] = self.dir + "=hdd"
        with open(self.dir + "/log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(["ip", "netns", "exec", self.space, PROGRAM, "serve", "--listen",
                                             f"{self.host}:{PORT}"], env=self.env, stderr=log)
        wait_for(self.answers, 30, f"node {self.number} answers: {self.log()}")
        return self

    def answers(self):
        try:
            return self.ask("GET", "/v2/")[0] == 200
        except OSError:
            return False

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait()

    def cut(self, off):
        sh("ip", "netns", "exec", self.space, "iptables", "-A" if off else "-D", "OUTPUT", "-p", "tcp", "-d", BUCKET,
           "--dport", self.endpoint.rsplit(":", 1)[1], "-j", "DROP")

    def log(self):
        with open(self.dir + "/log", encoding="utf-8") as log:
            return log.read()[-3000:]

    def ask(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, body); OSError when it cannot be asked."""
        connection = http.client.HTTPConnection(self.host, PORT, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except http.client.HTTPException as e:
            raise OSError(str(e)) from e
        finally:
            connection.close()

    # ---- as clients do ----

    def has_blob(self, repo, data):
        return self.ask("HEAD", f"/v2/{repo}/blobs/{digest(data)}")[0] == 200

    def push_blob(self, repo, data, pieces=1):
        status, headers, _ = self.ask("POST", f"/v2/{repo}/blobs/uploads/")
        if status != 202:
            return False
        where = headers["Location"]
        for i in range(pieces):
            part = data[len(data) * i // pieces:len(data) * (i + 1) // pieces]
            if self.ask("PATCH", where, part, {"Content-Type": "application/octet-stream"})[0] != 202:
                return False
        return self.ask("PUT", f"{where}?digest={digest(data)}", b"")[0] == 201

    def push(self, repo, tag, layers):
        """The manifest when it was acknowledged, else None."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
                             "for": f"{repo}:{tag} {random.random()}"}).encode()
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.lamina.test", "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": "application/vnd.lamina.test", "digest": digest(x), "size": len(x)} for x in layers],
        }).encode()
        try:
            for data in [*layers, config]:
                if not self.has_blob(repo, data) and not self.push_blob(repo, data, random.choice([1, 2])):
                    return None
            status = self.ask("PUT", f"/v2/{repo}/manifests/{tag}", manifest, {"Content-Type": MANIFEST})[0]
        except OSError:
            return None
        return manifest if status == 201 else None

    def tag(self, repo, tag):
        """What it names, None: nothing, or the status of an answer that tells neither."""
        status, headers, _ = self.ask("HEAD", f"/v2/{repo}/manifests/{tag}")
        return headers["Docker-Content-Digest"] if status == 200 else None if status == 404 else status

    def read(self, repo, ref):
        """Whether all of the image is there, every byte of it."""
        status, _, manifest = self.ask("GET", f"/v2/{repo}/manifests/{ref}")
        if status != 200 or (":" in ref and digest(manifest) != ref):
            return f"manifest {ref}: {status}"
        parsed = json.loads(manifest)
        for blob in [parsed["config"], *parsed["layers"]]:
            status, _, data = self.ask("GET", f"/v2/{repo}/blobs/{blob['digest']}")
            if status != 200 or digest(data) != blob["digest"]:
                return f"blob {blob['digest']} of {ref}: {status}"
        return None


# ---- one thing after the other ----

def check_refusal(checks, node):
    bucket = BadBucket(host="0.0.0.0")
    bucket.settings["conditions"] = False
    node.endpoint, good = f"http://{BUCKET}:{bucket.port}", node.endpoint
    env, node.env = node.env, dict(node.env, AWS_ACCESS_KEY_ID="AKIDTEST", AWS_SECRET_ACCESS_KEY="secret/of+tests")
    done = node.join()
    checks.check(done.returncode == 1 and "does not honour" in done.stderr, "a store without conditions is refused",
                 done.stderr)
    node.endpoint, node.env = good, env
    bucket.close()


def check_skopeo(checks, nodes, directory):
    if not shutil.which("skopeo"):
        return
    source = directory + "/image"
    os.makedirs(source)
    layer, config = random.randbytes(3 << 20), b"{}"
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": len(layer)}]}
    for name, data in (("manifest.json", json.dumps(manifest).encode()), (digest(layer)[7:], layer),
                       (digest(config)[7:], config), ("version", b"Directory Transport Version: 1.1\n")):
        with open(f"{source}/{name}", "wb") as f:
            f.write(data)
    pushes = [subprocess.Popen(["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", f"dir:{source}",
                                f"docker://{node.host}:{PORT}/by/skopeo:{tag}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
              for tag in ("same", "other") for node in nodes]
    for push in pushes:
        error = push.communicate()[1]
        checks.check(push.returncode == 0, "skopeo pushes to all nodes at once", error.decode())
    for i, node in enumerate(nodes):
        done = subprocess.run(["skopeo", "copy", "--preserve-digests", "--src-tls-verify=false",
                               f"docker://{node.host}:{PORT}/by/skopeo:same", f"dir:{directory}/pulled{i}"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        checks.check(done.returncode == 0, f"skopeo pulls from node {node.number}", done.stderr)


def check_lists(checks, nodes):
    for node in nodes:
        checks.check(nodes[0].push("lists/a", f"by-{node.number}", [b"layer"]) is not None, "push")
        checks.check(node.push("lists/b", f"by-{node.number}", [b"layer"]) is not None, "push")
    tags = [f"by-{n.number}" for n in nodes]
    for node in nodes:
        for repo in ("lists/a", "lists/b"):
            got = json.loads(node.ask("GET", f"/v2/{repo}/tags/list")[2])
            checks.check(got["tags"] == tags, f"tags of {repo} from node {node.number}", got)
        got = json.loads(node.ask("GET", "/v2/_catalog")[2])["repositories"]
        checks.check("lists/a" in got and "lists/b" in got, "the catalog", got)


def check_moves(checks, nodes):
    for i in range(5):
        at = nodes[i % len(nodes)]
        manifest = at.push("moves", "latest", [b"move %d" % i])
        acknowledged = time.monotonic()
        if not checks.check(manifest is not None, "a tag moves"):
            continue
        checks.check(at.tag("moves", "latest") == digest(manifest), "the node that moved it says so at once")
        for node in nodes:
            while node.tag("moves", "latest") != digest(manifest) and time.monotonic() < acknowledged + 30:
                time.sleep(0.05)
            took = time.monotonic() - acknowledged
            checks.check(took < FRESH_S + SLACK_S, f"node {node.number} sees that a tag moved", f"{took:.2f} s")
    manifest = nodes[0].push("moves", "gone", [b"goes"])
    nodes[1].ask("DELETE", f"/v2/moves/manifests/{digest(manifest)}")
    time.sleep(FRESH_S)
    checks.check([n.tag("moves", "gone") for n in nodes] == [None] * len(nodes), "a deletion is seen by all")


def check_upload(checks, nodes):
    data = random.randbytes(300000)
    where = nodes[0].ask("POST", "/v2/moves/blobs/uploads/")[1]["Location"]
    for i, node in enumerate(nodes):
        status, headers, _ = node.ask("GET", where)
        checks.check(status == 204 and headers["Upload-Offset"] == str(100000 * i), "an upload is known elsewhere",
                     f"{status} {headers}")
        status = node.ask("PATCH", where, data[100000 * i:100000 * (i + 1)], {"Content-Type": "application/octet-stream"})[0]
        checks.check(status == 202, f"it goes on on node {node.number}", status)
    status = nodes[0].ask("PUT", f"{where}?digest={digest(data)}", b"")[0]
    checks.check(status == 201, "it ends where it began", status)
    status, _, got = nodes[-1].ask("GET", f"/v2/moves/blobs/{digest(data)}")
    checks.check(status == 200 and got == data, "and is read from another", status)
    where = f"/v2/other/blobs/uploads/?mount={digest(data)}&from=moves"
    checks.check(nodes[1].ask("POST", where)[0] == 201, "a blob is mounted by a node that does not have it")
    checks.check(nodes[2].ask("GET", f"/v2/other/blobs/{digest(data)}")[2] == data, "and read from a third")


def check_etags(checks, nodes):
    first = nodes[0].push("guard", "t", [b"first"])
    second = nodes[1].push("guard", "u", [b"second"])
    put = lambda node, **h: node.ask("PUT", "/v2/guard/manifests/t", second,
                                     {"Content-Type": MANIFEST, **{k.replace("_", "-"): v for k, v in h.items()}})[0]
    checks.check(put(nodes[2], If_None_Match="*") == 412, "If-None-Match sees what other nodes have")
    checks.check(put(nodes[2], If_Match=f'"{digest(second)}"') == 412, "If-Match, too")
    checks.check(put(nodes[2], If_Match=f'"{digest(first)}"') == 201, "and lets pass what fits")


# ---- all at once ----

class Pusher(threading.Thread):
    """Pushes to any node, and remembers what was acknowledged."""

    def __init__(self, number, nodes, end):
        super().__init__(daemon=True)
        self.number, self.nodes, self.end = number, nodes, end
        self.done, self.tried, self.failed = {}, [], 0

    def run(self):
        rng, count = random.Random(self.number), 0
        shared = [bytes([i]) * 70000 for i in range(3)]
        while time.monotonic() < self.end:
            count += 1
            layers = [rng.choice(shared), rng.randbytes(rng.choice([100, 5000, 200000]))]
            tag = "fought-for" if count % 3 == 0 else f"t{self.number}-{count}"
            manifest = rng.choice(self.nodes).push("chaos/app", tag, layers)
            if manifest is None:
                self.failed += 1
                time.sleep(0.2)
            else:
                self.done[digest(manifest)] = tag


def watch_cut_off(checks, node, known):
    """The node answers from what it knows for as long as it may, then says that it cannot."""
    repo, tag, want = known
    begun = time.monotonic()
    last_good, refused = None, None
    while time.monotonic() < begun + FRESH_S + 25 and refused is None:
        at = time.monotonic()
        try:
            status, headers, _ = node.ask("GET", f"/v2/{repo}/manifests/{tag}", timeout=30)
        except OSError as e:
            checks.check(False, "a node that is cut off answers", str(e))
            return
        if status == 200:
            last_good = at
            checks.check(headers["Docker-Content-Digest"] == want, "what it knows")
        else:
            refused = status, headers.get("Retry-After")
        time.sleep(0.1)
    checks.check(last_good is None or last_good < begun + FRESH_S + 0.5, "it answers for no longer than it may",
                 f"{last_good and last_good - begun}")
    checks.check(refused and refused[0] == 503 and refused[1], "then it says 503, and when to come again", refused)
    checks.check(node.push("cut", "off", [b"x"]) is None, "it takes no push")


def check_chaos(checks, nodes):
    killed, cut = nodes[1], nodes[2]
    manifest = nodes[0].push("known", "tag", [b"known"])
    end = time.monotonic() + CHAOS_S
    pushers = [Pusher(i, nodes, end) for i in range(4)]
    for pusher in pushers:
        pusher.start()
    time.sleep(CHAOS_S * 0.2)
    killed.kill()
    time.sleep(CHAOS_S * 0.1)
    checks.check(cut.tag("known", "tag") == digest(manifest), "read before it is cut off")
    cut.cut(True)
    watch_cut_off(checks, cut, ("known", "tag", digest(manifest)))
    killed.start()
    time.sleep(1)
    cut.cut(False)
    wait_for(lambda: cut.tag("known", "tag") == digest(manifest), 40, "the node that was cut off is back")
    for pusher in pushers:
        pusher.join(120)
    acknowledged, fought = {}, []
    for pusher in pushers:
        for name, tag in pusher.done.items():
            acknowledged[name] = tag
            if tag == "fought-for":
                fought.append(name)
    failed = sum(p.failed for p in pushers)
    checks.check(len(acknowledged) > (3 if GATEWAY else 10), "pushes went on", f"{len(acknowledged)} good, {failed} failed")
    print(f"{len(acknowledged)} pushes acknowledged, {failed} failed", flush=True)
    return acknowledged


def check_all_there(checks, nodes, fresh, acknowledged):
    for name, tag in acknowledged.items():
        wrong = fresh.read("chaos/app", name)
        checks.check(wrong is None, "what was acknowledged is there for a node that knows nothing", wrong)
        if tag != "fought-for":
            checks.check(fresh.tag("chaos/app", tag) == name, f"and so is its tag {tag}")
    time.sleep(FRESH_S)
    values = {node.tag("chaos/app", "fought-for") for node in [*nodes, fresh]}
    checks.check(len(values) == 1, "all nodes agree on the tag that was fought for", values)


def check_empty(checks, nodes, bucket):
    """All is deleted; what is left after some collections are settings."""
    node = nodes[0]
    for repo in json.loads(node.ask("GET", "/v2/_catalog?n=1000")[2])["repositories"]:
        while True:
            keys = [k for k in bucket.objects() if k.startswith(f"prod/repos/{repo}/_manifests/")]
            if not keys:
                break
            for key in keys:
                node.ask("DELETE", f"/v2/{repo}/manifests/{key.rsplit('/', 1)[1].replace('-', ':', 1)}")
        checks.check(json.loads(node.ask("GET", f"/v2/{repo}/tags/list")[2]).get("tags") in ([], None), "tags go along")
    left = lambda: [k for k in bucket.objects() if not k.startswith(("prod/nodes/", "prod/gc/")) and k != "prod/cluster"]
    try:
        wait_for(lambda: not left(), GRACE_S * 12 + 60, "the bucket is empty")
    except RuntimeError:
        pass
    checks.check(not left(), "nothing is left that nothing needs", left()[:10])


def main():
    need("ip", "iptables", *((*rgw.PROGRAMS, "setpriv") if GATEWAY else ()))
    isolate(1200 if GATEWAY else 540)
    checks = Checks()
    directory = tempfile.mkdtemp(prefix="cluster-", dir=os.environ.get("LAMINA_TEST_DIR"))
    os.makedirs("/run/netns", exist_ok=True)
    sh("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    sh("ip", "link", "add", "br0", "type", "bridge")
    sh("ip", "addr", "add", BUCKET + "/24", "dev", "br0")
    sh("ip", "link", "set", "br0", "up")
    bucket = CephBucket() if GATEWAY else OwnBucket()
    nodes = []
    try:
        nodes += [Node(i, directory, bucket) for i in (1, 2, 3)]
        sh("ip", "netns", "exec", nodes[0].space, "iptables", "-L", "-n")
        check_refusal(checks, nodes[0])
        for node in nodes:
            done = node.join()
            checks.check(done.returncode == 0, "a node joins", done.stderr)
            node.start(slow=node.number == 1)
        checks.check(nodes[0].join().returncode == 1, "once")
        listed = json.loads(nodes[0].run("--json", "cluster", "status").stdout)
        checks.check([n["name"] for n in listed["nodes"]] == ["node1", "node2", "node3"], "status", listed)
        check_skopeo(checks, nodes, directory)
        check_lists(checks, nodes)
        check_moves(checks, nodes)
        check_upload(checks, nodes)
        check_etags(checks, nodes)
        acknowledged = check_chaos(checks, nodes)
        fresh = Node(4, directory, bucket)
        checks.check(fresh.join().returncode == 0, "a fourth node joins")
        fresh.start()
        check_all_there(checks, nodes, fresh, acknowledged)
        time.sleep(GRACE_S * 3)
        for name in list(acknowledged)[:20]:
            wrong = nodes[2].read("chaos/app", name)
            checks.check(wrong is None, "and stays", wrong)
        check_empty(checks, nodes, bucket)
        nodes[2].kill(signal.SIGTERM)
        checks.check(nodes[2].run("cluster", "leave").returncode == 0, "a node leaves")
    finally:
        if checks.failed:
            for node in nodes:
                print(f"---- node {node.number}\n{node.log()}", flush=True)
        for node in nodes:
            if node.process and node.process.poll() is None:
                node.kill(signal.SIGTERM)
        bucket.close()
        shutil.rmtree(directory, ignore_errors=True)
    checks.finish()


main()
