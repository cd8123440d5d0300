"""Secrets decide no branch and no address, as Memcheck sees it on the paths it can run."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CRATE = Path(__file__).parents[3] / "native"
SECRET = {
    "encrypt",
    "encrypt_with_factors",
    "encrypt_with_r",
    "rerandomise",
    "holder encrypt",
    "decrypt",
}
CONTROLS = {"scalar_mul", "branch on a bit", "table look-up"}


@pytest.mark.slow
def test_memcheck_finds_the_planted_leaks_and_no_others() -> None:
    for tool, package in (("valgrind", "valgrind"), ("cargo", "Rust")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing; install {package}")
    target = Path(os.environ.get("CARGO_TARGET_DIR", CRATE / "target")) / "memcheck"
    build = "cargo build --release --offline --locked --features memcheck --example constant_time"
    subprocess.run(
        [*build.split(), "--target-dir", str(target)], cwd=CRATE, check=True, capture_output=True
    )
    program = target / "release" / "examples" / "constant_time"
    result = subprocess.run(
        ["valgrind", "--quiet", str(program), "memcheck"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    found = re.findall(r"^ok +memcheck (\w+) (.+) \((\w+)\): (.*)$", result.stdout, re.MULTILINE)
    paths = {path for path, *_ in found}
    assert "portable" in paths
    for path in paths:
        rows = {name: (kind, leak) for at, name, kind, leak in found if at == path}
        assert rows.keys() == SECRET | CONTROLS
        assert all(rows[name] == ("constant", "nothing") for name in SECRET)
        assert all(re.fullmatch(r"\d+ reports", rows[name][1]) for name in CONTROLS)
