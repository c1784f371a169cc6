"""Blocks are found as they stand in a page, and no page gets around running its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from documentation.blocks import blocks_of, command_of, devices_of, program_of

ROOT = Path(__file__).resolve().parents[2]

PAGE = """# Title

<!-- run with:
hub/name → tiny
steps=9 → steps=2
-->

```python
model = load("hub/name", steps=9)
```

<!-- not run: a cluster -->
```bash
srun train
```

```
usage: nothing to run
```

```{toctree}
other
```

```bash
pip install 'segformer-jax[train]'
.venv/bin/pip install -e .
echo done
```
"""


@pytest.fixture
def page(tmp_path):
    def page(text):
        file = tmp_path / "page.md"
        file.write_text(text, encoding="utf-8")
        return file

    return page


def test_blocks_come_with_what_stands_before_them(page):
    first, second, third = blocks_of(page(PAGE))
    assert first.runnable() == 'model = load("tiny", steps=2)\n'
    assert (first.language, first.line, first.not_run) == ("python", 9, None)
    assert (second.code, second.not_run) == ("srun train\n", "a cluster")
    assert third.runnable().split() == ["echo", "done"]
    assert str(third) == "page.md:26"


def test_a_comment_holds_for_the_block_behind_it_alone(page):
    text = "<!-- not run: hours -->\nBut this:\n```bash\nls\n```\n"
    assert blocks_of(page(text))[0].not_run is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```console\n$ ls\n```\n", "page.md:1: a block of 'console'; what runs is one of python"),
        ("<!-- not run: -->\n```bash\nls\n```\n", "page.md:3: not run, but why"),
        ("<!-- run with: a to b -->\n```bash\na\n```\n", "'a to b' is not of the form OLD → NEW"),
    ],
)
def test_what_would_hide_a_block_is_an_error(text, message, page):
    with pytest.raises(ValueError, match=message):
        blocks_of(page(text))


def test_a_page_may_want_several_devices_and_is_then_one_program(page):
    text = "# Title\n\n<!-- devices: 8 -->\n\n```python\na = 1\n```\nThen:\n```python\nb = a\n```\n"
    assert devices_of(page("# Title\n")) == 1
    file = page(text)
    assert devices_of(file) == 8
    program = program_of(blocks_of(file)).splitlines()
    lines = {number: line for number, line in enumerate(program, 1) if line}
    assert lines == {6: "a = 1", 10: "b = a"}  # where they stand in the page


def test_a_replacement_of_what_is_not_there_is_an_error(page):
    (block,) = blocks_of(page("<!-- run with: b → c -->\n```bash\na\n```\n"))
    with pytest.raises(ValueError, match=r"page.md:3 has no 'b' to put 'c' in place of"):
        block.runnable()


def test_a_command_is_found_by_its_mark_wherever_it_stands(page):
    text = (
        "```bash\nfirst\n```\n<!-- command: tests -->\n<!-- not run: it installs -->\n"
        "```bash\npytest -q\n```\n"
    )
    file = page(text)
    assert command_of(file, "tests") == "pytest -q\n"
    assert blocks_of(file)[1].not_run == "it installs"
    with pytest.raises(ValueError, match=r"page.md must mark one block .*command: other.* got 0"):
        command_of(file, "other")
    with pytest.raises(ValueError, match="got 2"):
        command_of(page(text + text), "tests")


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("first mask", "segformer-jax segment examples/street.jpg"),
        ("tests", ".venv/bin/pytest -q -n 2"),
    ],
)
def test_the_readme_marks_the_commands_that_ci_runs(name, ends):
    command = [sys.executable, "tests/documentation/blocks.py", "README.md", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.endswith(ends)
