#!/usr/bin/python3
"""The registry behind nginx and Varnish as they are configured by what we ship: what is public is
kept and shared, what is private never is, moved tags are seen in time, pushes pass. And that
`lamina serve --check-cdn` calls good caches good, and says of bad ones what is wrong."""
import base64
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import warnings

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import webcaches  # noqa: E402

lamina.need("nginx", "varnishd")
lamina.isolate(120)
checks = lamina.Checks()
check = checks.check
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PASSWORD = {"Authorization": "Basic " + base64.b64encode(b"ann:secret").decode()}
TAG_SECONDS, REVALIDATE_SECONDS = 1, 1


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *unused):
        return None


direct = urllib.request.build_opener(NoRedirect())


def ask(method, url, body=None, headers=None, follow=True):
    """Status, headers, body. One redirect is followed, without the password."""
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with direct.open(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as e:
        body = e.read()
        if follow and e.code == 307 and method == "GET":
            others = {k: v for k, v in (headers or {}).items() if k != "Authorization"}
            return ask("GET", urllib.parse.urljoin(url, e.headers["Location"]), None, others, False)
        return e.code, e.headers, body


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def push_blob(base, repo, data):
    """In two pieces, as large layers come."""
    status, headers, _ = ask("POST", f"{base}/v2/{repo}/blobs/uploads/", b"", PASSWORD)
    place = urllib.parse.urljoin(base, headers["Location"] or "/")
    binary = dict(PASSWORD, **{"Content-Type": "application/octet-stream"})
    patched, headers, _ = ask("PATCH", place, data[:-1], binary)
    place = urllib.parse.urljoin(base, headers["Location"] or "/")
    done, _, answer = ask("PUT", place + f"?digest={digest(data)}", data[-1:], binary)
    check((status, patched, done) == (202, 202, 201), f"push to {repo} through {base}",
          f"{status} {patched} {done} {answer[:200]}")
    return digest(data)


def push_image(base, repo, tag, layer, note=""):
    """A manifest of one layer, which is its config, too."""
    name = push_blob(base, repo, layer)
    part = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": name, "size": len(layer)}
    config = dict(part, mediaType="application/vnd.oci.empty.v1+json")
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [part],
                           "artifactType": "test/x", "annotations": {"note": note}}).encode()
    status, _, answer = ask("PUT", f"{base}/v2/{repo}/manifests/{tag}", manifest,
                            dict(PASSWORD, **{"Content-Type": MANIFEST}))
    check(status == 201, f"push of {repo}:{tag} through {base}", f"{status} {answer[:200]}")
    return name, manifest


def pulls_are_kept(cache, url, registry):
    repo = f"public/{cache}"
    layer = os.urandom(3 << 20)
    blob, manifest = push_image(url, repo, "v1", layer)
    for i in range(5):
        headers = PASSWORD if i % 2 else {}
        for path, bytes_ in ((f"blobs/{blob}", layer), (f"manifests/{digest(manifest)}", manifest)):
            status, got, body = ask("GET", f"{url}/v2/{repo}/{path}", None, headers)
            check(status == 200 and body == bytes_, f"{cache}: {path}: as pushed", str(status))
            check(got["ETag"] and got["Docker-Content-Digest"] and "Vary" not in got,
                  f"{cache}: {path}: headers", str(got))
    for path in (f"blobs/{blob}", f"manifests/{digest(manifest)}"):
        seen = registry.requests(f"GET /v2/{repo}/{path}")
        check(seen == 1, f"{cache}: {path}: five pulls are one request", f"{seen} requests")


