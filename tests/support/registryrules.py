"""What registries must and clients rely on, rule by rule: end points 1 to 18, behaviour 19 to 66. Each
rule is a function of its number; a check is named by it ("rule 33: …"). What only lamina promises
comes at the end."""
import http.client
import json
import os
import re
import threading

from registryclient import (CONFIG, DOCKER_MANIFEST, EMPTY, FOREIGN, INDEX, LAYER, MANIFEST, Kinds, call, checks,
                            descriptor, digest_of, encode, errors_seen, path_of, push_blob, target, with_query)

seen = set()  # rules that had a check
current = 0
ours_only = False  # it is one of ours that is tested


def rule(ok, what, detail=""):
    seen.add(current)
    return checks.check(ok, f"rule {current}: {what}", detail)


def status(answer, wanted, what, error=None):
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    ok = answer.status in wanted and (error is None or answer.error() == error)
    return rule(ok, what, f"status {answer.status}, body {answer.body[:200]!r}")


def begin(repo, query=""):
    return call("POST", f"/v2/{repo}/blobs/uploads/{query}")


def put_manifest(repo, reference, data, media_type=MANIFEST, headers=None, **kw):
    return call("PUT", f"/v2/{repo}/manifests/{reference}", data, dict({"Content-Type": media_type}, **headers or {}), **kw)


def small_image(repo, note, **more):
    """An image of two tiny blobs, which are pushed; its manifest is not."""
    for blob in (b"{}", b"layer"):
        push_blob(repo, blob)
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(b"{}", CONFIG),
                "layers": [descriptor(b"layer", LAYER)], "annotations": {"note": note}}
    document.update(more)
    return encode(document)


def chunk_range(at, data):
    return {"Content-Range": f"{at}-{at + len(data) - 1}"}


# ---- end points ----

def rule_1(repo):
    status(call("GET", "/v2/"), 200, "GET /v2/")


def rule_2(repo):
    digest = push_blob(repo, b"end-2")
    for method in ("GET", "HEAD"):
        status(call(method, f"/v2/{repo}/blobs/{digest}"), 200, f"{method} blob")
        status(call(method, f"/v2/{repo}/blobs/{digest_of(b'absent')}"), 404, f"{method} blob that is not there")
    status(call("GET", f"/v2/{repo}/blobs/{digest}", headers={"Range": "bytes=1-2"}), 206, "part of a blob")
    status(call("GET", f"/v2/{repo}/blobs/{digest}", headers={"Range": "bytes=9-"}), 416, "part outside")


def rule_3(repo):
    data = small_image(repo, "end-3")
    put_manifest(repo, "end-3", data)
    for method in ("GET", "HEAD"):
        for reference in ("end-3", digest_of(data)):
            status(call(method, f"/v2/{repo}/manifests/{reference}"), 200, f"{method} manifest")
        status(call(method, f"/v2/{repo}/manifests/none"), 404, f"{method} manifest that is not there")


def rule_4(repo):
    answer = begin(repo)
    status(answer, 202, "POST")
    rule(bool(answer["Location"]), "POST: Location")


def rule_5(repo):
    answer = begin(repo, "?digest=" + digest_of(b"end-4b"))
    status(call("POST", f"/v2/{repo}/blobs/uploads/?digest=" + digest_of(b"end-4b"), b"end-4b"), (201, 202), "POST with digest")
    rule(answer.status in (202, 400), "POST with digest, without the bytes", str(answer.status))


def rule_6(repo):
    for alg in ("sha256", "sha512"):
        answer = begin(repo, "?digest-algorithm=" + alg)
        status(answer, (201, 202), f"digest-algorithm={alg}")
        data = b"end-4c " + alg.encode()
        where = call("PATCH", answer["Location"], data, chunked=True)["Location"]
        status(call("PUT", with_query(where, digest=digest_of(data, alg))), 201, f"digest-algorithm={alg}: PUT")
    answer = begin(repo, "?digest-algorithm=sha512")  # a hint, and no promise
    status(call("PUT", with_query(answer["Location"], digest=digest_of(b"x")), b"x"), 201, "hint not followed")


def rule_7(repo):
    answer = call("PATCH", begin(repo)["Location"], b"end-5", chunk_range(0, b"end-5"))
    status(answer, 202, "PATCH")
    rule(bool(answer["Location"]) and answer["Range"] == "0-4", "PATCH: Location and Range", str(dict(answer.headers)))


def rule_8(repo):
    where = begin(repo)["Location"]
    answer = call("PUT", with_query(where, digest=digest_of(b"end-6")), b"end-6")
    status(answer, 201, "PUT")
    rule(call("GET", answer["Location"] or "/").body == b"end-6", "PUT: Location gives the blob")
    status(call("PUT", with_query(where, digest=digest_of(b"end-6")), b"end-6"), 404, "PUT to a session that is over")


def rule_9(repo):
    data = small_image(repo, "end-7a")
    answer = put_manifest(repo, "end-7a", data)
    status(answer, 201, "PUT manifest")
    rule(call("GET", answer["Location"] or "/").body == data, "PUT manifest: Location gives the bytes")


def rule_10(repo):
    data = small_image(repo, "end-7b")
    tags = [f"multi-{i}" for i in range(10)]
    answer = put_manifest(repo, digest_of(data) + "?" + "&".join("tag=" + t for t in tags), data)
    status(answer, 201, "ten tags at once")
    rule(answer.headers.get_all("OCI-Tag") == tags, "OCI-Tag for each", str(answer.headers.get_all("OCI-Tag")))
    for tag in tags:
        rule(call("HEAD", f"/v2/{repo}/manifests/{tag}")["Docker-Content-Digest"] == digest_of(data), f"tag {tag}")


def rule_11(repo):
    put_manifest(repo, "end-8", small_image(repo, "end-8"))
    status(call("GET", f"/v2/{repo}/tags/list"), 200, "tags")
    status(call("GET", f"/v2/{repo}/nothing/here/tags/list"), 404, "tags of no repository")


