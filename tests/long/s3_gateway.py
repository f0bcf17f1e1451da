#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The S3 client and tiers in buckets against Ceph's RADOS gateway: everything of tiering/s3.h by
tests/unit/s3_test, plain and with encryption by the server; what the gateway honours is printed. Then a
store whose packs go to a bucket there, are read there, mounted and exported, and go away, killed -9 at
every turn."""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import rgw  # noqa: E402
from tierworld import World, whole_life  # noqa: E402

lamina.isolate(560)
lamina.need(*rgw.PROGRAMS, "setpriv")
checks = lamina.Checks()
TEST = os.path.join(os.path.dirname(lamina.PROGRAM), "tests/unit/s3_test")
if not os.path.exists(TEST):
    lamina.skip("tests/unit/s3_test is not built")


def run_client(gateway, **more):
    env = dict(os.environ, LAMINA_S3_ENDPOINT=gateway.endpoint, LAMINA_S3_BUCKET=gateway.bucket,
               AWS_ACCESS_KEY_ID=gateway.access_key, AWS_SECRET_ACCESS_KEY=gateway.secret_key, **more)
    return subprocess.run([TEST], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=150,
                          check=False, cwd=lamina.ROOT)


def main():
    began = time.monotonic()
    with rgw.Gateway(parent=os.environ.get("LAMINA_TEST_DIR")) as gateway:
        print(f"gateway up after {time.monotonic() - began:.1f} s", flush=True)
        done = run_client(gateway)
        for line in re.findall(r"^abilities: .*$", done.stdout, re.M):
            print(line, flush=True)
        checks.check(done.returncode == 0, "the client", done.stdout[-3000:])
        checks.check("ranges 1" in done.stdout and "list-after-write 1" in done.stdout, "what a tier needs")
        checks.check("if-absent 1, if-match 1" in done.stdout, "what several nodes need")
        done = run_client(gateway, LAMINA_S3_SSE="aws:kms", LAMINA_S3_SSE_KEY="testkey")
        checks.check(done.returncode == 0, "the client, encrypted by the server", done.stdout[-3000:])
        began = time.monotonic()
        with lamina.Host(os.environ.get("LAMINA_TEST_DIR")) as host:
            world = World(host, checks, gateway, gateway.access_key, gateway.secret_key)
            whole_life(world, [0.15, 0.3, 0.45, 0.6])
        print(f"a store's whole life: {time.monotonic() - began:.1f} s", flush=True)
    checks.finish()


main()