def shared_layers_are_kept_once(cache, url, registry):
    layer = os.urandom(200000)
    hex_ = digest(layer).split(":")[1]
    for repo in (f"shared/{cache}/a", f"shared/{cache}/b"):
        blob, _ = push_image(url, repo, "v1", layer)
        for _ in range(3):
            status, headers, _ = ask("GET", f"{url}/v2/{repo}/blobs/{blob}", follow=False)
            check(status == 307 and headers["Cache-Control"] == "no-store" and
                  headers["Location"].startswith("/cas/sha256/"), f"{cache}: {repo}: sent elsewhere",
                  f"{status} {headers}")
            status, headers, body = ask("GET", f"{url}/v2/{repo}/blobs/{blob}")
            check(status == 200 and body == layer, f"{cache}: {repo}: there it is", str(status))
        status, _, _ = ask("HEAD", f"{url}/v2/{repo}/blobs/{blob}")
        check(status == 200, f"{cache}: HEAD is not redirected", str(status))
        status, _, body = ask("GET", f"{url}/v2/{repo}/blobs/{blob}", None, {"Range": "bytes=10-19"})
        check(status == 206 and body == layer[10:20], f"{cache}: a range of it", str(status))
    seen = registry.requests(f"GET /cas/sha256/{hex_[:2]}/{hex_}")
    check(seen == 1, f"{cache}: two repositories, one request for their layer", f"{seen} requests")
    other = hashlib.sha256(layer + b"x").hexdigest()
    status, _, _ = ask("GET", f"{url}/cas/sha256/{other[:2]}/{other}")
    check(status == 403, f"{cache}: no signature, no content", str(status))


def private_layers_are_shared_by_who_may(nginx, registry):
    """With redirect_private and a cache that checks signatures before it gives out what it keeps."""
    url, layer = nginx.url("checked"), os.urandom(100000)
    hex_ = digest(layer).split(":")[1]
    for repo in ("hidden/a", "hidden/b"):
        blob, _ = push_image(url, repo, "v1", layer)
        for _ in range(2):
            status, _, body = ask("GET", f"{url}/v2/{repo}/blobs/{blob}", None, PASSWORD)
            check(status == 200 and body == layer, f"checked: {repo}: of who may", str(status))
        status, _, _ = ask("GET", f"{url}/v2/{repo}/blobs/{blob}")
        check(status == 401, f"checked: {repo}: of who may not", str(status))
    place = f"/cas/sha256/{hex_[:2]}/{hex_}"
    _, headers, _ = ask("GET", f"{url}/v2/hidden/a/blobs/{blob}", None, PASSWORD, follow=False)
    signed = headers["Location"]
    for bad in (place, place + "?e=1&s=" + "0" * 64, signed[:-1] + ("1" if signed[-1] == "0" else "0")):
        check(ask("GET", url + bad)[0] == 403, "checked: no signature, no content, though it is kept", bad)
    status, _, body = ask("GET", url + signed, None, {"Range": "bytes=5-9", "If-None-Match": '"x"'})
    check(status == 206 and body == layer[5:10], "checked: a range of what is kept", str(status))
    seen = registry.requests("GET " + place)
    check(seen == 1, "checked: two repositories, one request for their layer", f"{seen} requests")


def private_stays_private(cache, url, _registry):
    repo = f"private/{cache}"
    blob, manifest = push_image(url, repo, "v1", os.urandom(50000))
    paths = [f"manifests/v1", f"manifests/{digest(manifest)}", f"blobs/{blob}", "tags/list",
             f"referrers/{blob}"]
    for path in paths:
        for _ in range(2):
            status, headers, _ = ask("GET", f"{url}/v2/{repo}/{path}", None, PASSWORD)
            check(status == 200 and headers["Cache-Control"].startswith("private"),
                  f"{cache}: {path} of who may", f"{status} {headers}")
        for headers in ({}, {"Authorization": "Basic eDp5"}):
            status, _, body = ask("GET", f"{url}/v2/{repo}/{path}", None, headers)
            check(status == 401, f"{cache}: {path} of who may not", f"{status} {body[:100]}")


def ranges_pass(cache, url, _registry):
    repo = f"public/ranges-{cache}"
    layer = os.urandom(300000)
    blob, _ = push_image(url, repo, "v1", layer)
    place = f"{url}/v2/{repo}/blobs/{blob}"
    for _ in range(2):
        for header, first, last in (("5-99", 5, 100), ("299000-", 299000, 300000), ("-7", 299993, 300000)):
            status, _, body = ask("GET", place, None, {"Range": "bytes=" + header})
            check(status == 206 and body == layer[first:last], f"{cache}: range {header}", str(status))
    status, headers, body = ask("GET", place, None, {"Range": "bytes=0-9,100-109,5000-5009"})
    check(status == 206 and headers["Content-Type"].startswith("multipart/byteranges") and
          all(layer[a:a + 10] in body for a in (0, 100, 5000)), f"{cache}: three ranges",
          f"{status} {headers}")


