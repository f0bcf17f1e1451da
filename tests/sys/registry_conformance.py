#!/usr/bin/python3
"""The registry against the OCI distribution-spec: first in the order of its conformance suite (for
both digest algorithms every way to push and pull a blob, then every kind of manifest, then what must
be refused), with the headers that caches need; then rule by rule (tests/support/registryrules.py).

Without options a registry of our own is tested, where everybody may do everything, and then by its
rules one that asks for names. --url tests one that runs already, of whatever make;
what only lamina promises is left out then, unless --lamina is given."""
import argparse
import http.client
import json
import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import registryaccess  # noqa: E402
import registryrules  # noqa: E402
from registryclient import (DOCKER_MANIFEST, INDEX, LAYER, MANIFEST, Kinds, call, check_blob, checks, descriptor,  # noqa: E402
                            digest_of, encode, expect, location, push_blob, start_upload, target, with_query)

# ---- blobs ----

def ping_and_empty(repo):
    expect(call("GET", "/v2/"), 200, "ping")
    expect(call("GET", f"/v2/{repo}/tags/list"), (200, 404), "tags of an unknown repository")
    answer = call("GET", f"/v2/{repo}/referrers/" + digest_of(b"nothing"))
    expect(answer, 200, "referrers in an unknown repository")
    checks.check(answer["Content-Type"] == INDEX, "referrers: type")
    checks.check(json.loads(answer.body) == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []},
                 "referrers: empty index", repr(answer.body))


def push_ways(repo, alg):
    def named(text):
        return f"{alg} {text}"

    def content(text):
        return (f"{repo} {alg} {text} ").encode() * 300

    missing = digest_of(content("missing"), alg)
    for method in ("GET", "HEAD"):
        expect(call(method, f"/v2/{repo}/blobs/{missing}"), 404, named("blob that is not there"))

    data = content("post only")
    answer = call("POST", f"/v2/{repo}/blobs/uploads/?digest={digest_of(data, alg)}", data)
    expect(answer, 201, named("POST only"))
    pulled = call("GET", location(answer, named("POST only")))
    checks.check(pulled.body == data, named("POST only: Location gives the bytes"))

    data = content("post put")
    where = start_upload(repo, named("POST, PUT"))
    answer = call("PUT", with_query(where, digest=digest_of(data, alg)), data,
                  {"Content-Type": "application/octet-stream"})
    expect(answer, 201, named("POST, PUT"))
    check_blob(repo, data, digest_of(data, alg), named("POST, PUT"))
    expect(call("GET", where), 404, named("session after its end"), "BLOB_UPLOAD_UNKNOWN")

    data = content("one chunk")
    where = start_upload(repo, named("one chunk"))
    answer = call("PATCH", where, data, {"Content-Range": f"0-{len(data) - 1}"})
    expect(answer, 202, named("one chunk"))
    checks.check(answer["Range"] == f"0-{len(data) - 1}", named("one chunk: Range"), str(answer["Range"]))
    where = location(answer, named("one chunk"))
    expect(call("PUT", with_query(where, digest=digest_of(data, alg))), 201, named("one chunk: PUT"))
    check_blob(repo, data, digest_of(data, alg), named("one chunk"))

    data = content("stream")
    where = start_upload(repo, named("stream"))
    answer = call("PATCH", where, data, chunked=True)
    expect(answer, 202, named("stream"))
    checks.check(answer["Range"] == f"0-{len(data) - 1}", named("stream: Range"), str(answer["Range"]))
    expect(call("PUT", with_query(answer["Location"], digest=digest_of(data, alg))), 201, named("stream: PUT"))
    check_blob(repo, data, digest_of(data, alg), named("stream"))


def mounts(repo, alg):
    other = repo + "/other"
    data = f"{repo} {alg} mounted".encode()
    digest = push_blob(repo, data, alg)
    answer = call("POST", f"/v2/{other}/blobs/uploads/?mount={digest}&from={repo}")
    expect(answer, 201, f"{alg} mount")
    checks.check(answer["Docker-Content-Digest"] == digest, f"{alg} mount: digest")
    checks.check(call("GET", location(answer, f"{alg} mount")).body == data, f"{alg} mount: bytes")
    answer = call("POST", f"/v2/{repo}/third/blobs/uploads/?mount={digest}")
    expect(answer, (201, 202), f"{alg} anonymous mount")
    for query in (f"mount={digest_of(b'never pushed', alg)}&from={repo}",
                  f"mount={digest_of(b'never pushed', alg)}", f"mount={digest}&from={repo}/nowhere",
                  f"mount={digest}&from=Not_A_Name"):
        answer = call("POST", f"/v2/{repo}/fourth/blobs/uploads/?{query}")
        expect(answer, 202, f"{alg} mount of what is not there falls back: {query}")
        expect(call("DELETE", location(answer, "fall back")), 204, f"{alg} mount: cancelling what it fell back to")


