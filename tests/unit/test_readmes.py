"""The Python of both READMEs runs as printed."""

import re
from pathlib import Path

import pytest

from acie_pipelines.crypto.keys import generate_keypair

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", ["README.md", "native/README.md"])
def test_snippets_run(path: str) -> None:
    text = (ROOT / path).read_text()
    snippets = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert snippets
    key = generate_keypair(2048)
    for snippet in snippets:
        # The primes are those of the reader's key.
        exec(compile(snippet, path, "exec"), {"p": key.p, "q": key.q})  # noqa: S102