def rule_12(repo):
    data = small_image(repo, "end-9")
    put_manifest(repo, "end-9", data)
    status(call("DELETE", f"/v2/{repo}/manifests/end-9"), 202, "DELETE tag")
    status(call("DELETE", f"/v2/{repo}/manifests/{digest_of(data)}"), 202, "DELETE manifest")
    status(call("DELETE", f"/v2/{repo}/manifests/{digest_of(data)}"), 404, "DELETE manifest that is not there")


def rule_13(repo):
    digest = push_blob(repo, b"end-10")
    status(call("DELETE", f"/v2/{repo}/blobs/{digest}"), (202, 404, 405), "DELETE blob")


def rule_14(repo):
    digest = push_blob(repo, b"end-11")
    status(begin(repo + "/other", f"?mount={digest}&from={repo}"), (201, 202), "mount")
    status(begin(repo + "/other", f"?mount={digest_of(b'absent')}&from={repo}"), 202, "mount of what is not there")


def rule_15(repo):
    status(call("GET", f"/v2/{repo}/referrers/{digest_of(b'absent')}"), 200, "referrers")
    status(call("GET", f"/v2/{repo}/referrers/nonsense"), 400, "referrers of no digest")


def rule_16(repo):
    where = begin(repo)["Location"]
    answer = call("GET", where)
    status(answer, 204, "GET session")
    rule(bool(answer["Location"]) and bool(answer["Range"]), "GET session: Location and Range")


def rule_17(repo):
    where = begin(repo)["Location"]
    status(call("DELETE", where), 204, "DELETE session")
    status(call("DELETE", where), 404, "DELETE session twice")


def rule_18(repo):
    answer = call("GET", "/v2/_catalog")
    status(answer, 200, "catalog")
    rule(isinstance(json.loads(answer.body)["repositories"], list), "catalog: a list")
    for where in ("/v2/_oci/ext/discover", f"/v2/{repo}/_oci/ext/discover"):
        answer = call("GET", where)
        status(answer, (200, 404), where)
        if answer.status == 200:
            rule(isinstance(json.loads(answer.body)["extensions"], list), f"{where}: a list of extensions")
    for name in ("_catalog", "_docker", "_chainguard"):
        status(call("POST", f"/v2/{name}/blobs/uploads/"), (400, 404, 405), f"{name} is no repository")


# ---- names and digests ----

def rule_19(repo):
    for name in ("a/b.c/d_e/f__g/h-i--j---k/0", "x" * 100):
        status(begin(f"{repo}/{name}"), 202, f"name {name[:30]}")
    for name in ("A", "a/B", "-a", "a-", "a..b", "a___b", "a/_b", "a.-b", "a//b", "é", "a b", "y" * 300):
        status(call("POST", "/v2/%s/blobs/uploads/" % name.replace(" ", "%20").replace("é", "%C3%A9")), (400, 404),
               f"name {name[:30]}")


def rule_20(repo):
    data = small_image(repo, "tags")
    for tag in ("_", "A.b-c_d", "0", "t" * 128):
        status(put_manifest(repo, tag, data), 201, f"tag {tag[:30]}")
    for tag in (".a", "-a", "t" * 129, "a%2Bb", "a%20b"):
        status(put_manifest(repo, tag, data), (400, 404), f"tag {tag[:30]}")


def rule_21(repo):
    hexes = digest_of(b"x").split(":")[1]
    for digest in ("sha256:" + hexes[:-1], "sha256:" + hexes + "0", "sha256:" + hexes[:-1] + "F", "sha512:" + hexes, "sha256", hexes):
        status(call("HEAD", f"/v2/{repo}/blobs/{digest}"), (400, 404), f"digest {digest[:20]}… is none")
    for alg in ("sha256", "sha512"):
        status(call("HEAD", f"/v2/{repo}/blobs/{push_blob(repo, b'x', alg)}"), 200, alg)


def rule_22(repo):
    for digest in ("sha256:baddigeststring", "crc:00", "sha256:" + "A" * 64):
        status(call("PUT", with_query(begin(repo)["Location"], digest=digest), b"x"), 400, f"blob by {digest[:20]}", "DIGEST_INVALID")
        status(put_manifest(repo, digest, b"{}"), 400, f"manifest by {digest[:20]}")


def rule_23(repo):
    for name in ("blobs", "manifests/tags", "blobs/uploads", "tags/list", "referrers"):
        where = f"{repo}/{name}"
        digest = push_blob(where, b"{}")
        status(call("GET", f"/v2/{where}/blobs/{digest}"), 200, f"repository named …/{name}")
        status(call("GET", f"/v2/{where}/tags/list"), 200, f"tags of …/{name}")


# ---- errors ----

KNOWN_CODES = {"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
               "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED",
               "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS"}
ALSO_CODES = {"TAG_INVALID", "RANGE_INVALID", "PAGINATION_NUMBER_INVALID", "PRECONDITION_FAILED", "UNAVAILABLE", "UNKNOWN"}


def rule_24(repo):
    answer = call("GET", f"/v2/{repo}/manifests/none")
    errors = json.loads(answer.body)["errors"]
    rule(errors[0]["code"] in KNOWN_CODES and isinstance(errors[0]["message"], str), "the body of an error", repr(answer.body))
    rule(answer["Content-Type"].startswith("application/json"), "its type", answer["Content-Type"])
    codes = {code for _, code, _ in errors_seen}
    rule(codes <= KNOWN_CODES | ALSO_CODES, "codes that clients know", str(codes))


