#!/usr/bin/env python3
"""Record-demo: one run of `tierkeeper demo` -> docs/demo.svg, the terminal as it looked.

    cargo build --release && docs/record-demo.py

Nothing in the picture is written by hand: each line is one that the program printed, and appears when it did, only
faster. Long lines are wrapped at words. A viewer without animation shows the whole run at once. Python's own library
is all that is needed.
"""

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 112
CELL, LINE, MARGIN = 7.25, 17, 16
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
# The picture takes about this long, whatever the run took.
SHOWN_SECONDS = 18
# Where the second column of each kind of line begins: what is wrapped goes on there.
INDENT = [
    (r"(Model server|Models|Machine|Shortened|Loosened|Now chatting)\s+", None),
    (r"\s*[\d.]+ s  .{28} +\d+  ", None),
    (r"\s*[\d.]+ s  ", 12),
]


def record(program):
    """The lines that the demo prints, each with the seconds after which it did; and the seconds of the whole."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TIERKEEPER_")}
    started = time.monotonic()
    child = subprocess.Popen([program, "demo"], stdout=subprocess.PIPE, text=True, env=env)
    lines = []
    for line in child.stdout:
        lines.append((time.monotonic() - started, line.rstrip("\n")))
        print(lines[-1][1], flush=True)
    if child.wait() != 0:
        sys.exit(f"the demo ended with {child.returncode}: nothing is drawn of such a run")
    return lines, time.monotonic() - started


def wrapped(line):
    for pattern, column in INDENT:
        if found := re.match(pattern, line):
            indent = " " * (column or found.end())
            head, rest = line[: found.end()], line[found.end() :]
            parts = textwrap.wrap(rest, COLUMNS - len(indent)) or [""]
            if len(head) + len(parts[0]) <= COLUMNS:
                return [head + parts[0], *(indent + part for part in parts[1:])]
    return textwrap.wrap(line, COLUMNS, drop_whitespace=False) or [""]


def style(line):
    if re.match(r"\d+ replies, ", line):
        return "end"
    if "\u201c" in line:
        return "said"
    if re.match(r"\s*[\d.]+ s  ", line):
        return "row"
    return "dim"


def machine():
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"


def version(program):
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()


def rows(lines, speed):
    """Every row of the terminal, and the second of the picture at which it appears."""
    yield 0.0, "prompt", "$ cargo run --release -- demo"
    for at, line in lines:
        for part in wrapped(line):
            yield at / speed, style(line), part


def draw(lines, took, program):
    speed = max(1, round(took / SHOWN_SECONDS))
    drawn = list(rows(lines, speed))
    notes = [
        f"Recorded {datetime.date.today()} with {version(program)}, release build, on {machine()}.",
        f"The run took {took:.0f} s; it is shown {speed} times as fast.",
    ]
    width, height = round(COLUMNS * CELL + 2 * MARGIN), (len(drawn) + 5) * LINE + MARGIN
    text = "\n".join(escape(row.rstrip()) for _, _, row in drawn)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" xml:space="preserve">',
        "<!-- Made by docs/record-demo.py; every line is one that the program printed. -->",
        "<title>A run of tierkeeper demo</title>",
        f"<desc>{text}</desc>",
        "<style>",
        f"text {{ font: 12px {FONT}; white-space: pre; fill: #d6dbe5 }}",
        ".prompt { fill: #8bd49c } .dim, .note { fill: #8c95a6 } .said { fill: #f2c879 } .end { fill: #8bd49c; font-weight: bold }",
        "@media (prefers-reduced-motion: no-preference) { .line { animation: show .2s backwards } }",
        "@keyframes show { from { opacity: 0 } }",
        "</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#171b24"/>',
        *(f'<circle cx="{MARGIN + 6 + 18 * n}" cy="18" r="5" fill="{fill}"/>' for n, fill in enumerate(["#e8695f", "#e5b64f", "#5fb85f"])),
    ]
    for number, (at, kind, row) in enumerate(drawn):
        if not row.strip():
            continue
        y = (number + 2.6) * LINE
        # Fonts differ in width; the length that is told keeps the columns where they are.
        indent = len(row) - len(row.lstrip())
        body = row.strip()
        out.append(
            f'<g class="line" style="animation-delay:{at:.2f}s"><text class="{kind}" x="{MARGIN + indent * CELL:.1f}" y="{y:.1f}" '
            f'textLength="{len(body) * CELL:.1f}" lengthAdjust="spacingAndGlyphs">{escape(body)}</text></g>'
        )
    for number, note in enumerate(reversed(notes)):
        out.append(f'<text class="note" x="{MARGIN}" y="{height - MARGIN - number * LINE:.1f}">{escape(note)}</text>')
    return "\n".join([*out, "</svg>", ""])


def main():
    arguments = argparse.ArgumentParser(description="Record one run of `tierkeeper demo` as a picture.")
    arguments.add_argument("--program", default=ROOT / "target/release/tierkeeper", type=Path)
    arguments.add_argument("--out", default=ROOT / "docs/demo.svg", type=Path)
    chosen = arguments.parse_args()
    if not chosen.program.exists():
        sys.exit(f"there is no {chosen.program}; `cargo build --release` makes it")
    lines, took = record(chosen.program)
    chosen.out.write_text(draw(lines, took, chosen.program), encoding="utf-8")
    print(f"\n{chosen.out} is written", file=sys.stderr)


if __name__ == "__main__":
    main()
