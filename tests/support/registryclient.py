"""A registry as its tests see it: requests as they are sent, answers as they come, and manifests of
every kind to push."""
import base64
import hashlib
import http.client
import json
import os
import socket
import ssl
import sys
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lamina  # noqa: E402

OCI = "application/vnd.oci.image."
MANIFEST, INDEX = OCI + "manifest.v1+json", OCI + "index.v1+json"
CONFIG, LAYER = OCI + "config.v1+json", OCI + "layer.v1.tar"
EMPTY = "application/vnd.oci.empty.v1+json"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

checks = lamina.Checks()


class Target:
    """The registry that is tested."""

    def __init__(self):
        self.host, self.port, self.tls, self.authorization = "127.0.0.1", 0, None, None

    def set(self, url, insecure=False):
        parts = urllib.parse.urlsplit(url if "://" in url else "http://" + url)
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme == "https":
            self.tls = ssl.create_default_context()
            if insecure:
                self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    def authorize(self, user, password):
        self.authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def connection(self, timeout=30):
        if self.tls:
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def socket(self):
        sock = socket.create_connection((self.host, self.port), timeout=30)
        return self.tls.wrap_socket(sock, server_hostname=self.host) if self.tls else sock

    def raw_headers(self):
        """For requests written by hand."""
        auth = f"Authorization: {self.authorization}\r\n" if self.authorization else ""
        return f"Host: {self.host}:{self.port}\r\n{auth}"


target = Target()
errors_seen = []  # of every answer that is one: (status, code, body)


def digest_of(data, alg="sha256"):
    return alg + ":" + hashlib.new(alg, data).hexdigest()


class Answer:
    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body

    def __getitem__(self, name):
        return self.headers.get(name)

    def error(self):
        try:
            return json.loads(self.body)["errors"][0]["code"]
        except (ValueError, KeyError, IndexError):
            return None


def path_of(where):
    """Of a Location, which may be absolute."""
    parts = urllib.parse.urlsplit(where)
    return parts.path + ("?" + parts.query if parts.query else "")


def call(method, path, body=None, headers=None, chunked=False, authorized=True):
    """One request; `body` as bytes with its length, or in chunks."""
    connection = target.connection()
    path = path_of(path)
    headers = dict(headers or {})
    if target.authorization and authorized:
        headers.setdefault("Authorization", target.authorization)
    if chunked:
        headers["Transfer-Encoding"] = "chunked"
        third = len(body) // 3 + 1
        body = iter([body[i:i + third] for i in range(0, len(body), third)])
    elif body is None and method in ("POST", "PUT", "PATCH"):
        headers["Content-Length"] = "0"
    try:
        connection.request(method, path, body, headers, encode_chunked=chunked)
        response = connection.getresponse()
        answer = Answer(response, response.read())
    finally:
        connection.close()
    if answer["Docker-Distribution-Api-Version"] != "registry/2.0":
        checks.check(False, f"rule 57: {method} {path}: Docker-Distribution-Api-Version")
    if answer.status >= 400 and method != "HEAD":
        errors_seen.append((answer.status, answer.error(), answer.body))
        checks.check(answer.error() is not None, f"rule 24: {method} {path}: error body", repr(answer.body[:200]))
    return answer


def expect(answer, statuses, what, error=None):
    statuses = statuses if isinstance(statuses, tuple) else (statuses,)
    ok = answer.status in statuses and (error is None or answer.error() == error)
    return checks.check(ok, what, f"status {answer.status}, body {answer.body[:200]!r}")


def location(answer, what):
    value = answer["Location"]
    checks.check(bool(value) and path_of(value).startswith("/v2/"), what + ": Location", str(value))
    return value or "/v2/no-location"


def with_query(path, **query):
    return path + ("&" if "?" in path else "?") + urllib.parse.urlencode(query)


def start_upload(repo, what):
    answer = call("POST", f"/v2/{repo}/blobs/uploads/")
    expect(answer, 202, what + ": POST")
    checks.check(bool(answer["Docker-Upload-UUID"]), what + ": Docker-Upload-UUID")
    return location(answer, what)


