#!/usr/bin/python3
"""Pushes that are cut off and pushes that race. The registry is killed at random points of pushes of
every kind, many times: what was acknowledged is there afterwards, byte for byte; what was not is
wholly there or wholly not; an upload that was cut off goes on from where the registry says it is, and
ends well; fsck finds nothing. Then pushes race with pushes of the same, with deletions and with
collections.

  --rounds N   of kills, and N times as many races (tests/long runs more)
  --seed N     of the random choices; it is printed when something fails"""
import argparse
import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
from registryclient import (CONFIG, LAYER, MANIFEST, call, checks, descriptor, digest_of, encode, push_blob,  # noqa: E402
                            target, with_query)

PUSHERS = 4
GONE = (OSError, http.client.HTTPException)


class Registry:
    """`lamina serve` on a store, which may be killed and started again."""

    def __init__(self, host):
        self.host, self.process = host, None
        target.port = lamina.free_port()

    def start(self):
        self.process = self.host.start("serve", "--listen", f"127.0.0.1:{target.port}", stdout=subprocess.DEVNULL)
        lamina.wait_for(self.answers, what="the registry")

    def answers(self):
        try:
            return call("GET", "/v2/").status == 200
        except GONE:
            return False

    def end(self, how=signal.SIGTERM):
        if self.process:
            self.process.send_signal(how)
            self.process.wait(timeout=60)
            self.process = None

    def fsck(self, what):
        self.end()
        done = self.host.run("fsck", check=False)
        checks.check(done.returncode == 0, f"{what}: fsck", done.stdout + done.stderr)


class Push:
    """One image pushed by one way, and how far it is known to have come."""

    def __init__(self, repo, number, rng):
        self.repo, self.tag = repo, f"t{number}"
        self.way = rng.choice(("single", "put", "chunks", "stream"))
        self.data = rng.randbytes(rng.choice((10, 5000, 300_000, 2_000_000)))
        self.alg = rng.choice(("sha256", "sha512"))
        self.digest = digest_of(self.data, self.alg)
        self.config = f"{repo} {number}".encode()
        self.manifest = encode({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(self.config, CONFIG),
                                "layers": [descriptor(self.data, LAYER, self.alg)]})
        self.session, self.sure_bytes = None, 0
        self.blob_done = self.config_done = self.manifest_done = False

    def rest(self, offset):
        """The rest of the blob, from what the session has."""
        where = with_query(self.session, digest=self.digest)
        if self.way == "chunks":
            step = len(self.data) // 3 + 1
            while offset < len(self.data):
                piece = self.data[offset:offset + step]
                answer = call("PATCH", self.session, piece, {"Content-Range": f"{offset}-{offset + len(piece) - 1}"})
                if answer.status != 202:
                    return answer
                offset += len(piece)
                self.sure_bytes = offset
        elif self.way == "stream":
            answer = call("PATCH", self.session, self.data[offset:], chunked=True)
            if answer.status != 202:
                return answer
            offset = self.sure_bytes = len(self.data)
        piece = self.data[offset:]
        headers = {"Content-Range": f"{offset}-{len(self.data) - 1}"} if piece and offset else {}
        return call("PUT", where, piece, headers)

    def blob(self):
        where = f"/v2/{self.repo}/blobs/uploads/"
        if self.way == "single":
            answer = call("POST", with_query(where, digest=self.digest), self.data)
        else:
            self.session = call("POST", with_query(where, resume=self.digest))["Location"]
            answer = self.rest(0)
        checks.check(answer.status == 201, f"pushing by {self.way}", f"{answer.status} {answer.body[:200]!r}")
        self.blob_done = answer.status == 201

    def run(self):
        self.blob()
        push_blob(self.repo, self.config)
        self.config_done = True
        answer = call("PUT", f"/v2/{self.repo}/manifests/{self.tag}", self.manifest, {"Content-Type": MANIFEST})
        checks.check(answer.status == 201, "pushing a manifest", f"{answer.status} {answer.body[:200]!r}")
        self.manifest_done = answer.status == 201

    # after a kill

    def whole_or_not(self, where, data, sure, what):
        answer = call("GET", where)
        there = answer.status == 200 and answer.body == data
        checks.check(there if sure else there or answer.status == 404, f"killed: {what}",
                     f"{'acknowledged' if sure else 'in flight'}, {answer.status}, {len(answer.body)} of {len(data)} bytes")
        return there

    def check(self):
        base = f"/v2/{self.repo}"
        there = self.whole_or_not(f"{base}/blobs/{self.digest}", self.data, self.blob_done, f"blob by {self.way}")
        self.whole_or_not(f"{base}/blobs/{digest_of(self.config)}", self.config, self.config_done, "config")
        tagged = self.whole_or_not(f"{base}/manifests/{self.tag}", self.manifest, self.manifest_done, "tag")
        named = self.whole_or_not(f"{base}/manifests/{digest_of(self.manifest)}", self.manifest, self.manifest_done, "manifest")
        checks.check(tagged == named, "killed: tag and manifest come together")
        if self.session and not self.blob_done:
            self.resume(there)
        if not self.manifest_done:
            self.way = "single" if self.session is None else self.way
            self.run()

    def resume(self, blob_there):
        status = call("GET", self.session)
        checks.check(status.status == 204 or (status.status == 404 and blob_there), "killed: the session is there, or the blob",
                     str(status.status))
        if status.status != 204:
            return
        offset = int(status["Upload-Offset"])
        checks.check(self.sure_bytes <= offset <= len(self.data), "killed: what was acknowledged of the session is there",
                     f"{offset}, {self.sure_bytes} acknowledged")
        found = call("POST", with_query(f"/v2/{self.repo}/blobs/uploads/", resume=self.digest))
        checks.check(found["Location"] == self.session, "killed: the session is found by its digest", str(found["Location"]))
        answer = self.rest(offset)
        checks.check(answer.status == 201, "killed: the upload goes on and ends", f"{answer.status} {answer.body[:200]!r}")


