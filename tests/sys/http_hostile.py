#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hostile clients of the registry, on raw sockets: attempts to smuggle a request, slow ones, many
idle ones, floods of uploads, early ends, pipelining. Others must be served meanwhile, memory must
stay bounded, and no descriptor may be left."""
import hashlib
import http.client
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
from lamina import PROGRAM, Checks  # noqa: E402

checks = Checks()
check = checks.check
NEXT = b"GET /v2/smuggled/tags/list HTTP/1.1\r\nHost: x\r\n\r\n"  # answered with 404 if it is read
LIMITS = "connections = 2000\nheader_time = 2s\nidle = 20s\nrate_min = 4096\n"


class Server:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="lamina-hostile-", dir="/var/tmp")
        with open(self.dir + "/c.ini", "w") as f:
            f.write("[condense]\nbackground = no\n[registry]\n" + LIMITS)
        self.log = open(self.dir + "/log", "w")
        self.process = subprocess.Popen(
            [PROGRAM, "--store", self.dir + "/s", "serve", "--listen", "127.0.0.1:0", "--config",
             self.dir + "/c.ini"], stdout=subprocess.DEVNULL, stderr=self.log)
        for _ in range(200):
            with open(self.dir + "/log") as f:
                found = re.search(r"registry port=(\d+)", f.read())
            if found:
                break
            time.sleep(0.05)
        self.port = int(found.group(1))

    def stop(self):
        self.process.terminate()
        ended = self.process.wait(20)
        shutil.rmtree(self.dir)
        return ended

    def dial(self, seconds=10):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=seconds)
        return s

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def rss_kib(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


def statuses(out):
    return [int(s) for s in re.findall(rb"HTTP/1\.1 (\d+)", out)]


def hear(s, seconds):
    """All that comes until the end or the time is over; whether the connection has ended."""
    out, until = b"", time.time() + seconds
    while time.time() < until:
        s.settimeout(max(0.01, until - time.time()))
        try:
            piece = s.recv(65536)
        except socket.timeout:
            break
        except ConnectionError:
            return out, True
        if not piece:
            return out, True
        out += piece
    return out, False


def ask(server, request, seconds=3):
    with server.dial() as s:
        try:
            s.sendall(request)
        except ConnectionError:
            pass
        return hear(s, seconds)


def served(server, what):
    """Others are served, soon."""
    begun = time.time()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/v2/")
        status = connection.getresponse().status
        connection.close()
    except OSError as error:
        status = str(error)
    took = time.time() - begun
    check(status == 200 and took < 5, f"others are served: {what}", f"{status}, {took:.1f} s")


def refused(server):
    """Requests that two programs could read differently: at most one answer, and then the end."""
    host = b"Host: x\r\n"
    put = b"PUT /v2/a/manifests/x HTTP/1.1\r\n" + host
    get = b"GET /v2/ HTTP/1.1\r\n" + host
    chunked = put + b"Transfer-Encoding: chunked\r\n\r\n"
    cases = {
        "bare LF after the request line": b"GET /v2/ HTTP/1.1\nHost: x\r\n\r\n",
        "bare LF everywhere": b"GET /v2/ HTTP/1.1\nHost: x\n\n",
        "bare LF in a header": get + b"A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "bare CR in a header": get + b"A: b\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "both lengths": put + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "both lengths, turned": put + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "two lengths": put + b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}",
        "two lengths, turned": put + b"Content-Length: 60\r\nContent-Length: 2\r\n\r\n{}",
        "one length twice": put + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        "list of lengths": put + b"Content-Length: 2, 2\r\n\r\n{}",
        "signed length": put + b"Content-Length: +2\r\n\r\n{}",
        "hexadecimal length": put + b"Content-Length: 0x2\r\n\r\n{}",
        "empty length": put + b"Content-Length: \r\n\r\n",
        "length beyond 64 bits": put + b"Content-Length: 18446744073709551618\r\n\r\n{}",
        "space before the colon": put + b"Content-Length : 2\r\n\r\n{}",
        "tab before the colon": put + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
        "chunked, identity": put + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "identity, chunked": put + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        "gzip, chunked": put + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "chunked twice": put + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "chunked and identity": put + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "xchunked": put + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "vertical tab": put + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "chunked in HTTP/1.0": b"PUT /v2/a/manifests/x HTTP/1.0\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "folded coding": put + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "folded header": put + b"A: b\r\n Content-Length: 60\r\n\r\n",
        "chunk size by LF": chunked + b"2\n{}\n0\n\n",
        "chunk size 0x2": chunked + b"0x2\r\n{}\r\n0\r\n\r\n",
        "chunk size +2": chunked + b"+2\r\n{}\r\n0\r\n\r\n",
        "chunk size -2": chunked + b"-2\r\n{}\r\n0\r\n\r\n",
        "chunk size ' 2'": chunked + b" 2\r\n{}\r\n0\r\n\r\n",
        "chunk size '2 '": chunked + b"2 \r\n{}\r\n0\r\n\r\n",
        "no chunk size": chunked + b"\r\n{}\r\n0\r\n\r\n",
        "chunk size beyond 64 bits": chunked + b"10000000000000002\r\n{}\r\n0\r\n\r\n",
        "chunk extension with LF": chunked + b"2;a\n{}\r\n0\r\n\r\n",
        "chunk extension with CR": chunked + b"2;a\rX\r\n{}\r\n0\r\n\r\n",
        "chunk without an end": chunked + b"2\r\n{}0\r\n\r\n",
        "junk at a chunk's end": chunked + b"2\r\n{}XX0\r\n\r\n",
        "NUL in a value": put + b"Content-Length: 2\x00\r\n\r\n{}",
        "NUL in a name": put + b"Transfer-Encoding\0: chunked\r\n\r\n0\r\n\r\n",
        "NUL in the target": b"GET /v2/\0x HTTP/1.1\r\n" + host + b"\r\n",
        "header without a colon": get + b"nonsense\r\n\r\n",
        "header without a name": get + b": b\r\n\r\n",
        "space in the target": b"GET /v2/ x HTTP/1.1\r\n" + host + b"\r\n",
        "two hosts": get + b"Host: y\r\n\r\n",
        "no host": b"GET /v2/ HTTP/1.1\r\n\r\n",
        "another version": b"GET /v2/ HTTP/2.0\r\n" + host + b"\r\n",
        "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "5000 headers": get + b"".join(b"A%d: b\r\n" % i for i in range(5000)) + b"\r\n",
        "100 KB of a header": get + b"A: " + b"x" * 100000 + b"\r\n\r\n",
    }
    for name, request in cases.items():
        out, ended = ask(server, request + NEXT)
        got = statuses(out)
        check(ended and len(got) <= 1 and all(400 <= s < 600 for s in got), f"refused: {name}",
              f"{got}, {'ended' if ended else 'open'}")
        check(b"smuggled" not in out, f"nothing smuggled: {name}")


def harmless(server):
    """What may look odd, and means the same to everybody: the next request is the next one."""
    host = b"Host: x\r\n"
    put = b"PUT /v2/a/manifests/x HTTP/1.1\r\n" + host
    cases = {
        "zeros before a chunk size": put + b"Transfer-Encoding: chunked\r\n\r\n0000002\r\n{}\r\n0\r\n\r\n",
        "trailers": put + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 60\r\n\r\n",
        "a body of GET": b"GET /v2/ HTTP/1.1\r\n" + host + b"Content-Length: 5\r\n\r\nhello",
    }
    for name, request in cases.items():
        out, _ = ask(server, request + NEXT, 0.5)
        got = statuses(out)
        check(len(got) == 2 and got[1] == 404, f"read as everybody does: {name}", str(got))


def slow(server):
    """Headers, bodies and answers that do not get on are cut off; those that do are not."""
    blob = os.urandom(8 << 20)
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", f"/v2/a/blobs/uploads/?digest={digest}", blob)
    check(connection.getresponse().status == 201, "a blob is pushed")
    connection.close()
    headers, target, body, reader = (server.dial() for _ in range(4))
    steady = socket.socket()  # a small window, so that it is moved all the time
    steady.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    steady.connect(("127.0.0.1", server.port))
    headers.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n")
    target.sendall(b"GET /v2/")
    body.sendall(b"POST /v2/a/blobs/uploads/?digest=sha256:" + b"0" * 64 +
                 b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.sendall(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    steady.sendall(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    ended, taken = {}, 0
    begun = time.time()
    while time.time() - begun < 9:
        for name, s, drip in (("headers", headers, b"A: b\r\n"), ("body", body, b"x" * 10)):
            try:
                if name not in ended:
                    s.sendall(drip)
            except OSError:
                ended[name] = time.time() - begun
        steady.settimeout(0.2)
        try:
            taken += len(steady.recv(65536))
        except socket.timeout:
            pass
        time.sleep(0.2)
    check("headers" in ended, "headers that come in drops are cut off")
    check("body" in ended, "a body that comes in drops is cut off")
    out, over = hear(reader, 10)
    check(over and len(out) < len(blob), "an answer that is not taken is cut off", str(len(out)))
    check(taken > 500000, "who takes 100 KB a second is not cut off", str(taken))
    left, over = hear(steady, 10)
    check(taken + len(left) > len(blob), "and gets all", str(taken + len(left)))
    for s in (headers, target, body, reader, steady):
        s.close()
    served(server, "after slow ones")


def idle(server, count):
    """More idle connections than there may be: the oldest go, others are served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(count, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 100), hard))
    before = server.rss_kib()
    sockets = []
    for i in range(count):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(("127.0.0.1", server.port))
        sockets.append(s)
        if i % 2000 == 1999:
            served(server, f"beside {i + 1} idle connections")
            time.sleep(0.3)
    served(server, f"beside {count} idle connections")
    grown = server.rss_kib() - before
    print(f"{count} idle connections: {grown} KiB more")
    check(grown < 64 * 1024, "memory is bounded", f"{grown} KiB")
    for s in sockets:
        s.close()