def check_blob(repo, data, digest, what):
    path = f"/v2/{repo}/blobs/{digest}"
    answer = call("HEAD", path)
    expect(answer, 200, what + ": HEAD")
    checks.check(answer["Content-Length"] == str(len(data)) and not answer.body, what + ": HEAD length",
                 str(answer["Content-Length"]))
    answer = call("GET", path)
    expect(answer, 200, what + ": GET")
    checks.check(answer.body == data, what + ": bytes")
    checks.check(answer["Docker-Content-Digest"] == digest, what + ": Docker-Content-Digest")


def push_blob(repo, data, alg="sha256"):
    digest = digest_of(data, alg)
    answer = call("POST", f"/v2/{repo}/blobs/uploads/?digest={digest}", data)
    if answer.status == 202:  # as it may: the bytes are wanted by PUT
        answer = call("PUT", with_query(answer["Location"], digest=digest), data)
    expect(answer, 201, f"push {len(data)} bytes to {repo}")
    return digest


def descriptor(content, media_type, alg="sha256", **more):
    return dict({"mediaType": media_type, "digest": digest_of(content, alg), "size": len(content)}, **more)


def encode(document):
    return json.dumps(document, indent=2).encode()


class Kinds:
    """Manifests of every kind, with the blobs they need; in pushing order."""

    def __init__(self, repo, alg="sha256"):
        self.repo, self.alg, self.list = repo, alg, []
        self.config = encode({"architecture": "amd64", "os": "linux", "config": {}, "repo": repo + alg,
                              "rootfs": {"type": "layers", "diff_ids": [digest_of(b"\0" * 1024)]}})
        self.layer = b"\0" * 1024
        for blob in (self.config, self.layer, b"{}"):
            push_blob(repo, blob, alg)
        image = self.image("image")
        index = self.index("index", [image])
        nested = self.index("nested index", [index])
        artifact = self.image("artifact", config=descriptor(b"{}", EMPTY, alg), artifactType="application/vnd.x",
                              layers=[descriptor(b"{}", EMPTY, alg)])
        self.image("config type artifact", config=descriptor(b"{}", "application/vnd.by-config", alg),
                   layers=[descriptor(b"{}", EMPTY, alg)], subject=self.ref(image, MANIFEST),
                   annotations={"org.example.key": "valüe"})
        self.image("subject", artifactType="application/vnd.x", subject=self.ref(image, MANIFEST))
        self.image("missing subject", subject=descriptor(b"never pushed", MANIFEST, alg))
        self.index("artifact index", [artifact], artifactType="application/vnd.index")
        self.index("index with subject", [image], subject=self.ref(image, MANIFEST), artifactType="application/vnd.index")
        self.image("data field", config=descriptor(b"{}", EMPTY, alg, data="e30="))
        self.image("non-distributable", layers=[descriptor(b"elsewhere", OCI + "layer.nondistributable.v1.tar", alg)])
        self.image("custom fields", org_example={"a": [1, {"b": None}]}, annotations={"x": "y"})
        self.image("no layers", layers=[])
        self.image("docker", type=DOCKER_MANIFEST, layers=[
            descriptor(self.layer, "application/vnd.docker.image.rootfs.diff.tar.gzip", alg),
            descriptor(b"urls", FOREIGN, alg, urls=["https://example.org/x"])])
        self.nested = nested

    def ref(self, data, media_type):
        return descriptor(data, media_type, self.alg)

    def image(self, kind, type=MANIFEST, **more):
        document = {"schemaVersion": 2, "mediaType": type, "config": descriptor(self.config, CONFIG, self.alg),
                    "layers": [descriptor(self.layer, LAYER, self.alg)], "annotations": {"kind": kind}}
        document.update(more)
        return self.add(kind, type, document)

    def index(self, kind, children, **more):
        types = [json.loads(c)["mediaType"] for c in children]
        document = {"schemaVersion": 2, "mediaType": INDEX, "annotations": {"kind": kind},
                    "manifests": [self.ref(c, t) for c, t in zip(children, types)]}
        document.update(more)
        return self.add(kind, INDEX, document)

    def add(self, kind, media_type, document):
        data = encode(document)
        self.list.append((kind, media_type, document, data))
        return data
