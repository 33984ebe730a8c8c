"""Structures of OPTIMADE providers (https://specification.optimade.org), several at once."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import Field, model_validator

from cloud_core.config import ConfigSection
from cloud_core.files import write_text
from cloud_core.sources.download import cache_folder
from cloud_core.sources.properties import Label, label_columns, labels_of
from cloud_core.sources.record import Partition, Record, Refusal, Since, SourceError, short_hash, since_of
from cloud_core.sources.remote import (
    JsonClient,
    Politeness,
    RefusedError,
    SecretLookup,
    ServerBusyError,
    from_environment,
)
from cloud_core.sources.spec import SourceSpec
from cloud_core.sources.tables import timestamp

_STRUCTURE_FIELDS = (
    "lattice_vectors",
    "cartesian_site_positions",
    "species",
    "species_at_sites",
    "nsites",
    "dimension_types",
    "structure_features",
    "last_modified",
)


class Provider(ConfigSection):
    """One OPTIMADE server."""

    name: Annotated[str, Field(pattern=r"^[\w+-][\w.+-]*$")] = Field(
        description="goes before its ids: `name/id`"
    )
    url: str = Field(description="base address, with or without /v1")
    filter: str = Field("", description="OPTIMADE filter, added to the source's own")
    licence: str = Field("", description="licence of its data; default: the source's")


class OptimadeSpec(SourceSpec):
    """Structures of OPTIMADE providers."""

    kind: Literal["optimade"] = "optimade"
    providers: list[Provider] = Field(min_length=1, description="servers; one that fails stops no other")
    filter: str = Field("", description='OPTIMADE filter, e.g. elements HAS "O" AND nelements<=4')
    labels: dict[str, Label] = Field({}, description="label name -> response field and unit")
    page_limit: Annotated[int, Field(ge=1, le=10_000)] = Field(100, description="structures a page, at first")
    check_count: bool = Field(True, description="fail where fewer structures came than the server announced")
    cache: str = Field("", description="folder of the paging state; default: runs/cache/optimade")
    politeness: Politeness = Politeness()

    @model_validator(mode="after")
    def _names_differ(self) -> "OptimadeSpec":
        names = [provider.name for provider in self.providers]
        if len(set(names)) < len(names):
            raise ValueError("two providers have one name")
        return self

    def open(self, secrets: SecretLookup = from_environment) -> "OptimadeSource":
        return OptimadeSource(self)


class OptimadeSource:
    """One partition a provider; a record's id is `provider/id`.

    Pages are kept on disk as they come, each with the address of the next (`links.next`), until the
    partition is read to its end: a reader that was killed goes on from the last whole page, and gives
    the same records in the same order.
    """

    def __init__(self, spec: OptimadeSpec) -> None:
        self.spec = spec
        self.name = spec.name or "optimade"
        self.licence = spec.licence
        self._providers = {provider.name: provider for provider in spec.providers}
        self._labels = label_columns(spec.labels)
        self._fields = ",".join([*_STRUCTURE_FIELDS, *self._labels])

    def partitions(self, since: Since = None) -> Iterator[Partition]:
        """One request a provider: how many structures there are and which was modified last.

        A provider that fails here still has its partition, and reading that raises the error, so that
        the others go on. One that does not tell `last_modified` is read whole each time.
        """
        for provider in self.spec.providers:
            filter = _both(self.spec.filter, provider.filter)
            try:
                count, newest = self._newest(provider, filter)
            except SourceError as error:
                failed = {"provider": provider.name, "error": str(error)}
                yield Partition(provider.name, f"unreachable {short_hash(str(error))}", None, failed)
                continue
            cursor = short_hash([self.spec.digest(), provider.url, filter, count, newest])
            moment = since_of(since, provider.name)
            if moment is not None and newest:
                text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                filter = _both(filter, f'last_modified >= "{text}"')
            state = short_hash([cursor, filter])
            at: dict[str, Any] = {"provider": provider.name, "filter": filter, "state": state, "total": count}
            if not newest:  # nothing tells whether it changed
                cursor = f"{cursor} {datetime.now(UTC).isoformat()}"
            yield Partition(provider.name, cursor, None if moment else count, at)

    def read(self, partition: Partition) -> Iterator[Record]:
        at = partition.at
        if "error" in at:
            raise SourceError(at["error"])
        provider = self._providers[at["provider"]]
        seen: set[str] = set()
        announced: int | None = None
        for page in self._pages(provider, at["filter"], at["state"]):
            announced = page["announced"] if announced is None else announced
            for entry in page["data"]:
                identifier = str(entry.get("id", ""))
                if identifier in seen:  # entries move between pages when the database changes meanwhile
                    continue
                seen.add(identifier)
                yield self._record(provider, identifier, entry)
        if self.spec.check_count and announced is not None and len(seen) < announced:
            self._spool(provider, at["state"]).discard()
            raise SourceError(
                f"{provider.url}: announced {announced} structures and gave {len(seen)}; it changed "
                "meanwhile (sync again) or counts wrongly (set check_count: false)"
            )

    def ids(self, partition: Partition) -> Iterator[str]:
        """Ids of all structures of a provider now."""
        provider = self._providers[partition.at["provider"]]
        filter = _both(self.spec.filter, provider.filter)
        with closing(JsonClient(self.spec.politeness)) as client:
            url: str | None = _query(provider.url, filter, "id", self.spec.page_limit)
            followed = _Followed(provider.url)
            while url:
                page, following = self._page(client, provider, url)
                url = followed.once(url, following)
                for entry in page["data"]:
                    yield f"{provider.name}/{entry['id']}"

    # -- paging

    def _newest(self, provider: Provider, filter: str) -> tuple[int | None, str | None]:
        """(number of structures, the latest `last_modified`), each None where the server does not say."""
        url = _query(provider.url, filter, "last_modified", 1)
        with closing(JsonClient(self.spec.politeness)) as client:
            is_sorted = True
            try:
                answer = client.get(f"{url}&sort=-last_modified")
            except RefusedError as error:
                if error.status not in (400, 422, 501):
                    raise
                is_sorted = False
                answer = client.get(url)  # sorting is optional in OPTIMADE
        data = _data(answer, provider.url)
        newest = (data[0].get("attributes") or {}).get("last_modified") if data and is_sorted else None
        return _announced(answer), newest

    def _pages(self, provider: Provider, filter: str, state: str) -> Iterator[dict[str, Any]]:
        spool = self._spool(provider, state)
        spool.discard_others()
        url: str | None = _query(provider.url, filter, self._fields, self.spec.page_limit)
        followed = _Followed(provider.url)
        for page in spool.pages():
            yield page
            url = followed.once(url, page["next"])
        with closing(JsonClient(self.spec.politeness)) as client:
            while url:
                page, following = self._page(client, provider, url)
                url = followed.once(url, following)
                spool.append(page, url)
                yield page

    def _page(self, client: JsonClient, provider: Provider, url: str) -> tuple[dict[str, Any], str | None]:
        """One page and the address of the next; pages are made smaller until the server manages."""
        while True:
            try:
                answer = client.get(url)
                break
            except ServerBusyError:
                smaller = _smaller(url)
                if smaller is None:
                    raise
                url = smaller
        data = _data(answer, provider.url)
        link = (answer.get("links") or {}).get("next")
        if isinstance(link, dict):
            link = link.get("href")
        if link and not data:
            raise SourceError(
                f"{provider.url}: an empty page that is not the last; report it to the provider"
            )
        return {"data": data, "announced": _announced(answer)}, _same_origin(link, url) if link else None

    def _spool(self, provider: Provider, state: str) -> "_Spool":
        root = Path(self.spec.cache) if self.spec.cache else cache_folder("optimade")
        return _Spool(root / provider.name / state)

    # -- records

    def _record(self, provider: Provider, identifier: str, entry: dict[str, Any]) -> Record:
        """The entry's structure as it is: whether it can be read is for the reader of OPTIMADE to say."""
        attributes = entry.get("attributes")
        attributes = attributes if isinstance(attributes, dict) else {}
        # without id and dates, so that the content of an unchanged structure stays the same
        structure = {name: attributes.get(name) for name in _STRUCTURE_FIELDS if name != "last_modified"}
        refusal: Refusal | None = None
        message = ""
        labels = labels_of(self.spec.labels, map(attributes.get, self._labels))
        modified_at = None
        if not identifier:
            refusal, message = Refusal.MISSING_ID, "an entry without an id"
        elif not any(structure[name] for name in ("lattice_vectors", "cartesian_site_positions")):
            refusal, message = Refusal.MISSING_STRUCTURE, "no lattice vectors and no site positions"
        elif labels.problem:
            refusal, message = Refusal.BAD_LABEL, labels.problem
        if modified := attributes.get("last_modified"):
            try:
                modified_at = timestamp(modified)
            except ValueError as error:
                refusal, message = Refusal.MALFORMED_ROW, f"last_modified: {error}"
        return Record(
            f"{provider.name}/{identifier}",
            json.dumps(structure, separators=(",", ":")),
            "optimade",
            self.name,
            provider.licence or self.licence,
            labels.values,
            labels.units,
            modified_at,
            refusal,
            f"{provider.name}/{identifier}: {message}" if refusal else labels.message,
        )


