"""The examples of a Markdown document: found, and made ready to run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^ {0,3}(`{3,})\s*(\w*)\s*$")
NOT_RUN = re.compile(r"^<!-- not run: (\S.*?) -->$")
LANGUAGES = {"bash", "console", "python"}

SKIPPED_COMMANDS = {
    "make": "runs this suite, or what it tests by itself",
    "sbatch": "needs a cluster",
    "qsub": "needs a cluster",
    "pip": "installs what is here already",
    "git": "fetches what is here already",
}
"""Commands whose lines are left out of a block, each with the reason."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced example: where it stands, its language, its text, and why it is not run (empty if it is)."""

    path: Path
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """Return the bash, console and python blocks of a document, in order."""
    found: list[Block] = []
    fence, language, first, inside, reason = "", "", 0, [], ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        opened = FENCE.match(line)
        if fence:
            if opened and opened[1] == fence and not opened[2]:
                if language in LANGUAGES:
                    found.append(Block(path, first, language, "\n".join(inside), reason))
                fence, reason = "", ""
            else:
                inside.append(line)
        elif opened:
            fence, language, first, inside = opened[1], opened[2], number, []
        elif line.strip():
            said = NOT_RUN.match(line.strip())
            reason = said[1] if said else ""
    if fence:
        raise ValueError(f"{path}:{first}: this block is never closed")
    return found


def script(block: Block) -> str:
    """Return the shell commands of a bash or console block that are run; empty if none is.

    Lines of a console block that do not begin with ``$`` show output and are left out.
    """
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    kept = [line for line in lines if line.split(maxsplit=1)[:1] and line.split()[0] not in SKIPPED_COMMANDS]
    return "\n".join(line for line in kept if not line.lstrip().startswith("#"))
