"""Write what every gate said as Markdown to the file named; output the counts."""

import json
import os
import re
import sys
from pathlib import Path

REPORT = """\
# {wheel}

| gate | result |
|---|---|
| lint | {lint} |
| types | {types} |
{tests}

{passed} tests passed in {files} files. The installed program prints:

```text
{smoke}
```
"""


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def main() -> None:
    path = Path(sys.argv[1])
    files = json.loads(os.environ["FILES"])
    summaries = [last_line(output) for output in json.loads(os.environ["TESTS"])]
    counts = {
        "wheel": Path(os.environ["WHEEL"]).name,
        "files": len(files),
        "passed": sum(int(number) for summary in summaries for number in re.findall(r"(\d+) passed", summary)),
    }
    text = REPORT.format(
        **counts,
        lint=last_line(os.environ["LINT"]),
        types=last_line(os.environ["TYPES"]),
        tests="\n".join(f"| {Path(file).name} | {summary} |" for file, summary in zip(files, summaries, strict=True)),
        smoke=os.environ["SMOKE"].rstrip(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    Path(os.environ["SKEP_OUTPUT"]).write_text(json.dumps({**counts, "report": str(path)}))


main()
