#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Heat and placement of packs over time, as one SVG.

    bench/heatplot.py record SAMPLES [--every SECONDS] [--for SECONDS]
    bench/heatplot.py draw SAMPLES OUT.svg

`record` asks the owner of $LAMINA_STORE again and again (`lamina --json tier list --packs`) and appends a
line of JSON each time; LAMINA selects the program. `draw` makes three pictures below each other: what lies
on each tier, what the mover and the cache do, and a row for each pack, coloured by its tier and the
stronger the warmer it is. Nothing but the standard library."""
import argparse
import json
import math
import os
import subprocess
import sys
import time
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 1100, 120, 20
BAND, GAP = 190, 46
ROW_MAX, ROWS_HEIGHT_MAX = 14, 560
COLOURS = {"nvme": "#c0392b", "ssd": "#d68910", "hdd": "#2471a3", "remote": "#6c3483"}
SHADES = ["", "#1e8449", "#7d6608", "#117a65", "#5d6d7e"]


def record(path, every, seconds):
    program = os.environ.get("LAMINA", "lamina")
    end = time.monotonic() + seconds if seconds else math.inf
    with open(path, "a", encoding="utf-8") as out:
        while time.monotonic() < end:
            done = subprocess.run([program, "--json", "tier", "list", "--packs"], stdout=subprocess.PIPE, check=False)
            if done.returncode == 0:
                sample = dict(json.loads(done.stdout), time=round(time.time(), 2))
                out.write(json.dumps(sample, separators=(",", ":")) + "\n")
                out.flush()
            time.sleep(every)


def samples_of(path):
    with open(path, encoding="utf-8") as f:
        found = [json.loads(line) for line in f if line.strip()]
    if not found:
        sys.exit(f"{path}: no samples")
    return sorted(found, key=lambda s: s["time"])


def size_text(n):
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < 1024 or unit == "TiB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return ""


class Drawing:
    """Times go from left to right, the same in all bands."""

    def __init__(self, samples):
        self.begin = samples[0]["time"]
        self.span = max(1, samples[-1]["time"] - self.begin)
        self.parts, self.top = [], 30

    def x(self, when):
        return LEFT + (WIDTH - LEFT - RIGHT) * (when - self.begin) / self.span

    def text(self, x, y, text, anchor="start", colour="#222", size=12):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
                          f'font-size="{size}">{escape(text)}</text>')

    def rectangle(self, x, y, width, height, colour, opacity=1.0, title=""):
        inner = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.3):.1f}" height="{height:.1f}" '
                          f'fill="{colour}" fill-opacity="{opacity:.2f}">{inner}</rect>')

    def line(self, points, colour, dashed=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>')

    def band(self, title, highest, label):
        """A frame with its scale; gives the function from a value to its height."""
        top, bottom = self.top + 18, self.top + 18 + BAND
        self.text(LEFT, self.top + 10, title, size=14)
        for i in range(5):
            y = bottom - BAND * i / 4
            self.line([(LEFT, y), (WIDTH - RIGHT, y)], "#ddd")
            self.text(LEFT - 8, y + 4, label(highest * i / 4), "end", "#666", 11)
        self.top = bottom + GAP
        return lambda value: bottom - (bottom - top) * value / (highest or 1)

    def legend(self, entries):
        x = LEFT
        for name, colour in entries:
            self.rectangle(x, self.top - GAP + 12, 12, 12, colour)
            self.text(x + 17, self.top - GAP + 22, name, size=12)
            x += 40 + 7.2 * len(name)

    def axis(self):
        for i in range(7):
            when = self.begin + self.span * i / 6
            self.text(self.x(when), self.top + 4, f"{when - self.begin:.0f} s", "middle", "#666", 11)
        self.top += 24

    def svg(self):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.top:.0f}" '
                f'viewBox="0 0 {WIDTH} {self.top:.0f}" font-family="sans-serif">'
                f'<rect width="100%" height="100%" fill="#fff"/>{"".join(self.parts)}</svg>\n')


def colour_of(tier, position):
    return COLOURS.get(tier["class"], "#555") if position == 0 else SHADES[position % len(SHADES)] or "#555"


def tiers_of(samples):
    """id -> name and colour; tiers of one class differ."""
    found, per_class = {}, {}
    for sample in samples:
        for tier in sample["tiers"]:
            if tier["id"] in found:
                continue
            position = per_class.get(tier["class"], 0)
            per_class[tier["class"]] = position + 1
            found[tier["id"]] = (tier["name"], colour_of(tier, position))
    return found


def draw_bytes(d, samples, tiers):
    def held(t):
        return t["homeBytes"] + t["otherBytes"] + t["cachedBytes"]

    highest = max((max(held(t), t["capacity"]) for s in samples for t in s["tiers"]), default=1)
    y = d.band("What lies on each tier (dashed: its capacity, thin: home copies)", highest, size_text)
    for number, (_, colour) in tiers.items():
        rows = [(s["time"], t) for s in samples for t in s["tiers"] if t["id"] == number]
        d.line([(d.x(w), y(held(t))) for w, t in rows], colour)
        d.parts.append('<g stroke-opacity="0.45">')
        d.line([(d.x(w), y(t["homeBytes"])) for w, t in rows], colour)
        d.parts.append("</g>")
        if any(t["capacity"] for _, t in rows):
            d.line([(d.x(w), y(t["capacity"])) for w, t in rows], colour, dashed=True)
    d.legend(tiers.values())


def draw_work(d, samples):
    backlog = [(s["time"], s["mover"]["dueBytes"]) for s in samples]
    moved = [(s["time"], s["mover"]["movedBytes"]) for s in samples]
    highest = max(v for _, v in backlog + moved)
    y = d.band("The mover: moved so far, and what is to go; hit ratio of the cache of blocks (of the height)",
               highest, size_text)
    d.line([(d.x(w), y(v)) for w, v in moved], "#1e8449")
    d.line([(d.x(w), y(v)) for w, v in backlog], "#c0392b")
    ratios, before = [], (0, 0)
    for s in samples:
        cache = s.get("blockCache")
        if not cache:
            continue
        hits, reads = cache["hits"], cache["hits"] + cache["misses"]
        if reads > before[1]:
            ratios.append((d.x(s["time"]), y((highest or 1) * (hits - before[0]) / (reads - before[1]))))
        before = (hits, reads)
    if ratios:
        d.line(ratios, "#2471a3")
    d.legend([("moved", "#1e8449"), ("to go", "#c0392b"), ("hits", "#2471a3")])


def draw_packs(d, samples, tiers):
    packs = {}
    for sample in samples:
        for pack in sample.get("packs", []):
            packs.setdefault(pack["pack"], []).append((sample["time"], pack))
    if not packs:
        return
    hottest = max(p["heat"] for rows in packs.values() for _, p in rows)
    row = min(ROW_MAX, max(1.0, ROWS_HEIGHT_MAX / len(packs)))
    d.text(LEFT, d.top + 10, f"{len(packs)} packs: colour, the tier; the stronger the warmer "
                             f"(hottest: {hottest:.1f} reads)", size=14)
    d.top += 20
    times = [s["time"] for s in samples] + [samples[-1]["time"]]
    after = {t: times[i + 1] for i, t in enumerate(times[:-1])}
    for name, rows in sorted(packs.items(), key=lambda item: item[1][0][0]):
        if row >= 10:
            d.text(LEFT - 8, d.top + row - 2, name, "end", "#666", 9)
        for when, pack in rows:
            tier, colour = tiers.get(pack["tier"], (f"tier {pack['tier']}", "#555"))
            heat = math.log1p(pack["heat"]) / math.log1p(hottest) if hottest > 0 else 0
            d.rectangle(d.x(when), d.top, d.x(after[when]) - d.x(when), row * 0.9, colour, 0.18 + 0.82 * heat,
                        f"{name} on {tier}, {size_text(pack['bytes'])}, heat {pack['heat']:.1f}, {pack['next']}")
        d.top += row
    d.top += 16


def draw(path, out):
    samples = samples_of(path)
    d = Drawing(samples)
    tiers = tiers_of(samples)
    draw_bytes(d, samples, tiers)
    draw_work(d, samples)
    draw_packs(d, samples, tiers)
    d.axis()
    with open(out, "w", encoding="utf-8") as f:
        f.write(d.svg())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("samples")
    one.add_argument("--every", type=float, default=5)
    one.add_argument("--for", type=float, default=0, dest="seconds")
    two = commands.add_parser("draw")
    two.add_argument("samples")
    two.add_argument("svg")
    args = parser.parse_args()
    if args.command == "record":
        record(args.samples, args.every, args.seconds)
    else:
        draw(args.samples, args.svg)


main()
