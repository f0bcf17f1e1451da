#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An S3 store for tests, which fails on demand. Objects are in memory (and, with a directory, in
files as well, so that it can be killed and started again). Signatures are checked strictly, by code
that shares nothing with the client's.

In a test: `server = BadBucket()`, then `server.fault("lost_ack", method="PUT", times=1)`. As a
program: prints "port N"; faults are set by POST of JSON to /_control/faults (one object or a list;
an empty list ends all), settings to /_control/settings, and GET /_control/counts tells what came.
Control requests carry no signature.

A fault: {"do": KIND, "method": "PUT", "op": "PutObject", "key": REGEX, "times": N (default: always),
"skip": N (of those that fit), …}. The first that fits is done. Kinds:

  latency ms=N       slow rate=BYTES/S       error status=500 code=InternalError [retry_after=S]
  drop (before anything is done)             lost_ack (done, then the connection ends)
  hang s=N           truncate at=N           corrupt [at=N]
  wrong_range (another one, and says so)     lying_range (another one, and does not)
  ignore_range       late_error (200, then an error in the body: CompleteMultipartUpload)
  garbage (a body that is no XML)            endless (a listing that comes again for ever)

Settings: latency_ms, clock_skew_s, conditions, multipart_conditions, conditional_delete, checksums,
ranges (true: honoured), stale_list_s (lists show what was so long ago), part_bytes_min, region."""
import argparse
import base64
import datetime
import email.utils
import hashlib
import hmac
import http.server
import json
import os
import re
import secrets
import socket
import ssl
import sys
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ElementTree
from xml.sax.saxutils import escape

SKEW_MAX_S = 900
KEYS_MAX = 1000
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
MESSAGES = {
    "AccessDenied": 403, "AuthorizationHeaderMalformed": 400, "BadDigest": 400, "ConditionalRequestConflict": 409,
    "EntityTooSmall": 400, "InternalError": 500, "InvalidAccessKeyId": 403, "InvalidArgument": 400,
    "InvalidPart": 400, "InvalidPartOrder": 400, "InvalidRange": 416, "MalformedXML": 400, "MethodNotAllowed": 405,
    "NoSuchBucket": 404, "NoSuchKey": 404, "NoSuchUpload": 404, "NotImplemented": 501, "PreconditionFailed": 412,
    "RequestTimeTooSkewed": 403, "SignatureDoesNotMatch": 403, "SlowDown": 503, "XAmzContentSHA256Mismatch": 400}


class Refused(Exception):
    def __init__(self, code, message="", status=None, headers=None):
        super().__init__(code)
        self.code, self.message, self.headers = code, message or code, headers or {}
        self.status = status or MESSAGES[code]


class Object:
    def __init__(self, data, headers, etag=None, modified=None):
        self.data, self.headers = data, headers
        self.etag = etag or '"%s"' % hashlib.md5(data).hexdigest()
        self.modified = modified or time.time()


class Upload:
    def __init__(self, key, headers):
        self.key, self.headers, self.parts, self.begun = key, headers, {}, time.time()


def quote(text):
    return urllib.parse.quote(text, safe="-_.~")


def iso(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Signature:
    """Looks at one request. Raises Refused."""

    def __init__(self, server, method, path, query, headers):
        self.server, self.method, self.query, self.headers = server, method, query, headers
        self.path = "/".join(quote(urllib.parse.unquote(part)) for part in path.split("/"))

    def check(self):
        """The digest that the body must have, or None."""
        if "X-Amz-Signature" in dict(self.query):
            return self.check_query()
        given = self.headers.get("authorization", "")
        fit = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})", given)
        if not fit:
            raise Refused("AccessDenied", "no signature")
        names = fit[2].split(";")
        if names != sorted(names) or "host" not in names:
            raise Refused("SignatureDoesNotMatch", "signed headers are not in order, or lack the host")
        for name in self.headers:
            if name.startswith("x-amz-") and name not in names:
                raise Refused("AccessDenied", f"{name} is not signed")
        payload = self.headers.get("x-amz-content-sha256")
        if not payload or "x-amz-date" not in self.headers:
            raise Refused("AccessDenied", "no digest of the body, or no date")
        self.compare(fit[1], names, payload, self.headers["x-amz-date"], fit[3], self.query)
        if payload == "UNSIGNED-PAYLOAD":
            return None
        if not re.fullmatch("[0-9a-f]{64}", payload):
            raise Refused("NotImplemented", "bodies in signed pieces")
        return payload

    def check_query(self):
        query = dict(self.query)
        rest = [pair for pair in self.query if pair[0] != "X-Amz-Signature"]
        date = query["X-Amz-Date"]
        self.compare(query["X-Amz-Credential"], query["X-Amz-SignedHeaders"].split(";"), "UNSIGNED-PAYLOAD", date,
                     query["X-Amz-Signature"], rest)
        begun = datetime.datetime.strptime(date + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
        if self.server.now() > begun + int(query["X-Amz-Expires"]):
            raise Refused("AccessDenied", "Request has expired")

    def compare(self, credential, names, payload, date, signature, query):
        parts = credential.split("/")
        if len(parts) != 5 or parts[3:] != ["s3", "aws4_request"] or parts[1] != date[:8]:
            raise Refused("AuthorizationHeaderMalformed", "credential scope")
        if parts[2] != self.server.settings["region"]:
            raise Refused("AuthorizationHeaderMalformed", "the region is wrong", headers={"region": self.server.settings["region"]})
        secret = self.server.users.get(parts[0])
        if secret is None:
            raise Refused("InvalidAccessKeyId")
        pairs = sorted((quote(k), quote(v)) for k, v in query)
        canonical = "\n".join([self.method, self.path, "&".join(f"{k}={v}" for k, v in pairs),
                               *(f"{n}:{' '.join(self.headers.get(n, '').split())}" for n in names), "", ";".join(names), payload])
        scope = "/".join(parts[1:])
        to_sign = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + secret).encode()
        for word in parts[1:]:
            key = hmac.new(key, word.encode(), "sha256").digest()
        if not hmac.compare_digest(hmac.new(key, to_sign.encode(), "sha256").hexdigest(), signature):
            raise Refused("SignatureDoesNotMatch", "signed was: " + repr(canonical))
        try:
            said = datetime.datetime.strptime(date + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
        except ValueError as e:
            raise Refused("AccessDenied", "the date is none") from e
        if abs(said - self.server.now()) > SKEW_MAX_S:
            raise Refused("RequestTimeTooSkewed")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *unused):
        pass

    # ---- one request ----

    def handle_any(self):
        server = self.server.owner
        if self.path.startswith("/_control/"):
            self.control(server)
            return
        self.body_read = False
        self.fault = {}
        self.op, self.key = "", ""
        try:
            self.parse(server)
            self.fault = server.pick_fault(self.command, self.op, self.key)
            server.count(self.op)
            time.sleep(server.settings["latency_ms"] / 1000 + (self.fault.get("ms", 0) / 1000 if self.does("latency") else 0))
            if self.does("drop"):
                self.cut()
                return
            digest = Signature(server, self.command, self.raw_path, self.query, self.low).check()
            body = self.read_body(digest)
            if self.does("hang"):
                time.sleep(self.fault.get("s", 3600))
                self.cut()
                return
            if self.does("error"):
                raise Refused(self.fault.get("code", "InternalError"), status=self.fault.get("status", 500),
                              headers={"Retry-After": str(self.fault["retry_after"])} if "retry_after" in self.fault else {})
            getattr(self, "do_" + self.op)(server, body)
        except Refused as e:
            self.refuse(e)
        except (ConnectionError, socket.timeout):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def does(self, kind):
        return self.fault.get("do") == kind

    def parse(self, server):
        self.low = {}
        for name, value in self.headers.items():
            low = name.lower()
            self.low[low] = f"{self.low[low]},{value}" if low in self.low else value
        self.raw_path, _, raw_query = self.path.partition("?")
        self.query = [tuple(urllib.parse.unquote(x) for x in (pair.split("=", 1) + [""])[:2])
                      for pair in raw_query.split("&") if pair]
        self.args = dict(self.query)
        host = self.low.get("host", "").rsplit(":", 1)[0]
        path = urllib.parse.unquote(self.raw_path[1:])
        if host.endswith(".localhost"):
            self.bucket, self.key = host[:-len(".localhost")], path
        else:
            self.bucket, _, self.key = path.partition("/")
        self.op = self.operation()
        self.objects = server.buckets.get(self.bucket)

    def operation(self):
        verb, has = self.command, self.args.__contains__
        if not self.key:
            return {"GET": "ListMultipartUploads" if has("uploads") else "ListObjects", "PUT": "CreateBucket",
                    "HEAD": "HeadBucket"}.get(verb, "Refuse")
        if verb == "POST":
            return "CreateMultipartUpload" if has("uploads") else "CompleteMultipartUpload" if has("uploadId") else "Refuse"
        if has("uploadId"):
            return {"PUT": "UploadPart", "DELETE": "AbortMultipartUpload"}.get(verb, "Refuse")
        return {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}[verb]

    def read_body(self, digest):
        if "transfer-encoding" in self.low:
            raise Refused("NotImplemented", "A header implies functionality that is not implemented: Transfer-Encoding")
        length = int(self.low.get("content-length", 0))
        if self.does("slow"):
            body = b""
            while len(body) < length:
                piece = self.rfile.read(min(65536, length - len(body)))
                if not piece:
                    break
                body += piece
                time.sleep(len(piece) / self.fault["rate"])
        else:
            body = self.rfile.read(length)
        if len(body) != length:
            raise ConnectionError("the body broke off")
        self.body_read = True
        self.server.owner.bytes_in += length
        if digest and hashlib.sha256(body).hexdigest() != digest:
            raise Refused("XAmzContentSHA256Mismatch")
        given = self.low.get("x-amz-checksum-sha256")
        if given and self.server.owner.settings["checksums"]:
            if base64.b64decode(given) != hashlib.sha256(body).digest() and self.op in ("PutObject", "UploadPart"):
                raise Refused("BadDigest")
        return body

    def cut(self):
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    # ---- answers ----

    def refuse(self, e):
        region = e.headers.get("region")
        body = f"<Error><Code>{e.code}</Code><Message>{escape(e.message)}</Message>"
        body += f"<Region>{region}</Region>" if region else ""
        body += f"<RequestId>{secrets.token_hex(8)}</RequestId></Error>"
        if not self.body_read and self.low.get("content-length", "0") != "0":
            self.close_connection = True
        self.answer(e.status, {"Content-Type": "application/xml", **{k: v for k, v in e.headers.items() if k != "region"}},
                    body.encode())

    def answer(self, status, headers=None, body=b""):
        if self.does("lost_ack"):
            self.cut()
            return
        if self.does("garbage") and status == 200:
            body = b"<ListBucketResult><Contents>" + b"&" * 100
        if body and self.does("corrupt"):
            at = self.fault.get("at", len(body) // 2) % len(body)
            body = body[:at] + bytes([body[at] ^ 0x40]) + body[at + 1:]
        self.send_response_only(status)
        self.send_header("Date", email.utils.formatdate(self.server.owner.now(), usegmt=True))
        self.send_header("x-amz-request-id", secrets.token_hex(8))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status not in (204, 304) and "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD" or status in (204, 304):
            return
        if self.does("truncate"):
            self.wfile.write(body[:self.fault.get("at", len(body) // 2)])
            self.wfile.flush()
            self.cut()
            return
        if self.does("slow"):
            for at in range(0, len(body), 65536):
                self.wfile.write(body[at:at + 65536])
                time.sleep(min(65536, len(body) - at) / self.fault["rate"])
            return
        self.wfile.write(body)
        self.server.owner.bytes_out += len(body)

    def xml(self, root, inner, status=200, headers=None):
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{NAMESPACE}">{inner}</{root}>'
        self.answer(status, {"Content-Type": "application/xml", **(headers or {})}, body.encode())

    # ---- objects ----

    def need_bucket(self):
        if self.objects is None:
            raise Refused("NoSuchBucket")
        return self.objects

    def need_object(self):
        found = self.need_bucket().get(self.key)
        if found is None:
            raise Refused("NoSuchKey")
        return found

    def conditions(self, honoured):
        there = self.objects.get(self.key)
        if not honoured:
            return
        if self.low.get("if-none-match") == "*" and there:
            raise Refused("PreconditionFailed")
        wanted = self.low.get("if-match")
        if wanted and not there:
            raise Refused("NoSuchKey")
        if wanted and wanted != there.etag:
            raise Refused("PreconditionFailed")

    def kept_headers(self):
        kept = {n: v for n, v in self.low.items() if n.startswith("x-amz-meta-") or n == "content-type"
                or n.startswith("x-amz-server-side-encryption")}
        if self.server.owner.settings["checksums"] and "x-amz-checksum-sha256" in self.low:
            kept["x-amz-checksum-sha256"] = self.low["x-amz-checksum-sha256"]
        return kept

    def sse_headers(self, headers):
        return {n: v for n, v in headers.items() if n.startswith("x-amz-server-side-encryption")}

    def do_Refuse(self, server, body):
        raise Refused("MethodNotAllowed")

    def do_CreateBucket(self, server, body):
        server.make_bucket(self.bucket)
        self.answer(200)

    def do_HeadBucket(self, server, body):
        self.need_bucket()
        self.answer(200, {"x-amz-bucket-region": server.settings["region"]})

    def do_PutObject(self, server, body):
        self.need_bucket()
        made = Object(body, self.kept_headers())
        with server.lock:
            self.conditions(server.settings["conditions"])
            server.store(self.bucket, self.key, made)
        self.answer(200, {"ETag": made.etag, **self.sse_headers(made.headers)})

    def do_DeleteObject(self, server, body):
        objects = self.need_bucket()
        with server.lock:
            wanted, there = self.low.get("if-match"), objects.get(self.key)
            if wanted and there and server.settings["conditional_delete"] and wanted != there.etag:
                raise Refused("PreconditionFailed")
            server.remove(self.bucket, self.key)
        self.answer(204)

    def object_headers(self, found):
        headers = {"ETag": found.etag, "Last-Modified": email.utils.formatdate(found.modified, usegmt=True),
                   "Accept-Ranges": "bytes", **found.headers}
        if self.low.get("x-amz-checksum-mode") != "ENABLED":
            headers.pop("x-amz-checksum-sha256", None)
        return headers

    def do_HeadObject(self, server, body):
        found = self.need_object()
        self.answer(200, {**self.object_headers(found), "Content-Length": str(len(found.data))})

    def do_GetObject(self, server, body):
        found = self.need_object()
        headers = self.object_headers(found)
        if self.low.get("if-none-match") == found.etag:
            self.answer(304, {"ETag": found.etag})
            return
        if self.low.get("if-match") not in (None, found.etag):
            raise Refused("PreconditionFailed")
        fit = re.fullmatch(r"bytes=(\d+)-(\d+)", self.low.get("range", ""))
        if not fit or self.does("ignore_range") or not server.settings["ranges"]:
            self.answer(200, headers, found.data)
            return
        first, last = int(fit[1]), min(int(fit[2]), len(found.data) - 1)
        if first >= len(found.data):
            raise Refused("InvalidRange")
        from_here = max(0, first - 1) if self.does("wrong_range") or self.does("lying_range") else first
        to_here = from_here + last - first
        said = from_here if self.does("wrong_range") else first
        headers["Content-Range"] = f"bytes {said}-{said + last - first}/{len(found.data)}"
        data = found.data[from_here:to_here + 1]
        if self.does("lying_range") and from_here == first:
            data = bytes(b ^ 1 for b in data)
        self.answer(206, headers, data)

    # ---- lists ----

    def do_ListObjects(self, server, body):
        self.need_bucket()
        if self.args.get("list-type") != "2":
            raise Refused("NotImplemented", "only list-type=2")
        after = self.args.get("start-after", "")
        if "continuation-token" in self.args:
            after = base64.b64decode(self.args["continuation-token"]).decode() if not self.does("endless") else ""
        prefix, delimiter = self.args.get("prefix", ""), self.args.get("delimiter", "")
        most = min(int(self.args.get("max-keys", KEYS_MAX)), KEYS_MAX)
        show = quote if self.args.get("encoding-type") == "url" else escape
        contents, prefixes, last, more = [], [], after, False
        for key, found in server.listed(self.bucket):
            if not key.startswith(prefix) or key.encode() <= after.encode():
                continue
            common = None
            if delimiter and delimiter in key[len(prefix):]:
                common = key[:key.index(delimiter, len(prefix)) + len(delimiter)]
                if common in prefixes or (after.startswith(common) and after != common):
                    last = key
                    continue
            if len(contents) + len(prefixes) == most:
                more = True
                break
            last = key
            if common is not None:
                prefixes.append(common)
                last = common + "\U0010ffff"
                continue
            contents.append(f"<Contents><Key>{show(key)}</Key><LastModified>{iso(found.modified)}</LastModified>"
                            f"<ETag>{escape(found.etag)}</ETag><Size>{len(found.data)}</Size>"
                            "<StorageClass>STANDARD</StorageClass></Contents>")
        inner = f"<Name>{self.bucket}</Name><Prefix>{show(prefix)}</Prefix><KeyCount>{len(contents) + len(prefixes)}</KeyCount>"
        inner += "<EncodingType>url</EncodingType>" if show is quote else ""
        inner += f"<MaxKeys>{most}</MaxKeys><IsTruncated>{'true' if more or self.does('endless') else 'false'}</IsTruncated>"
        if more or self.does("endless"):
            inner += f"<NextContinuationToken>{base64.b64encode(last.encode()).decode()}</NextContinuationToken>"
        inner += "".join(contents) + "".join(f"<CommonPrefixes><Prefix>{show(p)}</Prefix></CommonPrefixes>" for p in prefixes)
        self.xml("ListBucketResult", inner)

    # ---- multipart ----

    def do_CreateMultipartUpload(self, server, body):
        self.need_bucket()
        name = secrets.token_urlsafe(24) + "+/="
        with server.lock:
            server.uploads[self.bucket, name] = Upload(self.key, self.kept_headers())
        self.xml("InitiateMultipartUploadResult", f"<Bucket>{self.bucket}</Bucket><Key>{escape(self.key)}</Key>"
                 f"<UploadId>{escape(name)}</UploadId>", headers=self.sse_headers(self.kept_headers()))

    def need_upload(self, server):
        found = server.uploads.get((self.bucket, self.args["uploadId"]))
        if found is None or found.key != self.key:
            raise Refused("NoSuchUpload")
        return found

    def do_UploadPart(self, server, body):
        number = int(self.args["partNumber"])
        if not 1 <= number <= 10000:
            raise Refused("InvalidArgument")
        part = Object(body, {})
        with server.lock:
            self.need_upload(server).parts[number] = part
        self.answer(200, {"ETag": part.etag})

    def do_AbortMultipartUpload(self, server, body):
        with server.lock:
            self.need_upload(server)
            del server.uploads[self.bucket, self.args["uploadId"]]
        self.answer(204)

    def do_CompleteMultipartUpload(self, server, body):
        try:
            root = ElementTree.fromstring(body)
        except ElementTree.ParseError as e:
            raise Refused("MalformedXML") from e
        named = [(int(part.findtext("{*}PartNumber")), part.findtext("{*}ETag"))
                 for part in root.findall("{*}Part")]
        with server.lock:
            upload = self.need_upload(server)
            if not named or named != sorted(named):
                raise Refused("InvalidPartOrder" if named else "MalformedXML")
            for number, etag in named:
                if number not in upload.parts or upload.parts[number].etag.strip('"') != etag.strip('"'):
                    raise Refused("InvalidPart")
            if any(len(upload.parts[n].data) < server.settings["part_bytes_min"] for n, _ in named[:-1]):
                raise Refused("EntityTooSmall")
            self.conditions(server.settings["conditions"] and server.settings["multipart_conditions"])
            if self.does("late_error"):
                self.xml_error_in_200()
                return
            data = b"".join(upload.parts[n].data for n, _ in named)
            digests = b"".join(bytes.fromhex(upload.parts[n].etag.strip('"')) for n, _ in named)
            made = Object(data, upload.headers, f'"{hashlib.md5(digests).hexdigest()}-{len(named)}"')
            server.store(self.bucket, self.key, made)
            del server.uploads[self.bucket, self.args["uploadId"]]
        self.xml("CompleteMultipartUploadResult", f"<Bucket>{self.bucket}</Bucket><Key>{escape(self.key)}</Key>"
                 f"<ETag>{escape(made.etag)}</ETag>")

    def xml_error_in_200(self):
        self.answer(200, {"Content-Type": "application/xml"},
                    b'<?xml version="1.0" encoding="UTF-8"?>\n  <Error><Code>InternalError</Code><Message>try again</Message></Error>')

    def do_ListMultipartUploads(self, server, body):
        self.need_bucket()
        prefix, mark = self.args.get("prefix", ""), (self.args.get("key-marker", ""), self.args.get("upload-id-marker", ""))
        most = min(int(self.args.get("max-uploads", KEYS_MAX)), KEYS_MAX)
        with server.lock:
            all_of_them = sorted((u.key, name, u.begun) for (bucket, name), u in server.uploads.items()
                                 if bucket == self.bucket and u.key.startswith(prefix))
        left = [u for u in all_of_them if u[:2] > mark] if mark[0] else all_of_them
        show = quote if self.args.get("encoding-type") == "url" else escape
        inner = f"<IsTruncated>{'true' if len(left) > most else 'false'}</IsTruncated>"
        inner += "<EncodingType>url</EncodingType>" if show is quote else ""
        if len(left) > most:
            inner += f"<NextKeyMarker>{show(left[most - 1][0])}</NextKeyMarker>" \
                     f"<NextUploadIdMarker>{escape(left[most - 1][1])}</NextUploadIdMarker>"
        inner += "".join(f"<Upload><Key>{show(k)}</Key><UploadId>{escape(n)}</UploadId><Initiated>{iso(t)}</Initiated></Upload>"
                         for k, n, t in left[:most])
        self.xml("ListMultipartUploadsResult", inner)

    # ---- control ----

    def control(self, server):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what = self.path[len("/_control/"):]
        answer = {}
        if what == "faults" and self.command == "POST":
            asked = json.loads(body)
            with server.lock:
                if isinstance(asked, list):
                    server.faults = asked
                else:
                    server.faults.append(asked)
        elif what == "settings" and self.command == "POST":
            server.settings.update(json.loads(body))
        elif what == "age_uploads" and self.command == "POST":
            with server.lock:
                for upload in server.uploads.values():
                    upload.begun -= float(body)
        answer = {"counts": server.counts, "bytes_in": server.bytes_in, "bytes_out": server.bytes_out,
                  "settings": server.settings, "faults": server.faults, "uploads": len(server.uploads),
                  "objects": {b: len(o) for b, o in server.buckets.items()}}
        text = json.dumps(answer).encode()
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *unused):
        pass  # clients that are killed, and what we cut ourselves


class BadBucket:
    """Listens on a port of its own of loopback until it is closed."""

    def __init__(self, bucket="bucket", directory=None, access_key="AKIDTEST", secret_key="secret/of+tests",
                 port=0, host="127.0.0.1", region="us-east-1", certificate=None):
        """certificate: paths of a PEM file and of its key, for TLS."""
        self.users = {access_key: secret_key}
        self.settings = {"latency_ms": 0, "clock_skew_s": 0, "conditions": True, "multipart_conditions": True,
                         "conditional_delete": True, "checksums": True, "ranges": True, "stale_list_s": 0,
                         "part_bytes_min": 5 << 20, "region": region}
        self.lock = threading.RLock()
        self.faults, self.counts, self.bytes_in, self.bytes_out = [], {}, 0, 0
        self.buckets, self.uploads, self.history = {}, {}, []
        self.directory = directory
        if directory:
            self.load()
        self.make_bucket(bucket)
        self.http = Server((host, port), Handler)
        self.http.owner = self
        self.port = self.http.server_address[1]
        self.endpoint = f"http://{host}:{self.port}"
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(*certificate)
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
            self.endpoint = f"https://{host}:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def keys(self, bucket="bucket"):
        with self.lock:
            return sorted(self.buckets[bucket])

    def now(self):
        return time.time() + self.settings["clock_skew_s"]

    def fault(self, do, **how):
        with self.lock:
            self.faults.append(dict(how, do=do))

    def heal(self):
        with self.lock:
            self.faults = []

    def pick_fault(self, method, op, key):
        with self.lock:
            for fault in self.faults:
                if fault.get("method", method) != method or fault.get("op", op) != op:
                    continue
                if "key" in fault and not re.search(fault["key"], key):
                    continue
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                    continue
                if fault.get("times", 1) <= 0:
                    continue
                if "times" in fault:
                    fault["times"] -= 1
                return dict(fault)
        return {}

    def count(self, op):
        with self.lock:
            self.counts[op] = self.counts.get(op, 0) + 1

    # ---- what is kept; the lock is held ----

    def make_bucket(self, name):
        with self.lock:
            self.buckets.setdefault(name, {})
        if self.directory:
            os.makedirs(os.path.join(self.directory, name), exist_ok=True)

    def file_of(self, bucket, key):
        return os.path.join(self.directory, bucket, hashlib.sha256(key.encode()).hexdigest())

    def note(self, bucket, key, was):
        if self.settings["stale_list_s"]:
            self.history.append((time.time(), bucket, key, was))

    def store(self, bucket, key, made):
        self.note(bucket, key, self.buckets[bucket].get(key))
        self.buckets[bucket][key] = made
        if self.directory:
            path = self.file_of(bucket, key)
            head = json.dumps({"key": key, "headers": made.headers, "etag": made.etag, "modified": made.modified})
            with open(path + ".new", "wb") as f:
                f.write(head.encode() + b"\n" + made.data)
            os.rename(path + ".new", path)

    def remove(self, bucket, key):
        was = self.buckets[bucket].pop(key, None)
        self.note(bucket, key, was)
        if was and self.directory:
            os.unlink(self.file_of(bucket, key))

    def load(self):
        for bucket in os.listdir(self.directory):
            self.buckets[bucket] = {}
            for name in os.listdir(os.path.join(self.directory, bucket)):
                if name.endswith(".new"):
                    continue
                with open(os.path.join(self.directory, bucket, name), "rb") as f:
                    head = json.loads(f.readline())
                    self.buckets[bucket][head["key"]] = Object(f.read(), head["headers"], head["etag"], head["modified"])

    def listed(self, bucket):
        """All keys in order, as they are, or as they were a while ago."""
        with self.lock:
            seen = dict(self.buckets[bucket])
            since = time.time() - self.settings["stale_list_s"]
            if self.settings["stale_list_s"]:
                for when, where, key, was in reversed(self.history):
                    if when < since:
                        break
                    if where == bucket and was is None:
                        seen.pop(key, None)
                    elif where == bucket:
                        seen[key] = was
        return sorted(seen.items(), key=lambda item: item[0].encode())


def main():
    parser = argparse.ArgumentParser(description="An S3 store for tests, which fails on demand.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--bucket", default="bucket")
    parser.add_argument("--directory")
    parser.add_argument("--access-key", default="AKIDTEST")
    parser.add_argument("--secret-key", default="secret/of+tests")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--until-stdin-ends", action="store_true", help="end with who started it")
    asked = parser.parse_args()
    server = BadBucket(asked.bucket, asked.directory, asked.access_key, asked.secret_key, asked.port, asked.host, asked.region)
    server.settings["latency_ms"] = asked.latency_ms
    print(f"port {server.port}", flush=True)
    if asked.until_stdin_ends:
        sys.stdin.buffer.read()
        return
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
