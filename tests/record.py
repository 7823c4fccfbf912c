"""Record the lessons' results under .github/recorded and quote them anew in README.md.

The table of mistakes comes from tests/mistakes.py and is measured anew either way.

python -m tests.record              run every lesson, then refresh the README
python -m tests.record --no-run     refresh the README from what is recorded
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from tests import mistakes

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / ".github" / "recorded"


def refresh(readme: str, reports: list[str]) -> str:
    """Replace each ```text block by the paragraph of a report that begins with its first line."""
    paragraphs = [p.strip("\n") for report in reports for p in report.split("\n\n")]
    paragraphs = [re.sub(r"^.*\n-{3,}\n", "", p) for p in paragraphs]  # without its heading

    def current(match: re.Match) -> str:
        first = match[1].split("\n", 1)[0].split()
        found = [p for p in paragraphs if first in (line.split() for line in p.splitlines())]
        if not found:
            return match[0]  # the output of a snippet, say
        lines = found[0].splitlines()
        start = next(i for i, line in enumerate(lines) if line.split() == first)
        return "```text\n" + "\n".join(lines[start:]) + "\n```"

    return re.sub(r"^```text\n(.*?)\n```$", current, readme, flags=re.MULTILINE | re.DOTALL)


def refresh_mistakes(readme: str, table: str) -> str:
    """Replace what stands between the two comments that mark the table of mistakes."""
    marked = r"(<!-- mistakes -->\n).*?(\n\n<!-- /mistakes -->)"
    return re.sub(marked, lambda match: match[1] + table + match[2], readme, flags=re.DOTALL)


def main() -> None:
    """Run, record, refresh."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--no-run", action="store_true", help="only refresh the README")
    if not flags.parse_args().no_run:
        for script in sorted(ROOT.glob("0*.py")):
            where = ["--out-dir", str(RECORDED.relative_to(ROOT))]
            command = [sys.executable, script.name, "--data", "shapes", *where]
            subprocess.run(command, cwd=ROOT, check=True)
    path = ROOT / "README.md"
    reports = [p.read_text(encoding="utf-8") for p in sorted(RECORDED.glob("*/report.txt"))]
    readme = refresh(path.read_text(encoding="utf-8"), reports)
    path.write_text(refresh_mistakes(readme, mistakes.table()), encoding="utf-8")


if __name__ == "__main__":
    main()
