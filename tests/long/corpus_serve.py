#!/usr/bin/python3
"""The node, Bun and Python images of the corpus serve HTTP from a sandbox that `lamina run` starts,
by bubblewrap and by crun; writes go to the upper directory only. Needs LAMINA_CORPUS."""
import os
import signal
import subprocess
import sys
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402

PORT = 18431
PYTHON = ("import http.server,os;open('/written-by-the-app','w').write('x');"
          f"http.server.test(http.server.SimpleHTTPRequestHandler,port={PORT},bind='127.0.0.1')")
BUN = f"await Bun.write('/written-by-the-app','x');Bun.serve({{port:{PORT},fetch(){{return new Response('bun')}}}})"
CASES = [
    ("web-express-v1", ["--env", f"PORT={PORT}"], []),
    ("web-fastify-v1", ["--env", f"PORT={PORT}"], []),
    ("python", [], ["--", "python3", "-c", PYTHON]),
    ("bun", [], ["--", "bun", "-e", BUN]),
]


def fetch():
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=5) as answer:
            return answer.read() or b"-"
    except OSError:
        return None


def listener():
    """The process that listens on PORT, by the kernel's own tables."""
    with open("/proc/net/tcp", encoding="ascii") as f:
        inodes = {line.split()[9] for line in f.readlines()[1:]
                  if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == PORT}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if any(f"socket:[{i}]" in links for i in inodes):
            return int(pid)
    return None


def end(app):
    """Asks the sandbox to end. As process 1 of a container a program without a handler ignores the
    signal: then the program itself is killed."""
    app.send_signal(signal.SIGTERM)
    try:
        app.wait(3)
    except subprocess.TimeoutExpired:
        pid = listener()
        if pid:
            os.kill(pid, signal.SIGKILL)
        app.wait(30)


def main():
    corpus = lamina.corpus()
    if not corpus:
        lamina.skip("LAMINA_CORPUS does not name a layout")
    lamina.need("bwrap", "crun", "unshare")
    lamina.isolate(600)
    checks = lamina.Checks()
    with lamina.Host() as host:
        for tag, options, command in CASES:
            host.run("import", f"oci:{corpus}:{tag}", f"{tag}:1")
            for runtime in ("bwrap", "crun"):
                upper = f"{host.dir}/upper-{tag}-{runtime}"
                os.mkdir(upper)
                app = host.start("run", "--runtime", runtime, "--upper", upper, *options, f"{tag}:1", *command,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
                try:
                    body = lamina.wait_for(fetch, 30, f"{tag} by {runtime}")
                    checks.check(bool(body), f"{tag} serves HTTP by {runtime}")
                except RuntimeError as e:
                    checks.check(False, f"{tag} serves HTTP by {runtime}", str(e))
                end(app)
                if command:
                    found = subprocess.run(["find", upper, "-name", "written-by-the-app"],
                                           stdout=subprocess.PIPE, check=True).stdout
                    checks.check(bool(found), f"{tag} by {runtime}: its write is in the upper directory")
        checks.check(host.json("mounts") in ([], {"mounts": []}), "nothing stays mounted")
    checks.finish()


if __name__ == "__main__":
    main()
