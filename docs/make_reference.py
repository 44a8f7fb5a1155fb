"""Writes the table of docs/configuration.md from the options themselves (`make docs`)."""

import re
from pathlib import Path

from bridge import config

TARGET = Path(__file__).parent / "configuration.md"
MARK = "<!-- made by `make docs` -->"


def table() -> str:
    """One section a heading, one option a row."""
    lines = []
    for section, kind in [("", config.Settings), *config.sections()]:
        title = section or "above the sections"
        text = "" if not section else (kind.__doc__ or "").strip() + "\n\n"
        lines += [f"## {title}", "", f"{text}| key | default | |"]
        lines.append("|---|---|---|")
        lines += [
            f"| `{item.place}` | `{item.default_text or 'none'}` | {item.text} |"
            for item in config.options()
            if item.section == section
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Replaces what stands behind the mark."""
    head = re.split(re.escape(MARK), TARGET.read_text())[0]
    TARGET.write_text(f"{head}{MARK}\n\n{table()}")


if __name__ == "__main__":
    main()
