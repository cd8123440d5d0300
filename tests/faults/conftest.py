"""Child processes that can be killed, watched by a reader that must always find whole data."""

import contextlib
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fault_stages

from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair
from acie_pipelines.errors import IntegrityError
from acie_pipelines.provenance import current_manifest, verify_outputs
from acie_pipelines.storage import Store


@pytest.fixture(scope="session")
def processes() -> Any:
    """A server that has the libraries loaded, so that a child starts within milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fault_stages", "zarr", "astropy.io.fits", "acie_native"])
    return context


@pytest.fixture(scope="session")
def private_key() -> PaillierPrivateKey:
    """A key pair of the least size that is allowed."""
    return generate_keypair(2048)


@pytest.fixture(scope="session")
def settings_for(
    tmp_path_factory: pytest.TempPathFactory, private_key: PaillierPrivateKey
) -> Callable[[str, str], fault_stages.Setting]:
    """Give each stage an observation that keeps it busy for some tenths of a second."""
    folder = tmp_path_factory.mktemp("sources")
    large, small = folder / "large.fits", folder / "small.fits"
    fault_stages.write_fits(large, seed=0, height=1100, width=1500)
    fault_stages.write_fits(small, seed=1, height=70, width=90)

    def make(stage: str, store_url: str) -> fault_stages.Setting:
        if stage == "encrypt":
            modulus = private_key.public_key.n
            return fault_stages.Setting(store_url, small, tile_size=64, modulus=modulus)
        return fault_stages.Setting(store_url, large)

    return make


class Runner:
    """Runs stages in children."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def start(
        self,
        stage: str,
        setting: fault_stages.Setting,
        code_version: str,
        file_limit: int | None = None,
    ) -> tuple[Any, Any]:
        """Start a stage; return once its work begins."""
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=fault_stages.child, args=(stage, setting, code_version, file_limit, there)
        )
        process.start()
        there.close()
        assert here.recv() == "started"
        return process, here

    def run(self, *arguments: Any, **options: Any) -> tuple[str, float]:
        """Run a stage to its end; return what it said and the seconds it took."""
        process, link = self.start(*arguments, **options)
        begin = time.perf_counter()
        said = link.recv()
        seconds = time.perf_counter() - begin
        process.join()
        link.close()
        return said, seconds

    def kill_after(self, delay: float, *arguments: Any) -> bool:
        """Start a stage and kill it with SIGKILL; whether it was still at work."""
        process, link = self.start(*arguments)
        time.sleep(delay)
        alive = process.is_alive()
        process.kill()
        process.join()
        link.close()
        return alive


@pytest.fixture
def runner(processes: Any) -> Runner:
    """Children that run a stage each."""
    return Runner(processes)


class Watcher:
    """Reads what is current over and over, and records everything but whole data."""

    def __init__(self, store: Store, kind: str, key: str) -> None:
        self._where = (store, kind, key)
        self.problems: list[str] = []
        self.verified = 0

    def poll(self) -> None:
        store, kind, key = self._where
        try:
            verify_outputs(store, current_manifest(store, kind, key))
            self.verified += 1
        except IntegrityError as error:
            self.problems.append(str(error))


@pytest.fixture
def watching() -> Callable[..., contextlib.AbstractContextManager[Watcher]]:
    """Watch a dataset during a block."""

    @contextlib.contextmanager
    def watch(store: Store, kind: str, key: str) -> Iterator[Watcher]:
        watcher = Watcher(store, kind, key)
        stop = threading.Event()

        def loop() -> None:
            while not stop.is_set():
                watcher.poll()
                # Leave the writer some of the machine.
                stop.wait(0.02)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield watcher
        finally:
            stop.set()
            thread.join()
            watcher.poll()

    return watch


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB of its own."""
    target = tmp_path / "disk"
    target.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(target)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {mounted.stderr.decode().strip()}")
    yield target
    subprocess.run(["umount", "--lazy", str(target)], check=True)
