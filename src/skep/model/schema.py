"""The JSON Schema of a workflow file, made from the tables of keys, so that editors complete and check.

`skep schema` prints it; `python -m skep.model.schema > examples/workflow.schema.json` renews the copy for the examples.
"""

from __future__ import annotations

import json
from typing import Any, Final

from skep.model.keys import EXECUTORS, INLINE, TASK, TASK_NAME, WORKFLOW

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of what `skep.model.authoring.build_workflow` takes: draft 2020-12.

    What it refuses is refused there too; the spelling of durations and sizes, and the graph, are checked only there.
    """
    task = {"$ref": "#/$defs/task"}
    return {
        "$schema": DIALECT,
        "title": "Skep workflow",
        "description": "A named graph of tasks, its inputs and defaults.",
        **WORKFLOW.schema(),
        "$defs": {
            "tasks": {
                "anyOf": [
                    {"type": "object", "propertyNames": TASK_NAME.schema, "additionalProperties": task, "minProperties": 1},
                    {"type": "array", "items": {"allOf": [task, _either("name", "task_id")]}, "minItems": 1},
                ]
            },
            "task": {**TASK.schema(), **_either(*EXECUTORS)},
            "inline": {**INLINE.schema(), "description": "A workflow written out: `name` is that of the task by default."},
        },
    }


def schema_text() -> str:
    """The schema as a file has it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _either(*keys: str) -> dict[str, Any]:
    return {"oneOf": [{"required": [key]} for key in keys]}


if __name__ == "__main__":
    print(schema_text(), end="")
