#!/usr/bin/python3
"""The web pages in a real browser: what they show and to whom, nothing of what is stored can become
markup, they fit a phone, and they need nothing from elsewhere."""
import base64
import hashlib
import html.parser
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
from registryaccess import basic, htpasswd  # noqa: E402

OCI = "application/vnd.oci.image."
EVIL = "<script>document.title='broken'</script>\"'><img src=x onerror=\"document.title='broken'\">"
checks = lamina.Checks()
ADMIN = basic("admin", "secret")


def call(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def put(port, repo, ref, document):
    data = json.dumps(document).encode()
    status, _, body = call(port, "PUT", f"/v2/{repo}/manifests/{ref or digest_of(data)}", data,
                           dict(ADMIN, **{"Content-Type": document["mediaType"]}))
    checks.check(status == 201, f"push of {repo}:{ref}", repr(body))
    return {"mediaType": document["mediaType"], "digest": digest_of(data), "size": len(data)}


def blob(port, repo, data, kind):
    status, _, body = call(port, "POST", f"/v2/{repo}/blobs/uploads/?digest={digest_of(data)}", data, ADMIN)
    checks.check(status == 201, "push of a blob", repr(body))
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


def image(port, repo, tag, command, layers, **more):
    config = json.dumps({"os": "linux", "architecture": "arm64", "config": {"Cmd": [command]},
                         "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    return put(port, repo, tag, dict(
        {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
         "config": blob(port, repo, config, OCI + "config.v1+json"),
         "layers": [blob(port, repo, data, OCI + "layer.v1.tar") for data in layers]}, **more))


class Page(html.parser.HTMLParser):
    """A page read strictly: its tags balance, and it asks for nothing from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.text = [], [], ""
        self.feed(text)
        checks.check(not self.open, "tags are closed", str(self.open))

    def handle_starttag(self, tag, attrs):
        checks.check(tag not in ("script", "iframe", "object", "img"), f"no <{tag}>")
        for name, value in attrs:
            checks.check(not name.startswith("on") and name != "style", f"no attribute {name}")
            if name in ("href", "src", "action"):
                checks.check((value or "").startswith("/web/"), "addresses are its own", str(value))
                self.links.append(value)
        if tag not in ("meta", "link", "input", "path", "rect") or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        checks.check(self.open and self.open.pop() == tag, f"</{tag}> closes its own")

    def handle_data(self, data):
        self.text += data


class Browser:
    """Chromium by the WebDriver protocol."""

    def __init__(self, folder):
        self.port = lamina.free_port()
        self.driver = subprocess.Popen(["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
        lamina.wait_for(self.answers, 20, "chromedriver")
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                            f"--user-data-dir={folder}/profile"]}
        self.session = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}},
            whole=True)["sessionId"]

    def answers(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=2) as r:
                return r.status == 200
        except OSError:
            return False

    def ask(self, method, path, body=None, whole=False):
        path = path if whole else f"/session/{self.session}{path}"
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method,
                                         data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as r:
            return json.loads(r.read())["value"]

    def go(self, url):
        self.ask("POST", "/url", {"url": url})

    def run(self, script):
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def click(self, text):
        found = self.ask("POST", "/element", {"using": "link text", "value": text})
        self.ask("POST", f"/element/{list(found.values())[0]}/click", {})

    def size(self, width, height):
        self.cdp("Emulation.setDeviceMetricsOverride",
                 {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})

    def cdp(self, command, params):
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def picture(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.ask("GET", "/screenshot")))

    def log(self):
        return [e["message"] for e in self.ask("POST", "/se/log", {"type": "browser"})
                if e["level"] in ("SEVERE", "WARNING")]

    def end(self):
        try:
            self.ask("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(20)


def fill(port):
    base, own = b"a layer of many" * 4000, b"another" * 1000
    first = image(port, "public/app", "v1", "serve --all", [base, own])
    image(port, "public/other", "v1", "run", [base])
    image(port, "public/app", "evil", EVIL, [b"evil"], artifactType="x/" + EVIL[:60])
    put(port, "public/app", "all", {
        "schemaVersion": 2, "mediaType": OCI + "index.v1+json",
        "manifests": [dict(first, platform={"os": "linux", "architecture": "arm64"})]})
    image(port, "public/app", None, "sbom", [b"{}"], artifactType="application/spdx+json", subject=first)
    image(port, "hidden/app", "v1", "secret thing", [b"private"])
    for i in range(60):
        image(port, "public/many", f"t{i:02}", "x", [b"x"])
    return first


def plain(port, first):
    """Without a browser: headers, access, strict markup."""
    status, headers, _ = call(port, "GET", "/")
    checks.check(status == 302 and headers["Location"] == "/web/", "the root leads to the pages")
    for path in ("/web/", "/web/?q=%3Cb%3E", "/web/repo?name=public/app", "/web/image?name=public/app&ref=v1",
                 "/web/image?name=public/app&ref=all", "/web/image?name=public/app&ref=evil",
                 f"/web/image?name=public/app&ref={first['digest']}"):
        status, headers, body = call(port, "GET", path)
        checks.check(status == 200 and "default-src 'none'" in headers["Content-Security-Policy"] and
                     "no-store" in headers["Cache-Control"], path, f"{status} {headers}")
        page = Page(body.decode())
        checks.check("hidden" not in page.text, "private names are not shown", path)
    status, headers, body = call(port, "GET", "/web/repo?name=hidden/app")
    checks.check(status == 401 and headers["WWW-Authenticate"].startswith("Basic "), "a password is asked for", str(status))
    checks.check(b"secret thing" not in body, "and nothing shown")
    status, _, absent = call(port, "GET", "/web/repo?name=hidden/absent")
    checks.check(status == 401, "what is absent looks the same", str(status))
    status, _, body = call(port, "GET", "/web/", headers=ADMIN)
    checks.check(status == 200 and b"hidden/app" in body, "who signs in sees it")
    for path, wanted in (("/web/nothing", 404), ("/web/repo", 404), ("/web/repo?name=../x", 404),
                         ("/web/image?name=public/app&ref=none", 404), ("/web/login", 401)):
        status, _, _ = call(port, "GET", path)
        checks.check(status == wanted, path, str(status))
    status, _, _ = call(port, "POST", "/web/", b"x")
    checks.check(status == 405, "only reading", str(status))


def browse(port, browser, folder):
    url = f"http://127.0.0.1:{port}"
    browser.size(1000, 900)
    browser.go(url + "/")
    checks.check(browser.run("return document.title") == "Images", "the first page")
    checks.check(browser.run("return getComputedStyle(document.querySelector('.card')).borderRadius") != "0px",
                 "the style is there")
    browser.picture(folder + "/first.png")
    browser.run("document.querySelector('input').value='OTHER'; document.querySelector('form').submit()")
    lamina.wait_for(lambda: "q=OTHER" in browser.run("return location.href"), 10, "the search")
    rows = browser.run("return [...document.querySelectorAll('td.name')].map(e => e.innerText)")
    checks.check(rows == ["public/other"], "search", str(rows))
    browser.go(url + "/web/")
    browser.click("public/app")
    browser.click("v1")
    text = browser.run("return document.body.innerText")
    checks.check("linux/arm64" in text and "serve --all" in text and f"podman pull 127.0.0.1:{port}/public/app:v1" in text,
                 "an image", text)
    shared = lamina.wait_for(lambda: page_with(browser, "shared with other images"), 20, "what is shared")
    checks.check(re.search(r"of this image alone 7 KiB|of this image alone 6.8", shared) is not None, "own size", shared)
    checks.check("application/spdx+json" in shared, "what refers to it")
    browser.picture(folder + "/image.png")
    browser.go(url + "/web/image?name=public/app&ref=all")
    checks.check("linux/arm64" in browser.run("return document.querySelector('table').innerText"), "platforms")
    browser.go(url + "/web/image?name=public/app&ref=evil")
    checks.check(browser.run("return document.title") == "public/app:evil" and
                 "onerror" in browser.run("return document.body.innerText"), "texts stay texts")
    browser.go(url + "/web/repo?name=public/many")
    browser.click("more")
    tags = browser.run("return [...document.querySelectorAll('td.name')].map(e => e.innerText)")
    checks.check(tags == [f"t{i}" for i in range(50, 60)], "the second page", str(tags))
    looks(browser, url, folder)
    checks.check(browser.log() == [], "nothing to complain of", str(browser.log()))


def page_with(browser, words):
    text = browser.run("return document.body.innerText")
    if words in text:
        return text
    browser.ask("POST", "/refresh", {})
    return None


def looks(browser, url, folder):
    """On a phone, and in the dark."""
    browser.size(360, 740)
    for path in ("/web/", "/web/repo?name=public/app", "/web/image?name=public/app&ref=v1"):
        browser.go(url + path)
        width = browser.run("return document.documentElement.scrollWidth")
        checks.check(width <= 360, f"{path} fits a phone", str(width))
    browser.picture(folder + "/phone.png")
    light = browser.run("return getComputedStyle(document.body).backgroundColor")
    browser.cdp("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    dark = browser.run("return getComputedStyle(document.body).backgroundColor")
    checks.check(light == "rgb(251, 250, 248)" and dark == "rgb(20, 23, 28)", "light and dark", f"{light} {dark}")


def main():
    lamina.isolate(240)
    with lamina.Host() as host:
        with open(host.dir + "/users", "w", encoding="utf-8") as f:
            f.write(htpasswd({"admin": "secret"}))
        with open(host.dir + "/c.ini", "w", encoding="utf-8") as f:
            f.write(f"[web]\nenabled = yes\n[operation]\nstats_every = 1\n[access]\nhtpasswd = {host.dir}/users\n"
                    "[rule public]\nrepositories = public/**\nusers = anonymous\nactions = pull\n"
                    "[rule admin]\nrepositories = **\nusers = admin\nactions = all\n")
        log = host.dir + "/log"
        owner = host.start("serve", "--listen", "127.0.0.1:0", "--config", host.dir + "/c.ini",
                           stderr=open(log, "wb"))

        def find_port():
            with open(log, encoding="utf-8") as f:
                found = re.search(r"registry port=(\d+)", f.read())
            return int(found.group(1)) if found else None
        port = lamina.wait_for(find_port, 20, "the owner")
        first = fill(port)
        plain(port, first)
        if shutil.which("chromedriver") and shutil.which("chromium"):
            browser = Browser(host.dir)
            try:
                browse(port, browser, os.environ.get("LAMINA_PICTURES", host.dir))
            finally:
                browser.end()
        else:
            print("without a browser: chromium and chromedriver are not installed")
        owner.terminate()
        owner.wait(30)
        checks.check(owner.returncode == 0, "ends")
    checks.finish()


main()
