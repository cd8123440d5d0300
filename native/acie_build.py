"""Build backend: setuptools, with the Rust crate compiled before the Cython extension.

Belongs here: how native code is compiled and linked at installation.
Does not belong here: package metadata (pyproject.toml) and run-time choices (isa.rs).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension
from setuptools.build_meta import *  # noqa: F403 - a backend on backend-path must offer every hook
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

CRATE = Path(__file__).resolve().parent
# Relative: setuptools refuses absolute paths in a source distribution.
CRATE_SOURCES = (
    "Cargo.toml",
    "Cargo.lock",
    "acie_build.py",
    "build.rs",
    "src/**/*.rs",
    "asm/*.S",
    "include/*.h",
)


class BuildNative(build_ext):
    """Compile the crate to a static library and link it into each extension."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension module."""
        library = compile_crate()
        ext.extra_objects = [str(library)]
        ext.include_dirs = [str(CRATE / "include")]
        if sys.platform == "linux":
            # The static library carries the symbols of Rust's standard library.
            ext.extra_link_args = ["-Wl,--gc-sections", "-s"]
        ext.depends = [*ext.depends, str(library), str(CRATE / "include" / "acie_kernels.h")]
        super().build_extension(ext)

    def get_source_files(self) -> list[str]:
        """List what a source distribution needs besides the Cython source."""
        crate = [
            Path("native", path.relative_to(CRATE)).as_posix()
            for pattern in CRATE_SOURCES
            for path in sorted(CRATE.glob(pattern))
        ]
        return [*super().get_source_files(), *crate]


def compile_crate() -> Path:
    """Compile the crate without network access and return its static library."""
    require("cargo", "install Rust from https://rustup.rs")
    require(os.environ.get("CC", "gcc").split()[0], "run `apt install gcc`")
    target = Path(os.environ.get("CARGO_TARGET_DIR", CRATE / "target"))
    command = ["cargo", "build", "--release", "--offline", "--locked", "--target-dir", str(target)]
    result = subprocess.run(command, cwd=CRATE, check=False)  # noqa: S603
    if result.returncode != 0:
        raise SetupError(f"`{' '.join(command)}` failed in {CRATE}; its messages are above")
    return target / "release" / "libacie_kernels.a"


def require(tool: str, remedy: str) -> None:
    """Stop with one line if a tool is missing."""
    if shutil.which(tool) is None:
        raise SetupError(f"{tool} is needed to compile acie_native: {remedy}")