def chunks(repo, alg):
    data = (f"{repo} {alg} chunks").encode() * 1000
    cut = [data[:7000], data[7000:7001], data[7001:]]
    digest = digest_of(data, alg)

    def send(where, at, chunk, method="PATCH", **query):
        return call(method, with_query(where, **query) if query else where, chunk,
                    {"Content-Range": f"{at}-{at + len(chunk) - 1}", "Content-Type": "application/octet-stream"})

    where = start_upload(repo, f"{alg} chunks")
    status = call("GET", where)
    expect(status, 204, f"{alg} status of a new session")
    checks.check(status["Range"] == "0-0", f"{alg} status: Range of nothing", str(status["Range"]))
    at = 0
    for chunk in cut:
        answer = send(where, at, chunk)
        at += len(chunk)
        expect(answer, 202, f"{alg} chunk up to {at}")
        where = location(answer, f"{alg} chunk")
        status = call("GET", where)
        expect(status, 204, f"{alg} status")
        checks.check(status["Range"] == f"0-{at - 1}" and status["Location"] == where, f"{alg} status: Range, Location")
    expect(call("PUT", with_query(where, digest=digest)), 201, f"{alg} chunks: PUT")
    check_blob(repo, data, digest, f"{alg} chunks")

    data += b"last chunk by PUT"
    digest = digest_of(data, alg)
    where = start_upload(repo, f"{alg} last chunk by PUT")
    where = location(send(where, 0, data[:5000]), "chunk")
    expect(send(where, 5000, data[5000:], "PUT", digest=digest), 201, f"{alg} last chunk by PUT")
    check_blob(repo, data, digest, f"{alg} last chunk by PUT")

    data += b"out of order"
    digest = digest_of(data, alg)
    where = start_upload(repo, f"{alg} out of order")
    expect(send(where, 5000, data[5000:]), 416, f"{alg} first chunk does not start at 0")
    where = location(send(where, 0, data[:5000]), "chunk")
    for wrong, chunk in ((0, data[:5000]), (4999, data[4999:]), (5001, data[5001:])):
        answer = send(where, wrong, chunk)
        expect(answer, 416, f"{alg} chunk at {wrong} of a session of 5000")
        checks.check(answer["Range"] == "0-4999" and answer["Location"] == where, f"{alg} 416 tells where to go on")
    expect(send(where, 6000, data[6000:], "PUT", digest=digest), 416, f"{alg} last chunk out of order")
    for bad in ("bytes 5000-5010/*", "5010-5000", "x", "5000", "-5000", "99999999999999999999999-1"):
        answer = call("PATCH", where, b"0123456789a", {"Content-Range": bad})
        expect(answer, 416, f"{alg} Content-Range {bad!r}")
    expect(call("PATCH", where, data[5000:5010], {"Content-Range": "5000-5020"}), 400, f"{alg} chunk too short", "SIZE_INVALID")
    expect(call("PATCH", where, data[5000:5020], {"Content-Range": "5000-5009"}, chunked=True), 400,
           f"{alg} chunk too long", "SIZE_INVALID")
    expect(call("PATCH", where, data[5000:5010], {"Content-Range": "5000-5019"}, chunked=True), 400,
           f"{alg} stream too short", "SIZE_INVALID")
    checks.check(call("GET", where)["Range"] == "0-4999", f"{alg} the session survives all that")
    expect(send(where, 5000, data[5000:], "PUT", digest=digest), 201, f"{alg} and ends well")
    check_blob(repo, data, digest, f"{alg} out of order")

    where = start_upload(repo, f"{alg} cancel")
    send(where, 0, b"bytes that nobody wants")
    expect(call("DELETE", where), 204, f"{alg} cancel")
    expect(call("GET", where), 404, f"{alg} cancelled session", "BLOB_UPLOAD_UNKNOWN")
    expect(call("PATCH", where, b"x"), 404, f"{alg} PATCH of a cancelled session", "BLOB_UPLOAD_UNKNOWN")
    expect(call("PUT", with_query(where, digest=digest_of(b"x")), b"x"), 404, f"{alg} PUT of a cancelled session")
    expect(call("DELETE", where), 404, f"{alg} cancel twice")