def rule_25(repo):
    data = small_image(repo, "codes")
    where = begin(repo)["Location"]
    for wanted, error, answer in (
            (404, "BLOB_UNKNOWN", call("GET", f"/v2/{repo}/blobs/{digest_of(b'absent')}")),
            (404, "MANIFEST_UNKNOWN", call("GET", f"/v2/{repo}/manifests/none")),
            (404, "NAME_UNKNOWN", call("GET", f"/v2/{repo}/no/where/tags/list")),
            (404, "BLOB_UPLOAD_UNKNOWN", call("GET", f"/v2/{repo}/blobs/uploads/00000000-0000-4000-8000-000000000000")),
            (400, "MANIFEST_BLOB_UNKNOWN", put_manifest(repo, "x", data.replace(digest_of(b"layer").encode(),
                                                                             digest_of(b"lay3r").encode()))),
            (400, "DIGEST_INVALID", call("PUT", with_query(where, digest=digest_of(b"y")), b"x")),
            (400, "MANIFEST_INVALID", put_manifest(repo, "x", b"{")),
            (400, ("NAME_INVALID", "NAME_UNKNOWN"), call("GET", "/v2/UPPER/tags/list")),
            (416, ("RANGE_INVALID", "BLOB_UPLOAD_INVALID"), call("PATCH", where, b"x", {"Content-Range": "7-7"})),
            (405, "UNSUPPORTED", call("PUT", "/v2/", b""))):
        ok = answer.status == wanted and (answer.error() == error or answer.error() in error)
        rule(ok, f"{wanted} {error}", f"{answer.status} {answer.body[:200]!r}")


def rule_26(repo):
    where = begin(repo)["Location"]
    sock = target.socket()
    sock.sendall(f"PATCH {path_of(where)} HTTP/1.1\r\n{target.raw_headers()}Content-Length: 100\r\n\r\nx".encode())
    answer = None
    for _ in range(100):  # until the first writer is at work
        answer = call("PATCH", where, b"", {"Content-Range": "9-9"})
        if answer.status == 429:
            break
    sock.close()
    if answer.status == 429:
        rule((answer["Retry-After"] or "").isdigit(), "429 has Retry-After", str(answer["Retry-After"]))
    sparse = encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(b"absent", MANIFEST)]})
    warnings = put_manifest(repo, "sparse", sparse, INDEX).headers.get_all("Warning") or []
    if ours_only:
        rule(len(warnings) == 1, "a sparse index is warned of", str(warnings))
    rule(sum(map(len, warnings)) <= 4096 and all(re.fullmatch(r'299 - "([^"\\]|\\.)*"', w) for w in warnings),
         "warnings have no date, and are short", str(warnings))


# ---- pull ----

def rule_27(repo):
    for alg in ("sha256", "sha512"):
        digest = push_blob(repo, b"headers", alg)
        for method in ("GET", "HEAD"):
            answer = call(method, f"/v2/{repo}/blobs/{digest}")
            rule(answer["Docker-Content-Digest"] == digest, f"{alg} {method}: Docker-Content-Digest")
            rule(answer["Content-Length"] == "7", f"{alg} {method}: Content-Length")
            rule(answer.body == (b"headers" if method == "GET" else b""), f"{alg} {method}: body")
        data = small_image(repo, "headers " + alg)
        put_manifest(repo, digest_of(data, alg), data)
        rule(call("HEAD", f"/v2/{repo}/manifests/{digest_of(data, alg)}")["Docker-Content-Digest"] == digest_of(data, alg),
             f"{alg} manifest: the digest asked for")


def rule_28(repo):
    data = b"\n" + small_image(repo, "bytes") + b"  \n"
    put_manifest(repo, "bytes", data, MANIFEST + "; charset=utf-8")
    answer = call("GET", f"/v2/{repo}/manifests/bytes")
    rule(answer["Content-Type"] == MANIFEST, "type without parameters", answer["Content-Type"])
    rule(answer.body == data, "bytes as they were pushed")


def rule_29(repo):
    data = os.urandom(5000)
    path = f"/v2/{repo}/blobs/{push_blob(repo, data)}"
    for text, part in (("500-1499", data[500:1500]), ("500-", data[500:]), ("-500", data[-500:]), ("2000-5000", data[2000:])):
        answer = call("GET", path, headers={"Range": "bytes=" + text})
        status(answer, 206, f"range {text}")
        rule(answer.body == part and answer["Content-Length"] == str(len(part)), f"range {text}: bytes")
        first = data.index(part[:300])
        rule(re.fullmatch(rf"bytes {first}-{first + len(part) - 1}/(5000|\*)", answer["Content-Range"] or ""),
             f"range {text}: Content-Range", str(answer["Content-Range"]))
    for text in ("500-0", "5000-10000"):
        status(call("GET", path, headers={"Range": "bytes=" + text}), 416, f"range {text}")


def rule_30(repo):
    for where in (f"blobs/{digest_of(b'x')}", "manifests/latest", "tags/list"):
        status(call("GET", f"/v2/{repo}/un/known/{where}"), 404, f"unknown repository: {where}")


# ---- upload sessions ----

def rule_31(repo):
    first, second = begin(repo)["Location"], begin(repo)["Location"]
    rule(first != second, "sessions have ids of their own")
    answer = call("POST", f"/v2/{repo}/blobs/uploads/", headers={"Host": "registry.example:1234", "X-Forwarded-Proto": "https"})
    rule((answer["Location"] or "").startswith(("/v2/", "https://registry.example:1234/v2/", "http://registry.example:1234/v2/")),
         "Location is a path, or of the host asked for", str(answer["Location"]))
    where = first + ("&" if "?" in first else "?") + "client=state"
    status(call("PUT", with_query(where, digest=digest_of(b"x")), b"x"), 201, "the query is kept, digest is added")


def rule_32(repo):
    answer = call("POST", f"/v2/{repo}/blobs/uploads/", headers={"Content-Length": "0"})
    status(answer, 202, "POST of nothing")
    rule((answer["OCI-Chunk-Min-Length"] or "0").isdigit(), "OCI-Chunk-Min-Length is a number, if there")


def rule_33(repo):
    where = begin(repo)["Location"]
    status(call("PATCH", where, b"second", {"Content-Range": "6-11"}), 416, "a first chunk that is not the first")
    status(call("PATCH", where, b"first ", chunk_range(0, b"first ")), 202, "the session survives")
    status(call("PATCH", where, b"again ", chunk_range(0, b"again ")), 416, "the same chunk again")
    digest = digest_of(b"first second")
    status(call("PUT", with_query(where, digest=digest), b"second", {"Content-Range": "7-12"}), 416, "PUT out of order")
    status(call("PUT", with_query(where, digest=digest), b"second", chunk_range(6, b"second")), 201, "PUT in order")