class _Followed:
    """Addresses of the pages of a listing: one that comes again would go on for ever."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._asked: set[str] = set()

    def once(self, asked: str | None, following: str | None) -> str | None:
        """`following`, the page after `asked`. Raises SourceError where it was asked before."""
        if asked:
            self._asked.add(asked)
        if following in self._asked:
            raise SourceError(
                f"{self._provider}: the link to the next page leads back to {following}, which was read; "
                "report it to the provider"
            )
        return following


class _Spool:
    """The pages of one listing on disk, and the address of the page after them; appended to atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pages(self) -> Iterator[dict[str, Any]]:
        """Each page, with the address of the one after it under `next`."""
        for index in range(self._count()):
            yield json.loads(self._file(index).read_bytes())

    def append(self, page: dict[str, Any], next_url: str | None) -> None:
        write_text(self._file(self._count()), json.dumps(page | {"next": next_url}))

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard_others(self) -> None:
        """What earlier listings of this provider left."""
        if self.folder.parent.is_dir():
            for other in self.folder.parent.iterdir():
                if other != self.folder:
                    shutil.rmtree(other, ignore_errors=True)

    def _count(self) -> int:
        return len(list(self.folder.glob("page-*.json")))

    def _file(self, index: int) -> Path:
        return self.folder / f"page-{index:08d}.json"


