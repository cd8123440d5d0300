"""Builds acie_native for a sanitiser and runs it: ``run.py address`` or ``run.py memcheck``.

AddressSanitizer sees every path of this processor and takes the tests of acie_native; Memcheck
also sees what is read before it is written, but has no AVX-512 and takes a fixed list of calls.

Belongs here: compilers, flags and environments of the two. Does not belong here: the calls
(every_function.py) and the build that is installed (native/acie_build.py).
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CRATE = ROOT / "native"
CALLS = str(HERE / "every_function.py")
# Starts compilers and Valgrind, which the preloaded library would break.
NOT_IN_PROCESS = ROOT / "tests" / "unit" / "native" / "test_constant_time.py"
MEMCHECK_FAILED = 9


def main(sanitiser: str) -> None:
    """Build, run, and make sure that a planted error is seen."""
    target = CRATE / "target" / "sanitize" / sanitiser
    if sanitiser == "address":
        require("rustup run nightly rustc --version", "rustup toolchain install nightly")
        host = output("rustup run nightly rustc --print host-tuple")
        # The C compiler's run-time library serves both compilers' instrumented code.
        asan = output("gcc -print-file-name=libasan.so")
        extension(
            target,
            ["rustup", "run", "nightly", "cargo", "build", "--target", host],
            target / host / "release",
            {"RUSTFLAGS": "-Zsanitizer=address"},
            ["-fsanitize=address"],
        )
        # CPython keeps what it allocates at start.
        environment = {"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0"}
        program = [sys.executable]
        tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/native"]
        jobs = [[CALLS], [*tests, "--ignore", str(NOT_IN_PROCESS)]]
        report = "heap-buffer-overflow"
    else:
        require("valgrind --version", "install valgrind")
        # The feature offers the path adx, whose instructions Valgrind runs but does not list.
        extension(target, ["cargo", "build", "--features", "memcheck"], target / "release", {}, [])
        environment = {}
        program = [
            "valgrind",
            "--quiet",
            f"--error-exitcode={MEMCHECK_FAILED}",
            f"--suppressions={HERE / 'memcheck.supp'}",
            sys.executable,
        ]
        jobs = [[CALLS]]
        report = "Invalid read"
    # Python's own allocator would hide the ends of small blocks.
    environment |= {"PYTHONMALLOC": "malloc", "PYTHONPATH": f"{target}:{ROOT}"}
    environment = os.environ | environment
    for job in jobs:
        subprocess.run([*program, *job], cwd=ROOT, env=environment, check=True)
    control = subprocess.run(
        [*program, CALLS, "control"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if control.returncode == 0 or report not in control.stderr:
        raise SystemExit(f"error: the planted error was missed\n{control.stderr}")
    sys.stdout.write(f"ok {sanitiser}; the planted error was reported\n")


def extension(
    target: Path, cargo: list[str], library: Path, variables: dict[str, str], flags: list[str]
) -> None:
    """Make a copy of the package whose extension is compiled by the given command and flags."""
    package = target / "acie_native"
    package.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [*cargo, "--release", "--offline", "--locked", "--target-dir", str(target)],
        cwd=CRATE,
        env=os.environ | variables,
        check=True,
    )
    for source in (CRATE / "acie_native").glob("*.py"):
        shutil.copy(source, package)
    bridge = target / "_kernels.c"
    cython = [sys.executable, "-m", "cython", "-3", "acie_native/_kernels.pyx", "-o", str(bridge)]
    subprocess.run(cython, cwd=CRATE, check=True)
    compiler = ["gcc", "-shared", "-fPIC", "-O1", "-g", *flags, f"-I{CRATE / 'include'}"]
    compiler += [f"-I{sysconfig.get_path('include')}", str(bridge)]
    compiler += [str(library / "libacie_kernels.a"), "-o"]
    compiler += [str(package / f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}")]
    subprocess.run(compiler, check=True)


def require(command: str, remedy: str) -> None:
    """Stop with one line if a command does not run."""
    program = command.split()
    if shutil.which(program[0]) is None or subprocess.run(program, capture_output=True).returncode:
        raise SystemExit(f"error: `{command}` does not run; {remedy}")


def output(command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(
        command.split(), check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    if sys.argv[1:] not in (["address"], ["memcheck"]):
        raise SystemExit("usage: run.py address | memcheck")
    main(sys.argv[1])