def rule_34(repo):
    where = begin(repo)["Location"]
    call("PATCH", where, b"first", chunk_range(0, b"first"))
    for method, query in (("PATCH", {}), ("PUT", {"digest": digest_of(b"x")})):
        answer = call(method, with_query(where, **query) if query else where, b"x", {"Content-Range": "9-9"})
        rule(answer.status == 416 and bool(answer["Location"]) and answer["Range"] == "0-4",
             f"416 of {method} tells where to go on", str(dict(answer.headers)))


def rule_35(repo):
    where = begin(repo)["Location"]
    answer = call("GET", where)
    rule(answer.status == 204 and answer["Range"] in ("0-0", "0--1"), "status of nothing", str(answer["Range"]))
    call("PATCH", where, b"x", chunk_range(0, b"x"))
    rule(call("GET", where)["Range"] == "0-0", "status of one byte")
    status(call("PATCH", where, b"y", chunk_range(1, b"y")), 202, "one byte was kept apart from none")
    rule(call("GET", where)["Range"] == "0-1", "status of two bytes")


def rule_36(repo):
    where = begin(repo)["Location"]
    for part in (b"one ", b"two ", b"three"):
        answer = call("PATCH", where, part, {"Content-Type": "application/octet-stream"}, chunked=True)
        status(answer, 202, "PATCH of a stream appends")
        where = answer["Location"]
    rule(answer["Range"] == "0-12", "Range of a stream", str(answer["Range"]))
    status(call("PUT", with_query(where, digest=digest_of(b"one two three"))), 201, "PUT of a stream")


def rule_37(repo):
    data = b"whole " * 100
    digest = digest_of(data)
    where = begin(repo)["Location"]
    status(call("PUT", where, data), 400, "PUT without digest")
    status(call("PUT", with_query(where, digest=digest_of(b"other")), data), 400, "PUT of another digest", "DIGEST_INVALID")
    status(call("HEAD", f"/v2/{repo}/blobs/{digest}"), 404, "what failed is not there")
    status(call("HEAD", f"/v2/{repo}/blobs/{digest_of(b'other')}"), 404, "nor what was claimed")
    for first in (data, b"", data[:50]):
        where = begin(repo)["Location"]
        if first:
            where = call("PATCH", where, first, chunk_range(0, first))["Location"]
        rest = data[len(first):]
        headers = chunk_range(len(first), rest) if rest and first else {}
        status(call("PUT", with_query(where, digest=digest), rest, headers), 201, f"PUT of {len(rest)} bytes")


def rule_38(repo):
    data = b"sha512 by PUT " * 1000
    where = begin(repo)["Location"]
    where = call("PATCH", where, data[:7000], chunked=True)["Location"]
    answer = call("PUT", with_query(where, digest=digest_of(data, "sha512")), data[7000:], chunk_range(7000, data[7000:]))
    status(answer, 201, "the algorithm is told at the end")
    rule(call("GET", f"/v2/{repo}/blobs/{digest_of(data, 'sha512')}").body == data, "its bytes")


def rule_39(repo):
    answer = call("POST", f"/v2/{repo}/blobs/uploads/?digest={digest_of(b'single')}", b"single")
    status(answer, (201, 202), "single POST")
    if answer.status == 201:
        rule(call("GET", answer["Location"]).body == b"single", "single POST: Location")


def rule_40(repo):
    where = begin(repo)["Location"]
    call("PATCH", where, b"x", chunk_range(0, b"x"))
    status(call("DELETE", where), 204, "cancel")
    for method in ("GET", "PATCH", "DELETE"):
        status(call(method, where), 404, f"{method} after it", "BLOB_UPLOAD_UNKNOWN")


def rule_41(repo):
    for data in (b"", b"{}"):
        digest = digest_of(data)
        status(call("PUT", with_query(begin(repo)["Location"], digest=digest), data), 201, f"blob of {len(data)} bytes")
        answer = call("GET", f"/v2/{repo}/blobs/{digest}")
        rule(answer.status == 200 and answer.body == data and answer["Content-Length"] == str(len(data)),
             f"blob of {len(data)} bytes: GET")


