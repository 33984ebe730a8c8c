"""Where tables lie, and what each of the two storage clients needs to know to get there."""

import os
from typing import Self

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from pydantic import Field

from cloud_core.config import ConfigSection

S3 = ("s3://", "s3a://")


class Storage(ConfigSection):
    """Options of an object store. Keys are never in here: they come from the environment or the machine.

    A local folder needs none of it. `Storage.from_environment()` is what every function here uses when it is
    given no storage.
    """

    endpoint_url: str | None = Field(
        default=None, description="S3 address other than Amazon's, e.g. http://minio:9000"
    )
    region: str | None = Field(default=None, description="S3 region; default: AWS_REGION or us-east-1")
    allow_http: bool | None = Field(
        default=None, description="permit plain HTTP; default: what the endpoint's address says"
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Read AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, and AWS_REGION or AWS_DEFAULT_REGION."""
        return cls(
            endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None,
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None,
        )

    def for_delta(self, uri: str) -> dict[str, str]:
        """`storage_options` of deltalake.

        On S3 a commit is a conditional put (`If-None-Match`), which Amazon, MinIO, Ceph and R2 know; a store
        that ignores the condition would let two writers make the same version.
        """
        if not uri.startswith(S3):
            return {}
        options = {
            "aws_conditional_put": "etag",
            "AWS_REGION": self.region or "us-east-1",
            # deltalake's default is ten retries over three minutes: too long to learn of a wrong key
            "max_retries": "4",
            "retry_timeout": "30s",
        }
        if self.endpoint_url:
            http = self.endpoint_url.startswith("http://") if self.allow_http is None else self.allow_http
            options |= {"AWS_ENDPOINT_URL": self.endpoint_url, "AWS_ALLOW_HTTP": str(http).lower()}
        return options

    def for_fsspec(self, uri: str) -> dict[str, object]:
        """Keyword arguments of fsspec's file system for `uri`."""
        if not uri.startswith(S3):
            return {}
        client = {"region_name": self.region or "us-east-1"}
        options: dict[str, object] = {"client_kwargs": client}
        return options | ({"endpoint_url": self.endpoint_url} if self.endpoint_url else {})

    def file_system(self, uri: str) -> tuple[AbstractFileSystem, str]:
        """fsspec's file system of a table, and the table's path in it without a slash at its end."""
        fs, path = url_to_fs(uri, **self.for_fsspec(uri))
        return fs, path.rstrip("/")
