"""STORE/tiers and the directories that it names, written from spec/tiering.md: for tests and
benchmarks that want packs in a certain place from the first."""
import os


def store_id(store):
    with open(store + "/format", encoding="ascii") as f:
        for line in f:
            key, _, value = line.partition(" ")
            if key in ("id", "store"):
                return value.strip().lstrip("= ")
    raise RuntimeError("no id in " + store + "/format")


def write(store, tiers):
    """tiers: dictionaries of the keys of spec/tiering.md and `name`; the directory of each is made a
    tier's. No owner may have the store open."""
    lines = []
    for tier in tiers:
        lines.append(f"[tier {tier['name']}]")
        lines += [f"{key} = {value}" for key, value in tier.items() if key != "name"]
        where = tier.get("where", "")
        if where.startswith("/") and not os.path.exists(where + "/tier"):
            for d in (where, where + "/packs", where + "/cache"):
                os.makedirs(d, mode=0o700, exist_ok=True)
            with open(where + "/tier", "w", encoding="ascii") as f:
                f.write(f"lamina tier\nstore = {store_id(store)}\nid = {tier['id']}\nname = {tier['name']}\n")
    with open(store + "/tiers", "w", encoding="ascii") as f:
        f.write(f"next = {max(t['id'] for t in tiers) + 1}\n" + "\n".join(lines) + "\n")