def rule_42(repo):
    data, results = os.urandom(1 << 20), []

    def push():
        where = begin(repo)["Location"]
        where = call("PATCH", where, data, chunked=True)["Location"]
        results.append(call("PUT", with_query(where, digest=digest_of(data))).status)

    threads = [threading.Thread(target=push) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    rule(results == [201] * 4, "four pushes of one blob at once", str(results))


def rule_43(repo):
    digest = push_blob(repo, b"mounted")
    answer = begin(repo + "/mount", f"?mount={digest}&from={repo}")
    status(answer, 201, "mount")
    rule(call("GET", answer["Location"] or "/").body == b"mounted", "mount: Location gives the blob")
    status(begin(repo + "/anonymous", f"?mount={digest}"), (201, 202), "mount without from")
    for query in (f"?mount={digest_of(b'absent')}&from={repo}", f"?mount={digest_of(b'absent')}",
                  f"?mount={digest}&from={repo}/elsewhere", f"?mount={digest}&from=UPPER"):
        answer = begin(repo + "/mount", query)
        status(answer, 202, "what cannot be mounted is a session")
        status(call("PUT", with_query(answer["Location"], digest=digest_of(b"instead")), b"instead"), 201, "which works")


# ---- manifests ----

def rule_44(repo):
    data = small_image(repo, "large")
    data += b" " * ((4 << 20) - len(data))
    status(put_manifest(repo, "large", data), 201, "manifest of 4 MiB")
    rule(call("GET", f"/v2/{repo}/manifests/large").body == data, "its bytes")


def rule_45(repo):
    data = small_image(repo, "missing")
    missing = data.replace(digest_of(b"layer").encode(), digest_of(b"lay3r").encode())
    status(put_manifest(repo, "x", missing), (201, 400), "layer that is not there")
    subject = small_image(repo, "no subject", subject=descriptor(b"absent", MANIFEST))
    status(put_manifest(repo, "subject", subject), 201, "subject that is not there")
    foreign = small_image(repo, "foreign", layers=[descriptor(b"far away", FOREIGN, urls=["https://example.org/x"])])
    status(put_manifest(repo, "foreign", foreign), 201, "layer that is not to be distributed")


def rule_46(repo):
    data = small_image(repo, "by digest")
    status(put_manifest(repo, "sha256:baddigeststring", data), 400, "PUT by no digest")
    status(call("GET", f"/v2/{repo}/manifests/sha256:baddigeststring"), (400, 404), "GET by no digest")
    status(put_manifest(repo, digest_of(b"another"), data), 400, "PUT by another digest")
    status(call("HEAD", f"/v2/{repo}/manifests/{digest_of(data)}"), 404, "nothing was stored")


def rule_47(repo):
    subject = small_image(repo, "subject")
    put_manifest(repo, "subject", subject)
    extra = {"subject": descriptor(subject, MANIFEST), "org.example.unknown": {"kept": [1, None]}}
    image = small_image(repo, "refers", config=descriptor(b"{}", EMPTY, data="e30="), **extra)
    index = encode(dict({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}, **extra))
    for data, media_type in ((image, MANIFEST), (index, INDEX)):
        answer = put_manifest(repo, digest_of(data), data, media_type)
        rule(answer["OCI-Subject"] == digest_of(subject), f"OCI-Subject of {media_type}", str(answer["OCI-Subject"]))
        rule(call("GET", f"/v2/{repo}/manifests/{digest_of(data)}").body == data, "unknown fields and data are kept")
    rule(put_manifest(repo, "plain", small_image(repo, "plain"))["OCI-Subject"] is None, "none without a subject")


def rule_48(repo):
    data = small_image(repo, "chunked")
    status(put_manifest(repo, "chunked", data, chunked=True), 201, "manifest without a length")
    rule(call("GET", f"/v2/{repo}/manifests/chunked").body == data, "its bytes")
    status(put_manifest(repo, "chunked", data + b" " * (5 << 20), chunked=True), (413, 400), "too long, without a length")
    rule(call("GET", f"/v2/{repo}/manifests/chunked").body == data, "what was there stays")


# ---- lists ----

def rule_49(repo):
    data = small_image(repo, "listed")
    tags = ["a", "b", "c1", "c10", "c2", "d"]
    for tag in reversed(tags):
        put_manifest(repo + "/list", tag, small_image(repo + "/list", "listed"))
    path = f"/v2/{repo}/list/tags/list"

    def listed(query=""):
        answer = call("GET", path + query)
        return json.loads(answer.body)["tags"], answer["Link"]

    rule(listed() == (tags, None), "sorted", str(listed()))
    rule(listed("?last=c1")[0] == tags[3:], "last alone, not among them", str(listed("?last=c1")))
    rule(listed("?n=0") == ([], None), "n=0", str(listed("?n=0")))
    got, query, pages = [], "?n=2", 0
    while query and pages < 5:
        page, link = listed(query)
        got, pages = got + page, pages + 1
        rule(len(page) == 2 or not link, "a page is short at the end only")
        match = re.fullmatch(r'<([^>]*)>; *rel="?next"?', link) if link else None
        rule(bool(match) or not link, "Link", str(link))
        query = "?" + match.group(1).split("?", 1)[1] if match else None
    rule(got == tags, "pages", str(got))
    push_blob(repo + "/no-tags", b"x")
    answer = call("GET", f"/v2/{repo}/no-tags/tags/list")
    rule(answer.status == 404 or json.loads(answer.body)["tags"] == [], "none is [], and not null")
    rule(len(data) > 0, "an image to list")


def rule_50(repo):
    push_blob(repo, b"x")
    names, query = [], "?n=3"
    while query:
        answer = call("GET", "/v2/_catalog" + query)
        names += json.loads(answer.body)["repositories"]
        query = "?" + answer["Link"][1:answer["Link"].index(">")].split("?", 1)[1] if answer["Link"] else None
    rule(repo in names and names == sorted(names), "catalog in pages")
    status(call("GET", "/v2/_catalog?n=100000"), (200, 400), "catalog: n too large")


# ---- referrers ----

def rule_51(repo):
    empty = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    for where in (f"{repo}/not/there/yet", repo):
        answer = call("GET", f"/v2/{where}/referrers/{digest_of(b'nobody')}")
        status(answer, 200, "referrers of what is unknown")
        rule(answer["Content-Type"] == INDEX, "their type, exactly", answer["Content-Type"])
        rule(json.loads(answer.body) == empty, "an empty index", repr(answer.body))


def referrers(repo, digest, query=""):
    answer = call("GET", f"/v2/{repo}/referrers/{digest}{query}")
    return answer, {d["digest"]: d for d in json.loads(answer.body).get("manifests", [])}


def rule_52(repo):
    subject = small_image(repo, "subject of many")
    refer = {"subject": descriptor(subject, MANIFEST)}
    typed = small_image(repo, "typed", artifactType="application/vnd.typed", **refer)
    config = small_image(repo, "by config", config=descriptor(b"{}", "application/vnd.config"), **refer)
    index = encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"k": "v"}, **refer})
    put_manifest(repo, "subject-of-many", subject)
    for data, media_type in ((typed, MANIFEST), (config, MANIFEST), (index, INDEX)):
        put_manifest(repo, digest_of(data), data, media_type)
    _, found = referrers(repo, digest_of(subject))
    for data, media_type, artifact in ((typed, MANIFEST, "application/vnd.typed"), (config, MANIFEST, "application/vnd.config"),
                                       (index, INDEX, None)):
        want = dict(descriptor(data, media_type), annotations=json.loads(data)["annotations"])
        if artifact:
            want["artifactType"] = artifact
        rule(found.get(digest_of(data)) == want, f"descriptor of {artifact}", str(found.get(digest_of(data))))
    answer, some = referrers(repo, digest_of(subject), "?artifactType=application/vnd.typed")
    rule(list(some) == [digest_of(typed)] and "artifactType" in (answer["OCI-Filters-Applied"] or ""), "filter", str(some))
    _, none = referrers(repo, digest_of(subject), "?artifactType=application/vnd.none")
    rule(none == {}, "filter without a match")


