"""The code blocks of the pages, and what the comments before them say about running them.

    <!-- not run: needs the hub -->            the block is for reading, and why
    <!-- run with: nvidia/mit-b0 → tiny -->    what the tests put in for what a reader has

A comment may hold several lines of `OLD → NEW`. Lines that install packages are left out.

    <!-- devices: 8 -->                       the page's Python runs as one program on 8 devices
    <!-- command: tests -->                   a name by which CI finds the block

`python tests/documentation/blocks.py README.md tests` prints the block of that name.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

RUN = ("python", "bash")
# what is read, not run; a fence in braces is a directive of Sphinx
READ = ("", "cpp", "javascript", "json", "text", "toml", "yaml")
DEVICES = re.compile(r"^<!-- devices: (\d+) -->$", re.MULTILINE)
COMMENT = re.compile(r"<!--\s*(?P<key>not run|run with|command):\s*(?P<text>.*?)\s*-->", re.DOTALL)
INSTALL = re.compile(r"^(\S*/)?pip install .*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the file.
        line: of its first line of code, counted from 1.
        language: what stands behind the fence.
        code: what stands in it.
        not_run: why it is for reading only; None where it runs.
        replacements: what stands in the page and what is run for it.
        command: the name by which CI finds it; None where it has none.
    """

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None
    replacements: tuple[tuple[str, str], ...]
    command: str | None = None

    def __str__(self) -> str:
        """Where it is."""
        return f"{self.page.name}:{self.line}"

    def runnable(self) -> str:
        """The code as the tests run it.

        Raises:
            ValueError: a replacement of text that is not in the block.
        """
        code = INSTALL.sub("", self.code)
        for old, new in self.replacements:
            if old not in code:
                raise ValueError(f"{self} has no {old!r} to put {new!r} in place of")
            code = code.replace(old, new)
        return code


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page that are run, or say why not, from top to bottom.

    Raises:
        ValueError: a fence of another language, an empty reason, a replacement without an arrow.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    found, before, number = [], [], 0
    while number < len(lines):
        fence = re.match(r"\s*(`{3,})(\S*)", lines[number])
        if fence is None:
            before.append(lines[number])
            number += 1
            continue
        rest = range(number + 1, len(lines))
        end = next((i for i in rest if lines[i].strip() == fence.group(1)), len(lines))
        language = fence.group(2)
        if language in RUN:
            code = "\n".join(lines[number + 1 : end]) + "\n"
            found.append(_block(page, number + 2, language, code, "\n".join(before)))
        elif language not in READ and not language.startswith("{"):
            raise ValueError(
                f"{page.name}:{number + 1}: a block of {language!r}; what runs is one of "
                f"{', '.join(RUN)}, and what is read one of {', '.join(READ[1:])} or nothing"
            )
        before, number = [], end + 1
    return found


def command_of(page: Path, name: str) -> str:
    """The code of the one block that a page marks with `<!-- command: NAME -->`.

    Raises:
        ValueError: no such block, or several.
    """
    found = [block for block in blocks_of(page) if block.command == name]
    if len(found) != 1:
        raise ValueError(
            f"{page.name} must mark one block with <!-- command: {name} -->, got {len(found)}: "
            "put the comment before the block"
        )
    return found[0].code


def devices_of(page: Path) -> int:
    """The devices that a page's Python is to run on; 1 where it doesn't say."""
    found = DEVICES.search(page.read_text(encoding="utf-8"))
    return 1 if found is None else int(found.group(1))


def program_of(blocks: list[Block]) -> str:
    """The Python of a page as one program, each line where it stands in the page."""
    lines: list[str] = []
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines)) + block.runnable().splitlines()
    return "\n".join(lines) + "\n"


def _block(page: Path, line: int, language: str, code: str, before: str) -> Block:
    reason, command, replacements = None, None, []
    text = before.rstrip()
    while text.endswith("-->"):
        start = text.rindex("<!--")
        comment = COMMENT.fullmatch(text[start:])
        text = text[:start].rstrip()
        if comment is None:
            continue
        if comment["key"] == "command":
            command = comment["text"]
            continue
        if comment["key"] == "not run":
            reason = comment["text"]
            if not reason:
                raise ValueError(f"{page.name}:{line}: not run, but why?")
            continue
        for pair in comment["text"].splitlines():
            old, arrow, new = pair.partition("→")
            if not arrow or not old.strip():
                raise ValueError(f"{page.name}:{line}: {pair!r} is not of the form OLD → NEW")
            replacements.append((old.strip(), new.strip()))
    return Block(page, line, language, code, reason, tuple(replacements), command)


if __name__ == "__main__":
    print(command_of(Path(sys.argv[1]), sys.argv[2]), end="")