def moved_tags_are_seen(cache, url, registry, limit):
    repo = f"public/moving-{cache}"
    layer = os.urandom(1000)
    _, old = push_image(registry.url, repo, "latest", layer, "old")
    place = f"{url}/v2/{repo}/manifests/latest"
    for _ in range(5):
        check(ask("GET", place)[2] == old, f"{cache}: the tag as it was")
    seen = registry.requests(f"GET /v2/{repo}/manifests/latest")
    check(seen <= 2, f"{cache}: a tag is kept for a moment", f"{seen} requests")
    _, new = push_image(registry.url, repo, "latest", layer, "new")
    took = webcaches.seconds_until(lambda: ask("GET", place)[2] == new, limit + 1)
    check(took is not None and took <= limit, f"{cache}: a moved tag is seen within {limit} s", str(took))
    return place


def purges_take_effect(url, registry):
    repo = "public/purged"
    layer = os.urandom(1000)
    place = f"{url}/v2/{repo}/manifests/latest"
    for i in range(5):
        _, manifest = push_image(registry.url, repo, "latest", layer, str(i))
        for _ in range(2):
            check(ask("GET", place)[2] == manifest, "varnish: a tag that moved is seen at once", str(i))
    blob = f"{url}/v2/{repo}/blobs/{digest(layer)}"
    check(ask("GET", blob)[0] == 200, "varnish: a blob")
    status, _, _ = ask("DELETE", blob.replace(url, registry.url), None, PASSWORD)
    check(status == 202 and ask("GET", blob)[0] == 404, "varnish: deleted, it is gone at once")
    status, _, _ = ask("BAN", url + "/", None, {"Purge-Key": 'x" || obj.status != 0 || "'})
    check(status == 400, "varnish: a key is a key", str(status))


def check_cdn(url, *options):
    done = subprocess.run([lamina.PROGRAM, "--json", "serve", "--check-cdn", url, "--upload-size", "3M", *options],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    try:
        findings = json.loads(done.stdout)["findings"]
    except ValueError:
        return done.returncode, {}, done.stderr
    return done.returncode, {f["check"]: f for f in findings}, done.stderr


def good_ones_are_called_good(urls, user):
    def one(item):
        name, url, repo = item
        code, findings, error = check_cdn(url, "--repo", repo, *user)
        wrong = [f for f in findings.values() if f["result"] == "wrong"]
        check(code == 0 and findings and not wrong, f"{name}, {repo}: nothing is wrong", f"{wrong} {error}")
        for what in ("content", "head", "compression", "range", "ranges", "missing", "upload-size",
                     "upload-buffering", "moved-tag", "header-size", "location"):
            got = findings.get(what, {})
            check(got.get("result") == "good", f"{name}, {repo}: {what}", str(got))
        if repo.startswith("private/"):
            check(findings.get("private", {}).get("result") == "good", f"{name}: private is private")
        elif name != "no cache":
            check(findings.get("kept", {}).get("result") == "good", f"{name}, {repo}: kept", str(findings.get("kept")))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(one, [(name, url, repo + name.replace(" ", "-")) for name, url in urls.items()
                            for repo in ("public/check-", "shared/check-", "private/check-")]))


def replace(old, new):
    return lambda text: text.replace(old, new)


def add(lines):
    return replace("    gzip off;\n", "    gzip off;\n" + lines)


