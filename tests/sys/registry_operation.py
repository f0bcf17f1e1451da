#!/usr/bin/python3
"""Running a registry: metrics that parse, a log that cannot be forged, health, webhooks that survive
kill -9 of the owner, retention."""
import hashlib
import hmac
import http.client
import http.server
import json
import os
import re
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SECRET = b"some secret"
checks = lamina.Checks()


def call(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def push(port, repo, tag, text, headers=None):
    """An image of one blob; returns its digest."""
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    status, _, body = call(port, "POST", f"/v2/{repo}/blobs/uploads/?digest={digest}", text)
    checks.check(status == 201, f"push of a blob to {repo}", repr(body))
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest, "size": len(text)}}).encode()
    status, _, body = call(port, "PUT", f"/v2/{repo}/manifests/{tag}", manifest,
                           dict(headers or {}, **{"Content-Type": MANIFEST}))
    checks.check(status == 201, f"push of {repo}:{tag}", repr(body))
    return "sha256:" + hashlib.sha256(manifest).hexdigest()


class Endpoint:
    """Takes events, or refuses them."""

    def __init__(self):
        self.refuse, self.attempts, self.events, self.signed = True, 0, [], True
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.attempts += 1
                want = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
                endpoint.signed &= self.headers["X-Lamina-Signature-256"] == want
                endpoint.signed &= self.headers["X-Extra"] == "yes"
                endpoint.signed &= self.headers["Content-Type"] == \
                    "application/vnd.docker.distribution.events.v1+json"
                if not endpoint.refuse:
                    endpoint.events += json.loads(body)["events"]
                self.send_response(503 if endpoint.refuse else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *unused):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def tags(self, action="push"):
        return [e["target"].get("tag") for e in self.events if e["action"] == action]


class Owner:
    def __init__(self, host, *args):
        self.process = host.start("serve", "--listen", "127.0.0.1:0", *args, stderr=open(host.dir + "/log", "ab"))
        self.port = lamina.wait_for(lambda: self.find_port(host), 20, "the owner")

    def find_port(self, host):
        with open(host.dir + "/log", encoding="utf-8") as f:
            text = f.read()
        at = text.rfind(f"pid={self.process.pid}\n")
        found = re.search(r"registry port=(\d+)", text[at:]) if at >= 0 else None
        return int(found.group(1)) if found else None

    def kill(self, sig):
        self.process.send_signal(sig)
        self.process.wait(30)


def samples(text):
    """The text format, read by its rules: {(name, labels): value}."""
    out, typed = {}, {}
    for line in text.decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            checks.check(name not in typed, f"metrics: {name} comes once")
            typed[name] = kind
            continue
        if line.startswith("# HELP "):
            continue
        m = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-z_]+="(?:[^"\\]|\\.)*",?)*\})? ([0-9.eE+-]+)', line)
        if not checks.check(m is not None, "metrics: a sample", line):
            continue
        family = re.sub(r"_(bucket|sum|count)$", "", m.group(1))
        checks.check(m.group(1) in typed or typed.get(family) == "histogram", f"metrics: type of {m.group(1)}")
        checks.check((m.group(1), m.group(2)) not in out, f"metrics: {m.group(1)}{m.group(2)} comes once")
        out[m.group(1), m.group(2) or ""] = float(m.group(3))
    return out


