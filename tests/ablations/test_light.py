"""Commands that only look at things answer without importing what takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from ablations.__main__ import main
try:
    status = main(sys.argv[1:])
except SystemExit as exit:
    status = exit.code
print("heavy:", *(name for name in ("torch", "torchvision", "optuna", "matplotlib") if name in sys.modules))
sys.exit(status)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["list"],
        ["list", "table2", "--whole"],
        ["list", "discrepancies"],
        ["status", "table2", "--data-root", "DATA", "--profile", "smoke"],
        ["status", "figure5a", "--data-root", "DATA", "--profile", "smoke"],
    ],
)
def test_listing_and_status_import_nothing_heavy(words: list[str], data_root: Path, tmp_path: Path) -> None:
    words = [str(data_root) if word == "DATA" else word for word in words]
    words += ["--store", str(tmp_path)] if words[0] == "status" else []
    found = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines()[-1] == "heavy:"
