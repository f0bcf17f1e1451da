#!/usr/bin/python3
"""Packs are what spec/pack.md and spec/chunker.md say: a decoder written from them alone reads the
golden file, refuses every file that readers must refuse, finds the same cuts, and finds every object
of a store whole in its packs."""
import glob
import hashlib
import importlib.util
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402

for module in ("xxhash", "lz4", "zstandard"):
    if not importlib.util.find_spec(module):
        lamina.skip(f"python3-{module} is not installed")
import packdecode  # noqa: E402

TESTS = os.path.join(lamina.ROOT, "tests")


def check_golden(checks):
    for version, last in (1, []), (2, [5]):
        records, sealed, end = packdecode.parse_file(f"{TESTS}/golden/pack-{version}.pack")
        checks.check(sealed and [r["kind"] for r in records] == [1, 1, 1, 2, 2, 3] + last, "golden pack",
                     f"{records} {end}")
        checks.check([raw for _, _, raw in records[0]["chunks"]][0] == b"one chunk", "golden pack: content")
    checks.check(records[-1]["text"] == "go-1.2 level 6", "golden pack: recipe")
    files = glob.glob(TESTS + "/golden-fail/pack/*.pack")
    checks.check(len(files) >= 20, "packs that must be refused are there")
    for path in files:
        try:
            packdecode.parse_file(path)
            refused = False
        except packdecode.Bad:
            refused = True
        checks.check(refused, "refused: " + os.path.basename(path))


def random_bytes(seed, count):
    """The generator of tests/support/packs.c, upper byte of each word."""
    mask, out = (1 << 64) - 1, bytearray()
    for _ in range(count):
        seed = z = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        out.append((z ^ z >> 31) >> 56)
    return bytes(out)


def check_chunker(checks):
    with open(TESTS + "/golden/chunker.txt", encoding="ascii") as f:
        golden = [int(line) for line in f]
    checks.check(packdecode.cut(random_bytes(2026, (4 << 20) + 1)) == golden, "golden cuts")


def check_store(checks, host):
    chunks, lists, layers = {}, [], 0
    for path in glob.glob(host.store + "/packs/*.pack"):
        records, sealed, end = packdecode.parse_file(path)
        checks.check(sealed or end == os.path.getsize(path), "no tail: " + os.path.basename(path))
        for record in records:
            for name, whole, raw in record.get("chunks", []):
                digest = packdecode.fsverity(raw) if whole else hashlib.sha256(raw).digest()
                checks.check(digest == name, "name of a chunk", name.hex())
                chunks[name] = raw
            if record["kind"] == 2:
                lists.append(record)
            layers += record["kind"] == 3
    for record in lists:
        data = b"".join(chunks.get(name, b"") for name, _ in record["refs"])
        checks.check(packdecode.fsverity(data) == record["object"], "digest of an object", record["object"].hex())
        checks.check(packdecode.cut(data) == [n for _, n in record["refs"]] or not data, "cuts of an object")
    checks.check(lists and len(chunks) > 10 and layers > 0,
                 "the store has something of everything", f"{len(lists)} {len(chunks)} {layers}")


def main():
    checks = lamina.Checks()
    check_golden(checks)
    check_chunker(checks)
    with lamina.Host() as host:
        source = host.dir + "/source"
        os.mkdir(source)
        for i in range(40):
            with open(f"{source}/small{i}", "wb") as f:
                f.write(random_bytes(i, 200 * i) * (1 + i % 3))
        with open(source + "/large", "wb") as f:
            f.write(random_bytes(1, 300000) * 3)
        host.run("pack", source, "packed:v1")
        check_store(checks, host)
    checks.finish()


if __name__ == "__main__":
    main()
