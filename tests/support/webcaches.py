"""nginx and Varnish in front of a registry, on loopback, with the configuration files that lamina
ships in tools/conf: only addresses and paths are changed."""
import os
import re
import shutil
import socket
import subprocess
import time

import lamina

CONF = os.path.join(lamina.ROOT, "tools/conf")


def wait_listening(port, process, what):
    def there():
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended with {process.returncode}")
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0
    lamina.wait_for(there, 20, what)


class Registry:
    """lamina serve with a configuration, which may name {dir}."""

    def __init__(self, directory, settings):
        self.dir, self.port = directory, lamina.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        os.makedirs(directory + "/run", mode=0o700, exist_ok=True)
        with open(directory + "/lamina.ini", "w", encoding="utf-8") as f:
            f.write(f"[registry]\nlisten = 127.0.0.1:{self.port}\n" + settings)
        env = dict(os.environ, LAMINA_STORE=directory + "/store", LAMINA_RUN=directory + "/run",
                   LAMINA_LOG="debug")
        with open(directory + "/lamina.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([lamina.PROGRAM, "serve", "-c", directory + "/lamina.ini"],
                                            env=env, stdout=log, stderr=log)
        wait_listening(self.port, self.process, "lamina serve")

    def requests(self, pattern):
        """How many requests it has seen whose "METHOD TARGET" begins with the pattern."""
        with open(self.dir + "/lamina.log", encoding="utf-8") as f:
            seen = re.findall(r'method=(\S+) target="([^"]*)"', f.read())
        return sum(re.match(pattern, method + " " + target) is not None for method, target in seen)

    def log(self):
        with open(self.dir + "/lamina.log", encoding="utf-8") as f:
            return f.read()

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


class Nginx:
    """Several servers of one nginx, each a variant of the shipped one: a function from its text to
    another, by name."""

    def __init__(self, directory, registry, variants=None):
        with open(CONF + "/nginx-cache.conf", encoding="utf-8") as f:
            shipped = f.read()
        head, server = shipped.split("\nserver {", 1)
        server = "\nserver {" + server
        self.ports, servers = {}, []
        os.makedirs(directory, exist_ok=True)
        for name, change in {"": lambda text: text, **(variants or {})}.items():
            port = self.ports[name] = lamina.free_port()
            text = change(server)
            assert name == "" or text != server, name + ": nothing was changed"
            servers.append(text.replace("listen 80;", f"listen 127.0.0.1:{port};")
                           .replace("proxy_cache lamina;", f"proxy_cache lamina{name};"))
        zones = re.search(r"proxy_cache_path [^;]*;", head).group(0)
        head = head.replace(zones, "\n".join(
            zones.replace("/var/cache/nginx/lamina", f"{directory}/cache{name}")
            .replace("keys_zone=lamina:64m", f"keys_zone=lamina{name}:1m") for name in self.ports))
        head = head.replace("server 127.0.0.1:5000;", f"server 127.0.0.1:{registry.port};")
        conf = directory + "/nginx.conf"
        with open(conf, "w", encoding="utf-8") as f:
            f.write(f"user root; worker_processes 1; daemon off; pid {directory}/pid;\n"
                    f"error_log {directory}/error.log;\nevents {{ worker_connections 1024; }}\n"
                    f"http {{\naccess_log off;\n"
                    + "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in
                              ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
                    + head + "".join(servers) + "}\n")
        self.process = subprocess.Popen(["nginx", "-p", directory, "-e", directory + "/error.log", "-c", conf],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.port = self.ports[""]
        wait_listening(self.port, self.process, "nginx")

    def url(self, name=""):
        return f"http://127.0.0.1:{self.ports[name]}"

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


class Varnish:
    def __init__(self, directory, registry, port=None):
        self.port = port or lamina.free_port()
        os.makedirs(directory, exist_ok=True)
        with open(CONF + "/varnish.vcl", encoding="utf-8") as f:
            text = f.read().replace('.port = "5000"', f'.port = "{registry.port}"')
        with open(directory + "/default.vcl", "w", encoding="utf-8") as f:
            f.write(text)
        with open(directory + "/log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                ["varnishd", "-F", "-j", "none", "-n", directory + "/work", "-a", f"127.0.0.1:{self.port}",
                 "-T", "none", "-f", directory + "/default.vcl", "-s", "malloc,256m"], stdout=log, stderr=log)
        wait_listening(self.port, self.process, "varnishd")

    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


def here():
    """Whether both are installed."""
    return all(shutil.which(p) for p in ("nginx", "varnishd"))


def seconds_until(condition, limit):
    """How long it took; None: longer than the limit."""
    start = time.monotonic()
    while time.monotonic() - start <= limit:
        if condition():
            return time.monotonic() - start
        time.sleep(0.02)
    return None
