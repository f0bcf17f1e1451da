#!/usr/bin/python3
"""pull, push and copy against our own registry and docker's: credentials of every kind, connections
that break, refusals for a while, HTTP/2 over TLS, what is killed and goes on, platforms, referrers."""
import base64
import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
from faultyproxy import Front  # noqa: E402
from layouts import Layout, digest_of  # noqa: E402

checks = lamina.Checks()
MIB = 1 << 20
BIG = 20 * MIB  # more than one stripe of several


def tar_of(name, data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_layout(path):
    layout = Layout(path)
    small = tar_of("small", b"a few bytes\n" * 50)
    big = tar_of("big", os.urandom(BIG))
    layout.image_of("app", [(gzip.compress(small, mtime=0), digest_of(small)), (big, digest_of(big))])
    manifest = layout.manifests[0]
    for tag in ("app2", "app3"):
        other = tar_of("other", os.urandom(BIG))
        layout.image_of(tag, [(other, digest_of(other))])
    arm = layout.blob(json.dumps({"architecture": "arm64", "os": "linux", "config": {},
                                  "rootfs": {"type": "layers", "diff_ids": [digest_of(small)]}}).encode())
    only = layout.blob(gzip.compress(small, mtime=0))
    child = layout.blob(json.dumps({
        "schemaVersion": 2, "mediaType": manifest["mediaType"],
        "config": dict(arm, mediaType="application/vnd.oci.image.config.v1+json"),
        "layers": [dict(only, mediaType="application/vnd.oci.image.layer.v1.tar+gzip")]}).encode())
    index = layout.blob(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
            {"mediaType": manifest["mediaType"], "digest": manifest["digest"], "size": manifest["size"],
             "platform": {"os": "linux", "architecture": "amd64"}},
            dict(child, mediaType=manifest["mediaType"], platform={"os": "linux", "architecture": "arm64"})]}).encode())
    layout.manifests.append(dict(index, mediaType="application/vnd.oci.image.index.v1+json",
                                 annotations={"org.opencontainers.image.ref.name": "many"}))
    layout.close()


def wait_listening(port, process):
    def listening():
        if process.poll() is not None:
            raise RuntimeError("a server ended at once")
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0
    lamina.wait_for(listening, 20, "server")


