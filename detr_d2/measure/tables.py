"""Tables for people, as Markdown and as HTML."""

from collections.abc import Sequence

from tabulate import tabulate


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown, its columns aligned; a "|" within a text becomes a "/"."""
    header, *rows = [[text.replace("|", "/") for text in line] for line in (header, *rows)]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML, its texts escaped."""
    return str(tabulate(rows, header, tablefmt="html", disable_numparse=True))
