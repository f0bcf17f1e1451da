#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs bench/tiersim over synthetic traces (and recorded ones, given as files): tables, JSON and plots.

  tiersim.py --program build/release/bench/tiersim [--out build/tiersim] [--quick] [TRACE...]

For each granularity and trace, hits of reads by capacity, beside the bounds; OUT.json has all figures,
OUT-*.svg a plot for each. A table at the end compares the default policy with Belady's bound at 10 %.
"""
import argparse
import json
import os
import re
import subprocess

CAPACITIES = "0.001,0.01,0.05,0.1,0.25"
SYNTHETIC = {
    "object": ["zipf:s=0.8,keys=200000,reads=2000000,sizes=1", "images:events=4000"],
    "block": ["zipf:s=0.7,keys=1000000,reads=3000000", "zipf:s=0.9,keys=1000000,reads=3000000",
              "zipf:s=1.1,keys=1000000,reads=3000000", "images:events=30000", "images:events=30000,scan=1",
              "images:events=30000,s=1.1"],
    "pack": ["images:events=30000"],
}
DEFAULT = "s3fifo"
POLICIES = ["lru", "s3fifo", "sieve", "tinylfu"]
COLOURS = {"lru": "#888888", "s3fifo": "#1f77b4", "sieve": "#2ca02c", "tinylfu": "#d62728", "bound": "#000000"}


def bound(rows, key):
    """Of hits: Belady's rule, exact where sizes are equal, else the smaller of the upper bounds."""
    exact = {r["policy"]: r for r in rows}
    return exact["belady bytes"][key] if key == "byte_hit" else exact["bound hits"]["hit"]


def plot(path, title, rows):
    width, height, left, bottom = 520, 320, 50, 40
    caps = sorted({r["capacity"] for r in rows})

    def place(i, value):
        return (left + i * (width - left - 120) / max(1, len(caps) - 1), height - bottom - value * (height - bottom - 30))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
           f'font-size="11"><text x="{left}" y="16">{title}: hits of reads by capacity</text>']
    for i, cap in enumerate(caps):
        out.append(f'<text x="{place(i, 0)[0] - 12:.0f}" y="{height - 22}">{cap * 100:g} %</text>')
    for tenth in range(0, 11, 2):
        y = place(0, tenth / 10)[1]
        out.append(f'<path d="M{left} {y:.0f}H{width - 120}" stroke="#ddd"/><text x="12" y="{y + 4:.0f}">{tenth * 10} %</text>')
    lines = {p: p for p in POLICIES} | {"bound": "bound hits"}
    for n, (name, policy) in enumerate(lines.items()):
        points = [place(caps.index(r["capacity"]), r["hit"]) for r in rows if r["policy"] == policy]
        out.append(f'<polyline fill="none" stroke="{COLOURS[name]}" stroke-width="1.5" points="'
                   + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"/>')
        out.append(f'<text x="{width - 110}" y="{40 + 16 * n}" fill="{COLOURS[name]}">{name}</text>')
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--out", default="build/tiersim")
    parser.add_argument("--quick", action="store_true", help="10 %% alone")
    parser.add_argument("traces", nargs="*")
    args = parser.parse_args()
    rows = []
    for unit, synthetic in SYNTHETIC.items():
        for trace in synthetic + (args.traces if unit != "object" else []):
            name = f"{args.out}.part.json"
            subprocess.run([args.program, "--by", unit, "--bounds", "--json", name, "--capacity",
                            "0.1" if args.quick else CAPACITIES, trace], check=True)
            with open(name, encoding="utf-8") as f:
                found = json.load(f)
            os.remove(name)
            rows += found
            title = f"{unit}-{found[0]['trace']}"
            plot(f"{args.out}-{re.sub('[^A-Za-z0-9.]+', '-', title)}.svg", title, found)
    with open(args.out + ".json", "w", encoding="utf-8") as f:
        json.dump(rows, f, indent=1)
    print(f"\n{'at 10 %, hits of reads in percent':52} " + " ".join(f"{p:>8}" for p in POLICIES)
          + f" {'bound':>8} {'of bound':>8} {'bytes':>8} {'belady':>8} {'of it':>8}")
    for unit, trace in dict.fromkeys((r["unit"], r["trace"]) for r in rows):
        at = [r for r in rows if (r["unit"], r["trace"], r["capacity"]) == (unit, trace, 0.1)]
        of = {r["policy"]: r for r in at}
        best, byte_best = bound(at, "hit"), bound(at, "byte_hit")
        print(f"{unit + ' ' + trace:52.52} " + " ".join(f"{100 * of[p]['hit']:8.2f}" for p in POLICIES)
              + f" {100 * best:8.2f} {100 * of[DEFAULT]['hit'] / best:8.2f} {100 * of[DEFAULT]['byte_hit']:8.2f}"
              + f" {100 * byte_best:8.2f} {100 * of[DEFAULT]['byte_hit'] / byte_best:8.2f}")


main()
