#!/usr/bin/python3
"""`lamina serve --upgrade` replaces the owner and the processes of mounts by another program while
sandboxes read and write: no system call fails. A program that cannot take over leaves all as it
was."""
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402


def make_root(path):
    os.makedirs(path + "/files")
    for i in range(200):
        with open(f"{path}/files/{i}", "wb") as f:
            f.write(hashlib.shake_128(str(i).encode()).digest(5000 + i * 300))


def reader(point, stop, errors, counts, name):
    i = 0
    while not stop.is_set():
        i += 1
        n = i * 7919 % 200
        try:
            with open(f"{point}/files/{n}", "rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if f.read() != hashlib.shake_128(str(n).encode()).digest(5000 + n * 300):
                    errors.append(f"{name}: {n}: wrong contents")
            os.stat(f"{point}/files/{(n + 1) % 200}")
            if os.path.exists(f"{point}/files/none"):
                errors.append(f"{name}: what is absent was found")
            counts[name] = counts.get(name, 0) + 1
        except OSError as e:
            errors.append(f"{name}: {e}")


def writer(point, stop, errors, counts, name):
    i = 0
    while not stop.is_set():
        i += 1
        path = f"{point}/w{i % 50}"
        data = hashlib.shake_128(str(i).encode()).digest(1 + i % 9000)
        try:
            with open(path + ".new", "wb") as f:
                f.write(data)
            os.rename(path + ".new", path)
            with open(path, "rb") as f:
                if f.read() != data:
                    errors.append(f"{name}: {path}: wrong contents")
            if i % 7 == 0:
                os.unlink(path)
            counts[name] = counts.get(name, 0) + 1
        except OSError as e:
            errors.append(f"{name}: {e}")


def exe(pid):
    return os.path.realpath(f"/proc/{pid}/exe")


def await_owner(host, program):
    def there():
        try:
            return host.pids("serve") and all(exe(p) == program for p in host.pids("serve")) \
                and os.path.exists(host.store + "/control.sock")
        except OSError:
            return False
    lamina.wait_for(there, 40, f"{program} as the owner")


def replace(host, program):
    """Asks hold for another program, as an owner does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(10)
        s.connect(host.dir + "/run/hold.sock")
        s.send(f"replace {program}".encode())
        return s.recv(8192).decode()


def main():
    lamina.need("unshare")
    lamina.isolate(200)
    checks = lamina.Checks()
    with lamina.Host() as host:
        old, new = (f"{host.dir}/{n}/lamina" for n in ("old", "new"))
        for program in (old, new):
            os.makedirs(os.path.dirname(program))
            shutil.copy2(lamina.PROGRAM, program)
        make_root(host.dir + "/root")
        host.run("pack", host.dir + "/root", "upgrade:1")

        def serve(program, *args):
            return subprocess.Popen([program, "serve", "--listen", "127.0.0.1:0", *args], env=host.env,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        first = serve(old)
        await_owner(host, old)
        kinds = [("overlay", ["--driver", "overlay"]), ("passthrough", ["--driver", "fuse"]),
                 ("inode", ["--driver", "fuse", "--pages", "inode"]), ("private", ["--pages", "private"]),
                 ("overlay-rw", ["--driver", "overlay", "--rw"]), ("passthrough-rw", ["--driver", "fuse", "--rw"]),
                 ("inode-rw", ["--driver", "fuse", "--pages", "inode", "--rw"])]
        env = dict(host.env)
        points = {}
        for name, args in kinds:
            points[name] = host.dir + "/" + name
            os.mkdir(points[name])
            subprocess.run([old, "mount", *args, "upgrade:1", points[name]], env=env, check=True,
                           stdout=subprocess.DEVNULL, timeout=60)
        stop, errors, counts, threads = threading.Event(), [], {}, []
        for name, point in points.items():
            threads.append(threading.Thread(target=reader, args=(point, stop, errors, counts, name + " reads"), daemon=True))
            if name.endswith("-rw"):
                threads.append(threading.Thread(target=writer, args=(point, stop, errors, counts, name + " writes"), daemon=True))
        for t in threads:
            t.start()
        time.sleep(1)
        os.unlink(old)  # as a package manager does
        second = serve(new, "--upgrade")
        checks.check(first.wait(60) == 0, "the former owner ends well")
        await_owner(host, new)
        lamina.wait_for(lambda: [exe(p) for p in host.pids("fs")] == [new], 20, "the new file system process")
        time.sleep(1)
        checks.check(replace(host, "/bin/false").startswith("ok "), "hold takes any program")
        lamina.wait_for(lambda: [exe(p) for p in host.pids("fs")] not in ([], [os.path.realpath("/bin/false")]), 20,
                        "a process that serves")
        checks.check(replace(host, host.dir + "/none").startswith("failed INVALID"), "a program that is not there")
        time.sleep(1)
        before = dict(counts)
        time.sleep(1)
        stop.set()
        for t in threads:
            t.join(60)
        checks.check(not any(t.is_alive() for t in threads), "nobody hangs")
        checks.check(not errors, "no system call failed", "; ".join(errors[:5]))
        checks.check(all(counts[k] > before.get(k, 0) for k in counts) and len(counts) == len(threads),
                     "everybody went on to the end", str(counts))
        for point in points.values():
            host.umount(point)
        second.terminate()
        second.wait(30)
        print(counts)
    checks.finish()


if __name__ == "__main__":
    main()