def docker_registry(directory, htpasswd=None):
    port = lamina.free_port()
    os.makedirs(directory)
    config = {"version": "0.1", "log": {"level": "error"},
              "storage": {"filesystem": {"rootdirectory": directory}, "delete": {"enabled": True}},
              "http": {"addr": f"127.0.0.1:{port}"}}
    if htpasswd:
        config["auth"] = {"htpasswd": {"realm": "test", "path": htpasswd}}
    with open(directory + "/config.yml", "w", encoding="utf-8") as f:
        json.dump(config, f)
    process = subprocess.Popen(["docker-registry", "serve", directory + "/config.yml"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_listening(port, process)
    return port, process


class World:
    def __init__(self, host):
        self.host = host
        self.stores = 0
        host.env["HOME"] = host.dir
        for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
            host.env.pop(name, None)

    def store(self):
        self.stores += 1
        return f"{self.host.dir}/s{self.stores}"

    def run(self, *args, **kw):
        return self.host.run(*args, check=False, **kw)

    def ok(self, what, *args, **kw):
        """The result of a command that has to succeed, or {}."""
        done = self.run("--json", *args, **kw)
        if checks.check(done.returncode == 0, what, done.stderr):
            return json.loads(done.stdout)
        return {}

    def fails(self, what, text, *args, **kw):
        done = self.run(*args, **kw)
        checks.check(done.returncode == 1 and text in done.stderr, what, f"{done.returncode} {done.stderr}")


def test_own(w, own, digest):
    """Between two stores, by lamina's own registry."""
    result = w.ok("push to lamina", "push", "app:1", f"127.0.0.1:{own}/team/app:1")
    checks.check(result.get("digest") == digest and result.get("moved") == 3, "push moves all", str(result))
    again = w.ok("push again", "push", "app:1", f"127.0.0.1:{own}/team/app:1")
    checks.check(again.get("moved") == 0 and again.get("bytes") == 0, "nothing moves twice", str(again))
    store = w.store()
    pulled = w.ok("pull from lamina", "pull", "--store", store, f"127.0.0.1:{own}/team/app:1", "got:1")
    checks.check(pulled.get("digest") == digest and pulled.get("moved") == 3, "pull moves all", str(pulled))
    again = w.ok("pull again", "pull", "--store", store, f"127.0.0.1:{own}/team/app:1")
    checks.check(again.get("moved") == 0 and again.get("name") == f"127.0.0.1_{own}/team/app:1", "nothing comes twice", str(again))
    by_digest = w.ok("pull by digest", "pull", "--store", store, f"127.0.0.1:{own}/team/app@{digest}", "d:1")
    checks.check(by_digest.get("digest") == digest, "the digest asked for")
    checks.check(w.run("fsck", "--store", store).returncode == 0, "fsck after pulls")
    w.fails("a tag that is not there", "404", "pull", "--store", store, f"127.0.0.1:{own}/team/app:no")
    w.fails("no registry", "names no registry", "pull", "app:1")
    w.fails("nobody there", "onnect", "pull", "--store", store, "--plain-http", "127.0.0.1:1/app:1")


def test_platforms(w, port, many):
    store = w.store()
    w.ok("push an index", "push", "many:1", f"127.0.0.1:{port}/many:1")
    one = w.ok("one platform", "pull", "--store", store, "--platform", "linux/arm64", f"127.0.0.1:{port}/many:1")
    checks.check(one.get("digest") == many and one.get("moved") == 2, "only what it needs", str(one))
    rest = w.ok("all platforms", "pull", "--store", store, "--all-platforms", f"127.0.0.1:{port}/many:1")
    checks.check(rest.get("moved") == 2 and rest.get("reused") == 2, "the rest", str(rest))
    w.fails("no such platform", "linux/amd64, linux/arm64", "pull", "--store", w.store(), "--platform", "linux/s390x",
            f"127.0.0.1:{port}/many:1")


def test_credentials(w, port):
    """docker-registry with htpasswd: me, secret."""
    home, there = w.host.dir, f"127.0.0.1:{port}/team/app:1"
    w.fails("push without credentials", "401", "push", "app:1", there)
    w.fails("a wrong password", "401", "push", "--user", "me:wrong", "app:1", there)
    w.ok("--user", "push", "--user", "me:secret", "app:1", there)
    w.ok("--password-stdin", "pull", "--store", w.store(), "-u", "me", "--password-stdin", there, input="secret\n")
    auth = base64.b64encode(b"me:secret").decode()
    bad = base64.b64encode(b"me:bad").decode()
    with open(home + "/auth.json", "w", encoding="utf-8") as f:
        json.dump({"auths": {f"127.0.0.1:{port}": {"auth": bad}, f"127.0.0.1:{port}/team": {"auth": auth}}}, f)
    w.ok("--authfile, by path", "pull", "--store", w.store(), "--authfile", home + "/auth.json", there)
    w.fails("--authfile that is not there", "no.json", "pull", "--authfile", home + "/no.json", there)
    os.makedirs(home + "/.docker", exist_ok=True)
    with open(home + "/.docker/config.json", "w", encoding="utf-8") as f:
        json.dump({"credHelpers": {f"127.0.0.1:{port}": "test"}}, f)
    os.mkdir(home + "/bin")
    helper = home + "/bin/docker-credential-test"
    with open(helper, "w", encoding="utf-8") as f:
        f.write(f'#!/bin/sh\nread -r server\n[ "$1 $server" = "get 127.0.0.1:{port}" ] || exit 1\n'
                'echo \'{"ServerURL":"x","Username":"me","Secret":"secret"}\'\n')
    os.chmod(helper, 0o755)
    path = w.host.env["PATH"]
    w.fails("a helper that is not there", "not installed", "pull", "--store", w.store(), there)
    w.host.env["PATH"] = home + "/bin:" + path
    w.ok("a credential helper", "pull", "--store", w.store(), there)
    w.host.env["PATH"] = path
    os.remove(home + "/.docker/config.json")


def test_broken(w, port, front, own_front, digest):
    """Answers and bodies that are cut; refusals for a while."""
    w.ok("push for broken pulls", "push", "app:1", f"127.0.0.1:{port}/app:1")
    there = f"127.0.0.1:{front.port}/app:1"
    front.faults.cut_answer_after = 3 * MIB
    front.faults.no_ranges = False
    result = w.ok("pull over connections that break", "pull", "--store", w.store(), "--plain-http", there)
    checks.check(result.get("digest") == digest and front.cuts > 3, "cut and resumed", f"{front.cuts}")
    checks.check(front.blob_bytes < BIG * 3 // 2, "little comes twice", str(front.blob_bytes))
    front.reset()
    front.faults.no_ranges = True
    result = w.ok("pull without ranges", "pull", "--store", w.store(), "--plain-http", there)
    checks.check(result.get("digest") == digest, "without ranges")
    front.reset()
    front.faults.refuse = [(429, "1"), (503, None), (500, None)]
    began = time.monotonic()
    w.ok("pull after refusals", "pull", "--store", w.store(), "--plain-http", there)
    checks.check(time.monotonic() - began >= 1, "Retry-After is waited for")
    front.reset()
    front.faults.refuse = [(429, "86400")]
    w.fails("a pause of a day", "429", "pull", "--store", w.store(), "--plain-http", there)
    front.reset()
    # docker's registry takes nothing more once a body broke: from the beginning
    front.faults.cut_body_after, front.faults.cuts_left = 5 * MIB, 2
    w.ok("push over connections that break", "push", "--plain-http", "app:1", f"127.0.0.1:{front.port}/pushed:1")
    checks.check(front.cuts == 2, "bodies were cut", str(front.cuts))
    front.reset()
    w.ok("what was pushed in pieces", "pull", "--store", w.store(), f"127.0.0.1:{port}/pushed:1")
    own_front.faults.cut_body_after = 5 * MIB
    w.ok("push to lamina over connections that break", "push", "--plain-http", "app:2",
         f"127.0.0.1:{own_front.port}/pushed:1")
    checks.check(own_front.cuts >= 3, "bodies were cut", str(own_front.cuts))
    checks.check(own_front.body_bytes < BIG * 2, "little goes twice", str(own_front.body_bytes))
    own_front.reset()


def kill_when(w, moved, *args):
    process = w.host.start(*args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        lamina.wait_for(lambda: process.poll() is not None or moved(), 20, "something moved")
        alive = process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return alive


def test_killed(w, front, own_front, digest):
    """kill -9 of pull and of push: the next one goes on."""
    there, store = f"127.0.0.1:{front.port}/app:1", w.store()
    front.faults.bytes_per_second = 10 * MIB
    killed = kill_when(w, lambda: front.blob_bytes > 14 * MIB, "pull", "--store", store, "--plain-http", there)
    checks.check(killed, "pull was under way when it was killed")
    front.reset()
    result = w.ok("pull after the kill", "pull", "--store", store, "--plain-http", there)
    checks.check(result.get("digest") == digest and front.blob_bytes < BIG - 2 * MIB, "pull goes on",
                 str(front.blob_bytes))
    checks.check(w.run("fsck", "--store", store).returncode == 0, "fsck after the kill")
    there = f"127.0.0.1:{own_front.port}/killed:1"  # of blobs that it could not mount
    own_front.faults.bytes_per_second = 20 * MIB
    killed = kill_when(w, lambda: own_front.body_bytes > 12 * MIB, "push", "--plain-http", "app:3", there)
    checks.check(killed, "push was under way when it was killed")
    time.sleep(0.3)  # the registry sees the end of the connection
    own_front.reset()
    result = w.ok("push after the kill", "push", "--plain-http", "app:3", there)
    checks.check("digest" in result and own_front.body_bytes < BIG - 5 * MIB, "push goes on",
                 str(own_front.body_bytes))
    own_front.reset()


def test_tokens(w, port, front):
    there = f"127.0.0.1:{front.port}/app:1"
    front.faults.token = ("me", "secret")
    w.ok("a token server", "pull", "--store", w.store(), "--plain-http", "-u", "me:secret", there)
    checks.check(front.token_requests == 1, "one token serves all", str(front.token_requests))
    w.fails("a token server refuses", "credentials are refused", "pull", "--store", w.store(), "--plain-http", "-u",
            "me:wrong", there)
    w.ok("a token for pushing", "push", "--plain-http", "-u", "me:secret", "app:1", f"127.0.0.1:{front.port}/tok:1")
    front.faults.realm = "http://token.example.org/token"
    w.fails("a token server elsewhere without TLS", "not by https", "pull", "--store", w.store(), "--plain-http", "-u",
            "me:secret", there)
    front.reset()


def test_copy(w, docker, own, digest):
    result = w.ok("copy between registries", "copy", f"127.0.0.1:{docker}/many:1", f"127.0.0.1:{own}/copied:1")
    checks.check(result.get("moved") == 4 or result.get("mounted", 0) > 0, "copy moves what is not there", str(result))
    pulled = w.ok("what was copied", "pull", "--store", w.store(), "--all-platforms", f"127.0.0.1:{own}/copied:1")
    checks.check(pulled.get("moved") == 4, "an index with both", str(pulled))
    result = w.ok("copy within a registry", "copy", f"127.0.0.1:{docker}/app:1", f"127.0.0.1:{docker}/other/app:2")
    checks.check(result.get("mounted") == 3 and result.get("bytes") == 0, "blobs are mounted", str(result))
    checks.check(result.get("digest") == digest, "copy keeps the digest")


def test_referrers(w, own, digest):
    """A signature of sorts comes along when it is asked for."""
    import http.client
    conn = http.client.HTTPConnection("127.0.0.1", own, timeout=20)

    def call(method, path, body=None, **headers):
        conn.request(method, path, body, headers)
        answer = conn.getresponse()
        return answer, answer.read()
    empty = b"{}"
    name = digest_of(empty)
    answer, _ = call("POST", f"/v2/team/app/blobs/uploads/?digest={name}", empty)
    checks.check(answer.status == 201, "the empty blob")
    document = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                           "artifactType": "application/test", "layers": [
                               {"mediaType": "application/vnd.oci.empty.v1+json", "digest": name, "size": 2}],
                           "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": name, "size": 2},
                           "subject": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
                                       "size": len(call("GET", f"/v2/team/app/manifests/{digest}")[1])}}).encode()
    answer, _ = call("PUT", f"/v2/team/app/manifests/{digest_of(document)}", document,
                     **{"Content-Type": "application/vnd.oci.image.manifest.v1+json"})
    checks.check(answer.status == 201, "the referrer", str(answer.status))
    result = w.ok("copy with referrers", "copy", "--referrers", f"127.0.0.1:{own}/team/app:1",
                  f"127.0.0.1:{own}/signed:1")
    answer, body = call("GET", f"/v2/signed/referrers/{digest}")
    checks.check([m["digest"] for m in json.loads(body)["manifests"]] == [digest_of(document)],
                 "the referrer is copied", body.decode() + str(result))
    store = w.store()
    w.ok("pull with referrers", "pull", "--store", store, "--referrers", f"127.0.0.1:{own}/signed:1")
    got = w.ok("the referrer is here", "inspect", "--store", store, f"127.0.0.1_{own}/signed@{digest_of(document)}")
    checks.check(got.get("digest") == digest_of(document), "the referrer is pulled")
    w.ok("push with referrers", "push", "--store", store, "--referrers", f"127.0.0.1_{own}/signed:1",
         f"127.0.0.1:{own}/again:1")
    _, body = call("GET", f"/v2/again/referrers/{digest}")
    checks.check(digest_of(document) in body.decode(), "the referrer is pushed")