def rule_53(repo):
    """An index under a fallback tag is as good as subjects; it ends with the tag."""
    subject = digest_of(b"subject that is elsewhere")
    plain = small_image(repo, "no subject field", artifactType="application/vnd.fallback")
    put_manifest(repo, digest_of(plain), plain)
    field = small_image(repo, "with a subject field", subject={"mediaType": MANIFEST, "digest": subject, "size": 1})
    put_manifest(repo, digest_of(field), field)
    children = [descriptor(plain, MANIFEST, artifactType="application/vnd.lie"), descriptor(field, MANIFEST),
                descriptor(b"absent", MANIFEST)]
    index = encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": children})
    tag = subject.replace(":", "-")
    status(put_manifest(repo, tag, index, INDEX), 201, "pushing a fallback tag")
    _, found = referrers(repo, subject)
    rule(set(found) == {digest_of(plain), digest_of(field)}, "what it lists refers, once each, if it is there", str(found))
    rule(found.get(digest_of(plain), {}).get("artifactType") == "application/vnd.fallback", "described by what it is")
    _, some = referrers(repo, subject, "?artifactType=application/vnd.fallback")
    rule(list(some) == [digest_of(plain)], "filtered like the others")
    subject512 = digest_of(b"subject by another algorithm", "sha512")
    put_manifest(repo, "sha512-" + subject512.split(":")[1][:64], index, INDEX)
    rule(digest_of(plain) in referrers(repo, subject512)[1], "the tag of a sha512 is cut to 64 digits")
    call("DELETE", f"/v2/{repo}/manifests/{tag}")
    rule(set(referrers(repo, subject)[1]) == {digest_of(field)}, "without the tag, subjects alone count")


def rule_54(repo):
    answer = call("GET", f"/v2/{repo}/never/referrers/sha256:" + "0" * 64)
    status(answer, 200, "the probe of oras")


# ---- delete ----

def rule_55(repo):
    data = small_image(repo, "atomic")
    digest = digest_of(data)
    for tag in ("atomic-1", "atomic-2"):
        put_manifest(repo, tag, data)
    call("DELETE", f"/v2/{repo}/manifests/atomic-1")
    status(call("HEAD", f"/v2/{repo}/manifests/atomic-1"), 404, "a deleted tag is gone at once")
    status(call("HEAD", f"/v2/{repo}/manifests/{digest}"), 200, "its manifest is not")
    call("DELETE", f"/v2/{repo}/manifests/{digest}")
    for reference in ("atomic-2", digest):
        status(call("HEAD", f"/v2/{repo}/manifests/{reference}"), 404, "a deleted manifest is gone, with its tags")
    blob = push_blob(repo, b"shared by two")
    begin(repo + "/sharer", f"?mount={blob}&from={repo}")
    answer = call("DELETE", f"/v2/{repo}/blobs/{blob}")
    status(answer, (202, 404, 405), "DELETE blob")
    if answer.status == 202:
        status(call("HEAD", f"/v2/{repo}/blobs/{blob}"), 404, "a deleted blob is gone at once")
        status(call("HEAD", f"/v2/{repo}/sharer/blobs/{blob}"), 200, "from this repository only")


# ---- proxies, and what Docker made usual ----

def rule_56(repo):
    digest = push_blob(repo, b"ns")
    answer = call("GET", f"/v2/{repo}/blobs/{digest}?ns=docker.io")
    rule(answer.status in (200, 307) and answer["OCI-Namespace"] in (None, "docker.io"), "ns= does no harm",
         f"{answer.status} {answer['OCI-Namespace']}")


def rule_57(repo):
    for method, where in (("GET", "/v2/"), ("GET", f"/v2/{repo}/tags/list"), ("GET", f"/v2/{repo}/manifests/none"),
                          ("PUT", "/v2/"), ("GET", "/v2/no/route/at/all")):
        answer = call(method, where)
        rule(answer["Docker-Distribution-Api-Version"] == "registry/2.0", f"{method} {where}: {answer.status}")


def rule_58(repo):
    answer = begin(repo)
    where = answer["Location"]
    for how, a in (("POST", answer), ("PATCH", call("PATCH", where, b"x", chunked=True)), ("GET", call("GET", where))):
        rule(bool(a["Docker-Upload-UUID"]), f"{how}: Docker-Upload-UUID")


def rule_59(repo):
    answer = call("PATCH", begin(repo)["Location"], b"0123456789", chunked=True)
    rule(re.fullmatch(r"\d+-\d+", answer["Range"] or ""), "Range of PATCH has no unit", str(answer["Range"]))


def rule_60(repo):
    digest = push_blob(repo, b"HEAD after PUT")
    answer = call("HEAD", f"/v2/{repo}/blobs/{digest}")
    rule(answer.status == 200 and answer["Content-Length"] == "14", "HEAD tells the length", str(dict(answer.headers)))


def rule_61(repo):
    data = small_image(repo, "docker", mediaType=DOCKER_MANIFEST)
    status(put_manifest(repo, "docker", data, DOCKER_MANIFEST), 201, "Docker's manifest")
    lists = "application/vnd.docker.distribution.manifest.list.v2+json"
    child = dict(descriptor(data, DOCKER_MANIFEST), platform={"os": "linux", "architecture": "amd64"})
    many = encode({"schemaVersion": 2, "mediaType": lists, "manifests": [child]})
    status(put_manifest(repo, "docker-list", many, lists), 201, "Docker's list")
    rule(call("HEAD", f"/v2/{repo}/manifests/docker-list")["Content-Type"] == lists, "its type")
    schema1 = encode({"schemaVersion": 1, "name": repo, "tag": "x", "fsLayers": [], "history": []})
    status(put_manifest(repo, "x", schema1, "application/vnd.docker.distribution.manifest.v1+prettyjws"), (400, 415), "schema 1")


def rule_62(repo):
    data = small_image(repo, "accept")
    put_manifest(repo, "accept", data)
    for accept in (MANIFEST, DOCKER_MANIFEST, "text/html", "*/*"):
        answer = call("GET", f"/v2/{repo}/manifests/accept", headers={"Accept": accept})
        rule(answer.status == 200 and answer.body == data and answer["Content-Type"] == MANIFEST, f"Accept: {accept}")
        rule(answer["Vary"] is None, "no Vary", str(answer["Vary"]))


