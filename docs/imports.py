"""The picture of the rooms and what they import: `python docs/imports.py docs/imports.svg`.

A room is a folder of `segformer_jax`, or a file beside them. Imports inside functions, doors that
open on demand, are left out.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

PACKAGE = Path(__file__).resolve().parents[1] / "segformer_jax"
WIDTH, HEIGHT, BOX, GAP = 1000, 92, (124, 30), 24
# all rooms use these, and they are drawn nowhere
EVERYBODYS = (
    *("__init__", "__main__", "atomic", "config", "errors", "json_text"),
    *("on_demand", "process"),
)


def arrows(package: Path = PACKAGE, *, on_demand: bool = False) -> dict[str, set[str]]:
    """Each room and the rooms that its files import.

    Args:
        package: the folder of the rooms.
        on_demand: whether imports inside functions count, too.
    """
    found: dict[str, set[str]] = {}
    for file in sorted(package.rglob("*.py")):
        own = file.relative_to(package).with_suffix("").parts[0]
        if own in EVERYBODYS:
            continue
        others = found.setdefault(own, set())
        for names in _imported(file, on_demand):
            first, *parts = names[0].split(".")
            if first == package.name and parts:
                others.add(parts[0])
        others -= {own, *EVERYBODYS}
    return {own: {other for other in others if other in found} for own, others in found.items()}


def between_files(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Each file, as a dotted name, and those that it imports when it is imported itself."""
    files = {}
    for file in package.rglob("*.py"):
        parts = file.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = file
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        imported = (next((n for n in names if n in files), name) for names in _imported(file))
        found[name] = {*imported} - {name}
    return found


def _imported(file: Path, on_demand: bool = False) -> Iterator[tuple[str, ...]]:
    """What each import of a file may mean: a name in a module, or that module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if on_demand else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.module) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)


def allowed(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Each room and the rooms that its `__init__.py` says it may import."""
    rooms = {}
    for file in sorted(package.glob("*/__init__.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        sentence = re.search(r"It may import ([^.;]*)", text)
        rooms[file.parent.name] = set(re.findall(r"`(\w+)`", sentence[1] if sentence else ""))
    return rooms


def floors(found: dict[str, set[str]]) -> list[list[str]]:
    """Rooms by height: each above all that it imports.

    Raises:
        ValueError: rooms that import one another.
    """
    heights: dict[str, int] = {}
    left = dict(found)
    while left:
        ready = sorted(own for own, others in left.items() if others <= heights.keys())
        if not ready:
            raise ValueError(f"these rooms import one another: {', '.join(sorted(left))}")
        for own in ready:
            heights[own] = 1 + max((heights[other] for other in left.pop(own)), default=-1)
    rows: list[list[str]] = [[] for _ in range(1 + max(heights.values()))]
    for own, height in sorted(heights.items()):
        rows[height].append(own)
    return rows[::-1]


def drawn(found: dict[str, set[str]]) -> str:
    """An SVG: what imports stands above what is imported, an arrow where nothing is between."""
    rows = floors(found)
    places = {}
    for i, row in enumerate(rows):
        step = WIDTH / len(row)
        places |= {own: (step * (j + 0.5), HEIGHT * (i + 0.5)) for j, own in enumerate(row)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT * len(rows)}" '
        'font-family="sans-serif" font-size="15">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#678"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT * len(rows)}" fill="white"/>',
    ]
    for own, others in sorted(found.items()):
        for other in sorted(others - _beyond(found, others)):
            (x, y), (x2, y2) = places[own], places[other]
            parts.append(
                f'<line x1="{x:.0f}" y1="{y + BOX[1] / 2:.0f}" x2="{x2:.0f}" '
                f'y2="{y2 - BOX[1] / 2:.0f}" stroke="#678" marker-end="url(#tip)"/>'
            )
    for own, (x, y) in sorted(places.items()):
        parts.append(
            f'<rect x="{x - BOX[0] / 2:.0f}" y="{y - BOX[1] / 2:.0f}" width="{BOX[0]}" '
            f'height="{BOX[1]}" rx="5" fill="#eef4fa" stroke="#678"/>'
            f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{escape(own)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _beyond(found: dict[str, set[str]], others: set[str]) -> set[str]:
    """What is reached through one of the others, too."""
    reached: set[str] = set()
    waiting = [further for other in others for further in found[other]]
    while waiting:
        if (own := waiting.pop()) not in reached:
            reached.add(own)
            waiting += found[own]
    return reached


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawn(arrows()), encoding="utf-8")
