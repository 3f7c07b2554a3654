"""`skep schema`."""

from __future__ import annotations

import typer

from skep.model.schema import schema_text

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def schema() -> None:
    """Print the JSON Schema of workflow files, for editors.

    Editors complete and check a file that names it in its first line: `# yaml-language-server: $schema=skep.schema.json`

    **Example**

    - `skep schema > skep.schema.json`
    """
    typer.echo(schema_text(), nl=False)