def unauthorized():
    """The answer to somebody unknown; None when everybody may do everything."""
    answer = call("GET", "/v2/", authorized=False)
    return answer if answer.status == 401 else None


def rule_63(repo):
    answer = unauthorized()
    if not answer:
        rule(call("GET", "/v2/", headers={"Authorization": "Bearer nonsense"}).status in (200, 401),
             "nobody is asked: a token does no harm")
        return
    challenge = answer["WWW-Authenticate"] or ""
    rule(challenge.startswith(("Bearer realm=", "Basic realm=")), "the ping has a challenge", challenge)
    answer = call("GET", f"/v2/{repo}/private/tags/list", authorized=False)
    challenge = answer["WWW-Authenticate"] or ""
    if challenge.startswith("Bearer"):
        rule(re.search(r'realm="[^"]+".*service="[^"]*".*scope="repository:[^"]*:pull"', challenge), "scope", challenge)


def rule_64(repo):
    answer = unauthorized()
    wrong = call("GET", "/v2/", headers={"Authorization": "Basic bm9ib2R5Om5vbmU="})
    if not answer:
        rule(wrong.status in (200, 401), "nobody is asked: a password does no harm")
        return
    rule(wrong.status == 401, "a wrong password", str(wrong.status))
    status(call("GET", "/v2/"), 200, "the right one")


def rule_65(repo):
    data = small_image(repo, "head")
    put_manifest(repo, "head", data)
    for where in ("manifests/head", "manifests/" + digest_of(data), "blobs/" + digest_of(b"layer")):
        answer = call("HEAD", f"/v2/{repo}/{where}")
        rule(answer.status == 200 and not answer.body and all(
            answer[h] for h in ("Content-Length", "Content-Type", "Docker-Content-Digest")), f"HEAD {where[:20]}")


def rule_66(repo):
    where = begin(repo)["Location"]
    status(call("DELETE", where), 204, "who may push may cancel")


# ---- what lamina promises besides ----

def split_parts(answer):
    """[(first, last, size, type, bytes)] of a multipart/byteranges body."""
    match = re.fullmatch(r"multipart/byteranges; boundary=([0-9a-f]+)", answer["Content-Type"] or "")
    if not match:
        return None
    boundary, at, parts = b"--" + match.group(1).encode(), 0, []
    body = answer.body
    while body.startswith(boundary + b"\r\n", at):
        head_end = body.index(b"\r\n\r\n", at)
        head = body[at:head_end].decode()
        m = re.search(r"Content-Range: bytes (\d+)-(\d+)/(\d+)", head)
        first, last, size = map(int, m.groups())
        begins = head_end + 4
        ends = begins + last - first + 1
        parts.append((first, last, size, re.search(r"Content-Type: (\S+)", head).group(1), body[begins:ends]))
        at = ends + 2
    return parts if body[at:] == boundary + b"--\r\n" and answer["Content-Length"] == str(len(body)) else None


def several_ranges(repo):
    data = os.urandom(1 << 20)
    path = f"/v2/{repo}/blobs/{push_blob(repo, data)}"
    step = len(data) // 1024
    cases = {
        "two": [(0, 9), (100, 199)],
        "not ascending": [(500, 599), (0, 0), (500, 599)],
        "overlapping and touching": [(0, 99), (50, 149), (150, 159)],
        "1024": [(i * step, i * step + 20) for i in range(1024)],
    }
    for name, ranges in cases.items():
        answer = call("GET", path, headers={"Range": "bytes=" + ",".join(f"{a}-{b}" for a, b in ranges)})
        parts = split_parts(answer)
        want = [(a, b, len(data), "application/octet-stream", data[a:b + 1]) for a, b in ranges]
        checks.check(answer.status == 206 and parts == want, f"ranges {name}: a part for each, in order",
                     f"{answer.status} {answer['Content-Type']} {answer['Content-Length']} {len(answer.body)}")
        checks.check(answer["Docker-Content-Digest"] == digest_of(data) and answer["Accept-Ranges"] == "bytes",
                     f"ranges {name}: headers")
    far = ",".join(f"{10 ** 11 + i * 10 ** 6}-{10 ** 11 + i * 10 ** 6 + 5}" for i in range(1023))
    answer = call("GET", path, headers={"Range": "bytes=0-0," + far})
    checks.check(answer.status == 206 and split_parts(answer) == [(0, 0, len(data), "application/octet-stream", data[:1])],
                 "1024 ranges of twelve digits are read; those outside are left out", f"{answer.status} {answer.body[:100]!r}")
    answer = call("GET", path, headers={"Range": "bytes=" + ",".join(f"{i}-{i}" for i in range(1025))})
    checks.check(answer.status == 400, "1025 ranges", f"{answer.status} {answer.body[:100]!r}")
    answer = call("GET", path, headers={"Range": f"bytes={len(data)}-,{len(data) + 5}-"})
    checks.check(answer.status == 416, "several ranges, none inside", str(answer.status))
    answer = call("GET", path, headers={"Range": "bytes=0-,0-,0-"})
    checks.check(answer.status == 200 and answer.body == data, "ranges of more than twice the whole are ignored", str(answer.status))
    image = small_image(repo, "ranges")
    put_manifest(repo, "ranges", image)
    parts = split_parts(call("GET", f"/v2/{repo}/manifests/ranges", headers={"Range": "bytes=0-4,-5"}))
    checks.check(parts == [(0, 4, len(image), MANIFEST, image[:5]), (len(image) - 5, len(image) - 1, len(image), MANIFEST, image[-5:])],
                 "ranges of a manifest", str(parts))