def ranges(repo, alg):
    data = bytes((i * 7 + i // 256) % 251 for i in range(5000))
    path = f"/v2/{repo}/blobs/" + push_blob(repo, data, alg)
    for text, part in (("500-1499", data[500:1500]), ("500-", data[500:]), ("-500", data[-500:]), ("0-0", data[:1]),
                       ("2000-6000", data[2000:]), ("-9000", data), ("4999-", data[4999:]), ("0-", data)):
        answer = call("GET", path, headers={"Range": "bytes=" + text})
        first = len(data) - len(part) if text.startswith("-") else int(text.split("-")[0])
        expect(answer, 206, f"{alg} range {text}")
        checks.check(answer.body == part and answer["Content-Length"] == str(len(part)), f"{alg} range {text}: bytes")
        want = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        checks.check(answer["Content-Range"] == want, f"{alg} range {text}: Content-Range", str(answer["Content-Range"]))
    for text in ("500-0", "5000-10000", "5000-", "-0"):
        answer = call("GET", path, headers={"Range": "bytes=" + text})
        expect(answer, 416, f"{alg} range {text}")
        checks.check(answer["Content-Range"] == f"bytes */{len(data)}", f"{alg} range {text}: Content-Range")
    for text in ("lines=1-2", "bytes=a-b", "bytes=", "bytes=1-2,x"):
        answer = call("GET", path, headers={"Range": text})
        expect(answer, 200, f"{alg} range {text!r} is ignored")
        checks.check(answer.body == data, f"{alg} range {text!r}: whole")
    answer = call("HEAD", path, headers={"Range": "bytes=0-1"})
    checks.check(answer.status == 200 and answer["Content-Length"] == str(len(data)), f"{alg} HEAD ignores Range")
    etag = answer["ETag"]
    checks.check(call("GET", path, headers={"Range": "bytes=0-9", "If-Range": etag}).status == 206, f"{alg} If-Range")
    checks.check(call("GET", path, headers={"Range": "bytes=0-9", "If-Range": '"other"'}).status == 200,
                 f"{alg} If-Range of another")


def small_and_bad(repo, alg):
    for data in (b"", b"{}"):
        digest = push_blob(repo, data, alg)
        check_blob(repo, data, digest, f"{alg} blob of {len(data)} bytes")
        where = start_upload(repo, "small")
        answer = call("PATCH", where, data, chunked=True)
        expect(call("PUT", with_query(answer["Location"], digest=digest)), 201, f"{alg} stream of {len(data)} bytes")
    expect(call("GET", f"/v2/{repo}/blobs/{digest_of(b'', alg)}", headers={"Range": "bytes=0-"}), 416,
           f"{alg} range of an empty blob")

    data = f"{repo} {alg} bad digest".encode() * 50
    wrong, right = digest_of(b"something else", alg), digest_of(data, alg)
    bad = (wrong, alg + ":baddigeststring", "baddigest", alg + ":" + right.split(":")[1].upper(), "md5:" + "0" * 32)
    for digest in bad:
        expect(call("POST", with_query(f"/v2/{repo}/blobs/uploads/", digest=digest), data), 400,
               f"{alg} POST with digest {digest[:30]}", "DIGEST_INVALID")
        where = start_upload(repo, "bad digest")
        expect(call("PUT", with_query(where, digest=digest), data), 400, f"{alg} PUT with digest {digest[:30]}",
               "DIGEST_INVALID")
        answer = call("PATCH", where, data, {"Content-Range": f"0-{len(data) - 1}"})
        expect(answer, 202, f"{alg} the session is as it was before the bad PUT")
        expect(call("PUT", with_query(where, digest=digest)), 400, f"{alg} PUT after chunk, digest {digest[:30]}",
               "DIGEST_INVALID")
    expect(call("PUT", where), 400, f"{alg} PUT without digest", "DIGEST_INVALID")
    expect(call("HEAD", f"/v2/{repo}/blobs/{wrong}"), 404, f"{alg} nothing was stored under the wrong digest")
    expect(call("HEAD", f"/v2/{repo}/blobs/{right}"), 404, f"{alg} nor under the right one")
    expect(call("PUT", with_query(where, digest=right)), 201, f"{alg} but the session can still end well")
    expect(call("POST", f"/v2/{repo}/blobs/uploads/?digest-algorithm={alg}"), 202, f"{alg} digest-algorithm")
    expect(call("POST", f"/v2/{repo}/blobs/uploads/?digest-algorithm=crc"), 400, "unknown digest-algorithm")


def blob_deletes(repo):
    digest = push_blob(repo, b"to be deleted")
    call("POST", f"/v2/{repo}/keeper/blobs/uploads/?mount={digest}&from={repo}")
    expect(call("DELETE", f"/v2/{repo}/blobs/{digest}"), 202, "DELETE blob")
    expect(call("HEAD", f"/v2/{repo}/blobs/{digest}"), 404, "deleted blob")
    expect(call("DELETE", f"/v2/{repo}/blobs/{digest}"), 404, "DELETE blob twice")
    check_blob(repo + "/keeper", b"to be deleted", digest, "blob of another repository")
    expect(call("HEAD", f"/v2/{repo}/never/blobs/{digest}"), 404, "a blob is served where it is linked only")


def concurrent_pushes(repo):
    data = os.urandom(3 << 20)
    digest, statuses = digest_of(data), []

    def push(monolithic):
        if monolithic:
            statuses.append(call("POST", f"/v2/{repo}/blobs/uploads/?digest={digest}", data).status)
        else:
            where = start_upload(repo, "concurrent")
            where = call("PATCH", where, data, chunked=True)["Location"]
            statuses.append(call("PUT", with_query(where, digest=digest)).status)

    threads = [threading.Thread(target=push, args=(i % 2 == 0,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    checks.check(statuses == [201] * 6, "six concurrent pushes of one blob", str(statuses))
    check_blob(repo, data, digest, "pushed concurrently")


def broken_connection(repo):
    """A PATCH whose connection breaks: the session tells how far it came and goes on from there."""
    data = os.urandom(1 << 20)
    where = start_upload(repo, "broken")
    sock = target.socket()
    sock.sendall((f"PATCH {where} HTTP/1.1\r\n{target.raw_headers()}Content-Range: 0-{len(data) - 1}\r\n"
                  f"Content-Length: {len(data)}\r\n\r\n").encode() + data[:300000])
    time.sleep(0.3)
    busy = call("PATCH", where, b"x", {"Content-Range": "0-0"})
    expect(busy, 429, "second writer of a session", "TOOMANYREQUESTS")
    checks.check(bool(busy["Retry-After"]), "second writer: Retry-After")
    sock.close()
    lamina.wait_for(lambda: call("GET", where).status == 204, what="the broken upload to be let go")
    status = call("GET", where)
    have = int(status["Range"].split("-")[1]) + 1
    checks.check(0 < have <= 300000, "broken PATCH: what came is kept", str(have))
    answer = call("PATCH", where, data[have:], {"Content-Range": f"{have}-{len(data) - 1}"})
    expect(answer, 202, "broken PATCH: resumed")
    expect(call("PUT", with_query(where, digest=digest_of(data))), 201, "broken PATCH: PUT")
    check_blob(repo, data, digest_of(data), "broken PATCH")

    where = start_upload(repo, "broken PUT")
    sock = target.socket()
    sock.sendall((f"PUT {with_query(where, digest=digest_of(data))} HTTP/1.1\r\n"
                  f"{target.raw_headers()}Content-Length: {len(data)}\r\n\r\n").encode() + data[:300000])
    time.sleep(0.3)
    sock.close()
    lamina.wait_for(lambda: call("GET", where).status == 204, what="the broken upload to be let go")
    checks.check(call("GET", where)["Range"] == "0-0", "broken PUT: taken back")
    expect(call("PUT", with_query(where, digest=digest_of(data)), data), 201, "broken PUT: again")


# ---- manifests ----

def check_manifest(repo, reference, media_type, data, digest, what):
    for method in ("HEAD", "GET"):
        answer = call(method, f"/v2/{repo}/manifests/{reference}", headers={"Accept": "application/vnd.none"})
        expect(answer, 200, f"{what}: {method} {reference[:20]}")
        checks.check(answer["Docker-Content-Digest"] == digest and answer["Content-Type"] == media_type and
                     answer["Content-Length"] == str(len(data)), f"{what}: {method} headers", str(dict(answer.headers)))
    checks.check(answer.body == data, what + ": bytes")


def push_kind(repo, alg, kind, media_type, document, data):
    what = f"{alg} {kind}"
    digest, tag = digest_of(data, alg), kind.replace(" ", "-")
    subject = document.get("subject")

    def pushed(answer, how):
        expect(answer, 201, f"{what}: PUT by {how}")
        want = subject["digest"] if subject else None
        checks.check(answer["OCI-Subject"] == want, f"{what}: OCI-Subject", str(answer["OCI-Subject"]))

    path = f"/v2/{repo}/manifests/"
    answer = call("PUT", path + digest + f"?tag={tag}-a&tag={tag}-b", data, {"Content-Type": media_type}, chunked=True)
    pushed(answer, "digest")
    checks.check(answer["Docker-Content-Digest"] == digest, f"{what}: digest of PUT")
    checks.check(answer.headers.get_all("OCI-Tag") == [tag + "-a", tag + "-b"], f"{what}: OCI-Tag")
    checks.check(call("GET", location(answer, what)).body == data, f"{what}: Location gives the bytes")
    for reference in (digest, tag + "-a", tag + "-b"):
        check_manifest(repo, reference, media_type, data, digest, what)
    answer = call("PUT", path + tag, data, {"Content-Type": media_type})
    pushed(answer, "tag")
    check_manifest(repo, tag, media_type, data, digest_of(data) if alg != "sha256" else digest, what + " by tag")
    names = json.loads(call("GET", f"/v2/{repo}/tags/list?n=1000").body)["tags"]
    checks.check({tag, tag + "-a", tag + "-b"} <= set(names), f"{what}: listed")


def referrers_of(repo, digest, **query):
    answer = call("GET", with_query(f"/v2/{repo}/referrers/{digest}", **query) if query else f"/v2/{repo}/referrers/{digest}")
    expect(answer, 200, f"referrers of {digest[:20]} {query}")
    checks.check(answer["Content-Type"] == INDEX, "referrers: type")
    return answer, {d["digest"]: d for d in json.loads(answer.body)["manifests"]}


def check_referrers(repo, alg, kinds):
    by_subject = {}
    for _, media_type, document, data in kinds.list:
        if "subject" in document:
            by_subject.setdefault(document["subject"]["digest"], []).append((media_type, document, data))
    for subject, expected in by_subject.items():
        _, found = referrers_of(repo, subject)
        for media_type, document, data in expected:
            d = found.get(digest_of(data, alg))
            kind = document["annotations"].get("kind", "by config")
            type_wanted = document.get("artifactType") or (
                document["config"]["mediaType"] if media_type == MANIFEST else None)
            checks.check(bool(d) and d["mediaType"] == media_type and d["size"] == len(data) and
                         d.get("artifactType") == type_wanted and d["annotations"] == document["annotations"],
                         f"{alg} referrer {kind}", str(d))
            if type_wanted:
                answer, some = referrers_of(repo, subject, artifactType=type_wanted)
                checks.check(answer["OCI-Filters-Applied"] == "artifactType" and digest_of(data, alg) in some and
                             all(x["artifactType"] == type_wanted for x in some.values()), f"{alg} filter {type_wanted}")
        answer, some = referrers_of(repo, subject, artifactType="application/vnd.nothing+json")
        checks.check(some == {} and answer["OCI-Filters-Applied"] == "artifactType", f"{alg} filter without a match")
    expect(call("GET", f"/v2/{repo}/referrers/sha256:xyz"), 400, "referrers of no digest", "DIGEST_INVALID")


def delete_kind(repo, alg, kind, data):
    what, tag, digest = f"{alg} {kind}", kind.replace(" ", "-"), digest_of(data, alg)
    path = f"/v2/{repo}/manifests/"
    expect(call("DELETE", path + tag + "-a"), 202, f"{what}: DELETE tag")
    expect(call("HEAD", path + tag + "-a"), 404, f"{what}: deleted tag")
    expect(call("HEAD", path + digest), 200, f"{what}: a tag's end is not the manifest's")
    expect(call("DELETE", path + tag + "-a"), 404, f"{what}: DELETE tag twice")
    expect(call("DELETE", path + digest), 202, f"{what}: DELETE manifest")
    for reference in (digest, tag + "-b"):
        expect(call("GET", path + reference), 404, f"{what}: deleted", "MANIFEST_UNKNOWN")
    expect(call("DELETE", path + digest), 404, f"{what}: DELETE manifest twice")


def manifests(repo, alg):
    kinds = Kinds(repo, alg)
    for kind, media_type, document, data in kinds.list:
        push_kind(repo, alg, kind, media_type, document, data)
    check_referrers(repo, alg, kinds)
    subjects = {d["subject"]["digest"] for _, _, d, _ in kinds.list if "subject" in d}
    for kind, _, _, data in reversed(kinds.list):
        delete_kind(repo, alg, kind, data)
    for subject in subjects:
        _, found = referrers_of(repo, subject)
        left = {digest_of(data, alg) for _, _, _, data in kinds.list} & set(found)
        checks.check(not left, f"{alg} deleted manifests refer to nothing", str(left))


def manifest_errors(repo):
    kinds = Kinds(repo)
    _, media_type, document, data = kinds.list[0]
    path = f"/v2/{repo}/manifests/"

    def put(reference, body, kind=MANIFEST, **kw):
        return call("PUT", path + reference, body, {"Content-Type": kind} if kind else {}, **kw)

    expect(call("GET", path + digest_of(b"unknown")), 404, "unknown manifest", "MANIFEST_UNKNOWN")
    expect(call("GET", path + "unknown-tag"), 404, "unknown tag", "MANIFEST_UNKNOWN")
    expect(call("GET", path + ".INVALID_MANIFEST_NAME"), 404, "reference that cannot be")
    expect(call("GET", f"/v2/{repo}/no/such/manifests/latest"), 404, "unknown repository", "NAME_UNKNOWN")
    expect(put("sha256:baddigeststring", data), 400, "PUT by bad digest", "DIGEST_INVALID")
    expect(call("GET", path + "sha256:baddigeststring"), (400, 404), "GET by bad digest")
    expect(put(digest_of(b"other"), data), 400, "PUT by another digest", "DIGEST_INVALID")
    expect(call("HEAD", path + digest_of(data)), 404, "nothing was stored")
    expect(put("-bad-tag", data), 400, "PUT by bad tag", "TAG_INVALID")
    expect(put("t", b"{"), 400, "broken JSON", "MANIFEST_INVALID")
    expect(put("t", b"[]"), 400, "JSON that is no object", "MANIFEST_INVALID")
    expect(put("t", data, INDEX), 400, "type and content differ", "MANIFEST_INVALID")
    schema1 = encode({"schemaVersion": 1, "name": repo, "tag": "t", "fsLayers": [], "history": []})
    expect(put("t", schema1, "application/vnd.docker.distribution.manifest.v1+prettyjws"), 400, "schema 1", "MANIFEST_INVALID")
    lost = dict(document, layers=[descriptor(b"never pushed", LAYER)])
    expect(put("t", encode(lost)), 400, "layer that is not there", "MANIFEST_BLOB_UNKNOWN")
    other = repo + "/empty"
    expect(call("PUT", f"/v2/{other}/manifests/t", data, {"Content-Type": MANIFEST}), 400,
           "blobs of another repository", "MANIFEST_BLOB_UNKNOWN")
    sparse = dict(schemaVersion=2, mediaType=INDEX, manifests=[descriptor(b"never pushed", MANIFEST)])
    expect(put("sparse", encode(sparse), INDEX), 201, "index whose children are not here")
    expect(put("no-type", data, None), 201, "type from the document")
    checks.check(call("HEAD", path + "no-type")["Content-Type"] == MANIFEST, "type from the document")
    expect(put("parameters", data, MANIFEST + "; charset=utf-8"), 201, "type with parameters")
    checks.check(call("HEAD", path + "parameters")["Content-Type"] == MANIFEST, "type without parameters")
    pad = json.loads(data)
    pad["annotations"]["pad"] = "x" * ((4 << 20) - len(encode(pad)) - 30)
    large = encode(pad)
    large += b" " * ((4 << 20) - len(large))
    for chunked in (False, True):
        expect(put(f"large-{chunked}".lower(), large, chunked=chunked), 201, f"manifest of 4 MiB, chunked={chunked}")
        expect(put("too-large", large + b" ", chunked=chunked), 413, f"manifest of more than 4 MiB, chunked={chunked}")
    expect(call("HEAD", path + "too-large"), 404, "too large: not stored")
    for method, where in (("POST", path + "t"), ("PUT", "/v2/"), ("PATCH", f"/v2/{repo}/blobs/{digest_of(b'{}')}"),
                          ("DELETE", f"/v2/{repo}/tags/list"), ("BREW", "/v2/")):
        answer = call(method, where)
        expect(answer, 405, f"{method} {where}", "UNSUPPORTED")
        checks.check(bool(answer["Allow"]), f"{method} {where}: Allow")


def names_and_routes(repo):
    tricky = repo + "/blobs/uploads/manifests/tags/list"
    digest = push_blob(tricky, b"{}")
    check_blob(tricky, b"{}", digest, "repository with parts called blobs and manifests")
    for name in ("Upper", "a//b", "-a", "a-", "a..b", "x" * 300):
        expect(call("GET", f"/v2/{name}/tags/list"), (400, 404), f"repository name {name[:20]}")
        expect(call("POST", f"/v2/{name}/blobs/uploads/"), (400, 404), f"POST to repository name {name[:20]}")
    for where in ("/", "/v1/", "/v2/_catalogue", f"/v2/{repo}/tags", "/v2/x/../y/z"):
        expect(call("GET", where), 404, f"GET {where}")
    escaped = digest.replace(":", "%3A")
    expect(call("GET", f"/v2/{tricky}/blobs/{escaped}"), 200, "escaped colon")
    for where in ("/v2/%zz/tags/list", "/v2/a%2fb/tags/list", "/v2/a/manifests/%00", "/v2/" + "a/" * 200 + "tags/list"):
        expect(call("GET", where), (400, 414), f"GET {where[:30]}")
    expect(call("GET", f"/v2/{tricky}/blobs/uploads/..%2e%2e"), 404, "upload id that is none")


def lists(repo):
    kinds = Kinds(repo)
    _, media_type, _, data = kinds.list[0]
    tags = sorted(["b", "a", "c10", "c2", "Z", "_x", "z.z", "0"], key=str.encode)
    for tag in reversed(tags):
        expect(call("PUT", f"/v2/{repo}/manifests/{tag}", data, {"Content-Type": media_type}), 201, "tag " + tag)
    path = f"/v2/{repo}/tags/list"
    answer = call("GET", path)
    checks.check(json.loads(answer.body) == {"name": repo, "tags": tags} and not answer["Link"], "all tags, sorted",
                 repr(answer.body))
    for n in (1, 3, 8, 9):
        got, where = [], f"{path}?n={n}"
        while where:
            answer = call("GET", where)
            page = json.loads(answer.body)["tags"]
            checks.check(len(page) == n or not answer["Link"], f"page of {n}")
            got += page
            link = answer["Link"]
            checks.check(not link or link.endswith('>; rel="next"'), "Link", str(link))
            where = link[1:link.index(">")] if link else None
        checks.check(got == tags, f"tags in pages of {n}", str(got))
    checks.check(json.loads(call("GET", path + "?last=b").body)["tags"] == [t for t in tags if t > "b"], "last without n")
    checks.check(json.loads(call("GET", path + "?last=bb&n=2").body)["tags"] == [t for t in tags if t > "bb"][:2],
                 "last that is no tag")
    answer = call("GET", path + "?n=0")
    checks.check(json.loads(answer.body)["tags"] == [] and not answer["Link"], "n=0")
    for n in ("x", "-1", ""):
        expect(call("GET", f"{path}?n={n}"), 400, f"n={n!r}", "PAGINATION_NUMBER_INVALID")
    push_blob(repo + "/untagged", b"{}")
    checks.check(json.loads(call("GET", f"/v2/{repo}/untagged/tags/list").body)["tags"] == [], "no tags is [], not null")

    got, where = [], "/v2/_catalog?n=2"
    while where:
        answer = call("GET", where)
        got += json.loads(answer.body)["repositories"]
        where = answer["Link"][1:answer["Link"].index(">")] if answer["Link"] else None
    checks.check(got == sorted(got, key=str.encode) and repo in got, "catalog in pages", str(got))
    expect(call("GET", "/v2/_catalog?n=1001"), 400, "catalog: n too large", "PAGINATION_NUMBER_INVALID")


def caching(repo):
    kinds = Kinds(repo)
    _, media_type, _, data = kinds.list[0]
    call("PUT", f"/v2/{repo}/manifests/cached", data, {"Content-Type": media_type})
    for_ever = "public, max-age=31536000, immutable, no-transform"
    digest = digest_of(data)
    blob = f"/v2/{repo}/blobs/" + digest_of(kinds.layer)
    for where, etag, control in ((blob, f'"{digest_of(kinds.layer)}"', for_ever),
                                 (f"/v2/{repo}/manifests/{digest}", f'"{digest}"', for_ever),
                                 (f"/v2/{repo}/manifests/cached", f'"{digest}"', "s-maxage="),
                                 (f"/v2/{repo}/tags/list", None, "s-maxage="), ("/v2/_catalog", None, "s-maxage="),
                                 (f"/v2/{repo}/referrers/{digest}", None, "s-maxage=")):
        answer = call("GET", where)
        checks.check(control in (answer["Cache-Control"] or ""), f"{where}: Cache-Control", str(answer["Cache-Control"]))
        checks.check(etag in (None, answer["ETag"]) and answer["ETag"], f"{where}: ETag", str(answer["ETag"]))
        checks.check(answer["Vary"] is None and answer["Transfer-Encoding"] is None, f"{where}: no Vary, a length")
        for condition in (answer["ETag"], f'"x", W/{answer["ETag"]}', "*"):
            for method in ("GET", "HEAD"):
                same = call(method, where, headers={"If-None-Match": condition})
                checks.check(same.status == 304 and not same.body and same["ETag"] == answer["ETag"],
                             f"{method} {where}: 304", f"{condition}: {same.status}")
        if etag:
            checks.check(same["Docker-Content-Digest"] == etag.strip('"'), f"{where}: digest on 304")
        checks.check(call("GET", where, headers={"If-None-Match": '"other"'}).status == 200, f"{where}: changed")
    checks.check(call("GET", blob)["Content-Type"] == "application/octet-stream", "blob: type")
    checks.check(call("GET", blob)["Accept-Ranges"] == "bytes", "blob: Accept-Ranges")
    for where in (f"/v2/{repo}/blobs/{digest_of(b'none')}", f"/v2/{repo}/manifests/none", "/v2/"):
        checks.check(call("GET", where)["Cache-Control"] == "no-store", f"{where}: not to be stored")
    checks.check(call("POST", f"/v2/{repo}/blobs/uploads/")["Cache-Control"] == "no-store", "upload: not to be stored")


def keep_alive(repo):
    """Many requests on one connection, refused bodies among them."""
    connection = target.connection()
    statuses = []
    for i in range(20):
        for method, path, body in (("GET", "/v2/", None), ("PUT", f"/v2/{repo}/blobs/uploads/none?digest=x", b"x" * 5000),
                                   ("POST", f"/v2/{repo}/blobs/uploads/?digest={digest_of(b'k%d' % i)}", b"k%d" % i)):
            connection.request(method, path, body, {"Authorization": target.authorization} if target.authorization else {})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
    connection.close()
    checks.check(statuses == [200, 400, 201] * 20, "keep-alive", str(statuses[:6]))


def attempt(test, *args):
    """What another registry answers may be beyond what a test expects."""
    try:
        test(*args)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, http.client.HTTPException) as e:
        checks.check(False, f"{test.__name__}: {e!r}")


def test_all(ours):
    repo = f"conformance/r{os.getpid()}"
    attempt(ping_and_empty, repo)
    for alg in ("sha256", "sha512"):
        attempt(push_ways, f"{repo}/{alg}", alg)
        attempt(mounts, f"{repo}/{alg}", alg)
        attempt(chunks, f"{repo}/{alg}", alg)
        attempt(ranges, f"{repo}/{alg}", alg)
        attempt(small_and_bad, f"{repo}/{alg}", alg)
    attempt(blob_deletes, repo + "/deletes")
    attempt(concurrent_pushes, repo + "/concurrent")
    attempt(broken_connection, repo + "/broken")
    for alg in ("sha256", "sha512"):
        attempt(manifests, f"{repo}/manifests-{alg}", alg)
    attempt(manifest_errors, repo + "/errors")
    attempt(names_and_routes, repo + "/names")
    attempt(lists, repo + "/lists")
    if ours:
        attempt(caching, repo + "/caching")
    attempt(keep_alive, repo + "/keep")
    registryrules.run(repo + "/rules", ours)


def answers():
    try:
        return call("GET", "/v2/").status == 200
    except OSError:
        return False


CONFIG = """[immutable releases]
repositories = conformance/*/immutable/**
tags = v*
"""
USERS = {"admin": "the password", "alice": "a", "bob": "b"}
ACCESS = """[access]
htpasswd = {htpasswd}
[rule all]
repositories = **
users = admin
actions = all
[rule shared]
repositories = conformance/shared
users = alice, bob
actions = pull, push
"""


def sessions_are_their_users():
    """Of two who may push to one repository, each finds what he began himself."""
    data = b"pushed by two" * 100
    digest, began = digest_of(data), {}
    where = "/v2/conformance/shared/blobs/uploads/"

    def by(user, method, path, body=None, **more):
        return call(method, path, body, dict(registryaccess.basic(user, USERS[user]), **more))

    for user in ("alice", "bob"):
        answer = by(user, "POST", with_query(where, resume=digest))
        expect(answer, 202, f"{user} begins")
        began[user] = answer["Location"]
        by(user, "PATCH", answer["Location"], data[:500], **{"Content-Range": "0-499"})
    for user in ("alice", "bob"):
        listed = [u["location"] for u in json.loads(by(user, "GET", where).body)["uploads"]]
        checks.check(listed == [began[user]], f"{user} sees the own session alone", str(listed))
        answer = by(user, "POST", with_query(where, resume=digest))
        checks.check(answer["Location"] == began[user] and answer["Range"] == "0-499", f"{user} goes on with it",
                     str(answer["Location"]))
    expect(call("GET", where, authorized=False), 401, "nobody sees them")
    for user in ("alice", "bob"):
        answer = by(user, "PUT", with_query(began[user], digest=digest), data[500:], **{"Content-Range": f"500-{len(data) - 1}"})
        expect(answer, 201, f"{user} ends it")


def serve(host, config, test):
    target.port = lamina.free_port()
    with open(host.dir + "/lamina.conf", "w", encoding="utf-8") as f:
        f.write(CONFIG + config)
    process = host.start("serve", "--config", host.dir + "/lamina.conf", "--listen", f"127.0.0.1:{target.port}",
                         stdout=subprocess.DEVNULL)
    try:
        lamina.wait_for(answers, what="the registry")
        test()
    finally:
        process.terminate()
        process.wait(timeout=30)


def by_names():
    registryrules.run("conformance/names", True)
    sessions_are_their_users()


def serve_and_test():
    lamina.isolate(280)
    with lamina.Host() as host:
        host.env["LAMINA_LOG"] = "error"  # most of what is sent here is meant to be refused
        serve(host, "", lambda: test_all(True))
        with open(host.dir + "/htpasswd", "w", encoding="utf-8") as f:
            f.write(registryaccess.htpasswd(USERS))
        target.authorize("admin", USERS["admin"])
        serve(host, ACCESS.format(htpasswd=host.dir + "/htpasswd"), by_names)
        fsck = host.run("fsck", check=False)
        checks.check(fsck.returncode == 0, "fsck afterwards", fsck.stdout + fsck.stderr)
    checks.finish()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a registry that runs: http://HOST:PORT or https://…")
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    parser.add_argument("--insecure", action="store_true", help="take any certificate")
    parser.add_argument("--lamina", action="store_true", help="it is one of ours")
    options = parser.parse_args()
    if not options.url:
        serve_and_test()
    target.set(options.url, options.insecure)
    if options.user:
        target.authorize(options.user, options.password)
    test_all(options.lamina)
    checks.finish()


main()
