#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A store over several directories: what is refused as a tier, what goes where, that no tier ever holds
more than its capacity, that packs sink and leave while images are pulled and mounted, that a directory
may go and come back, and that an owner killed while it moves packs leaves one copy of each."""
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import layouts  # noqa: E402

MIB = 1 << 20
IMAGES = 8
FILES, FILE_BYTES = 5, MIB
KILL_SECONDS = 20
CONFIG = """[registry]
listen = 127.0.0.1:{port}
[condense]
background = no
[gc]
every = 0
[scrub]
every = 0
"""


def content(image, number):
    return random.Random(1000 * image + number).randbytes(FILE_BYTES)


def make_layout(path):
    layout = layouts.Layout(path)
    for image in range(IMAGES):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for i in range(FILES):
                info = tarfile.TarInfo(f"f{i}")
                info.size = FILE_BYTES
                tar.addfile(info, io.BytesIO(content(image, i)))
        layout.image(f"i{image}", gzip.compress(out.getvalue(), 1, mtime=0), layouts.digest_of(out.getvalue()))
    layout.close()


def bytes_below(path):
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                pass
    return total


class Sampler(threading.Thread):
    """Looks again and again how much lies in directories."""

    def __init__(self, folders):
        super().__init__(daemon=True)
        self.folders = folders  # name -> paths
        self.most = dict.fromkeys(folders, 0)
        self.ends = False
        self.samples = 0

    def run(self):
        while not self.ends:
            for name, paths in self.folders.items():
                self.most[name] = max(self.most[name], sum(bytes_below(p) for p in paths))
            self.samples += 1
            time.sleep(0.005)

    def end(self):
        self.ends = True
        self.join()


class Owner:
    def __init__(self, host):
        self.host, self.port = host, lamina.free_port()
        self.process = None
        with open(host.dir + "/conf", "w", encoding="utf-8") as f:
            f.write(CONFIG.format(port=self.port))
        self.start()

    def start(self):
        with open(self.host.dir + "/log", "ab") as log:
            self.process = self.host.start("serve", "--config", self.host.dir + "/conf", stderr=log)
        lamina.wait_for(self.answers, what="the owner")

    def answers(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/", timeout=5) as r:
                return r.status == 200
        except OSError:
            return False

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as r:
            return r.read()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def tiers_of(host):
    return {t["name"]: t for t in host.json("tier", "list")["tiers"]}


def refusals(host, t):
    def refused(what, said, *args):
        done = host.run("tier", "add", *args, check=False)
        t.check(done.returncode == 1 and said in done.stderr, "refused: " + what, done.stderr)

    other = host.dir + "/other"
    host.run("tier", "add", "disk", other + "-disk", "--class", "hdd")
    os.makedirs(other)
    with open(other + "/file", "w", encoding="utf-8"):
        pass
    refused("a directory with something in it", "not empty (file)", "x", other)
    refused("the store's own directory", "in use", "x", host.store + "/deeper")
    refused("inside another tier", "in use", "x", other + "-disk/deeper")
    refused("another tier's", "another directory", "x", other + "-disk")
    refused("what holds the store", "in it", "x", host.dir)
    refused("a name that is taken", "already", "disk", host.dir + "/new")
    t.check(not os.path.exists(host.dir + "/new"), "nothing is made for what is refused")
    with lamina.Host() as second:
        second.run("tier", "list")
        done = second.run("tier", "add", "disk", other + "-disk", check=False)
        t.check(done.returncode == 1 and "another store" in done.stderr, "another store's tier is refused",
                done.stderr)
    host.run("tier", "remove", "disk")
    t.check(os.listdir(other + "-disk") == [], "a removed tier's directory is left empty", os.listdir(other + "-disk"))


def check_image(t, owner, image, what):
    """Its blob comes as it was."""
    manifest = json.loads(owner.get(f"/v2/i{image}/manifests/latest"))
    digest = manifest["layers"][0]["digest"]
    blob = owner.get(f"/v2/i{image}/blobs/{digest}")
    return t.check("sha256:" + hashlib.sha256(blob).hexdigest() == digest, f"image {image} is pulled {what}")


def check_mounted(t, host, image, what):
    point = host.mount(f"i{image}")
    same = all(open(f"{point}/f{i}", "rb").read() == content(image, i) for i in range(FILES))
    host.umount(point)
    return t.check(same, f"image {image} is mounted {what}")


def filling(host, owner, t, folders):
    host.run("tier", "set", "own", "--capacity", "72M", "--high", "80", "--low", "65")
    host.run("tier", "add", "flash", folders["flash"], "--class", "ssd", "--density", "fast", "--capacity", "16M",
             "--low", "50")
    host.run("tier", "add", "disk", folders["disk"], "--class", "hdd", "--density", "fast", "--capacity", "200M")
    sampler = Sampler({"own": [host.store + "/" + d for d in ("packs", "blobs", "uploads")],
                       "flash": [folders["flash"] + "/packs", folders["flash"] + "/cache"],
                       "disk": [folders["disk"] + "/packs"]})
    sampler.start()
    for image in range(IMAGES):
        host.run("import", f"oci:{host.dir}/layout:i{image}", f"i{image}")
        check_image(t, owner, image, "at once")
    check_mounted(t, host, 0, "while packs sink")
    lamina.wait_for(lambda: host.json("tier", "list")["mover"]["duePacks"] == 0, 60, "the mover's end")
    sampler.end()
    t.check(sampler.samples > 50, "it was looked often enough", sampler.samples)
    for name, capacity in {"own": 72 * MIB, "flash": 16 * MIB, "disk": 200 * MIB}.items():
        t.check(sampler.most[name] <= capacity, f"{name} never holds more than its capacity",
                f"{sampler.most[name]} of {capacity}")
    found = tiers_of(host)
    t.check(found["disk"]["homeBytes"] > 0, "packs sank to the slowest tier", found["disk"])
    for name in ("own", "flash", "disk"):
        packs = bytes_below((host.store if name == "own" else folders[name]) + "/packs")
        t.check(found[name]["homeBytes"] == packs, f"what {name} holds is counted exactly",
                f"{found[name]['homeBytes']} {packs}")


def explaining(host, t):
    pieces = host.json("tier", "explain", "i3")["pieces"]
    t.check(pieces and all(p["tier"] in ("own", "flash", "disk") and p["next"] for p in pieces),
            "explain tells where the pieces of an image lie", pieces)
    stored = sum(p["storedBytes"] for p in pieces)
    t.check(FILES * FILE_BYTES <= stored < 2 * FILES * FILE_BYTES, "and how much of it", stored)
    host.run("tier", "move", "i3", "disk")
    pieces = host.json("tier", "explain", "i3")["pieces"]
    t.check({p["tier"] for p in pieces} == {"disk"}, "an image is moved", pieces)
    check_mounted(t, host, 3, "from the slowest tier")
    # lamina fs tells what it read some time later.
    lamina.wait_for(lambda: any(p["heat"] > 0 for p in host.json("tier", "explain", "i3")["pieces"]), 30,
                    "that reading makes warm")
    pack = pieces[0]["pack"]
    t.check(host.json("tier", "explain", pack)["pieces"][0]["pack"] == pack, "a pack is explained")
    t.check(host.run("tier", "explain", "0" * 64, check=False).returncode == 1, "what is not there is told")


def numbers(host, owner, t):
    metrics = owner.get("/metrics").decode()
    for name in ("lamina_tier_bytes", "lamina_tier_written_bytes_total", "lamina_mover_packs_total",
                 "lamina_mover_backlog_bytes"):
        t.check(f"\n{name}{{" in metrics or f"\n{name} " in metrics, "metric " + name)
    stats = host.json("stats")
    t.check(stats["tiers"]["configured"] and stats["chunkBytes"] >= IMAGES * FILES * FILE_BYTES, "stats tell of tiers",
            stats)


def evacuating(host, owner, t, folders):
    done = host.run("tier", "remove", "flash", check=False)
    flash = tiers_of(host)["flash"]
    if flash["homeBytes"] > 0:
        t.check(done.returncode == 1 and "evacuate" in done.stderr, "a tier with packs is not removed", done.stderr)
    if done.returncode != 0:
        host.run("tier", "evacuate", "flash")
        t.check(bytes_below(folders["flash"] + "/packs") == 0, "an evacuated tier holds nothing")
        host.run("tier", "remove", "flash")
    t.check("flash" not in tiers_of(host), "it is off the list")
    for image in range(IMAGES):
        check_image(t, owner, image, "after a tier left")


def vanishing(host, owner, t, folders):
    disk = folders["disk"]
    os.rename(disk, disk + ".away")
    lamina.wait_for(lambda: tiers_of(host)["disk"]["state"] == "failed", 30, "that the loss is seen")
    check_image(t, owner, 1, "while a tier is away")
    done = host.run("tier", "remove", "disk", check=False)
    t.check(done.returncode == 1 and "--force" in done.stderr, "what is away is not forgotten by accident",
            done.stderr)
    os.mkdir(disk, 0o700)
    lamina.wait_for(lambda: tiers_of(host)["disk"]["state"] == "refused", 30, "that an empty directory is refused")
    t.check(os.listdir(disk) == [], "nothing is written to what is refused")
    host.run("import", f"oci:{host.dir}/layout:i2", "again")
    os.rmdir(disk)
    os.rename(disk + ".away", disk)
    lamina.wait_for(lambda: tiers_of(host)["disk"]["state"] == "ok", 30, "that it is back")
    check_mounted(t, host, 3, "after its tier came back")


def pausing(host, t):
    host.run("tier", "pause")
    t.check(host.json("tier", "list")["mover"]["paused"], "the mover is paused")
    host.run("tier", "resume")
    t.check(not host.json("tier", "list")["mover"]["paused"], "and goes on")


def pack_copies(host, folders):
    found = {}
    for place in (host.store, folders["disk"]):
        for name in os.listdir(place + "/packs"):
            found.setdefault(name, []).append(place)
    return found


def killing(host, owner, t, folders):
    """The owner is killed while images go back and forth."""
    rng = random.Random(7)
    host.run("tier", "set", "own", "--capacity", "0")
    end, kills = time.monotonic() + KILL_SECONDS, 0
    while time.monotonic() < end:
        moving = [host.start("tier", "move", f"i{rng.randrange(IMAGES)}", rng.choice(["own", "disk"]),
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
        time.sleep(rng.random() * 0.4)
        owner.kill()
        kills += 1
        for m in moving:
            m.kill()
            m.wait()
        owner.start()
    t.check(kills >= 5, "the owner was killed often enough", kills)
    owner.stop()
    owner.start()
    doubled = {n: p for n, p in pack_copies(host, folders).items() if len(p) > 1 or not n.endswith(".pack")}
    t.check(not doubled, "one copy of each pack is left, and nothing besides", doubled)
    found = tiers_of(host)
    for name, place in {"own": host.store, "disk": folders["disk"]}.items():
        t.check(found[name]["homeBytes"] == bytes_below(place + "/packs"), f"what {name} holds is counted exactly",
                f"{found[name]['homeBytes']} {bytes_below(place + '/packs')}")
    for image in range(IMAGES):
        check_image(t, owner, image, "after kills")
        check_mounted(t, host, image, "after kills")
    done = host.run("fsck", check=False)
    t.check(done.returncode == 0 and "0 errors" in done.stdout, "fsck finds nothing", done.stdout)


def losing(host, t, folders):
    """A directory is gone for good."""
    host.run("tier", "move", "i1", "disk")
    host.run("tier", "move", "i5", "own")
    shutil.rmtree(folders["disk"])
    lamina.wait_for(lambda: tiers_of(host)["disk"]["state"] == "failed", 30, "that the loss is seen")
    lost = host.json("tier", "remove", "disk", "--force")
    t.check(lost["packs"] > 0 and "i1:latest" in lost["images"], "what depended on a lost tier is told", lost)
    t.check("disk" not in tiers_of(host), "a lost tier is forgotten")


def main():
    lamina.isolate(300)
    t = lamina.Checks()
    with lamina.Host(parent="/var/tmp") as host:
        make_layout(host.dir + "/layout")
        refusals(host, t)
        folders = {"flash": host.dir + "/flash", "disk": host.dir + "/disk"}
        owner = Owner(host)
        filling(host, owner, t, folders)
        explaining(host, t)
        numbers(host, owner, t)
        evacuating(host, owner, t, folders)
        vanishing(host, owner, t, folders)
        pausing(host, t)
        killing(host, owner, t, folders)
        losing(host, t, folders)
        owner.stop()
    t.finish()


main()