def found_again(repo):
    data = os.urandom(100000)
    digest = digest_of(data, "sha512")
    answer = begin(repo, "?resume=" + digest)
    checks.check(answer.status == 202 and answer["Upload-Offset"] == "0", "resume of nothing is a new session", str(answer.status))
    where = answer["Location"]
    call("PATCH", where, data[:60000], chunk_range(0, data[:60000]))
    listed = json.loads(call("GET", f"/v2/{repo}/blobs/uploads/").body)["uploads"]
    mine = [u for u in listed if u["location"] == where]
    checks.check(len(mine) == 1 and mine[0]["offset"] == 60000 and mine[0]["digest"] == digest, "sessions are listed", str(listed))
    answer = begin(repo, "?resume=" + digest)
    checks.check(answer.status == 202 and answer["Location"] == where and answer["Range"] == "0-59999" and
                 answer["Upload-Offset"] == "60000", "resume finds the session", str(dict(answer.headers)))
    checks.check(begin(repo, "?resume=" + digest_of(b"other"))["Location"] != where, "resume of another digest")
    checks.check(begin(repo + "/other", "?resume=" + digest)["Location"].startswith(f"/v2/{repo}/other/"), "of another repository")
    answer = call("PUT", with_query(where, digest=digest), data[60000:], chunk_range(60000, data[60000:]))
    checks.check(answer.status == 201 and call("GET", answer["Location"]).body == data, "and it ends well", str(answer.status))
    listed = json.loads(call("GET", f"/v2/{repo}/blobs/uploads/").body)["uploads"]
    checks.check(all(u["location"] != where for u in listed), "what is over is not listed")
    answer = begin(repo, "?resume=nonsense")
    checks.check(answer.status == 400 and answer.error() == "DIGEST_INVALID", "resume of no digest")


def conditional_changes(repo):
    one, two = small_image(repo, "one"), small_image(repo, "two")
    path = f"/v2/{repo}/manifests/tag"
    etag = {data: f'"{digest_of(data)}"' for data in (one, two)}

    def put(data, **headers):
        return put_manifest(repo, "tag", data, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def check(answer, wanted, what):
        checks.check(answer.status == wanted, f"conditions: {what}", f"{answer.status} {answer.body[:200]!r}")

    check(put(one, If_Match="*"), 412, "If-Match: * of a new tag")
    check(put(one, If_Match=etag[one]), 412, "If-Match of a new tag")
    checks.check(call("HEAD", path).status == 404, "conditions: nothing was done")
    check(put(one, If_None_Match="*"), 201, "If-None-Match: * of a new tag")
    check(put(two, If_None_Match="*"), 412, "If-None-Match: * of a tag that is there")
    check(put(two, If_Match=etag[two]), 412, "If-Match of another")
    check(put(two, If_Match=f'"x", {etag[one]}'), 201, "If-Match")
    check(put(one, If_None_Match=etag[two]), 412, "If-None-Match of what it is")
    check(put(one, If_None_Match=etag[one]), 201, "If-None-Match of another")
    many = digest_of(two) + "?tag=tag&tag=new"
    check(put_manifest(repo, many, two, headers={"If-None-Match": "*"}), 412, "several tags, one does not hold")
    checks.check(call("HEAD", f"/v2/{repo}/manifests/new").status == 404, "conditions: all of them or none")
    check(put_manifest(repo, digest_of(one), one, headers={"If-None-Match": "*"}), 412, "a manifest that is there")
    check(call("DELETE", path, headers={"If-Match": etag[two]}), 412, "DELETE of another")
    check(call("DELETE", path, headers={"If-Match": etag[one]}), 202, "DELETE")
    check(call("DELETE", path, headers={"If-Match": etag[one]}), 404, "DELETE of what is gone")
    check(call("DELETE", f"/v2/{repo}/manifests/{digest_of(one)}", headers={"If-Match": etag[two]}), 412, "DELETE by digest")

    # Of all who move the tag from where they saw it, one at a time comes through.
    images = [small_image(repo, f"racer {i}") for i in range(6)]
    put(one)
    wins, at = [], etag[one]
    for _ in range(5):
        results = []
        threads = [threading.Thread(target=lambda d=d: results.append((put(d, If_Match=at).status, d))) for d in images]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        # one that sets what another has just set comes after it
        winners = [d for s, d in results if s == 201]
        wins.append(len(winners))
        now = call("HEAD", path)["Docker-Content-Digest"]
        checks.check(len(winners) == 1 and digest_of(winners[0]) == now, "conditions: one of those who race wins", str(results)[:300])
        at = f'"{now}"'
        images = [small_image(repo, f"racer {i} {now}") for i in range(6)]


def immutable_tags(repo):
    """rules.conf of the test: [immutable releases] for …/immutable/**, tags v*."""
    where = repo.split("/rules")[0] + "/immutable/releases"
    one, two = small_image(where, "one"), small_image(where, "two")
    checks.check(put_manifest(where, "v1", one).status == 201, "immutable: set once")
    checks.check(put_manifest(where, "v1", one).status == 201, "immutable: set to what it is")
    for answer, what in ((put_manifest(where, "v1", two), "PUT"),
                         (put_manifest(where, digest_of(two) + "?tag=other&tag=v1", two), "PUT of several"),
                         (call("DELETE", f"/v2/{where}/manifests/v1"), "DELETE"),
                         (call("DELETE", f"/v2/{where}/manifests/{digest_of(one)}"), "DELETE by digest")):
        checks.check(answer.status == 409 and answer.error() == "DENIED" and b"immutable" in answer.body, f"immutable: {what}",
                     f"{answer.status} {answer.body!r}")
    checks.check(call("HEAD", f"/v2/{where}/manifests/other").status == 404, "immutable: all tags or none")
    checks.check(call("HEAD", f"/v2/{where}/manifests/v1")["Docker-Content-Digest"] == digest_of(one), "immutable: it stays")
    for data in (one, two):
        checks.check(put_manifest(where, "latest", data).status == 201, "immutable: other tags move")


def run(repo, ours):
    global current, ours_only
    ours_only = ours
    for current in range(1, 67):
        try:
            globals()[f"rule_{current}"](f"{repo}/{current}")
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, http.client.HTTPException) as e:
            rule(False, f"an answer that cannot be made sense of: {e!r}")
    missing = set(range(1, 67)) - seen
    checks.check(not missing, "every rule has a check", str(missing))
    if ours:
        several_ranges(repo + "/ranges")
        found_again(repo + "/resume")
        conditional_changes(repo + "/conditions")
        immutable_tags(repo)
