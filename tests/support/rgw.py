#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ceph's RADOS gateway for tests: one monitor, one OSD on a file, one gateway, on loopback, in a private
directory. All of them are ordinary children that are killed when whoever started them ends, however that
comes about.

    with Gateway() as gateway:
        gateway.endpoint, gateway.access_key, gateway.secret_key, gateway.bucket

As a program: prints these, and runs until its input ends."""
import hashlib
import hmac
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid

PROGRAMS = ("ceph-mon", "ceph-osd", "ceph", "ceph-authtool", "monmaptool", "radosgw", "radosgw-admin")
OSD_BYTES = 6 << 30  # of a file with holes

CONFIG = """[global]
fsid = {fsid}
run dir = {dir}
admin socket = {dir}/$name.asok
log file = {dir}/$name.log
keyring = {dir}/keyring
mon host = v2:127.0.0.1:{mon_port}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
mon data avail crit = 1
mon data avail warn = 2
mon warn on pool no redundancy = false
mon allow pool size one = true
mon pg warn max object skew = 0
mon max pg per osd = 1000
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
ms bind msgr1 = false
ms bind ipv6 = false
[mon.a]
mon data = {dir}/mon
mon addr = v2:127.0.0.1:{mon_port}
[osd.0]
osd data = {dir}/osd
osd objectstore = {objectstore}
osd memory target = 939524096
osd max object name len = 256
osd max object namespace len = 64
bluestore block size = {osd_bytes}
bluestore block create = true
bluestore fsck on mount = false
osd class load list = *
osd class default list = *
memstore device bytes = {osd_bytes}
[client.admin]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {dir}/rgw
rgw thread pool size = 64
rgw enable gc threads = true
rgw gc obj min wait = 1
rgw gc processor period = 5
rgw bucket default quota max objects = -1
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = testkey=MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=
rgw enable usage log = false
rgw num rados handles = 1
rgw dynamic resharding = false
"""


def missing():
    return [p for p in PROGRAMS if not shutil.which(p)]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Gateway:
    def __init__(self, bucket="bucket", objectstore="bluestore", parent=None):
        self.bucket, self.objectstore = bucket, objectstore
        self.access_key, self.secret_key = "LAMINATESTKEY", "a/secret+of/tests"
        self.dir = tempfile.mkdtemp(prefix="rgw-", dir=parent)
        self.port, self.mon_port = free_port(), free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.conf = self.dir + "/ceph.conf"
        self.processes = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *unused):
        self.stop()

    def tool(self, *argv, timeout=60):
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
                              errors="replace", check=False, env=self.env())
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout[-3000:]}")
        return done.stdout

    def env(self):
        return dict(os.environ, CEPH_CONF=self.conf, CEPH_ARGS="", LC_ALL="C.UTF-8")

    def daemon(self, *argv):
        """Dies with us: setpriv sets what the kernel sends it then."""
        log = open(os.path.join(self.dir, os.path.basename(argv[0]) + ".out"), "ab")
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT, env=self.env())
        log.close()
        self.processes.append(process)
        return process

    def start(self):
        for name in ("mon", "osd", "rgw"):
            os.mkdir(os.path.join(self.dir, name))
        fsid = str(uuid.uuid4())
        with open(self.conf, "w", encoding="utf-8") as f:
            f.write(CONFIG.format(fsid=fsid, dir=self.dir, mon_port=self.mon_port, port=self.port,
                                  objectstore=self.objectstore, osd_bytes=OSD_BYTES))
        conf, monmap, keyring = ("-c", self.conf), self.dir + "/monmap", self.dir + "/keyring"
        self.tool("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self.tool("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *",
                  "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        self.tool("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{self.mon_port}]", monmap)
        self.tool("ceph-mon", *conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self.daemon("ceph-mon", *conf, "-f", "-i", "a")
        osd = str(uuid.uuid4())
        self.tool("ceph", *conf, "osd", "new", osd)
        self.tool("ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.daemon("ceph-osd", *conf, "-f", "-i", "0")
        self.wait(lambda: '"num_up_osds":1' in self.tool("ceph", *conf, "osd", "stat", "-f", "json").replace(" ", ""),
                  "the OSD")
        self.tool("radosgw-admin", *conf, "user", "create", "--uid", "test", "--display-name", "test",
                  "--access-key", self.access_key, "--secret", self.secret_key)
        self.daemon("radosgw", *conf, "-f", "-n", "client.admin")
        self.wait(self.answers, "the gateway")
        self.request("PUT", f"/{self.bucket}")

    def answers(self):
        try:
            with urllib.request.urlopen(self.endpoint + "/", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def request(self, method, path, query=""):
        """Signed, without a body; query: in order, and encoded. Returns the answer's body."""
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        empty = hashlib.sha256(b"").hexdigest()
        canonical = (f"{method}\n{path}\n{query}\nhost:127.0.0.1:{self.port}\nx-amz-content-sha256:{empty}\n"
                     f"x-amz-date:{date}\n\nhost;x-amz-content-sha256;x-amz-date\n{empty}")
        scope = f"{date[:8]}/us-east-1/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = b"AWS4" + self.secret_key.encode()
        for word in (*scope.split("/"), text):
            key = hmac.new(key, word.encode(), "sha256").digest()
        request = urllib.request.Request(f"{self.endpoint}{path}?{query}", method=method, headers={
            "x-amz-date": date, "x-amz-content-sha256": empty,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope},"
                             f"SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature={key.hex()}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def keys(self):
        """Of all objects in the bucket: at most 1,000."""
        return re.findall(r"<Key>([^<]*)</Key>", self.request("GET", f"/{self.bucket}", "list-type=2").decode())

    def wait(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for process in self.processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args[3]} ended with status {process.returncode}\n{self.logs()}")
            if condition():
                return
            time.sleep(0.1)
        raise RuntimeError(f"{what} did not come up within {seconds} s\n{self.logs()}")

    def logs(self):
        text = ""
        for name in sorted(os.listdir(self.dir)):
            if name.endswith((".out", ".log")):
                with open(os.path.join(self.dir, name), errors="replace", encoding="utf-8") as f:
                    text += f"--- {name}\n{f.read()[-2000:]}\n"
        return text

    def stop(self):
        for process in reversed(self.processes):
            process.kill()
        for process in self.processes:
            process.wait()
        self.processes = []
        shutil.rmtree(self.dir, ignore_errors=True)


def main():
    signal.signal(signal.SIGTERM, lambda *unused: sys.exit(0))
    began = time.monotonic()
    with Gateway(objectstore=sys.argv[1] if len(sys.argv) > 1 else "bluestore") as gateway:
        print(f"LAMINA_S3_ENDPOINT={gateway.endpoint} AWS_ACCESS_KEY_ID={gateway.access_key} "
              f"AWS_SECRET_ACCESS_KEY={gateway.secret_key}", flush=True)
        print(f"up after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
