#!/usr/bin/python3
"""Access to the registry, from outside: passwords, rules, tokens of our own and of an outside issuer,
client certificates, rates, quotas, and that files are read again."""
import http.server
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
from registryaccess import (Authority, Key, Registry, access, basic, bearer, digest_of, htpasswd, url64,  # noqa: E402
                            wait_reloaded)

checks = lamina.Checks()
USERS = {"admin": "root pw", "alice": "alice:pw", "bob": "bob pw"}
RULES = """
[group dev]
users = alice
[rule frozen]
repositories = dev/frozen
users = anonymous
deny = push, delete
[rule public]
repositories = public/**
users = anonymous
actions = pull
[rule admin]
repositories = **
users = admin
actions = all
[rule dev]
repositories = dev/**
users = @dev
actions = pull, push
[rule home]
repositories = home/${user}/**
users = *
actions = all
"""


def expect(answer, status, what):
    return checks.check(answer.status == status, what, f"status {answer.status}, not {status}: {answer.body[:200]!r}")


def equal(got, wanted, what):
    return checks.check(got == wanted, what, f"{got!r} is not {wanted!r}")


def write(path, text):
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write(text)
    os.rename(path + ".new", path)


def claims_of(token):
    part = token.split(".")[1]
    return json.loads(__import__("base64").urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def as_user(user):
    return basic(user, USERS[user])


# ---- passwords and rules ----

def rights(r):
    ping = r.call("GET", "/v2/")
    expect(ping, 401, "ping by nobody")
    equal(ping["Docker-Distribution-Api-Version"], "registry/2.0", "401 says what this is")
    equal(ping["Cache-Control"], "no-store", "401 is not kept")
    expect(r.call("GET", "/v2/", headers=as_user("bob")), 200, "ping by a user")
    expect(r.call("GET", "/v2/", headers=basic("bob", "wrong")), 401, "ping with a wrong password")
    expect(r.call("GET", "/v2/", headers={"Authorization": "Basic !"}), 401, "ping with nonsense")
    expect(r.call("GET", "/v2/", headers={"Authorization": "Digest x"}), 401, "ping by another scheme")

    expect(r.push_image("public/app", "v1", as_user("admin")), 201, "admin pushes")
    expect(r.call("GET", "/v2/public/app/manifests/v1"), 200, "everybody pulls what is public")
    expect(r.call("GET", "/v2/public/app/manifests/v1", headers=basic("", "")), 200,
           "nobody, by an empty name, pulls what is public")
    expect(r.call("GET", "/v2/public/app/manifests/v1", headers=as_user("bob")), 200, "users, too")
    expect(r.push_image("public/app", "v2"), 401, "nobody pushes there")
    expect(r.push_image("public/app", "v2", as_user("bob")), 403, "bob may not push there")
    expect(r.call("DELETE", "/v2/public/app/manifests/v1", headers=as_user("bob")), 403, "nor delete")

    expect(r.push_image("dev/a", "v1", as_user("alice"), b"secret layer"), 201, "alice pushes by her group")
    expect(r.call("GET", "/v2/dev/a/manifests/v1"), 401, "nobody pulls what is private")
    expect(r.call("GET", "/v2/dev/a/manifests/v1", headers=as_user("bob")), 403, "bob does not, either")
    expect(r.call("GET", "/v2/dev/none/manifests/v1", headers=as_user("bob")), 403, "whether it is there or not")
    expect(r.call("DELETE", "/v2/dev/a/manifests/v1", headers=as_user("alice")), 403, "pushing is not deleting")
    expect(r.push_image("dev/frozen", "v1", as_user("alice")), 403, "what is denied first stays denied")
    expect(r.push_image("dev/frozen", "v1", as_user("admin")), 403, "for everybody")
    expect(r.push_image("home/bob/x", "v1", as_user("bob")), 201, "bob's own place")
    expect(r.push_image("home/alice/x", "v1", as_user("bob")), 403, "not alice's")

    start = r.call("POST", "/v2/dev/a/blobs/uploads/", headers=as_user("alice"))
    expect(start, 202, "an upload begins")
    expect(r.call("DELETE", start["Location"], headers=as_user("bob")), 403, "bob does not cancel it")
    expect(r.call("DELETE", start["Location"], headers=as_user("alice")), 204, "who may push may cancel")


def lists(r):
    def catalog(headers):
        answer = r.call("GET", "/v2/_catalog", headers=headers)
        return answer.json().get("repositories", answer.status)
    equal(catalog(as_user("admin")), ["dev/a", "home/bob/x", "public/app"], "catalog of admin")
    equal(catalog(as_user("alice")), ["dev/a", "public/app"], "catalog of alice")
    equal(catalog(as_user("bob")), ["home/bob/x", "public/app"], "catalog of bob")


def mounts(r):
    secret = digest_of(b"secret layer")
    where = f"/v2/home/bob/x/blobs/uploads/?mount={secret}"
    expect(r.call("POST", where + "&from=dev/a", headers=as_user("bob")), 202, "no mount from what bob may not pull")
    expect(r.call("POST", where, headers=as_user("bob")), 202, "nor from anywhere")
    expect(r.call("GET", f"/v2/home/bob/x/blobs/{secret}", headers=as_user("bob")), 404, "it did not come")
    mine = f"/v2/home/alice/x/blobs/uploads/?mount={secret}&from=dev/a"
    expect(r.call("POST", mine, headers=as_user("alice")), 201, "alice mounts what she may pull")


def passwords_change(r, path):
    expect(r.call("GET", "/v2/", headers=basic("carol", "new")), 401, "carol is not known")
    write(path, htpasswd(dict(USERS, carol="new", bob="changed")))
    wait_reloaded()
    expect(r.call("GET", "/v2/", headers=basic("carol", "new")), 200, "carol is known once the file has changed")
    expect(r.call("GET", "/v2/", headers=as_user("bob")), 401, "bob's former password is over")
    write(path, "nonsense\n")
    wait_reloaded()
    expect(r.call("GET", "/v2/", headers=basic("carol", "new")), 200, "a broken file changes nothing")
    write(path, htpasswd(USERS))
    r.signal(signal.SIGHUP)
    lamina.wait_for(lambda: r.call("GET", "/v2/", headers=as_user("bob")).status == 200, 10, "reload by SIGHUP")
    checks.check("reload=failed" in r.log(), "the broken file is told")


def guessing(r):
    statuses = [r.call("GET", "/v2/", headers=basic("admin", f"guess {i}"), source="127.0.0.9").status for i in range(8)]
    equal(statuses[:5], [401] * 5, "guesses are refused")
    checks.check(429 in statuses[5:], "then have to wait", repr(statuses))
    last = r.call("GET", "/v2/", headers=basic("admin", "guess"), source="127.0.0.9")
    checks.check(last.status == 429 and int(last["Retry-After"] or 0) >= 1, "and are told for how long",
                 f"{last.status} {last['Retry-After']}")
    expect(r.call("GET", "/v2/", headers=as_user("admin")), 200, "others do not have to")


def told(r):
    log = r.log()
    checks.check(re.search(r'audit what=pull,push,delete|audit what=push result=allowed user="alice".*repository="dev/a"', log)
                 is not None, "pushes are told")
    checks.check(re.search(r'audit what=pull result=refused why=rules user="bob".*repository="dev/a"', log) is not None,
                 "refusals are told")
    logins = re.findall(r'audit what=login result=refused why="([^"]*)" client=(\S+) target="([^"]*)"', log)
    checks.check(("name or password", "127.0.0.1", "/v2/") in logins, "failed logins are told", repr(logins))
    checks.check(("the scheme is not taken", "127.0.0.1", "/v2/") in logins, "and other schemes", repr(logins))
    for user, password in USERS.items():
        checks.check(password not in log and basic(user, password)["Authorization"][6:] not in log, "no password is told")
    checks.check("eyJ" not in log and "$2y$" not in log, "no token and no hash is told")


def basic_and_rules(folder):
    path = folder + "/htpasswd"
    write(path, htpasswd(USERS))
    config = f"[access]\nhtpasswd = {path}\nchallenge = basic\nrealm = here\n[limits]\nfailed_logins = 5/h\n" + RULES
    with Registry(folder, config) as r:
        equal(r.call("GET", "/v2/")["WWW-Authenticate"], 'Basic realm="here"', "challenge by Basic")
        expect(r.token("repository:public/app:pull"), 404, "no tokens are given")
        rights(r)
        lists(r)
        equal(r.call("GET", "/v2/_catalog").json().get("repositories"), ["public/app"], "catalog of nobody")
        mounts(r)
        passwords_change(r, path)
        guessing(r)
        told(r)


# ---- tokens of our own ----

def challenges(r):
    equal(r.call("GET", "/v2/")["WWW-Authenticate"],
          f'Bearer realm="http://{r.host}/v2/token",service="lamina"', "challenge of the ping")
    equal(r.push_blob("dev/a", b"x")["WWW-Authenticate"],
          f'Bearer realm="http://{r.host}/v2/token",service="lamina",scope="repository:dev/a:pull,push"',
          "challenge of a push")
    hostile = r.call("GET", "/v2/", headers={"Host": 'evil",x="y'})
    checks.check("evil" not in hostile["WWW-Authenticate"], "what Host says is checked", hostile["WWW-Authenticate"])


def grants(r):
    answer = r.token("repository:dev/a:pull,push", "repository:public/app:pull,delete", "repository:home/bob/x:pull",
                     "registry:catalog:*", "repository(plugin):x:pull", headers=as_user("alice"), account="alice")
    expect(answer, 200, "a token")
    doc = answer.json()
    checks.check(doc["token"] == doc["access_token"] and doc["expires_in"] == 300 and
                 re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", doc["issued_at"]) and "refresh_token" not in doc,
                 "what comes with a token", repr(doc))
    claims = claims_of(doc["token"])
    equal([(g["name"], g["actions"]) for g in claims["access"]],
          [("dev/a", ["pull", "push"]), ("public/app", ["pull"]), ("catalog", ["*"])], "what alice may is granted")
    equal((claims["sub"], claims["aud"], claims["exp"] - claims["iat"]), ("alice", "lamina", 300), "claims")
    expect(r.token("nonsense", headers=as_user("alice")), 400, "a scope that is none")
    expect(r.token("repository:A:pull", headers=as_user("alice")), 400, "a name that is none")
    wrong = r.token("repository:dev/a:pull", headers=basic("alice", "wrong"))
    expect(wrong, 401, "no token for a wrong password")
    checks.check(wrong["WWW-Authenticate"].startswith("Basic "), "but a challenge")
    for scopes in (["repository:dev/a:pull", "repository:public/app:pull"], ["repository:dev/a:pull repository:public/app:pull"]):
        claims = claims_of(r.token(*scopes).json()["token"])
        equal([g["name"] for g in claims["access"]], ["public/app"], "nobody's token is for what is public")


def token_flow(r):
    def token(user, *scopes):
        return bearer(r.token(*scopes, headers=as_user(user) if user else None).json()["token"])
    push = token("alice", "repository:dev/a:pull,push")
    expect(r.push_image("dev/a", "v1", push, b"secret layer"), 201, "push by token")
    expect(r.push_image("public/app", "v1", as_user("admin")), 201, "a password will do, too")
    expect(r.call("GET", "/v2/", headers=push), 200, "ping by token")
    expect(r.call("GET", "/v2/dev/a/manifests/v1", headers=push), 200, "pull by token")
    lacks = r.call("GET", "/v2/dev/b/manifests/v1", headers=push)
    expect(lacks, 401, "a token for another repository")
    checks.check('scope="repository:dev/b:pull",error="insufficient_scope"' in lacks["WWW-Authenticate"],
                 "says what is missing", lacks["WWW-Authenticate"])
    expect(r.call("GET", "/v2/home/bob/x/manifests/v1", headers=push), 403, "no token would help alice there")
    nobody = token("", "repository:public/app:pull,push")
    expect(r.call("GET", "/v2/", headers=nobody), 200, "ping by nobody's token")
    expect(r.call("GET", "/v2/public/app/manifests/v1", headers=nobody), 200, "pull by nobody's token")
    expect(r.push_image("public/app", "v2", nobody), 401, "no push by it")
    only = token("alice", "repository:dev/c:pull,push")
    mount = f"/v2/dev/c/blobs/uploads/?mount={digest_of(b'secret layer')}&from=dev/a"
    expect(r.call("POST", mount, headers=only), 202, "no mount from what the token is not for")
    both = token("alice", "repository:dev/c:pull,push", "repository:dev/a:pull")
    expect(r.call("POST", mount, headers=both), 201, "a mount with both")
    listed = r.call("GET", "/v2/_catalog", headers=push)
    expect(listed, 401, "a token without the catalog")
    checks.check('scope="registry:catalog:*"' in listed["WWW-Authenticate"], "says so", listed["WWW-Authenticate"])
    equal(r.call("GET", "/v2/_catalog", headers=token("alice", "registry:catalog:*")).json()["repositories"],
          ["dev/a", "dev/c", "public/app"], "alice's catalog")
    equal(r.call("GET", "/v2/_catalog", headers=token("", "registry:catalog:*")).json()["repositories"],
          ["public/app"], "nobody's catalog")


def forms(r, path):
    def post(**form):
        return r.call("POST", "/v2/token", urllib.parse.urlencode(form), {"Content-Type": "application/x-www-form-urlencoded"})
    scope = "repository:dev/a:pull,push repository:public/app:pull"
    answer = post(grant_type="password", username="alice", password=USERS["alice"], scope=scope, service="lamina",
                  client_id="test", access_type="offline")
    expect(answer, 200, "a token by form")
    doc = answer.json()
    equal([g["name"] for g in claims_of(doc["access_token"])["access"]], ["dev/a", "public/app"], "scopes of a form")
    expect(r.call("GET", "/v2/", headers=bearer(doc["refresh_token"])), 401, "a refresh token opens nothing")
    again = post(grant_type="refresh_token", refresh_token=doc["refresh_token"], scope="repository:dev/a:pull", service="lamina")
    expect(again, 200, "a token by refresh token")
    expect(r.call("GET", "/v2/dev/a/manifests/v1", headers=bearer(again.json()["access_token"])), 200, "that is good")
    expect(post(grant_type="refresh_token", refresh_token=doc["access_token"], scope=scope), 401, "a token is no refresh token")
    expect(post(grant_type="password", username="alice", password="wrong", scope=scope), 401, "wrong password in a form")
    expect(post(grant_type="authorization_code"), 400, "another grant")
    expect(post(), 400, "an empty form")
    expect(r.call("POST", "/v2/token", "a" * 100000), 413, "a form that is too long")
    expect(r.call("PUT", "/v2/token", "x"), 405, "another method")
    offline = r.token("repository:dev/a:pull", headers=as_user("alice"), offline_token="true").json()
    checks.check("refresh_token" in offline, "a refresh token by GET")
    write(path, htpasswd(dict(USERS, alice="another")))
    wait_reloaded()
    expect(post(grant_type="refresh_token", refresh_token=doc["refresh_token"], scope=scope), 401,
           "a refresh token ends with the password")
    write(path, htpasswd(USERS))
    wait_reloaded()


def forged(r, key):
    now = int(time.time())
    good = {"iss": "lamina", "aud": "lamina", "sub": "alice", "iat": now, "nbf": now, "exp": now + 300,
            "access": [access("dev/a", "pull")]}

    def status(**changes):
        claims = {name: value for name, value in dict(good, **changes).items() if value is not None}
        return r.call("GET", "/v2/dev/a/manifests/v1", headers=bearer(key.token(**claims)))
    expect(status(), 200, "a token by the configured key")
    over = status(iat=now - 700, nbf=now - 700, exp=now - 100)
    expect(over, 401, "a token that has expired")
    checks.check('scope="repository:dev/a:pull",error="invalid_token"' in over["WWW-Authenticate"], "says so",
                 over["WWW-Authenticate"])
    expect(status(exp=None), 401, "a token without an end")
    expect(status(iss="other"), 401, "a token by another issuer")
    expect(status(aud="other"), 401, "a token for another service")
    expect(status(sub="bob"), 403, "what the token grants and the rules do not")
    other = Key(r.folder, "EdDSA", key.kid)
    text = other.token(**good)
    expect(r.call("GET", "/v2/dev/a/manifests/v1", headers=bearer(text)), 401, "a token by another key")
    none = url64(b'{"alg":"none"}') + "." + url64(json.dumps(good).encode()) + "."
    expect(r.call("GET", "/v2/dev/a/manifests/v1", headers=bearer(none)), 401, "a token that is not signed")


def own_tokens(folder):
    path = folder + "/htpasswd"
    write(path, htpasswd(USERS))
    key = Key(folder, "EdDSA")
    config = f"[access]\nhtpasswd = {path}\ntoken_key = {key.path}\naudit = all\n" + RULES
    with Registry(folder, config) as r:
        challenges(r)
        grants(r)
        token_flow(r)
        forms(r, path)
        forged(r, key)
        logins = re.findall(r'audit what=login result=refused why="([^"]*)"', r.log())
        for why, count in (("has expired", 1), ("another issuer", 1), ("another service", 2), ("no key", 1), ("not signed by", 1)):
            equal(sum(why in login for login in logins), count, f"a line for each token that was refused: {why}")


def key_in_store(folder):
    """The key is made on first use, private, and stays."""
    path = folder + "/htpasswd"
    write(path, htpasswd(USERS))
    r = Registry(folder, f"[access]\nhtpasswd = {path}\n")
    with r:
        token = r.token("repository:a:pull,push", headers=as_user("bob")).json()["token"]
        expect(r.push_image("a", "v1", bearer(token)), 201, "without rules every user may all")
        expect(r.call("GET", "/v2/a/manifests/v1"), 401, "and nobody else anything")
    file = folder + "/store/registry/token-key.pem"
    equal(os.stat(file).st_mode & 0o7777, 0o600, "the key is private")
    with r:
        expect(r.call("GET", "/v2/a/manifests/v1", headers=bearer(token)), 200, "tokens survive a restart")


# ---- tokens of an outside issuer ----

class Issuer(http.server.ThreadingHTTPServer):
    """A server that gives its keys as a JWK Set."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys, self.asked = [], 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/keys"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        body = json.dumps({"keys": [key.jwk() for key in self.server.keys]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *unused):
        pass


def outside_claims(**changes):
    now = int(time.time())
    return dict({"iss": "https://issuer.test", "aud": "registry.test", "sub": "somebody", "iat": now, "exp": now + 300}, **changes)


def outside(folder):
    keys = [Key(folder, alg) for alg in ("RS256", "ES256", "EdDSA")]
    write(folder + "/keys.pem", "".join(key.public_pem() for key in keys))
    config = ("[access]\ntoken_issuer = https://issuer.test\nservice = registry.test\nrealm = https://issuer.test/token\n"
              f"token_keys = {folder}/keys.pem\n[rule some]\nrepositories = ruled/**\nusers = somebody\nactions = pull, push\n")
    with Registry(folder, config) as r:
        equal(r.call("GET", "/v2/x/tags/list")["WWW-Authenticate"],
              'Bearer realm="https://issuer.test/token",service="registry.test",scope="repository:x:pull"', "their challenge")
        expect(r.token("repository:x:pull"), 404, "we give no tokens then")
        for key in keys:
            push = bearer(key.token(**outside_claims(access=[access("x", "pull", "push")])))
            expect(r.push_image("x", key.alg.lower(), push), 201, f"push by {key.alg}")
            broken = push["Authorization"][:-6] + "AAAAAA"
            expect(r.call("GET", "/v2/", headers={"Authorization": broken}), 401, f"a broken signature of {key.alg}")
        key = keys[0]
        pull = bearer(key.token(**outside_claims(sub="", access=[access("x", "pull")])))
        expect(r.call("GET", "/v2/x/tags/list", headers=pull), 200, "pull by a token of nobody")
        expect(r.push_image("x", "v9", pull), 401, "what it does not grant")
        rules = bearer(key.token(**outside_claims()))
        expect(r.push_image("ruled/a", "v1", rules), 201, "a token without grants: the rules decide")
        expect(r.push_image("x", "v9", rules), 403, "and refuse")
        expect(r.call("GET", "/v2/", headers=bearer(key.token(**outside_claims(sub="")))), 401, "a token of nothing for nobody")
        confused = key.token(header={"alg": "EdDSA"}, **outside_claims())
        expect(r.call("GET", "/v2/", headers=bearer(confused)), 401, "a key signs by its own algorithm")
        several = bearer(key.token(**outside_claims(aud=["other", "registry.test"], access=[access("x", "pull")])))
        expect(r.call("GET", "/v2/x/tags/list", headers=several), 200, "one of several audiences")
        write(folder + "/keys.pem", keys[1].public_pem())
        wait_reloaded()
        expect(r.call("GET", "/v2/x/tags/list", headers=pull), 401, "a key that was withdrawn")
        other = bearer(keys[1].token(**outside_claims(access=[access("x", "pull")])))
        expect(r.call("GET", "/v2/x/tags/list", headers=other), 200, "the one that is left")


def outside_by_url(folder):
    issuer = Issuer()
    first, second = Key(folder, "ES256", "first"), Key(folder, "EdDSA", "second")
    issuer.keys = [first]
    config = ("[access]\ntoken_issuer = https://issuer.test\nservice = registry.test\nrealm = https://issuer.test/token\n"
              f"token_keys_url = {issuer.url}\n")
    with Registry(folder, config) as r:
        started = time.monotonic()
        claims = outside_claims(access=[access("x", "pull", "push")])
        expect(r.push_image("x", "v1", bearer(first.token(**claims))), 201, "keys by URL")
        asked = issuer.asked
        for i in range(5):
            expect(r.call("GET", "/v2/", headers=bearer(Key(folder, "ES256", f"made-up-{i}").token(**claims))), 401,
                   "keys that are made up")
        checks.check(issuer.asked <= asked + 1, "do not make us ask often", f"{issuer.asked - asked} times")
        issuer.keys = [first, second]
        time.sleep(max(0, 10.5 - (time.monotonic() - started)))
        token = second.token(**claims)
        lamina.wait_for(lambda: r.call("GET", "/v2/x/tags/list", headers=bearer(token)).status == 200, 12,
                        "a new key is found")
        issuer.shutdown()
        expect(r.call("GET", "/v2/x/tags/list", headers=bearer(first.token(**claims))), 200, "known keys outlast their server")


# ---- certificates ----

def certificates(folder):
    authority = Authority(folder)
    server, alice, carol = (authority.issue(name) for name in ("localhost", "alice", "carol"))
    os.mkdir(folder + "/other")
    stranger = Authority(folder + "/other", "Another authority").issue("alice")
    config = (f"[tls]\ncert = {server[0]}\nkey = {server[1]}\nclient_ca = {authority.cert}\n[access]\ncertificates = yes\n" + RULES)
    with Registry(folder, config, tls=authority.cert) as r:
        checks.check(f'realm="https://{r.host}/v2/token"' in r.call("GET", "/v2/")["WWW-Authenticate"], "the realm is https",
                     r.call("GET", "/v2/")["WWW-Authenticate"])
        expect(r.call("GET", "/v2/", client=alice), 200, "ping with a certificate")
        expect(r.push_image("dev/a", "v1", client=alice), 201, "push with a certificate")
        expect(r.push_image("dev/a", "v1", client=carol), 403, "the certificate's name counts")
        expect(r.push_image("dev/a", "v1"), 401, "no certificate")
        token = bearer(r.call("GET", "/v2/token?scope=repository:dev/a:pull", client=alice).json()["token"])
        expect(r.call("GET", "/v2/dev/a/manifests/v1", headers=token), 200, "a token by certificate")
        try:
            status = r.call("GET", "/v2/", client=stranger).status
        except OSError:
            status = 0
        checks.check(status in (0, 401), "a certificate of somebody else", str(status))


# ---- rates and quotas ----

def rates(folder):
    path = folder + "/htpasswd"
    write(path, htpasswd(USERS))
    config = (f"[access]\nhtpasswd = {path}\nchallenge = basic\n[rule public]\nrepositories = **\nusers = anonymous\n"
              "actions = pull\n[rule all]\nrepositories = **\nusers = admin, alice\nactions = all\n"
              "[limits]\nrequests = 10/s per client burst 40\npulls = 6/h per user burst 6\n")
    with Registry(folder, config) as r:
        expect(r.push_image("a", "v1", as_user("admin"), source="127.0.0.7"), 201, "a push within the rate")

        def pulls(headers, source):
            return [r.call("GET", "/v2/a/manifests/v1", headers=headers, source=source).status for _ in range(8)]
        equal(pulls(as_user("alice"), "127.0.0.2"), [200] * 6 + [429] * 2, "pulls per user")
        equal(pulls(as_user("alice"), "127.0.0.3")[:1], [429], "from wherever")
        equal(pulls(None, "127.0.0.4"), [200] * 6 + [429] * 2, "pulls per address of nobody")
        expect(r.call("HEAD", "/v2/a/manifests/v1", source="127.0.0.4"), 200, "looking is no pull")
        limited = r.call("GET", "/v2/a/manifests/v1", source="127.0.0.4")
        checks.check(400 < int(limited["Retry-After"] or 0) <= 600, "how long to wait", limited["Retry-After"])
        equal(limited.json()["errors"][0]["code"], "TOOMANYREQUESTS", "why")
        statuses = [r.call("HEAD", "/v2/a/manifests/v1", source="127.0.0.5").status for _ in range(60)]
        checks.check(statuses[:40] == [200] * 40 and 429 in statuses, "requests per client", repr(statuses))
        expect(r.call("HEAD", "/v2/a/manifests/v1", source="127.0.0.6"), 200, "others do not wait")


def quotas(folder):
    config = ("[quota each]\nrepositories = dev/**\nbytes = 100KiB\n"
              "[quota home]\nrepositories = home/${user}/**\nbytes = 64KiB\ntogether = yes\n")
    r = Registry(folder, config)
    data = [os.urandom(40 << 10) for _ in range(3)]
    with r:
        expect(r.push_blob("dev/a", data[0]), 201, "within the quota")
        expect(r.push_blob("dev/a", data[1]), 201, "still")
        over = r.push_blob("dev/a", data[2])
        expect(over, 403, "over the quota")
        equal(over.json()["errors"][0]["code"], "DENIED", "says so")
        expect(r.call("POST", f"/v2/dev/b/blobs/uploads/?mount={digest_of(data[0])}&from=dev/a"), 201, "another repository")
        expect(r.push_blob("dev/b", data[2]), 201, "has its own")
        expect(r.call("POST", f"/v2/dev/b/blobs/uploads/?mount={digest_of(data[1])}&from=dev/a"), 403, "mounts count")
        expect(r.push_blob("home/bob/x", data[0]), 201, "bob's first")
        expect(r.push_blob("home/bob/y", data[1]), 403, "all that is bob's counts together")
        expect(r.push_blob("home/alice/y", data[1]), 201, "alice's does not")
        chunked = r.call("POST", "/v2/dev/a/blobs/uploads/")
        expect(r.call("PATCH", chunked["Location"], iter([data[2][:20000], data[2][20000:]])), 403, "pieces count")
        expect(r.call("DELETE", f"/v2/dev/a/blobs/{digest_of(data[1])}"), 202, "room is made")
        lamina.wait_for(lambda: r.push_blob("dev/a", data[2]).status == 201, 10, "and can be used")
    with r:
        lamina.wait_for(lambda: r.push_blob("home/bob/z", data[2]).status == 403, 10, "counts survive a restart")
        expect(r.push_blob("home/carol/z", data[2]), 201, "others have room")


# ---- what does not fit together ----

def wrong_settings(folder):
    for config, words in (("[access]\nhtpasswd = /none\n", "/none"),
                          ("[access]\ntoken_issuer = x\nrealm = http://y\n", "token_keys"),
                          ("[access]\ntoken_keys = /none\n", "token_issuer"),
                          ("[rule a]\nrepositories = **\nusers = @none\nactions = pull\n", "no such group"),
                          ("[rule a]\nusers = *\nactions = pull\n", "wanted"),
                          ("[quota a]\nbytes = 1KiB\n", "wanted"),
                          ("[limits]\nrequests = fast\n", "rate")):
        r = Registry(tempfile.mkdtemp(dir=folder), config)
        try:
            r.start()
            r.stop()
            checks.check(False, f"refused: {config!r}")
        except RuntimeError:
            checks.check(words in r.log(), f"refused with its reason: {config!r}", r.log())


def main():
    lamina.isolate(240)
    lamina.need("openssl")
    folder = tempfile.mkdtemp(prefix="lamina-access-")
    try:
        for part in (basic_and_rules, own_tokens, key_in_store, outside, outside_by_url, certificates, rates, quotas,
                     wrong_settings):
            os.mkdir(f"{folder}/{part.__name__}")
            try:
                part(f"{folder}/{part.__name__}")
            except (RuntimeError, OSError, KeyError, ValueError) as e:
                checks.check(False, part.__name__, repr(e))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    checks.finish()


if __name__ == "__main__":
    main()
