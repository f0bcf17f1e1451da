#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records which blocks of packs real programs read from real images, and makes traces of it.

  record_traces.py record LAYOUT PROFILES.json    mounts each image of an OCI layout, runs what it is for
                                                  (its command, or an interpreter), asks its ports, and notes
                                                  each read of a pack by `lamina fs` (strace)
  record_traces.py compose PROFILES.json OUT.trace [EVENTS [SCAN]]   a trace for tiersim

Root; recording isolates itself (mounts, processes, network) and ends after 10 minutes.
Patterns of an image: `boot` (started, asked, stopped, cold), `rebuild` (what a package manager goes
through), `whole` (all files in order, as a pull or a scan). `compose` puts them one behind the
other: images by Zipf's law, another order each day; of images NAME-VERSION one version is in use, and
rolled out to the next at the end of some days.
"""
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/support"))
import lamina  # noqa: E402

LINE = re.compile(r"pread64\(\d+<[^>]*/packs/([0-9a-f]+)\.pack[^>]*>, .*, (\d+), (\d+)\) = (\d+)")
PROGRAMS = [
    ["/usr/bin/java", "-version"],
    ["/usr/local/bin/python3", "-c", "import json, ssl, asyncio, http.server, email, sqlite3, unittest"],
    ["/usr/bin/python3", "-c", "import json, ssl, asyncio, http.server, email, sqlite3, unittest"],
    ["/usr/bin/ruby", "-e", "require 'json'; require 'net/http'; require 'openssl'"],
    ["/usr/bin/php", "-r", "echo json_encode(get_loaded_extensions());"],
    ["/usr/bin/redis-server", "--version"],
    ["/usr/sbin/nginx", "-V"],
    ["/usr/local/bin/node", "-e", "require('http'); require('crypto'); require('zlib'); require('tls')"],
    ["/usr/bin/node", "-e", "require('http'); require('crypto'); require('zlib'); require('tls')"],
    ["/bin/bash", "-lc", "ls -lR /etc /usr/share/doc | tail -1; dpkg -l | tail -1"],
]


def blob(layout, digest):
    with open(os.path.join(layout, "blobs", *digest.split(":")), encoding="utf-8") as f:
        return json.load(f)


def config_of(layout, tag):
    with open(layout + "/index.json", encoding="utf-8") as f:
        index = json.load(f)
    for m in index["manifests"]:
        if m["annotations"]["org.opencontainers.image.ref.name"] == tag:
            return blob(layout, blob(layout, m["digest"])["config"]["digest"]).get("config", {})
    return {}


def listening():
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table, encoding="ascii") as f:
            ports |= {int(line.split()[1].rsplit(":", 1)[1], 16) for line in list(f)[1:] if line.split()[3] == "0A"}
    return ports


def boot(point, config):
    command = (config.get("Entrypoint") or []) + (config.get("Cmd") or [])
    if not command or command == ["/bin/bash"]:
        command = next(p for p in PROGRAMS if os.path.lexists(point + p[0]))
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PORT": "3000"}
    script = 'cd "$0" && exec "$@"'
    child = subprocess.Popen(["chroot", point, "/bin/sh", "-c", script, config.get("WorkingDir") or "/", *command],
                             env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)
    end = time.monotonic() + 6
    asked = 0
    while time.monotonic() < end and child.poll() is None and asked < 5:
        for port in listening():
            asked += 1
            subprocess.run(["curl", "-s", "-m", "3", "-o", "/dev/null", f"http://127.0.0.1:{port}/"], check=False)
        time.sleep(0.1)
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return asked


def read_files(point, *parts):
    with subprocess.Popen(["tar", "-c", "--one-file-system", "-C", point, *parts], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as tar:  # a pipe: to /dev/null tar reads nothing
        while tar.stdout.read(1 << 20):
            pass


def rebuild(point):
    read_files(point, *(p for p in ("app", "usr/local", "var/lib/dpkg", "etc") if os.path.isdir(f"{point}/{p}")))


def read_all(point):
    read_files(point, ".")


def record_one(host, tag, pattern, act):
    """All reads of packs while act(point) runs on a fresh mount by a fresh `lamina fs`."""
    point = host.mount(tag)
    log = tempfile.NamedTemporaryFile(dir=host.dir)
    pids = [a for pid in host.pids("fs") for a in ("-p", str(pid))]
    trace = subprocess.Popen(["strace", "-f", "-y", "-s", "0", "-e", "trace=pread64", "-o", log.name, *pids],
                             stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    try:
        asked = act(point)
    finally:
        trace.send_signal(signal.SIGINT)
        trace.wait(timeout=20)
        host.umount(point)
        host.run("umount", "--all", check=False)
    with open(log.name, encoding="utf-8", errors="replace") as f:
        reads = [[int(m[1], 16), int(m[3]), int(m[2])] for m in map(LINE.search, f) if m]
    print(f"{tag:24} {pattern:8} {len(reads):6} reads, {sum(r[2] for r in reads) >> 10:7} KiB, asked {asked}", flush=True)
    return {"image": tag, "pattern": pattern, "reads": reads}


def record(layout, out):
    lamina.isolate(600)
    profiles = []
    with lamina.Host(os.path.dirname(os.path.abspath(out))) as host:
        host.run("import", "oci:" + layout, timeout=400)
        for tag in lamina.layout_tags(layout):
            if tag == "odd":
                continue
            config = config_of(layout, tag)
            profiles.append(record_one(host, tag, "boot", lambda p, c=config: boot(p, c)))
            profiles.append(record_one(host, tag, "rebuild", rebuild))
            profiles.append(record_one(host, tag, "whole", read_all))
            with open(out, "w", encoding="utf-8") as f:
                json.dump(profiles, f)


def family_of(tag):
    return re.sub(r"-v?[0-9][0-9.]*$", "", tag)


def compose(profiles, out, events, scan):
    rng = random.Random(7)
    by = {(p["image"], p["pattern"]): p["reads"] for p in profiles}
    families = {}
    for image, pattern in by:
        if pattern == "boot":
            families.setdefault(family_of(image), []).append(image)
    order = sorted(families)
    version = {f: 0 for f in order}
    weights = [1 / (i + 1) ** 0.9 for i in range(len(order))]
    days, done, event = 20, 0, 0
    with open(out, "wb") as f:

        def play(image, pattern, number):
            nonlocal done
            for pack, offset, count in by[image, pattern]:
                f.write(struct.pack("<QQQQQII", done, pack, offset, 0, count, count, number))
                done += 1

        for day in range(days):
            rng.shuffle(order) if day == 0 else order.insert(rng.randrange(3), order.pop(rng.randrange(len(order))))
            for _ in range(events // days):
                event += 1
                family = rng.choices(order, weights)[0]
                images = families[family]
                image = images[version[family] % len(images)]
                pattern = rng.choices(["boot", "rebuild", "whole"], [85, 10, 5])[0]
                play(image, pattern, event)
            for family in order:
                if len(families[family]) > 1 and rng.random() < 0.3:
                    version[family] += 1
                    for _ in range(5):
                        play(families[family][version[family] % len(families[family])], "boot", event)
            if scan and day == days // 2:
                for image, pattern in by:
                    if pattern == "whole":
                        play(image, pattern, 0xFFFFFFFF)
    print(out, done, "reads")


def main():
    if len(sys.argv) >= 4 and sys.argv[1] == "record":
        record(sys.argv[2], sys.argv[3])
    elif len(sys.argv) >= 4 and sys.argv[1] == "compose":
        with open(sys.argv[2], encoding="utf-8") as f:
            profiles = json.load(f)
        compose(profiles, sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 4000, len(sys.argv) > 5)
    else:
        print(__doc__)
        sys.exit(2)


main()