IGNORES = "    proxy_ignore_headers Cache-Control Expires;\n"
# What is written there for redirect_private, without the signs that make it comments.
CHECKED = {"checked": lambda text: re.sub(r"(?m)^(\s*)#(?=\S| {4})", r"\1", text)}
# What is done wrong: how, what must be found, where it shows.
BROKEN = {
    "etag": (add("    proxy_hide_header ETag;\n"), "etag", "public/"),
    "digest": (add("    proxy_hide_header Docker-Content-Digest;\n"), "digest-header", "public/"),
    "gzip": (replace("    gzip off;\n", "    gzip on; gzip_types *; gzip_proxied any; gzip_http_version 1.0;\n"),
             "compression", "public/"),
    "vary": (add("    add_header Vary Accept;\n"), "vary", "public/"),
    "missing": (add(IGNORES + "    proxy_cache_valid 404 1m;\n"), "missing", "public/"),
    "private": (add(IGNORES + "    proxy_cache_valid 200 1m;\n"), "private", "private/"),
    "moved": (add(IGNORES + "    proxy_cache_valid 200 1m;\n"), "moved-tag", "public/"),
    "head": (replace("proxy_cache_convert_head off", "proxy_cache_convert_head on"), "head", "shared/"),
    "ranges": (replace("proxy_set_header Range $range_asked;", "max_ranges 0;"), "range", "public/"),
    "size": (replace("client_max_body_size 0;", "client_max_body_size 1m;"), "upload-size", "public/"),
    "headers": (replace("large_client_header_buffers 4 32k;", "large_client_header_buffers 4 4k;"), "header-size",
                "public/"),
    "location": (replace("proxy_redirect off;", "proxy_redirect / http://inside.example:5000/;"), "location",
                 "public/"),
    "buffer": (replace("    proxy_request_buffering off;\n", ""), "upload-buffering", "public/"),
}


def bad_ones_are_seen_through(nginx, user):
    def one(item):
        name, (_, found, repo) = item
        code, findings, error = check_cdn(nginx.url(name), "--repo", repo + "broken-" + name, *user)
        got = findings.get(found, {})
        if found == "upload-buffering":
            check(code == 0 and got.get("result") == "note", f"broken, {name}: {found}", f"{code} {got} {error}")
        else:
            check(code == 1 and got.get("result") == "wrong", f"broken, {name}: {found}", f"{code} {got} {error}")
        check(got.get("advice"), f"broken, {name}: what to do", str(got))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(one, BROKEN.items()))


def bcrypt(password):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import crypt
        return crypt.crypt(password, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))


SETTINGS = """
[cache]
tag_seconds = {tag}
stale_while_revalidate = {revalidate}
redirect = shared/** hidden/**
redirect_private = yes
[purge varnish]
url = http://127.0.0.1:{varnish}/
method = BAN
header = Purge-Key: {{key}}
wait_ms = 5000
[access]
htpasswd = {dir}/htpasswd
challenge = basic
[rule own]
repositories = **
users = ann
actions = all
[rule open]
repositories = public/** shared/**
users = anonymous
actions = pull
"""


def main():
    directory = tempfile.mkdtemp(prefix="lamina-test-")
    stops = []
    try:
        with open(directory + "/htpasswd", "w", encoding="utf-8") as f:
            f.write("ann:" + bcrypt("secret") + "\n")
        with open(directory + "/password", "w", encoding="utf-8") as f:
            f.write("secret\n")
        varnish_port = lamina.free_port()
        registry = webcaches.Registry(directory, SETTINGS.format(
            tag=TAG_SECONDS, revalidate=REVALIDATE_SECONDS, varnish=varnish_port, dir=directory))
        stops.append(registry)
        nginx = webcaches.Nginx(directory + "/nginx", registry, dict(CHECKED, **{n: b[0] for n, b in BROKEN.items()}))
        stops.append(nginx)
        varnish = webcaches.Varnish(directory + "/varnish", registry, varnish_port)
        stops.append(varnish)
        urls = {"nginx": nginx.url(), "varnish": varnish.url()}
        for name, url in urls.items():
            for test in (pulls_are_kept, shared_layers_are_kept_once, private_stays_private, ranges_pass):
                test(name, url, registry)
        private_layers_are_shared_by_who_may(nginx, registry)
        moved_tags_are_seen("nginx", nginx.url(), registry, TAG_SECONDS + REVALIDATE_SECONDS + 1)
        moved_tags_are_seen("varnish", varnish.url(), registry, 0.5)
        purges_take_effect(varnish.url(), registry)
        user = ("--user", "ann", "--password-file", directory + "/password")
        good_ones_are_called_good(dict(urls, **{"no cache": registry.url}), user)
        bad_ones_are_seen_through(nginx, user)
        check("lost=" not in registry.log(), "no purge was lost")
    finally:
        for s in reversed(stops):
            s.stop()
        if checks.failed and os.environ.get("LAMINA_KEEP"):
            print("kept: " + directory)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    checks.finish()


main()
