# SPDX-License-Identifier: Apache-2.0
"""A store with images whose packs go to a bucket: what tests of tiers in S3 share."""
import gzip
import io
import json
import os
import random
import subprocess
import tarfile
import time

import lamina
from layouts import Layout, digest_of

PREFIX = "store"
CREDENTIALS = {"AWS_EC2_METADATA_DISABLED": "true"}


def tar_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class World:
    """Images a (13 MB that do not compress: an upload in parts), b (text), c (a little)."""

    def __init__(self, host, checks, server, access_key, secret_key):
        self.host, self.checks, self.server = host, checks, server
        host.env.update(CREDENTIALS, AWS_ACCESS_KEY_ID=access_key, AWS_SECRET_ACCESS_KEY=secret_key)
        r = random.Random(7)
        self.files = {
            "a": {f"f{i}": r.randbytes(100000) for i in range(200)},
            "b": {f"g{i}": (b"%d is a line of text\n" % i) * 4000 for i in range(60)},
            "c": {"h": r.randbytes(3000)}}
        self.layout = host.dir + "/in"
        layout = Layout(self.layout)
        for tag, files in self.files.items():
            tar = tar_of(files)
            layout.image(tag, gzip.compress(tar, 1, mtime=0), digest_of(tar))
        layout.close()
        self.tags = sorted(self.files)
        for tag in self.files:
            self.host.run("import", f"oci:{self.layout}:{tag}", f"{tag}:v1")

    def add_tier(self):
        self.host.run("tier", "add", "far", f"s3://{self.server.bucket}/{PREFIX}", "--endpoint", self.server.endpoint,
                      "--style", "path")

    def packs(self):
        """Id (as keys have it) -> tier of each pack of the index."""
        return {str(int(p["pack"], 16)): p["tier"] for p in self.host.json("tier", "list", "--packs")["packs"]}

    def objects(self):
        """Ids of the packs in the bucket."""
        return [k.rsplit("/", 1)[1].split("-")[0] for k in self.server.keys() if k.startswith(PREFIX + "/packs/")]

    def local_files(self):
        return [n for n in os.listdir(self.host.store + "/packs") if n.endswith(".pack")]

    def move(self, tag, to, check=True):
        return self.host.run("tier", "move", f"{tag}:v1", to, check=check)

    def check_consistent(self, what):
        """Each pack is where the index says, once, and nothing else is anywhere."""
        packs = self.packs()
        far = sorted(p for p, tier in packs.items() if tier != 0)
        near = sorted(p for p, tier in packs.items() if tier == 0)
        local = sorted(str(int(n[:-5], 16)) for n in self.local_files())
        self.checks.check(sorted(self.objects()) == far, what + ": the bucket has its packs, and no others",
                          f"{self.objects()} {far}")
        self.checks.check(local == near, what + ": the directory has its packs, and no others", f"{local} {near}")

    def check_fsck(self, what, garbage=False):
        """garbage: what collection frees may be there."""
        done = self.host.run("fsck", check=False)
        clean = "0 errors," in done.stdout and (garbage or "0 warnings" in done.stdout)
        self.checks.check(done.returncode == 0 and clean, what + ": fsck", done.stdout + done.stderr)

    def check_mounted(self, tag, what):
        point = self.host.mount(f"{tag}:v1")
        try:
            wrong = []
            for name, data in self.files[tag].items():
                with open(f"{point}/{name}", "rb") as f:
                    if f.read() != data:
                        wrong.append(name)
            self.checks.check(not wrong, f"{what}: {tag} as mounted", str(wrong[:5]))
        finally:
            self.host.umount(point)

    def check_exported(self, tag, what):
        out = f"{self.host.dir}/out-{time.monotonic_ns()}"
        self.host.run("export", f"{tag}:v1", f"oci:{out}:{tag}")
        same = subprocess.run(["diff", "-r", "-q", f"{out}/blobs", f"{self.layout}/blobs"], stdout=subprocess.PIPE,
                              text=True, check=False).stdout
        self.checks.check(not [line for line in same.splitlines() if not line.startswith(f"Only in {self.layout}")],
                          f"{what}: {tag} as exported", same[:500])

    def check_all(self, what):
        self.check_fsck(what)
        for tag in self.tags:
            self.check_mounted(tag, what)
            self.check_exported(tag, what)

    def kill_during(self, seconds, *args):
        """Starts a command and kills it -9 after a while. False: it had ended by then."""
        process = self.host.start(*args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True


def whole_life(world, pauses):
    """Packs go to the bucket, are read there, and go away, killed at every turn."""
    checks = world.checks
    world.add_tier()
    killed = 0
    for pause in pauses:
        killed += world.kill_during(pause, "tier", "move", "a:v1", "far")
        world.check_fsck(f"killed after {pause} s of a move", garbage=True)
    checks.check(killed > 0, "moves were killed")
    for tag in world.files:
        world.move(tag, "far")
    world.host.run("gc", "--full", "--grace", "0")
    near = [p for p in world.host.json("tier", "list", "--packs")["packs"] if p["tier"] == 0]
    # Packs that were begun by who was killed are there, and empty.
    checks.check(all(p["bytes"] <= 32 for p in near), "nothing is left in the directory", json.dumps(near))
    world.check_consistent("moved")
    world.check_all("moved")
    world.move("b", "own")
    world.check_all("moved back")
    world.move("b", "far")
    world.host.run("rm", "a:v1")
    killed = 0
    for pause in pauses:
        killed += world.kill_during(pause, "gc", "--full", "--grace", "0")
        world.check_fsck(f"killed after {pause} s of a collection", garbage=True)
    world.host.run("gc", "--full", "--grace", "0")
    world.check_consistent("collected")
    world.tags.remove("a")
    world.check_all("collected")
    sizes = {p["pack"]: p["bytes"] for p in world.host.json("tier", "list", "--packs")["packs"]}
    checks.check(sum(sizes.values()) < 3 << 20, "what was collected takes no room", json.dumps(sizes))
    return killed
