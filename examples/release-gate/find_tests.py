"""Output the test files of a project, as a list of paths."""

import json
import os
import sys
from pathlib import Path

files = sorted(Path(sys.argv[1], "tests").glob("test_*.py"))
if not files:
    sys.exit(f"no test files in {sys.argv[1]}/tests")
Path(os.environ["SKEP_OUTPUT"]).write_text(json.dumps([str(file) for file in files]))