def health_and_metrics(owner, own_port):
    status, _, body = call(owner.port, "GET", "/healthz")
    checks.check(status == 200 and json.loads(body) == {"status": "alive"}, "alive", repr(body))
    status, _, body = call(owner.port, "GET", "/readyz")
    ready = json.loads(body)
    checks.check(status == 200 and ready["status"] == "ready" and ready["freeBytes"] > 0, "ready", repr(body))
    status, _, body = call(owner.port, "GET", "/readyz", headers={"X-Forwarded-For": "192.0.2.1"})
    checks.check(json.loads(body) == {"status": "ready"}, "no details for others", repr(body))
    status, _, _ = call(owner.port, "GET", "/metrics", headers={"X-Forwarded-For": "192.0.2.1"})
    checks.check(status == 404, "no metrics for others", str(status))
    for port in (owner.port, own_port):
        status, headers, body = call(port, "GET", "/metrics")
        checks.check(status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4"), "metrics")
        found = samples(body)
        pushes = found.get(("lamina_http_requests_total", '{kind="manifest",method="PUT",status="2xx"}'), 0)
        checks.check(pushes >= 2, "metrics: pushes", str(pushes))
        checks.check(found.get(("lamina_webhook_pending_events", '{webhook="dead"}'), 0) >= 2, "metrics: webhooks")
        checks.check(found[("process_resident_memory_bytes", "")] > 1e6, "metrics: memory")
        buckets = [v for (n, l), v in found.items()
                   if n.endswith("_duration_seconds_bucket") and 'kind="manifest"' in l]
        checks.check(buckets == sorted(buckets), "metrics: buckets grow", str(buckets))
    status, _, _ = call(own_port, "GET", "/v2/")
    checks.check(status == 404, "nothing else at that address", str(status))


def access_log(owner, path):
    evil = '/v2/x/manifests/y"%0a{"a":1}'
    call(owner.port, "GET", evil, headers={"User-Agent": 'a"\\\x80b', "X-Request-Id": "mine-1"})

    def lines():
        with open(path, "rb") as f:
            return f.read().splitlines()
    lamina.wait_for(lambda: any(b"mine-1" in l for l in lines()), 10, "a line of the log")
    parsed = [json.loads(l) for l in lines()]
    mine = [l for l in parsed if l["id"] == "mine-1"]
    checks.check(len(mine) == 1 and mine[0]["target"] == evil and mine[0]["status"] in (400, 404), "a line", str(mine))
    checks.check(mine and mine[0]["agent"] == 'a"\\\x80b' and mine[0]["client"] == "127.0.0.1", "texts of clients")
    checks.check(any(l["method"] == "PUT" and l["status"] == 201 and l["in"] > 0 for l in parsed), "pushes are logged")
    os.rename(path, path + ".1")
    owner.process.send_signal(signal.SIGHUP)
    lamina.wait_for(lambda: os.path.exists(path), 10, "the new log")
    call(owner.port, "GET", "/v2/")
    lamina.wait_for(lambda: b"/v2/" in b"".join(lines()), 10, "a line in the new log")


def webhooks(host, config, endpoint):
    """The owner is killed between the push and its delivery."""
    owner = Owner(host, "--config", config)
    push(owner.port, "team/app", "one", b"1", {"User-Agent": "pusher/1"})
    start = time.monotonic()
    push(owner.port, "team/app", "two", b"2")
    checks.check(time.monotonic() - start < 5, "a dead endpoint does not hold up pushes")
    lamina.wait_for(lambda: endpoint.attempts > 0, 10, "an attempt")
    owner.kill(signal.SIGKILL)
    checks.check(not endpoint.events, "nothing was delivered yet")
    endpoint.refuse = False
    owner = Owner(host, "--config", config)
    lamina.wait_for(lambda: len(endpoint.events) >= 2, 20, "events after the restart")
    checks.check(list(dict.fromkeys(endpoint.tags())) == ["one", "two"], "delivered in order", str(endpoint.tags()))
    checks.check(endpoint.signed, "signed, with its headers")
    first = endpoint.events[0]
    target, request = first["target"], first["request"]
    checks.check(target["repository"] == "team/app" and target["mediaType"] == MANIFEST and
                 target["size"] == target["length"] and target["digest"].startswith("sha256:") and
                 target["url"].endswith(f"/v2/team/app/manifests/{target['digest']}") and
                 len(target["references"]) == 1, "target", str(target))
    checks.check(request["addr"] == "127.0.0.1" and request["method"] == "PUT" and request["id"] and
                 request["useragent"] == "pusher/1" and "source" in first and "actor" in first and
                 re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", first["timestamp"]) is not None, "envelope", str(first))
    call(owner.port, "GET", "/v2/team/app/manifests/one")
    lamina.wait_for(lambda: endpoint.tags("pull"), 10, "a pull")
    return owner


def retention(host, owner, config, endpoint):
    # The killed owner had not written yet when tags were set: they count from this run on.
    done = host.json("retention", "--config", config)
    checks.check(done["removed"] == [] and done["seen"] == 2, "nothing goes at first", str(done))
    time.sleep(1.1)  # ages count in seconds
    digest = push(owner.port, "team/app", "three", b"3")
    later = str(int(time.time()) + 40 * 86400)
    done = host.json("retention", "--config", config, "--dry-run", "--now", later)
    gone = [(i["repository"], i.get("tag")) for i in done["removed"]]
    checks.check(sorted(gone) == [("team/app", "one"), ("team/app", "two")], "dry run: all but the newest", str(gone))
    text = host.run("retention", "--config", config, "--dry-run").stdout
    checks.check(text.startswith("0 of 3 tags"), "dry run: nothing is old yet", text)
    # The same rules without an age.
    with open(config, encoding="utf-8") as f:
        young = f.read().replace("max_age = 30d", "")
    with open(host.dir + "/young.ini", "w", encoding="utf-8") as f:
        f.write(young)
    before = len(endpoint.tags("delete"))
    done = host.json("retention", "--config", host.dir + "/young.ini")
    checks.check(done["tags"] == 2 and done["failed"] == 0, "run", str(done))
    status, _, body = call(owner.port, "GET", "/v2/team/app/tags/list")
    tags = json.loads(body)["tags"]
    checks.check(len(tags) == 1, "one is left", str(tags))
    lamina.wait_for(lambda: len(endpoint.tags("delete")) >= before + 2, 10, "deletions are told")
    host.run("tag", "team/app:three", "team/app:four")
    host.run("rm", "team/app:four")
    lamina.wait_for(lambda: "four" in endpoint.tags("delete"), 10, "what commands do is told")
    told = [e for e in endpoint.events if e["target"].get("tag") == "four"]
    checks.check([e["action"] for e in told] == ["push", "delete"] and
                 all(e["target"]["digest"] == digest and e["request"] == {} for e in told), "by commands", str(told))


def main():
    lamina.isolate(120)
    endpoint = Endpoint()
    with lamina.Host() as host:
        own_port = lamina.free_port()
        config, log = host.dir + "/lamina.ini", host.dir + "/access.log"
        with open(config, "w", encoding="utf-8") as f:
            f.write(f"""
[operation]
listen = 127.0.0.1:{own_port}
[log]
access = json
file = {log}
[webhook ci]
url = http://127.0.0.1:{endpoint.port}/events
secret = {SECRET.decode()}
header = X-Extra: yes
actions = push, pull, delete
repositories = team/**
[webhook dead]
url = http://127.0.0.1:{lamina.free_port()}/
[retention old]
repositories = team/*
keep = 1
max_age = 30d
""")
        owner = webhooks(host, config, endpoint)
        push(owner.port, "other/app", "one", b"1")
        push(owner.port, "other/app", "two", b"1")
        health_and_metrics(owner, own_port)
        access_log(owner, log)
        retention(host, owner, config, endpoint)
        checks.check(all(e["target"]["repository"].startswith("team/") for e in endpoint.events), "only its repositories")
        owner.kill(signal.SIGTERM)
        checks.check(owner.process.returncode == 0, "ends")
    checks.finish()


main()
