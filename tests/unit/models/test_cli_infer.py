"""`acie infer` from the shell."""

from pathlib import Path

from typer.testing import CliRunner

from acie_pipelines.cli import app
from acie_pipelines.errors import ConfigurationError, FormatMismatchError


def test_mistakes_are_found_before_the_model_is_loaded(galaxies_file: Path) -> None:
    runner = CliRunner()
    asked = ["infer", "--observation", str(galaxies_file), "--model", "none", "--do"]
    assert isinstance(runner.invoke(app, [*asked, "luck*=2"]).exception, ConfigurationError)
    asked[2] = __file__
    assert isinstance(runner.invoke(app, [*asked, "sfr*=2"]).exception, FormatMismatchError)
