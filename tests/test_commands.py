"""The commands of noxfile.py are the ones that people, hooks and hosted machines run."""

import ast
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def commands() -> dict[str, list[str]]:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets) == "COMMANDS"
    )
    return ast.literal_eval(table)


def steps(workflow: str) -> set[str]:
    """Returns the commands that the jobs of a workflow run."""
    file = ROOT / ".github" / "workflows" / workflow
    jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"].values()
    return {step["run"] for job in jobs for step in job["steps"] if "run" in step}


def test_contributors_read_the_commands_that_nox_runs():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    assert {name: re.findall("`(.*?)`", row) for name, row in table} == commands()


def test_hooks_check_what_lint_and_types_check():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = hooks["repos"]
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in local["hooks"]]
    assert entries == [*commands()["lint"], *commands()["types"]]


def test_ci_runs_every_session_but_what_the_tests_or_a_release_do():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    short, full = re.findall(r"^\.venv/bin/nox -s (.*)$", script, re.MULTILINE)
    assert short in script[: script.index('[ "$tier" = full ] || exit 0')]
    named = {*short.split(), *full.split()}
    assert named == commands().keys() - {"tests", "quick", "wheels", "optimized"} | {"newest"}
    assert {".ci/run", ".ci/run full", "nox -s quick"} <= steps("ci.yml")
    assert {"pytest -q tests/test_package.py", "nox -s wheels"} <= steps("release.yml")
