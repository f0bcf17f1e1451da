#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A tier in a bucket of a store that fails in every way that tests/support/badbucket.py knows: nothing
is lost, no wrong byte is read, errors are clear and come in bounded time; killed at every turn."""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
from badbucket import BadBucket  # noqa: E402
from tierworld import World, whole_life  # noqa: E402

lamina.isolate(560)
lamina.need("openssl")
checks = lamina.Checks()

# What goes away by itself: the command that meets it succeeds.
PASSING = [
    dict(do="error", status=500, times=2), dict(do="error", status=503, code="SlowDown", times=3),
    dict(do="error", status=429, code="TooManyRequests", retry_after=1, times=1), dict(do="drop", times=2),
    dict(do="lost_ack", method="PUT", times=2), dict(do="lost_ack", method="POST", times=1),
    dict(do="lost_ack", method="DELETE", times=1), dict(do="truncate", method="GET", times=2),
    dict(do="corrupt", op="GetObject", key="packs/", times=1), dict(do="wrong_range", times=2),
    dict(do="ignore_range", times=1), dict(do="lying_range", key="packs/", times=1),
    dict(do="late_error", times=2), dict(do="latency", ms=20), dict(do="slow", rate=30000000)]
# What does not: the command fails, and says why.
LASTING = [
    (dict(do="error", status=500), "status 500"), (dict(do="error", status=503, code="SlowDown"), "status 503"),
    (dict(do="error", status=403, code="AccessDenied"), "status 403"), (dict(do="drop"), "s3://")]


def passing_faults(world, server):
    for fault in PASSING:
        label = " ".join(f"{k}={v}" for k, v in fault.items())
        began = time.monotonic()
        server.fault(**fault)
        for to in ("far", "own"):
            done = world.move("b", to, check=False)
            checks.check(done.returncode == 0, f"{label}: moved to {to}", done.stderr)
            server.heal()
            server.fault(**fault)
        world.move("b", "far")
        server.heal()
        server.fault(**fault)
        world.check_mounted("b", label)
        server.heal()
        checks.check(time.monotonic() - began < 60, f"{label}: bounded time")
    world.check_consistent("after faults")
    world.check_all("after faults")


def lasting_faults(world, server):
    for fault, says in LASTING:
        label = " ".join(f"{k}={v}" for k, v in fault.items())
        # One that asks for patience is given half a minute: once.
        for to in ("own", "far") if fault.get("code") != "SlowDown" else ("own",):
            server.fault(**fault)
            began = time.monotonic()
            done = world.move("b", to, check=False)
            took = time.monotonic() - began
            server.heal()
            checks.check(done.returncode != 0 and says in done.stderr, f"{label}: refused, and why", done.stderr)
            checks.check(took < 90, f"{label}: bounded time", f"{took:.1f} s")
            checks.check("secret" not in done.stderr, f"{label}: no secrets")
            world.move("b", to)
        world.move("b", "far")
        world.check_fsck(label)
    world.check_all("after lasting faults")
    world.host.run("gc", "--full", "--grace", "0")
    world.check_consistent("after lasting faults")


def lists_of_a_while_ago(world, server):
    """A list that shows a pack that is gone, or lacks one that is there, is no reason to forget any."""
    server.settings["stale_list_s"] = 3600
    world.move("b", "own")
    world.move("b", "far")
    world.host.run("gc", "--full", "--grace", "0")
    world.check_all("stale lists")
    server.settings["stale_list_s"] = 0


def other_places(world, server):
    host = world.host
    endpoint = ("--endpoint", server.endpoint, "--style", "path")
    with lamina.Host(host.dir) as other:
        other.env.update({k: v for k, v in host.env.items() if k.startswith("AWS_")})
        other.run("import", f"oci:{world.layout}:c", "c:v1")
        done = other.run("tier", "add", "mine", "s3://bucket/store", *endpoint, check=False)
        checks.check(done.returncode != 0 and "another store's" in done.stderr, "another store's place is refused", done.stderr)
    done = host.run("tier", "add", "none", "s3://no-such-bucket/x", *endpoint, check=False)
    checks.check(done.returncode != 0 and "there is no bucket" in done.stderr, "a bucket that is not there", done.stderr)


def over_tls(world):
    host = world.host
    cert, key = host.dir + "/cert.pem", host.dir + "/key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:*.localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = BadBucket(certificate=(cert, key))
    place = ("tier", "add", "tls", "s3://bucket/tls", "--endpoint", server.endpoint, "--style", "path")
    done = host.run(*place, check=False)
    checks.check(done.returncode != 0 and "not trusted" in done.stderr, "a certificate that nobody signed", done.stderr)
    host.run(*place, "--ca", cert)
    server.fault("drop", times=3)
    world.move("b", "tls")
    world.check_mounted("b", "over TLS")
    world.check_fsck("over TLS")
    world.move("b", "far")
    host.run("gc", "--full", "--grace", "0")
    host.run("tier", "remove", "tls")
    checks.check(server.keys() == [], "a tier that was removed leaves nothing", str(server.keys()))
    server.close()


def left_behind(world, server):
    """Uploads of processes that were killed go after a day."""
    with server.lock:
        for upload in server.uploads.values():
            upload.begun -= 90000
    world.host.run("gc", "--full", "--grace", "0")
    checks.check(not server.uploads, "no uploads are left behind", str(len(server.uploads)))


def main():
    server = BadBucket()
    server.bucket = "bucket"
    with lamina.Host(os.environ.get("LAMINA_TEST_DIR")) as host:
        world = World(host, checks, server, "AKIDTEST", "secret/of+tests")
        server.fault("slow", rate=20000000)
        whole_life(world, [0.2, 0.5, 0.8, 1.1])
        server.heal()
        passing_faults(world, server)
        lasting_faults(world, server)
        lists_of_a_while_ago(world, server)
        other_places(world, server)
        over_tls(world)
        left_behind(world, server)
    checks.finish()


main()
