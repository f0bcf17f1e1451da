#!/usr/bin/python3
"""The owner is killed with SIGKILL at random moments of imports and pushes, and started again: fsck
is clean, what was acknowledged is there, what was in flight is wholly there or wholly not.
The seed is printed; LAMINA_SEED replays it."""
import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
from roundtrip import blobs_of, server_port  # noqa: E402

ROUNDS = int(os.environ.get("LAMINA_KILL_ROUNDS", "12"))


def images_of(host):
    return {i["name"] for i in host.json("images")["images"]}


def start_server(host):
    server = host.start("serve", "--listen", "127.0.0.1:0", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return server, lamina.wait_for(lambda: server_port(host), what="the registry")


def work(host, port, layout, tag, name, by_push):
    if by_push:
        return subprocess.Popen(["skopeo", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false",
                                 f"oci:{layout}:{tag}", f"docker://127.0.0.1:{port}/{name}:1"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return host.start("import", f"oci:{layout}:{tag}", f"{name}:1", stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL)


def fsck_clean(host, checks, label):
    done = host.run("fsck", check=False)
    return checks.check(done.returncode == 0, f"{label}: fsck is clean", (done.stdout + done.stderr)[-1500:])


def main():
    lamina.need("skopeo", "unshare")
    lamina.isolate(280)
    seed = int(os.environ.get("LAMINA_SEED", str(random.randrange(1 << 30))))
    print(f"LAMINA_SEED={seed}", flush=True)
    rng = random.Random(seed)
    checks = lamina.Checks()
    with lamina.Host() as host:
        layout = host.dir + "/layout"
        subprocess.run(["/usr/bin/python3", lamina.SUPPORT + "/oddimages.py", layout], check=True)
        tags = ["kinds", "many", "sparse-pax-1.0", "hardlinks"]
        acknowledged = {}
        for turn in range(ROUNDS):
            server, port = start_server(host)
            tag, by_push = rng.choice(tags), rng.random() < 0.5
            name = f"killed/{turn}"
            worker = work(host, port, layout, tag, name, by_push)
            time.sleep(rng.random() * (0.3 if by_push else 0.08))
            done_before = worker.poll()
            server.send_signal(signal.SIGKILL)
            server.wait()
            if worker.poll() is None:
                try:
                    worker.wait(40)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()
            if done_before == 0:
                acknowledged[f"{name}:1"] = tag
            if not fsck_clean(host, checks, f"round {turn} ({tag}, {'push' if by_push else 'import'})"):
                break
            there = images_of(host)
            missing = set(acknowledged) - there
            checks.check(not missing, f"round {turn}: what was acknowledged is there", str(missing))
            if f"{name}:1" in there:
                out = f"{host.dir}/out{turn}"
                host.run("export", f"{name}:1", f"oci:{out}:{tag}")
                checks.check(blobs_of(layout, tag) == blobs_of(out, tag), f"round {turn}: wholly there")
        host.run("gc")
        fsck_clean(host, checks, "after gc")
        print(f"{len(acknowledged)} of {ROUNDS} were acknowledged before the kill")
    checks.finish()


if __name__ == "__main__":
    main()
