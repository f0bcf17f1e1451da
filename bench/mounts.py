"""Mounts of every driver beside kernel overlayfs and fuse-overlayfs over the unpacked image.

Each bench takes the Bench of bench.py. Systems run in turn; a row's figure is theirs or ours in the
unit it names, its ratio ours ÷ theirs for each peer (below 1: ours is faster or smaller).
"""
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time

import lamina

ACCESS = os.path.join(lamina.ROOT, "build/release/bench/access")
MIX = os.path.join(lamina.ROOT, "build/release/bench/mix")
SMALL_COUNT, SMALL_BYTES = 20000, 4000
LARGE_BYTES = 512 << 20
NPM_PACKAGES = ("express@4", "lodash", "react")
PEERS = ("kernel", "fuse-overlayfs")
OURS = ("overlay", "passthrough", "inode")


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3\n")


def meminfo(key):
    with open("/proc/meminfo", encoding="ascii") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key + ":"))


def kernel_and_processes():
    """Bytes that no pressure gives back: slab, stacks, page tables, per-CPU memory, processes, memfds."""
    return sum(meminfo(k) for k in ("AnonPages", "SUnreclaim", "KernelStack", "PageTables", "Percpu", "Shmem"))


def timed(argv, **kw):
    start = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kw)
    return time.monotonic() - start


