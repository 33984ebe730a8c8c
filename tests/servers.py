"""Helpers of tests that start servers: all on loopback, on ports chosen at run time."""

import socket
import subprocess
import time
from dataclasses import dataclass

import httpx
import pytest

# For tests whose kind another test covers on S3: there only among the slow ones.
local_first = pytest.mark.parametrize(
    "uri", ["local", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)


@dataclass(frozen=True)
class S3Server:
    """A local S3 server. `environment` is what a process needs to reach it."""

    endpoint: str
    bucket: str
    environment: dict[str, str]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], timeout_s: float = 60.0) -> None:
    """Return once `url` answers below 500; fail if the process ends or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"server of {url} ended with exit code {process.returncode}")
        try:
            if httpx.get(url, timeout=2.0).status_code < 500:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(f"{url} did not answer in {timeout_s} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
