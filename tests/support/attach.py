#!/usr/bin/python3
"""Attaches artifacts to an image as oras and cosign do, request by request, and finds them again:
oras (POST, PUT with the Authorization of the POST, a manifest with a subject, referrers by type, also
for the digest of zeros that it probes with) and cosign (POST, PATCH, PUT, HEAD as Google's library
sends them; a signature as a referrer, and the older one as a tag made of the digest)."""
import argparse
import base64
import hashlib
import http.client
import json
import re
import ssl
import sys
import urllib.parse

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(), "size": 2}


class Client:
    def __init__(self, options):
        self.options, self.tokens = options, {}
        self.tls = ssl.create_default_context(cafile=options.ca) if options.ca else None

    def send(self, method, target, body=None, headers=None):
        kind = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        connection = kind(self.options.host, timeout=20, **({"context": self.tls} if self.tls else {}))
        connection.request(method, target, body=body, headers=headers or {})
        answer = connection.getresponse()
        answer.body = answer.read()
        connection.close()
        return answer

    def password(self):
        text = f"{self.options.user}:{self.options.password}".encode()
        return "Basic " + base64.b64encode(text).decode()

    def authorize(self, challenge):
        """What a challenge asks for: the password, or a token by it."""
        scheme, _, rest = challenge.partition(" ")
        if scheme == "Basic":
            return self.password()
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        url = urllib.parse.urlsplit(fields["realm"])
        query = urllib.parse.urlencode([("service", fields["service"]), ("scope", fields.get("scope", ""))])
        answer = self.send("GET", f"{url.path}?{query}", headers={"Authorization": self.password()})
        assert answer.status == 200, (answer.status, answer.body)
        return "Bearer " + json.loads(answer.body)["token"]

    def call(self, wanted, method, target, body=None, headers=None, authorization=None):
        headers = dict(headers or {})
        authorization = authorization or self.tokens.get(method in ("GET", "HEAD"))
        if authorization:
            headers["Authorization"] = authorization
        answer = self.send(method, target, body, headers)
        if answer.status == 401 and self.options.user:
            authorization = self.authorize(answer.headers["WWW-Authenticate"])
            self.tokens[method in ("GET", "HEAD")] = authorization
            answer = self.send(method, target, body, dict(headers, Authorization=authorization))
        assert answer.status == wanted, f"{method} {target}: {answer.status}, not {wanted}: {answer.body[:300]!r}"
        answer.authorization = authorization
        return answer


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def with_digest(location, digest):
    parts = urllib.parse.urlsplit(location)
    target = parts.path + ("?" + parts.query if parts.query else "")
    return target + ("&" if parts.query else "?") + urllib.parse.urlencode({"digest": digest})


def oras_blob(c, repo, data):
    start = c.call(202, "POST", f"/v2/{repo}/blobs/uploads/")
    c.call(201, "PUT", with_digest(start.headers["Location"], digest_of(data)), data,
           {"Content-Type": "application/octet-stream"}, authorization=start.authorization)


def cosign_blob(c, repo, data):
    start = c.call(202, "POST", f"/v2/{repo}/blobs/uploads/", headers={"Content-Type": "application/json"})
    piece = c.call(202, "PATCH", start.headers["Location"], data, {"Content-Type": "application/octet-stream"})
    done = c.call(201, "PUT", with_digest(piece.headers["Location"], digest_of(data)), b"")
    assert done.headers["Docker-Content-Digest"] == digest_of(data)
    assert int(c.call(200, "HEAD", f"/v2/{repo}/blobs/{digest_of(data)}").headers["Content-Length"]) == len(data)


def manifest_of(kind, layer, layer_type, subject, annotations):
    doc = {"schemaVersion": 2, "mediaType": MANIFEST, "config": EMPTY,
           "layers": [{"mediaType": layer_type, "digest": digest_of(layer), "size": len(layer)}], "annotations": annotations}
    if kind:
        doc["artifactType"] = kind
    if subject:
        doc["subject"] = subject
    return json.dumps(doc).encode()


def referrers(c, repo, digest, kind=None):
    query = "?" + urllib.parse.urlencode({"artifactType": kind}) if kind else ""
    answer = c.call(200, "GET", f"/v2/{repo}/referrers/{digest}{query}", headers={"Accept": INDEX})
    assert answer.headers["Content-Type"] == INDEX, answer.headers["Content-Type"]
    return answer, json.loads(answer.body)["manifests"]


def main():
    parser = argparse.ArgumentParser()
    for name in ("--ca", "--user", "--password"):
        parser.add_argument(name)
    for name in ("host", "repo", "digest"):
        parser.add_argument(name)
    options = parser.parse_args()
    c, repo = Client(options), options.repo

    # oras attach
    head = c.call(200, "HEAD", f"/v2/{repo}/manifests/{options.digest}", headers={"Accept": f"{MANIFEST}, {INDEX}"})
    subject = {"mediaType": head.headers["Content-Type"], "digest": head.headers["Docker-Content-Digest"],
               "size": int(head.headers["Content-Length"])}
    assert subject["digest"] == options.digest
    zeros, found = referrers(c, repo, "sha256:" + "0" * 64)
    assert not found, zeros.body
    sbom = b'{"packages":[]}'
    oras_blob(c, repo, sbom)
    oras_blob(c, repo, b"{}")
    attached = manifest_of("application/spdx+json", sbom, "application/spdx+json", subject, {"made": "by a test"})
    done = c.call(201, "PUT", f"/v2/{repo}/manifests/{digest_of(attached)}", attached, {"Content-Type": MANIFEST})
    assert done.headers["OCI-Subject"] == options.digest, done.headers["OCI-Subject"]

    # cosign sign: both ways
    payload = json.dumps({"critical": {"image": {"docker-manifest-digest": options.digest}}}).encode()
    cosign_blob(c, repo, payload)
    kind, media = "application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.dev.cosign.simplesigning.v1+json"
    signature = manifest_of(kind, payload, media, subject, {"dev.cosignproject.cosign/signature": "AAAA"})
    done = c.call(201, "PUT", f"/v2/{repo}/manifests/{digest_of(signature)}", signature, {"Content-Type": MANIFEST})
    assert done.headers["OCI-Subject"] == options.digest
    tag = options.digest.replace(":", "-") + ".sig"
    c.call(404, "HEAD", f"/v2/{repo}/manifests/{tag}")
    old = manifest_of(None, payload, media, None, {"dev.cosignproject.cosign/signature": "BBBB"})
    c.call(201, "PUT", f"/v2/{repo}/manifests/{tag}", old, {"Content-Type": MANIFEST})
    assert c.call(200, "GET", f"/v2/{repo}/manifests/{tag}").body == old

    # oras discover, cosign verify
    _, found = referrers(c, repo, options.digest)
    wanted = {digest_of(attached), digest_of(signature)}
    assert wanted <= {m["digest"] for m in found}, found
    answer, found = referrers(c, repo, options.digest, "application/spdx+json")
    assert [m["digest"] for m in found] == [digest_of(attached)], found
    assert found[0]["annotations"] == {"made": "by a test"} and found[0]["artifactType"] == "application/spdx+json"
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"
    assert c.call(200, "GET", f"/v2/{repo}/blobs/{digest_of(sbom)}").body == sbom
    c.call(202, "DELETE", f"/v2/{repo}/manifests/{digest_of(attached)}")
    _, found = referrers(c, repo, options.digest, "application/spdx+json")
    assert not found, found


if __name__ == "__main__":
    sys.exit(main())