def kill_rounds(registry, rounds, rng):
    kept = []  # of all rounds
    for number in range(rounds):
        registry.start()
        pushes, stop, lock = [], threading.Event(), threading.Lock()
        seeds = [rng.random() for _ in range(PUSHERS)]

        def pusher(index):
            own = random.Random(seeds[index])
            for n in range(1000):
                push = Push(f"kill/r{number}p{index}", n, own)
                with lock:
                    pushes.append(push)
                try:
                    push.run()
                except GONE:
                    return
                if stop.is_set():
                    return

        threads = [threading.Thread(target=pusher, args=(i,)) for i in range(PUSHERS)]
        for t in threads:
            t.start()
        time.sleep(rng.uniform(0.02, 0.5))
        registry.end(signal.SIGKILL)
        stop.set()
        for t in threads:
            t.join()
        if number % 4 == 1:
            registry.fsck("killed")
        registry.start()
        for push in pushes + rng.sample(kept, min(len(kept), 10)):
            push.check()
        kept += pushes
        registry.end()
    registry.fsck("killed")
    print(f"{len(kept)} pushes in {rounds} rounds", flush=True)


def at_once(*functions):
    results = [None] * len(functions)

    def run(i):
        results[i] = functions[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def race_pushes(repo, data, rng):
    """The same blob by many, to several repositories: all succeed."""
    digest = digest_of(data)

    def by(way, where):
        if way:
            return call("POST", f"/v2/{where}/blobs/uploads/?digest={digest}", data).status
        session = call("POST", f"/v2/{where}/blobs/uploads/")["Location"]
        call("PATCH", session, data, chunked=True)
        return call("PUT", with_query(session, digest=digest)).status

    results = at_once(*[lambda i=i: by(i % 2, f"{repo}/{i % 3}") for i in range(6)])
    checks.check(results == [201] * 6, "race: pushes of one blob", str(results))
    for i in range(3):
        checks.check(call("GET", f"/v2/{repo}/{i}/blobs/{digest}").body == data, "race: its bytes")


def race_delete(repo, number, rng):
    """A push and a deletion of one blob, and of one manifest: either may come last, and nothing else."""
    data = f"race {number}".encode() * rng.choice((1, 1000))
    digest = digest_of(data)
    push_blob(repo, data)
    pushed, deleted = at_once(lambda: call("POST", f"/v2/{repo}/blobs/uploads/?digest={digest}", data).status,
                              lambda: call("DELETE", f"/v2/{repo}/blobs/{digest}").status)
    answer = call("GET", f"/v2/{repo}/blobs/{digest}")
    checks.check(pushed == 201 and deleted == 202, "race: push and deletion of a blob", f"{pushed} {deleted}")
    checks.check(answer.status == 404 or (answer.status == 200 and answer.body == data), "race: there or not", str(answer.status))
    checks.check(push_blob(repo, data) == digest and call("HEAD", f"/v2/{repo}/blobs/{digest}").status == 200, "race: pushed after it")
    call("DELETE", f"/v2/{repo}/blobs/{digest}")
    checks.check(call("HEAD", f"/v2/{repo}/blobs/{digest}").status == 404, "race: deleted after it")

    push_blob(repo, b"{}")
    manifest = encode({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(b"{}", CONFIG), "layers": [],
                       "annotations": {"n": str(number)}})
    path = f"/v2/{repo}/manifests/"

    def put():
        return call("PUT", path + f"tag{number}", manifest, {"Content-Type": MANIFEST}).status

    put()
    put_status, delete_status = at_once(put, lambda: call("DELETE", path + digest_of(manifest)).status)
    by_tag, by_digest = call("GET", path + f"tag{number}"), call("GET", path + digest_of(manifest))
    checks.check(put_status == 201 and delete_status == 202, "race: push and deletion of a manifest", f"{put_status} {delete_status}")
    checks.check(by_tag.status == by_digest.status and by_tag.status in (200, 404), "race: no tag without its manifest, nor half a push",
                 f"{by_tag.status} {by_digest.status}")


class Collections:
    """Runs of collection, one after the other, as long as this lasts."""

    def __init__(self, registry, *grace):
        self.registry, self.options = registry, ["--grace", *grace] if grace else []
        self.stop, self.runs, self.failures = threading.Event(), 0, []
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop.is_set():
            options = self.options + (["--full"] if self.runs % 4 == 3 else [])
            done = self.registry.host.run("gc", *options, check=False)
            self.runs += 1
            if done.returncode != 0:
                self.failures.append(done.stderr)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        checks.check(self.runs > 0 and not self.failures, f"gc: {self.runs} collections {self.options}", str(self.failures[:1]))


def push_until_there(push):
    """Without a grace what was sent may be gone again: then the manifest is refused, in words that make a
    client send it once more."""
    for refused in range(100):
        push.way = "single" if refused else push.way
        push.blob()
        push_blob(push.repo, push.config)
        answer = call("PUT", f"/v2/{push.repo}/manifests/{push.tag}", push.manifest, {"Content-Type": MANIFEST})
        if answer.status == 201:
            break
        checks.check(answer.error() == "MANIFEST_BLOB_UNKNOWN", "gc: a manifest is refused", f"{answer.status} {answer.body[:200]!r}")
    checks.check(answer.status == 201, "gc: pushing comes to an end", f"{answer.status} {answer.body[:200]!r}")
    push.config_done = push.manifest_done = answer.status == 201
    return refused


def race_gc(registry, rounds, rng, *grace):
    """Pushes and deletions while collections run."""
    pushes, refused = [], 0
    repo = f"gc/images{'-'.join(grace)}"
    with Collections(registry, *grace):
        for number in range(rounds * 4):
            push = Push(repo, number, rng)
            refused += push_until_there(push)
            pushes.append(push)
            if rng.random() < 0.4:  # brought, dropped, and brought again: its bytes may be going
                call("DELETE", f"/v2/{repo}/manifests/{digest_of(push.manifest)}")
                call("DELETE", f"/v2/{repo}/blobs/{push.digest}")
                push.way = "single"
                refused += push_until_there(push)
            session = call("POST", f"/v2/{repo}/blobs/uploads/")["Location"]  # sessions are not collected
            call("PATCH", session, b"half", chunked=True)
            answer = call("PUT", with_query(session, digest=digest_of(b"half")))
            checks.check(answer.status == 201, "gc: a session meanwhile", str(answer.status))
    checks.check(refused == 0 or grace, "gc: refused without a reason", str(refused))
    for push in pushes:
        push.check()


class Pair:
    """Two images of one layer, in one repository."""

    def __init__(self, repo, number, rng):
        self.repo, self.layer = f"{repo}/{number}", rng.randbytes(5000)
        self.config = f"pair {number}".encode()
        self.manifests = [encode({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(self.config, CONFIG),
                                  "layers": [descriptor(self.layer, LAYER)], "annotations": {"n": n}}) for n in "ab"]

    def send(self):
        push_blob(self.repo, self.config)
        push_blob(self.repo, self.layer)

    def put(self, n):
        return call("PUT", f"/v2/{self.repo}/manifests/t{n}", self.manifests[n], {"Content-Type": MANIFEST})

    def put_until_there(self, n):
        for _ in range(100):
            self.send()
            if self.put(n).status == 201:
                return True
        return checks.check(False, "gc: pushing one of a pair comes to an end")

    def delete(self, n):
        return call("DELETE", f"/v2/{self.repo}/manifests/{digest_of(self.manifests[n])}").status

    def is_here(self):
        return all(call("HEAD", f"/v2/{self.repo}/blobs/{digest_of(data)}").status == 200 for data in (self.config, self.layer))

    def check(self, n):
        by_tag = call("GET", f"/v2/{self.repo}/manifests/t{n}")
        whole = by_tag.status == 200 and by_tag.body == self.manifests[n]
        for data in (self.config, self.layer):
            answer = call("GET", f"/v2/{self.repo}/blobs/{digest_of(data)}")
            whole = whole and answer.status == 200 and answer.body == data
        checks.check(whole, "gc: what was acknowledged is whole", f"{self.repo} {by_tag.status} {answer.status}")


def race_last_name(registry, rounds, rng):
    """A manifest is pushed while the only other one of the same layer is deleted, without a grace."""
    with Collections(registry, "0"):
        for number in range(rounds * 4):
            pair = Pair("gc/pair", number, rng)
            pair.put_until_there(0)
            pushed, deleted = at_once(lambda: pair.put(1), lambda: pair.delete(0))
            checks.check(deleted == 202, "gc: deletion of a manifest", str(deleted))
            if pushed.status != 201:
                checks.check(pushed.error() == "MANIFEST_BLOB_UNKNOWN", "gc: wholly, or the blob is asked for",
                             f"{pushed.status} {pushed.body[:200]!r}")
                pair.put_until_there(1)
            time.sleep(rng.uniform(0, 0.05))
            pair.check(1)


def race_head(registry, rounds, rng):
    """Who was told that the blobs are here has the grace to push a manifest of them."""
    seconds, sure = 3, 1.9  # times are noted in whole seconds
    told, late = [], []

    def client(number, seed):
        own = random.Random(seed)
        pair = Pair("gc/head", number, own)
        pair.put_until_there(0)
        n = 0
        for _ in range(rounds):
            pair.delete(n)
            time.sleep(own.uniform(0, 3.5))
            began = time.monotonic()
            if pair.is_here():
                time.sleep(own.uniform(0, 1.5))
                answer = pair.put(1 - n)
                (told if time.monotonic() - began < sure else late).append(answer.status)
                if answer.status == 201:
                    n = 1 - n
                    pair.check(n)
                    continue
            pair.put_until_there(n)

    with Collections(registry, str(seconds)):
        seeds = [rng.random() for _ in range(8)]
        at_once(*[lambda i=i: client(i, seeds[i]) for i in range(8)])
    checks.check(told and set(told) == {201}, "gc: a client that was told of blobs can push", f"{told}, too late: {late}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    options = parser.parse_args()
    lamina.isolate(120 + 30 * options.rounds)
    rng = random.Random(options.seed)
    with lamina.Host() as host:
        host.env["LAMINA_LOG"] = "error"
        registry = Registry(host)
        try:
            kill_rounds(registry, options.rounds, rng)
            registry.start()
            for number in range(options.rounds * 2):
                race_pushes(f"race/{number}", rng.randbytes(rng.choice((100, 1_000_000))), rng)
                race_delete("race/deleted", number, rng)
            race_gc(registry, options.rounds, rng)
            race_gc(registry, options.rounds, rng, "0")
            race_gc(registry, options.rounds, rng, "1")
            race_last_name(registry, options.rounds, rng)
            race_head(registry, options.rounds, rng)
            registry.fsck("races")
        finally:
            if checks.failed:
                print(f"--seed {options.seed}")
            registry.end(signal.SIGKILL)
    checks.finish()


main()
