"""The instance that shell, web server and daemon share."""

import multiprocessing
import os
import sqlite3
from pathlib import Path
from typing import Any

from acie_pipelines.runs import open_instance

PROCESSES = 4


def _open(folder: Path, barrier: Any, said: Any) -> None:
    os.environ["DAGSTER_HOME"] = str(folder)
    barrier.wait()
    try:
        with open_instance() as instance:
            said.put(len(instance.get_runs()))
    except Exception as error:
        said.put(repr(error))


def test_processes_that_first_open_an_empty_home_together_leave_one_schema(home: Path) -> None:
    folder = home / "dagster_home"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["acie_pipelines.runs"])
    barrier, said = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=_open, args=(folder, barrier, said)) for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    assert [said.get(timeout=400) for _ in processes] == [0] * PROCESSES
    for process in processes:
        process.join()
    databases = list(folder.rglob("*.db"))
    assert len(databases) == 3
    for path in databases:
        connection = sqlite3.connect(path)
        [_] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        connection.close()