def test_http2(w, own, digest):
    """nginx with HTTP/2 and a certificate of its own, trusted by certs.d."""
    d, port = w.host.dir + "/nginx", lamina.free_port()
    os.makedirs(d)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", d + "/key", "-out",
                    d + "/cert", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(d + "/conf", "w", encoding="utf-8") as f:
        f.write(f"""daemon off; pid {d}/pid; error_log {d}/error; events {{}}
http {{ access_log {d}/access combined; client_max_body_size 0; client_body_temp_path {d}/t1; proxy_temp_path {d}/t2;
 fastcgi_temp_path {d}/t3; uwsgi_temp_path {d}/t4; scgi_temp_path {d}/t5;
 server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {d}/cert; ssl_certificate_key {d}/key;
  location / {{ proxy_pass http://127.0.0.1:{own}; proxy_request_buffering off; proxy_buffering off;
   proxy_http_version 1.1; proxy_set_header Host $http_host; }} }} }}""")
    process = subprocess.Popen(["nginx", "-c", d + "/conf", "-e", d + "/error"], stderr=subprocess.DEVNULL)
    try:
        wait_listening(port, process)
        there = f"127.0.0.1:{port}/h2:1"
        w.fails("a certificate that nobody trusts", "certificate", "push", "app:1", there)
        w.ok("--tls-verify=no", "push", "--tls-verify=no", "app:1", there)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/etc/containers"], check=True)
        os.makedirs(f"/etc/containers/certs.d/127.0.0.1:{port}")
        with open(d + "/cert", encoding="utf-8") as cert, open(
                f"/etc/containers/certs.d/127.0.0.1:{port}/ca.crt", "w", encoding="utf-8") as ca:
            ca.write(cert.read())
        w.ok("push by HTTP/2", "push", "app:1", f"127.0.0.1:{port}/h2/again:1")
        result = w.ok("pull by HTTP/2", "pull", "--store", w.store(), there)
        checks.check(result.get("digest") == digest, "the same image")
        with open(d + "/access", encoding="utf-8") as f:
            lines = f.read().splitlines()
        checks.check(lines and all(" HTTP/2.0\"" in line for line in lines), "all of it is HTTP/2", lines[0])
    finally:
        process.terminate()
        process.wait()


