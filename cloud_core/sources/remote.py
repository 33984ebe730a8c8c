"""Talking to servers: keys, retries with back-off, rate limits, errors that leak nothing."""

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import httpx
from pydantic import Field
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from cloud_core.config import ConfigSection
from cloud_core.sources.record import SourceError

SecretLookup = Callable[[str], str | None]
BUSY = (408, 425, 429, 500, 502, 503, 504)
T = TypeVar("T")


class ServerBusyError(SourceError):
    """The server fails (5xx, 429, no answer); again or later, or a smaller request, may pass.

    `retry_after`: how long it asks to wait, s.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(SourceError):
    """The server answered that the request is wrong (4xx); asking again would not help."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Politeness(ConfigSection):
    """How a server is asked: how often, how long, how many times."""

    requests_per_second: Annotated[float, Field(gt=0)] = Field(default=5.0, description="1/s, at most")
    attempts: Annotated[int, Field(ge=1)] = Field(
        default=6, description="tries of a request before giving up"
    )
    backoff_s: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="wait after the first failure, s; doubles"
    )
    max_wait_s: Annotated[float, Field(gt=0)] = Field(default=60.0, description="longest single wait, s")
    timeout_s: Annotated[float, Field(gt=0)] = Field(default=60.0, description="time limit of one request, s")


def from_environment(name: str) -> str | None:
    """The secret that an environment variable holds."""
    return os.environ.get(name) or None


def redacted(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets: for messages that another library wrote."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text


class RateLimit:
    """Keeps requests to one server apart and repeats the ones that failed for a passing reason."""

    def __init__(self, politeness: Politeness, sleep: Callable[[float], None] = time.sleep) -> None:
        self.politeness = politeness
        self._sleep = sleep
        self._next = 0.0

    def wait(self) -> None:
        """Until the rate limit permits the next request."""
        now = time.monotonic()
        if now < self._next:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + 1.0 / self.politeness.requests_per_second

    def retrying(self, call: Callable[[], T]) -> T:
        """`call()`, again after each ServerBusyError, waiting longer each time, or as long as it says.

        Raises:
            ServerBusyError: what the last of all attempts raised, with their number.
        """
        return Retrying(
            stop=stop_after_attempt(self.politeness.attempts),
            retry=retry_if_exception_type(ServerBusyError),
            before=lambda _: self.wait(),
            wait=self._back_off,
            sleep=self._sleep,
            retry_error_callback=_give_up,
        )(call)

    def _back_off(self, state: RetryCallState) -> float:
        """Seconds to wait after a failure."""
        error = state.outcome.exception() if state.outcome else None
        doubling = wait_exponential(self.politeness.backoff_s)(state) * random.uniform(0.75, 1.25)
        return min(max(doubling, getattr(error, "retry_after", 0.0)), self.politeness.max_wait_s)


def _give_up(state: RetryCallState) -> NoReturn:
    error = state.outcome.exception() if state.outcome else None
    tries = f", {state.attempt_number} times" if state.attempt_number > 1 else ""
    raise ServerBusyError(f"{error}{tries}; try again later") from error


@contextmanager
def asking(url: str, failed: str = "no answer") -> Iterator[None]:
    """Turn what httpx raises into a ServerBusyError, or a SourceError for what is no address."""
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise SourceError(f"{url}: not an address ({error})") from error
    except httpx.TransportError as error:
        raise ServerBusyError(f"{url}: {failed} ({type(error).__name__})") from error


def raise_if_busy(url: str, answer: httpx.Response) -> None:
    """Raise ServerBusyError for a status that may pass."""
    if answer.status_code in BUSY:
        wait = answer.headers.get("retry-after", "")
        seconds = float(wait) if wait.replace(".", "", 1).isdigit() else 0.0
        raise ServerBusyError(f"{url}: HTTP {answer.status_code}", seconds)


class JsonClient:
    """GET requests whose answer is a JSON object."""

    def __init__(self, politeness: Politeness) -> None:
        self.rate_limit = RateLimit(politeness)
        self._client = httpx.Client(
            timeout=politeness.timeout_s,
            follow_redirects=True,
            headers={"accept": "application/json", "user-agent": "cloud-pipeline"},
        )

    def get(self, url: str) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            ServerBusyError: no good answer through all attempts.
            RefusedError: the server refuses the request (4xx).
            SourceError: the answer is not a JSON object, e.g. an HTML page.
        """
        return self.rate_limit.retrying(lambda: self._get(url))

    def _get(self, url: str) -> dict[str, Any]:
        with asking(url):
            response = self._client.get(url)
        raise_if_busy(url, response)
        if response.status_code >= 400:
            detail = " ".join(response.text.split())[:300]
            message = f"{url}: HTTP {response.status_code} ({detail})"
            raise RefusedError(f"{message}; check the address, the filter and the key", response.status_code)
        try:
            answer = response.json()
        except (ValueError, RecursionError) as error:
            kind = response.headers.get("content-type", "unknown type").partition(";")[0]
            raise SourceError(f"{url}: the answer is {kind}, not JSON; check the address") from error
        if not isinstance(answer, dict):
            raise SourceError(f"{url}: the answer is not a JSON object; check the address")
        return answer

    def close(self) -> None:
        self._client.close()