class Systems:
    """The same tree mounted writable by each system."""

    def __init__(self, host, name, tree):
        self.host, self.name, self.tree = host, name, tree
        self.names = [n for n in OURS + PEERS if n != "fuse-overlayfs" or shutil.which(n)]
        self.live = []

    def mount(self, system):
        """A new writable mount; its directory."""
        if system == "overlay":
            point = self.host.mount(self.name, "--rw", "--driver", "overlay")
        elif system in OURS:
            point = self.host.mount(self.name, "--rw", "--driver", "fuse", "--pages", system)
        else:
            base = tempfile.mkdtemp(prefix="peer-", dir=self.host.dir)
            point = base + "/mnt"
            for d in ("upper", "work", "mnt"):
                os.mkdir(f"{base}/{d}")
            options = f"lowerdir={self.tree},upperdir={base}/upper,workdir={base}/work"
            if system == "kernel":
                subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, point], check=True)
            else:
                subprocess.run(["fuse-overlayfs", "-o", options, point], check=True, stderr=subprocess.DEVNULL)
        self.live.append((system, point))
        return point

    def umount(self, system, point):
        self.live.remove((system, point))
        if system in OURS:
            self.host.umount(point)
            os.rmdir(point)
        else:
            subprocess.run(["umount", point], check=True)
            shutil.rmtree(os.path.dirname(point), ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for system, point in list(self.live):
            self.umount(system, point)


def table(b, label, figures, unit, aim=""):
    """figures: system → list of measurements."""
    medians = {system: statistics.median(values) for system, values in figures.items()}
    row = {"name": label, "unit": unit, "aim": aim, **{k: round(v, 4) for k, v in medians.items()}, "ratios": {}}
    for ours in (o for o in OURS if o in medians):
        row["ratios"][ours] = {peer: round(medians[ours] / medians[peer], 3) for peer in PEERS if peer in medians}
    b.rows.append(row)
    print(f"{label:<34} " + "  ".join(f"{k} {v:.4g}" for k, v in medians.items()) + f"  {unit}", flush=True)
    for ours, ratios in row["ratios"].items():
        print(f"{'':<34}   {ours} ÷ " + ", ".join(f"{peer} {ratio:.2f}" for peer, ratio in ratios.items()), flush=True)


def make_tree(root):
    rng = random.Random(11)
    for d in range(200):
        os.makedirs(f"{root}/small/{d:03}")
        for i in range(SMALL_COUNT // 200):
            with open(f"{root}/small/{d:03}/{i}", "wb") as f:
                f.write(rng.randbytes(SMALL_BYTES // 2) * 2)
    with open(root + "/large", "wb") as f:
        for _ in range(LARGE_BYTES >> 20):
            f.write(rng.randbytes(1 << 18) * 4)


def paths(point, what):
    if what == "large":
        return point + "/large\n"
    return "".join(f"{base}/{n}\n" for base, _, names in sorted(os.walk(point + "/small")) for n in sorted(names))


def access(test, count, listing):
    done = subprocess.run([ACCESS, test, str(count)], input=listing, text=True, check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def sequential(point):
    return timed(["dd", f"if={point}/large", "of=/dev/null", "bs=1M"])


def bench_drivers(b, runs=5):
    """One image of many small files and a large one, by every system."""
    with lamina.Host() as host:
        tree = host.dir + "/tree"
        make_tree(tree)
        host.run("pack", tree, "drivers:1", timeout=600)
        with Systems(host, "drivers:1", tree) as systems:
            points = {s: systems.mount(s) for s in systems.names}
            small = {s: paths(p, "small") for s, p in points.items()}
            large = {s: paths(p, "large") for s, p in points.items()}

            def measure(label, unit, fn, aim="", before=None, times=runs):
                figures = {s: [] for s in systems.names}
                for _ in range(times):
                    for s in systems.names:
                        if before:
                            before()
                        figures[s].append(fn(s))
                table(b, label, figures, unit, aim)

            half = "at most 0.5 of fuse-overlayfs"
            data = "at most 1.05 of kernel"
            measure("stat, cold", "ns", lambda s: access("stat", 1, small[s]), half, drop_caches, 3)
            measure("find, cold", "s", lambda s: timed(["find", points[s] + "/small", "-printf", "%p %s\n"]), half,
                    drop_caches, 3)
            measure("open+read+close small, cold", "ns", lambda s: access("read", 1, small[s]), "", drop_caches, 3)
            for s in systems.names:
                access("read", 1, small[s])
            measure("stat, warm", "ns", lambda s: access("stat", 5, small[s]), half)
            measure("find, warm", "s", lambda s: timed(["find", points[s] + "/small", "-printf", "%p %s\n"]), half)
            measure("open+close small, warm", "ns", lambda s: access("open", 1, small[s]), half)
            measure("open+read+close small, warm", "ns", lambda s: access("read", 1, small[s]))
            measure("sequential 512 MiB, cold", "s", lambda s: sequential(points[s]), "", drop_caches, 3)
            for s in systems.names:
                sequential(points[s])
            measure("sequential 512 MiB, warm", "s", lambda s: sequential(points[s]), data)
            measure("random 4 KiB, warm", "ns", lambda s: access("pread", 300_000, large[s]), data)
            measure("mmap 4 KiB, warm", "ns", lambda s: access("mmap", 10_000_000, large[s]), data)
            phases = {}
            for _ in range(runs):
                for s in systems.names:
                    done = subprocess.run([MIX, points[s], "4000"], check=True, text=True, stdout=subprocess.PIPE)
                    for line in done.stdout.splitlines():
                        phase, ns = line.split()
                        phases.setdefault(phase, {}).setdefault(s, []).append(float(ns))
            for phase, figures in phases.items():
                table(b, f"mix: {phase}", figures, "ns", half)
            copied = {s: [] for s in systems.names}
            for turn in range(3):
                for s in systems.names:
                    copied[s].append(timed(["sh", "-c", f'for f in "$1"/small/{turn:03}/*; do echo x >>"$f"; done',
                                            "sh", points[s]]))
            table(b, "append to 100 files of the image", copied, "s")


def npm_cache(directory):
    """A cache of packages, filled from the registry once; None where there is none."""
    cache, project = directory + "/npm-cache", directory + "/npm-first"
    os.makedirs(project)
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--cache", cache, *NPM_PACKAGES],
                          cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    return cache if done.returncode == 0 else None


def in_root(point, argv, binds=()):
    """Runs in the tree as a root, with its own /proc and /dev."""
    command = ["bwrap", "--bind", point, "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    for source, target in binds:
        command += ["--bind", source, target]
    return timed(command + ["--setenv", "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                            "--setenv", "HOME", "/root", "--setenv", "DEBIAN_FRONTEND", "noninteractive", "--", *argv],
                 timeout=600)


def install_rows(b, host, tag, label, install, runs=3):
    """install(point): seconds that it took in a new writable mount of the image."""
    tree = f"{host.dir}/tree-{tag}"
    lamina.unpack_reference(b.corpus, tag, tree)
    host.run("import", f"oci:{b.corpus}:{tag}", f"{tag}:1", timeout=600)
    with Systems(host, f"{tag}:1", tree) as systems:
        figures = {s: [] for s in systems.names}
        for _ in range(runs):
            for s in systems.names:
                point = systems.mount(s)
                figures[s].append(install(point))
                systems.umount(s, point)
        table(b, label, figures, "s", "faster than fuse-overlayfs")


def npm_install(point, cache):
    project = point + "/srv/app"
    os.makedirs(project)
    return timed(["npm", "install", "--offline", "--no-audit", "--no-fund", "--cache", cache, *NPM_PACKAGES], cwd=project,
                 timeout=600)


def bench_installs(b):
    """npm install (the host's) and dpkg (the image's) in a writable mount; packages were fetched before."""
    with lamina.Host() as host:
        if "debian12" not in b.tags:
            return
        if shutil.which("npm") and (cache := npm_cache(host.dir)):
            install_rows(b, host, "debian12", "npm install, offline", lambda point: npm_install(point, cache))
        debs = host.dir + "/debs"
        os.makedirs(debs + "/partial")
        fetched = subprocess.run(["apt-get", "install", "-y", "--reinstall", "--download-only", "-o",
                                  f"Dir::Cache::archives={debs}", "make", "xz-utils", "file", "bzip2"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        files = [f"/var/debs/{n}" for n in os.listdir(debs) if n.endswith(".deb")]
        if fetched.returncode == 0 and files:
            shutil.rmtree(f"{host.dir}/tree-debian12", ignore_errors=True)
            install_rows(b, host, "debian12", f"dpkg -i of {len(files)} packages",
                         lambda point: in_root(point, ["dpkg", "--force-all", "-i", *files], [(debs, "/var/debs")]))


def server_bytes(host):
    """Private and shared memory of the processes of mounts, and state they keep in memfds."""
    total = 0
    for command in ("fs", "hold", "opener"):
        for pid in host.pids(command):
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
                total += next(int(line.split()[1]) * 1024 for line in f if line.startswith("Pss:"))
    return total


def use_sandbox(point, name, number):
    with open(f"{point}/{name}", "rb") as f:
        f.read(1)
    with open(f"{point}/written-{number}", "w", encoding="ascii") as f:
        f.write("x" * 100)


def make_images(host, count):
    """Images that share most of what they have, as applications over one base do."""
    rng = random.Random(5)
    base = [rng.randbytes(6000) for _ in range(300)]
    for i in range(count):
        root = f"{host.dir}/image-{i}"
        for j, content in enumerate(base):
            os.makedirs(f"{root}/lib/{j % 20}", exist_ok=True)
            with open(f"{root}/lib/{j % 20}/{j}", "wb") as f:
                f.write(content)
        with open(root + "/app", "wb") as f:
            f.write(rng.randbytes(20000))
        host.run("pack", root, f"image{i}:1")


def many(b, host, system, sandboxes, images):
    """Bytes of memory and seconds that each sandbox costs."""
    systems = {i: Systems(host, f"image{i}:1", f"{host.dir}/image-{i}") for i in range(images)}
    warm = systems[0].mount(system)
    use_sandbox(warm, "app", 0)
    drop_caches()
    before, server = kernel_and_processes(), server_bytes(host)
    start = time.monotonic()
    live = []
    for n in range(sandboxes):
        which = systems[n % images]
        point = which.mount(system)
        use_sandbox(point, "app", n)
        live.append((which, point))
    took = time.monotonic() - start
    drop_caches()
    used = kernel_and_processes() - before
    server = server_bytes(host) - server if system in OURS else 0
    start = time.monotonic()
    for which, point in live:
        which.umount(system, point)
    stop = time.monotonic() - start
    drop_caches()
    left = kernel_and_processes() - before
    systems[0].umount(system, warm)
    return {"KiB": used / sandboxes / 1024, "serverKiB": server / sandboxes / 1024,
            "leftKiB": left / sandboxes / 1024, "startMs": took / sandboxes * 1000, "stopMs": stop / sandboxes * 1000}


def bench_sandboxes(b, sandboxes=1000, images=20):
    """Start, one file read and one written in each, stop."""
    with lamina.Host() as host:
        make_images(host, images)
        results = {}
        for system in (*OURS, "kernel"):
            results[system] = many(b, host, system, sandboxes, images)
            b.rows.append({"name": f"{sandboxes} sandboxes over {images} images: {system}", **results[system]})
            print(f"{sandboxes} sandboxes over {images} images, each: {system:<12} "
                  + " ".join(f"{k} {v:.3g}" for k, v in results[system].items()), flush=True)


def bench_starts(b, count=100):
    """Sandboxes by bubblewrap, one after the other, all kept: time and memory of each."""
    if "debian12" not in b.tags:
        return
    with lamina.Host() as host:
        host.run("import", f"oci:{b.corpus}:debian12", "debian12:1", timeout=600)
        tree = host.dir + "/tree"
        lamina.unpack_reference(b.corpus, "debian12", tree)
        systems = Systems(host, "debian12:1", tree)
        for system in systems.names:
            first = systems.mount(system)
            in_root(first, ["true"])
            drop_caches()
            before, server, live, times = kernel_and_processes(), server_bytes(host), [], []
            for _ in range(count):
                start = time.monotonic()
                point = systems.mount(system)
                in_root(point, ["sh", "-c", "echo hello >/written; cat /etc/os-release"])
                times.append(time.monotonic() - start)
                live.append(point)
            drop_caches()
            used = (kernel_and_processes() - before) / count / 1024
            own = (server_bytes(host) - server) / count / 1024 if system in OURS else 0
            for point in live + [first]:
                systems.umount(system, point)
            row = {"medianMs": statistics.median(times) * 1000, "KiB": used, "serverKiB": own}
            b.rows.append({"name": f"{count} starts: {system}", **row})
            print(f"{count} starts: {system:<14} " + " ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
