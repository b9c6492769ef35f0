"""Facts under a title, as a table on standard output."""

from collections.abc import Mapping


def facts(title: str, rows: Mapping[str, str]) -> None:
    """Two columns: what, and its value."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    Console(highlight=False).print(table)