def main():
    lamina.need("docker-registry", "nginx", "openssl")
    lamina.isolate(120)
    processes, fronts = [], []
    with lamina.Host() as host:
        w = World(host)
        try:
            make_layout(host.dir + "/layout")
            digest = host.json("import", f"oci:{host.dir}/layout:app", "app:1")["images"][0]["digest"]
            many = host.json("import", f"oci:{host.dir}/layout:many", "many:1")["images"][0]["digest"]
            host.json("import", f"oci:{host.dir}/layout:app2", "app:2")
            host.json("import", f"oci:{host.dir}/layout:app3", "app:3")
            own = lamina.free_port()
            processes.append(host.start("serve", "--store", host.dir + "/registry", "--listen", f"127.0.0.1:{own}",
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            wait_listening(own, processes[-1])
            docker, process = docker_registry(host.dir + "/docker")
            processes.append(process)
            with open(host.dir + "/htpasswd", "w", encoding="utf-8") as f:
                # bcrypt of "secret", cost 4
                f.write("me:" + BCRYPT_SECRET + "\n")
            private, process = docker_registry(host.dir + "/private", host.dir + "/htpasswd")
            processes.append(process)
            fronts = [Front(docker), Front(own)]
            test_own(w, own, digest)
            test_platforms(w, docker, many)
            test_credentials(w, private)
            test_broken(w, docker, fronts[0], fronts[1], digest)
            test_killed(w, fronts[0], fronts[1], digest)
            test_tokens(w, docker, fronts[0])
            test_copy(w, docker, own, digest)
            test_referrers(w, own, digest)
            test_http2(w, own, digest)
        finally:
            for front in fronts:
                front.close()
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
    checks.finish()


BCRYPT_SECRET = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"

if __name__ == "__main__":
    main()
