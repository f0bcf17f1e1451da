"""What tests of access share: users' files, keys and certificates by openssl, tokens made by hand, a
registry with a configuration of its own."""
import base64
import ctypes
import ctypes.util
import hashlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.parse

import lamina

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def htpasswd(users, salt="$2y$04$abcdefghijklmnopqrstuu"):
    """Lines of users and their passwords, at the least cost."""
    crypt = ctypes.CDLL(ctypes.util.find_library("crypt")).crypt
    crypt.restype = ctypes.c_char_p
    return "".join(f"{user}:{crypt(password.encode(), salt.encode()).decode()}\n"
                   for user, password in users.items())


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token):
    return {"Authorization": "Bearer " + token}


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def openssl(*args, data=None):
    return subprocess.run(["openssl", *args], input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          check=True).stdout


def url64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    """A private key that signs tokens: RS256, ES256 or EdDSA."""

    def __init__(self, folder, alg, kid=None):
        self.alg, self.kid, self.path = alg, kid, f"{folder}/{alg}-{kid}.pem"
        options = {"RS256": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
                   "ES256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "EdDSA": ["ED25519"]}[alg]
        openssl("genpkey", "-out", self.path, "-algorithm", *options)

    def public_pem(self):
        return openssl("pkey", "-in", self.path, "-pubout").decode()

    def jwk(self):
        der = openssl("pkey", "-in", self.path, "-pubout", "-outform", "DER")
        key = {"use": "sig", "alg": self.alg}
        if self.kid:
            key["kid"] = self.kid
        if self.alg == "EdDSA":
            return dict(key, kty="OKP", crv="Ed25519", x=url64(der[-32:]))
        if self.alg == "ES256":
            return dict(key, kty="EC", crv="P-256", x=url64(der[-64:-32]), y=url64(der[-32:]))
        modulus = openssl("rsa", "-in", self.path, "-noout", "-modulus").decode().strip().partition("=")[2]
        return dict(key, kty="RSA", n=url64(bytes.fromhex(modulus)), e="AQAB")

    def sign(self, data):
        if self.alg == "EdDSA":
            path = self.path + ".data"
            with open(path, "wb") as f:
                f.write(data)
            return openssl("pkeyutl", "-sign", "-inkey", self.path, "-rawin", "-in", path)
        signature = openssl("dgst", "-sha256", "-sign", self.path, data=data)
        if self.alg == "RS256":
            return signature
        at, halves = 2, b""  # DER: a sequence of two integers
        for _ in range(2):
            length = signature[at + 1]
            halves += int.from_bytes(signature[at + 2:at + 2 + length], "big").to_bytes(32, "big")
            at += 2 + length
        return halves

    def token(self, header=None, **claims):
        header = dict({"alg": self.alg, "typ": "JWT"}, **({"kid": self.kid} if self.kid else {}), **(header or {}))
        text = url64(json.dumps(header).encode()) + "." + url64(json.dumps(claims).encode())
        return text + "." + url64(self.sign(text.encode()))


def access(repository, *actions):
    return {"type": "repository", "name": repository, "actions": list(actions)}


class Authority:
    """Signs certificates of servers and clients."""

    def __init__(self, folder, name="Test authority"):
        self.folder, self.cert, self.key = folder, f"{folder}/ca.pem", f"{folder}/ca.key"
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", self.key, "-out", self.cert,
                "-days", "2", "-subj", f"/CN={name}")

    def issue(self, name, names="DNS:localhost,IP:127.0.0.1"):
        """Paths of a certificate and its key."""
        stem = f"{self.folder}/{name}"
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", stem + ".key", "-out", stem + ".csr",
                "-subj", f"/CN={name}")
        with open(stem + ".ext", "w", encoding="ascii") as f:
            f.write(f"subjectAltName={names}\n")
        openssl("x509", "-req", "-in", stem + ".csr", "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial",
                "-days", "2", "-extfile", stem + ".ext", "-out", stem + ".pem")
        return stem + ".pem", stem + ".key"


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    def __getitem__(self, name):
        return self.headers.get(name, "")

    def json(self):
        return json.loads(self.body)


class Registry:
    """`lamina serve` with a configuration, in a folder of its own; goes on with its store when started
    again."""

    def __init__(self, folder, config, tls=None):
        self.folder, self.config, self.tls = folder, config, tls
        self.port = lamina.free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.log_path = folder + "/serve.log"
        os.makedirs(folder + "/run", mode=0o700, exist_ok=True)
        self.process = None

    def start(self):
        path = self.folder + "/lamina.ini"
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"[registry]\nlisten = {self.host}\n{self.config}")
        env = dict(os.environ, LAMINA_RUN=self.folder + "/run", LAMINA_STORE=self.folder + "/store")
        with open(self.log_path, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen([lamina.PROGRAM, "serve", "--config", path], env=env, stdout=log,
                                            stderr=log)
        lamina.wait_for(self.answers, 20, "the registry answers")
        return self

    def answers(self):
        if self.process.poll() is not None:
            raise RuntimeError("the registry has ended:\n" + self.log())
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            if self.process.wait(20) != 0:  # a sanitizer has found something
                raise RuntimeError("the registry has ended badly:\n" + self.log()[-4000:])

    def __enter__(self):
        return self.start()

    def __exit__(self, *unused):
        self.stop()

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def signal(self, number):
        self.process.send_signal(number)

    def call(self, method, path, body=None, headers=None, client=None, source=None):
        """client: paths of a certificate and key; source: an address to connect from."""
        options = {"timeout": 20, "source_address": (source, 0) if source else None}
        if self.tls:
            context = ssl.create_default_context(cafile=self.tls)
            if client:
                context.load_cert_chain(*client)
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, **options)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, **options)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def token(self, *scopes, headers=None, **query):
        text = urllib.parse.urlencode([("service", "lamina"), *[("scope", s) for s in scopes], *query.items()])
        return self.call("GET", "/v2/token?" + text, headers=headers)

    def push_blob(self, repo, data, headers=None, **kw):
        return self.call("POST", f"/v2/{repo}/blobs/uploads/?digest={digest_of(data)}", data, headers, **kw)

    def push_image(self, repo, tag, headers=None, layer=b"layer", **kw):
        """The answer to the manifest's PUT, or the first that is an error."""
        parts = []
        for data in (b"{}", layer):
            answer = self.push_blob(repo, data, headers, **kw)
            if answer.status != 201:
                return answer
            parts.append({"digest": digest_of(data), "size": len(data),
                          "mediaType": "application/vnd.oci.image.layer.v1.tar"})
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}
        return self.call("PUT", f"/v2/{repo}/manifests/{tag}", json.dumps(manifest).encode(),
                         dict(headers or {}, **{"Content-Type": MANIFEST}), **kw)


def wait_reloaded():
    """Files are looked at once a second."""
    time.sleep(1.2)
