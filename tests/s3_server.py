"""S3 on a local port: moto, a fake of it."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_server() -> Iterator[None]:
    """Start an empty one, which the whole process uses as S3."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        # Servers of one process share their buckets, also those of tests before this one.
        reset = urllib.request.Request(f"{url}/moto-api/reset", method="POST")  # noqa: S310 - ours
        urllib.request.urlopen(reset, timeout=60).close()  # noqa: S310
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", url)
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            s3fs.S3FileSystem.clear_instance_cache()
            yield
            s3fs.S3FileSystem.clear_instance_cache()
    finally:
        server.stop()
