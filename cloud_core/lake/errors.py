"""One error for everything that can go wrong with a table."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from deltalake.exceptions import DeltaError, TableNotFoundError

from cloud_core.errors import CloudError


class LakeError(CloudError):
    """A table that cannot be read or written. The message names the table and the remedy."""


# Regular expressions of what the stores say, and the remedy.
_REMEDIES = (
    (
        ("No space left", r"os error 28\b", "StorageFull"),
        "the disk is full: free some space, then run again; every committed chunk is kept",
    ),
    (
        (
            "PermissionDenied",
            "Permission denied",
            r"os error 13\b",
            "Read-only file system",
            r"os error 30\b",
        ),
        "the folder cannot be written: check its permissions",
    ),
    (
        (
            "InvalidAccessKeyId",
            "AccessDenied",
            r"\b40[13] (Unauthorized|Forbidden)",
            r"status:? ?(code )?40[13]\b",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "Forbidden",
        ),
        "the store refuses the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run again",
    ),
    (
        ("Object at location",),
        "a data file is gone: this version was vacuumed; read a newer one, and pin versions that are to last",
    ),
    (
        ("NoSuchBucket",),
        "the bucket does not exist: create it, or name another one",
    ),
    (
        ("error sending request", "Connection refused", "dns error", "timed out"),
        "the store does not answer: check its endpoint (AWS_ENDPOINT_URL) and the network, then run again",
    ),
)


def explained(uri: str, error: BaseException) -> LakeError:
    """`error` of the storage below as one line with a remedy."""
    if isinstance(error, TableNotFoundError):
        return LakeError(f"{uri}: there is no table here; check the path, or make it with `cloud encode`")
    text = " ".join(str(error).split())
    for signs, remedy in _REMEDIES:
        if any(re.search(sign, text) for sign in signs):
            return LakeError(f"{uri}: {remedy} ({text[:300]})")
    return LakeError(f"{uri}: {text[:500] or type(error).__name__}")


@contextmanager
def naming(uri: str) -> Iterator[None]:
    """Turn what the storage raises into a LakeError that names the table."""
    try:
        yield
    except (DeltaError, OSError) as error:
        raise explained(uri, error) from error