def _both(first: str, second: str) -> str:
    if first and second:
        return f"({first}) AND ({second})"
    return first or second


def _query(base: str, filter: str, fields: str, page_limit: int) -> str:
    base = base.rstrip("/")
    if not base.rpartition("/")[2].removeprefix("v").replace(".", "").isdigit():
        base += "/v1"
    parameters = {"page_limit": str(page_limit), "response_fields": fields, "response_format": "json"}
    if filter:
        parameters["filter"] = filter
    return f"{base}/structures?{urlencode(parameters)}"


def _smaller(url: str) -> str | None:
    """The same place in the listing with about half the page, or None where the page has one entry.

    Where the place is a page's number, it counts pages of the old size, and is counted anew.
    """
    parts = urlsplit(url)
    parameters = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    limit = int(parameters.get("page_limit", "1"))
    if limit <= 1:
        return None
    smaller = next(d for d in range(limit // 2, 0, -1) if limit % d == 0)
    if "page_number" in parameters:
        parameters["page_number"] = str((int(parameters["page_number"]) - 1) * (limit // smaller) + 1)
    parameters["page_limit"] = str(smaller)
    return urlunsplit(parts._replace(query=urlencode(parameters)))


def _same_origin(link: str, url: str) -> str:
    """`links.next`, on the host that was asked: servers behind a proxy name themselves by inner addresses.

    Some leave `response_fields` out of it, and then give entries without structures: it is asked again.
    """
    asked, given = urlsplit(url), urlsplit(link)
    fields = [pair for pair in parse_qsl(asked.query) if pair[0] == "response_fields"]
    query = given.query
    if fields and not any(name == "response_fields" for name, _ in parse_qsl(given.query)):
        query = "&".join(filter(None, (query, urlencode(fields))))
    return urlunsplit(given._replace(scheme=asked.scheme, netloc=asked.netloc, query=query))


def _announced(answer: dict[str, Any]) -> int | None:
    """How many structures the whole listing has, where the server says so."""
    count = answer.get("meta", {}).get("data_returned")
    return count if isinstance(count, int) else None


def _data(answer: dict[str, Any], url: str) -> list[dict[str, Any]]:
    data = answer.get("data")
    if not isinstance(data, list):
        raise SourceError(f"{url}: the answer has no list of data; is this an OPTIMADE server?")
    return [entry if isinstance(entry, dict) else {} for entry in data]
