#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a store does for itself while it is served, and what people ask of it: collection and scrub in
the background, why something stays, a checkpoint, repair from the registry that an image came from."""
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import layouts  # noqa: E402

CONFIG = """[registry]
listen = 127.0.0.1:{port}
[condense]
background = no
[gc]
every = 1s
grace = {grace}
share = 100
[scrub]
every = {scrub}
rate = 0
share = 100
"""


def layer(seed):
    """A gzip of a tar of some files, one of them large, and its diff id."""
    rng = random.Random(seed)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for i, size in enumerate([300, 5000, 700000]):
            info = tarfile.TarInfo(f"d/f{i}")
            info.size = size
            tar.addfile(info, io.BytesIO(rng.randbytes(size)))
    return gzip.compress(out.getvalue(), mtime=0), layouts.digest_of(out.getvalue())


def make_layout(path):
    """Two images on one base. Returns the digests of their layers."""
    layout = layouts.Layout(path)
    base, one, two = layer(1), layer(2), layer(3)
    found = {"one": layout.image_of("one", [base, one]), "two": layout.image_of("two", [base, two])}
    layout.close()
    return found


class Served:
    def __init__(self, host, grace="0", scrub="0", more=""):
        self.host, self.port = host, lamina.free_port()
        with open(host.dir + "/conf", "w", encoding="utf-8") as f:
            f.write(CONFIG.format(port=self.port, grace=grace, scrub=scrub) + more)
        self.process = host.start("serve", "--config", host.dir + "/conf", stderr=open(host.dir + "/log", "ab"))
        lamina.wait_for(self.answers, what="the registry")

    def answers(self):
        try:
            return self.get("/v2/") == 200
        except OSError:
            return False

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                self.body = answer.read()
                return answer.status
        except urllib.error.HTTPError as e:
            return e.code

    def metric(self, name):
        self.get("/metrics")
        for line in self.body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        return None

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        self.process.wait(30)


def files_below(path):
    return sum(len(names) for _, _, names in os.walk(path))


def check_collection(checks, made, layout):
    with lamina.Host() as host, Served(host) as served:
        host.run("import", f"oci:{layout}")
        point = host.mount("two")
        blobs = files_below(host.store + "/blobs")
        runs = served.metric("lamina_gc_runs_total")
        host.run("rm", "one")
        lamina.wait_for(lambda: files_below(host.store + "/blobs") == blobs - 3, what="collection")
        checks.check(served.metric("lamina_gc_runs_total") > runs, "runs are counted")
        checks.check(served.metric("lamina_gc_blobs_total") == 3, "and what they removed",
                     str(served.metric("lamina_gc_blobs_total")))
        host.run("rm", "two")
        before = served.metric("lamina_gc_runs_total")
        lamina.wait_for(lambda: served.metric("lamina_gc_runs_total") > before + 1, what="two more runs")
        with open(point + "/d/f2", "rb") as f:
            checks.check(len(f.read()) == 700000, "what is mounted stays")
        host.umount(point)
        lamina.wait_for(lambda: files_below(host.store + "/blobs") == 0, what="the end of the lease")
        lamina.wait_for(lambda: host.json("stats")["packBytes"] < 10000, what="packs that shrink")
        fsck = host.run("fsck", check=False)
        checks.check(fsck.returncode == 0, "fsck", fsck.stdout + fsck.stderr)


def check_grace(checks, made, layout):
    with lamina.Host() as host, Served(host, grace="1h") as served:
        host.run("import", f"oci:{layout}")
        host.run("rm", "one")
        shown = host.run("gc").stdout
        checks.check("wait" in shown and served.get(f"/v2/one/blobs/{made['one'][1]}") in (200, 404),
                     "gc says that things wait", shown)
        counted = host.json("gc", "--dry-run", "--grace", "0")
        checks.check(counted["blobsRemoved"] == 3 and files_below(host.store + "/blobs") == 7,
                     "a dry run counts, and removes nothing", str(counted))
        taken = host.json("gc", "--grace", "0")
        checks.check(taken["blobsRemoved"] == 3 and files_below(host.store + "/blobs") == 4, "--grace 0 takes them",
                     str(taken))
        checks.check([counted[k] for k in ("objectsRemoved", "chunksRemoved", "layersRemoved")] ==
                     [taken[k] for k in ("objectsRemoved", "chunksRemoved", "layersRemoved")],
                     "the dry run had counted right", f"{counted}\n{taken}")


def check_why(checks, made, layout):
    with lamina.Host() as host:
        host.run("import", f"oci:{layout}")
        base, own = made["one"]
        for what, names in ((base, ("one", "two")), (own, ("one",))):
            steps = host.json("why", "--paths", "10", what)["paths"]
            ends = {s["name"] for path in steps for s in path if s["kind"] in ("repository", "tag")}
            checks.check(all(any(n in e for e in ends) for n in names), f"why a layer stays: {names}", str(steps))
        shown = host.run("why", "one").stdout
        checks.check("one" in shown, "why by a name", shown)
        host.run("rm", "one")
        steps = host.json("why", own)["paths"]
        kinds = {s["kind"] for path in steps for s in path}
        checks.check("condemned" in kinds or "garbage" in kinds, "nothing keeps it any more", str(steps))
        checks.check(host.run("why", "sha256:" + "0" * 64, check=False).returncode == 1, "why of what is not here")


def check_checkpoint(checks, made, layout):
    with lamina.Host() as host, Served(host):
        host.run("import", f"oci:{layout}")
        copy = host.dir + "/copy"
        result = host.json("checkpoint", copy)
        checks.check(result["linked"] >= 6, "blobs are linked", str(result))
        host.run("rm", "one")
        host.run("rm", "two")
        host.run("gc", "--grace", "0")
        there = dict(host.env, LAMINA_STORE=copy, LAMINA_RUN=host.dir + "/run2")
        os.mkdir(host.dir + "/run2", 0o700)

        def in_copy(*args):
            return subprocess.run([lamina.PROGRAM, *args], env=there, capture_output=True, text=True, timeout=60,
                                  check=False)
        checks.check(in_copy("fsck").returncode == 0, "the copy is whole", in_copy("fsck").stdout)
        for tag in made:
            checks.check(in_copy("export", tag, f"oci:{host.dir}/out:{tag}").returncode == 0, f"{tag} comes out of it")
        same = all(open(f"{layout}/blobs/sha256/{name}", "rb").read() ==
                   open(f"{host.dir}/out/blobs/sha256/{name}", "rb").read()
                   for name in os.listdir(layout + "/blobs/sha256"))
        checks.check(same, "with the same bytes")
        again = host.run("checkpoint", copy, check=False)
        checks.check(again.returncode == 1 and "not empty" in again.stderr, "a copy is not overwritten", again.stderr)


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


def check_scrub(checks, made, layout):
    """Damage is found in the background, and healed from upstream."""
    with lamina.Host() as origin, Served(origin) as upstream:
        origin.run("import", f"oci:{layout}")
        more = f"[upstream far]\nhost = 127.0.0.1:{upstream.port}\nprefix = far\nplain_http = yes\n"
        with lamina.Host() as host, Served(host, grace="1h", scrub="1s", more=more) as served:
            manifest = json.load(open(layout + "/index.json", encoding="utf-8"))["manifests"][0]
            checks.check(served.get(f"/v2/far/one/manifests/{manifest['digest']}") == 200, "pulled through")
            for digest in made["one"]:
                checks.check(served.get(f"/v2/far/one/blobs/{digest}") == 200, "a layer as well")
            lamina.wait_for(lambda: served.metric("lamina_scrub_passes_total") > 0, what="a pass")
            checks.check(served.metric("lamina_scrub_errors_total") == 0, "nothing is damaged")
            name = made["one"][1].split(":")[1]
            flip(f"{host.store}/blobs/sha256/{name[:2]}/{name}", 5000)
            lamina.wait_for(lambda: served.metric("lamina_scrub_repaired_total") > 0, what="repair")
            checks.check(served.get(f"/v2/far/one/blobs/{made['one'][1]}") == 200 and
                         layouts.digest_of(served.body) == made["one"][1], "the blob is whole again")
            fsck = host.run("fsck", check=False)
            checks.check(fsck.returncode == 0, "fsck", fsck.stdout + fsck.stderr)
            state = host.json("scrub", "--state")
            checks.check(state["passes"] > 0 and state["ended"] > 0, "the state is told", str(state))


def check_scrub_command(checks, made, layout):
    with lamina.Host() as host:
        host.run("import", f"oci:{layout}")
        whole = host.run("scrub")
        checks.check("0 errors" in whole.stdout, "scrub of a sound store", whole.stdout)
        name = made["two"][1].split(":")[1]
        flip(f"{host.store}/blobs/sha256/{name[:2]}/{name}", 300)
        found = host.run("scrub", check=False)
        checks.check(found.returncode == 1 and "blob-digest" in found.stdout, "damage is told", found.stdout)
        aside = host.run("scrub", "--repair", check=False)
        checks.check(aside.returncode == 1 and "two" in aside.stdout, "what needs it is named", aside.stdout)
        checks.check(files_below(host.store + "/quarantine") == 1, "the file is put aside")
        host.run("import", f"oci:{layout}")
        healed = host.run("fsck", check=False)
        checks.check(healed.returncode == 0, "who brings it again heals it", healed.stdout + healed.stderr)


def main():
    lamina.isolate(180)
    checks = lamina.Checks()
    with lamina.Host() as host:
        made = make_layout(host.dir + "/layout")
        for check in (check_collection, check_grace, check_why, check_checkpoint, check_scrub, check_scrub_command):
            check(checks, made, host.dir + "/layout")
    checks.finish()


main()