def floods(server):
    """Sessions that are begun and left, clients that reset, requests without end."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for _ in range(300):
        connection.request("POST", "/v2/a/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (202, 429):
            check(False, "sessions are begun", str(answer.status))
            break
    connection.close()
    for i in range(200):
        s = server.dial()
        s.sendall(b"PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"[:20 + i % 80])
        if i % 2:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
    for part in (b"GET /v2/", b"GET /v2/ HTTP/1.1\r\nHost: x\r\n"):
        with server.dial() as s:  # half of a request, and then no more
            s.sendall(part)
            s.shutdown(socket.SHUT_WR)
            check(hear(s, 8)[1], "half a request ends with its client", str(part))
    with server.dial() as s:  # a pipeline that nobody reads: it stops, and holds up nobody
        s.settimeout(0.5)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += s.send(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        except (socket.timeout, ConnectionError):
            pass
        check(sent < 64 << 20, "a pipeline whose answers are not taken stops", str(sent))
        served(server, "beside a pipeline")
    with server.dial() as s:
        s.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        out, until = b"", time.time() + 10
        while out.count(b"HTTP/1.1 200") < 1000 and time.time() < until:
            out += s.recv(65536)
        check(out.count(b"HTTP/1.1 200") == 1000, "a pipeline of 1000 is answered in order")
    served(server, "after floods")


def main():
    server = Server()
    try:
        served(server, "at the start")
        fds = server.fds()
        refused(server)
        harmless(server)
        slow(server)
        floods(server)
        idle(server, 10000)
        for _ in range(60):
            if server.fds() <= fds + 4:
                break
            time.sleep(0.5)
        check(server.fds() <= fds + 4, "no descriptor is left", f"{fds} before, {server.fds()} after")
    finally:
        ended = server.stop()
    check(ended == 0, "the server ends as it should", str(ended))
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(1 if checks.failed else 0)


main()
