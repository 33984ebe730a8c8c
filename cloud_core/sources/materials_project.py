"""The Materials Project (https://materialsproject.org), through its own client, mp-api."""

import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
from pydantic import Field, model_validator

from cloud_core.sources.download import cache_folder
from cloud_core.sources.properties import Label, label_columns, labels_of
from cloud_core.sources.record import (
    Partition,
    Record,
    Refusal,
    Since,
    SourceError,
    short_hash,
    since_of,
)
from cloud_core.sources.remote import (
    BUSY,
    JsonClient,
    Politeness,
    RateLimit,
    SecretLookup,
    ServerBusyError,
    from_environment,
    redacted,
)
from cloud_core.sources.spec import SourceSpec
from cloud_core.sources.tables import timestamp

KEY = "MP_API_KEY"
_GNOME = "gnome_r2scan_statics"
PUBLIC = "https://api.materialsproject.org"
_PARTITION = "summary"
_LICENCES = {"BY-C": "CC-BY-4.0", "BY-NC": "CC-BY-NC-4.0"}  # builder_meta.license
_IDS_PER_PAGE = 1000  # of the listing; the service gives no more at once
T = TypeVar("T")


class MaterialsProjectSpec(SourceSpec):
    """Materials of the Materials Project, all of them or those of a query."""

    kind: Literal["materials_project"] = "materials_project"
    licence: str = Field("CC-BY-4.0", description="where a document does not state its own")
    query: dict[str, Any] = Field(
        {},
        description="arguments of MPRester.materials.summary.search, e.g. elements: [Ti, O], is_stable: true",
    )
    labels: dict[str, Label] = Field(
        {}, description="label name -> field of the document (`a.b` for nested) and unit"
    )
    bulk: bool = Field(
        False,
        description="the whole database, from the project's open-data store instead of by requests",
    )
    include_gnome: bool = Field(False, description="GNoME's materials too, which are licensed CC-BY-NC")
    ids_per_request: Annotated[int, Field(ge=1, le=10_000)] = Field(
        500,
        description="materials asked for at once; an address with more than some 600 is too long",
    )
    endpoint: str = Field("", description="address of the API; default: the public one")
    politeness: Politeness = Politeness()

    @model_validator(mode="after")
    def _bulk_is_everything(self) -> Self:
        if self.bulk and self.query:
            raise ValueError("`bulk` is the whole database; leave `query` out, or `bulk`")
        return self

    def open(self, secrets: SecretLookup = from_environment) -> "MaterialsProjectSource":
        return MaterialsProjectSource(self, secrets)


class MaterialsProjectSource:
    """A feed of one partition.

    The database has versions: an unchanged one costs the request that tells it. Under a new version the
    ids are listed with the time of their last update, and the documents of those that changed are read,
    `ids_per_request` at a time. Deprecated materials are not listed, and so count as withdrawn.
    """

    def __init__(self, spec: MaterialsProjectSpec, secrets: SecretLookup) -> None:
        self.spec = spec
        self.name = spec.name or "mp"
        self.licence = spec.licence
        self._secrets = secrets
        self._endpoint = (spec.endpoint or os.environ.get("MP_API_ENDPOINT") or PUBLIC).rstrip("/")
        self._rate_limit = RateLimit(spec.politeness)
        self._client: Any = None
        self._bulk_version = ""
        self._listings: dict[str, list[tuple[str, datetime | None]]] = {}

    def partitions(self, since: Since = None) -> Iterator[Partition]:
        """One small request, without mp-api. Raises SourceError: no answer, or none of this service."""
        with closing(JsonClient(self.spec.politeness)) as client:
            version = client.get(f"{self._endpoint}/heartbeat").get("db_version")
        if not version:
            raise SourceError(f"{self._endpoint}: the heartbeat tells no db_version; check the address")
        moment = since_of(since, _PARTITION)
        at = {"version": version, "since": moment.isoformat() if moment else None, "total": None}
        yield Partition(_PARTITION, short_hash([self.spec.digest(), version]), None, at)

    def read(self, partition: Partition) -> Iterator[Record]:
        since = datetime.fromisoformat(partition.at["since"]) if partition.at["since"] else None
        if self.spec.bulk:
            yield from self._bulk(partition.at["version"], since)
            return
        wanted = [
            identifier
            for identifier, updated in self._listing(partition.at["version"])
            if since is None or updated is None or updated >= since
        ]
        fields = self._fields()
        for start in range(0, len(wanted), self.spec.ids_per_request):
            chunk = wanted[start : start + self.spec.ids_per_request]
            found = self._search(fields, len(chunk), material_ids=chunk)
            documents = {str(document["material_id"]): document for document in found}
            for identifier in chunk:
                yield self._record(identifier, documents.get(identifier))

    def ids(self, partition: Partition) -> Iterator[str]:
        """Ids of all materials of the query; the listing that `read` made, if it did."""
        for identifier, _ in self._listing(partition.at["version"]):
            yield identifier

    def _fields(self) -> list[str]:
        labels = {column.split(".")[0] for column in label_columns(self.spec.labels)}
        return sorted({"material_id", "structure", "last_updated", "builder_meta"} | labels)

    # -- the open-data store

    def _bulk(self, version: str, since: datetime | None) -> Iterator[Record]:
        condition = self._bulk_condition()
        if since is not None:
            condition &= ds.field("last_updated") >= pa.scalar(since, pa.timestamp("us", tz="UTC"))
        rows = self._dataset(version)
        for batch in rows.to_batches(columns=self._fields(), filter=condition, batch_size=512):
            for document in batch.to_pylist(maps_as_pydicts="strict"):
                yield self._record(str(document["material_id"]), document)

    def _bulk_condition(self) -> ds.Expression:
        condition = ~ds.field("deprecated")
        if not self.spec.include_gnome:
            batch = ds.field("builder_meta", "batch_id")
            condition &= batch.is_null() | (batch != _GNOME)
        return condition

    def _dataset(self, version: str) -> ds.Dataset:
        """mp-api's copy of the database's files, one folder a version."""
        if self._bulk_version != version:
            self._bulk_version, self._client = version, None
        return self._ask(lambda client: client.materials.summary.search().pyarrow_dataset)

    # -- the service

    def _listing(self, version: str) -> list[tuple[str, datetime | None]]:
        """(id, last update) of every material of the query, sorted by id."""
        if version not in self._listings:
            fields = ["material_id", "last_updated"]
            documents: Iterable[dict[str, Any]] = self._pages(fields)
            if self.spec.bulk:
                table = self._dataset(version).to_table(columns=fields, filter=self._bulk_condition())
                documents = table.to_pylist()
            found = {str(document["material_id"]): _updated(document) for document in documents}
            self._listings = {version: sorted(found.items())}
        return self._listings[version]

    def _pages(self, fields: list[str]) -> Iterator[dict[str, Any]]:
        query = {"deprecated": False, "include_gnome": self.spec.include_gnome} | self.spec.query
        for page in count(1):
            documents = self._search(fields, _IDS_PER_PAGE, **query, _page=page, _sort_fields="material_id")
            yield from documents
            if len(documents) < _IDS_PER_PAGE:
                return

    def _search(self, fields: list[str], size: int, **query: Any) -> list[dict[str, Any]]:
        """One request, whose answer has at most `size` documents."""
        return self._ask(
            lambda client: client.materials.summary.search(
                **query, fields=fields, all_fields=False, chunk_size=size, num_chunks=1
            )
        )

    def _ask(self, call: Callable[[Any], T]) -> T:
        """`call(client)` with retries; what mp-api raises becomes a SourceError without the key in it."""
        key = self._secrets(KEY)
        if not key:
            raise SourceError(
                f"{self.name}: the Materials Project needs an API key (from "
                f"https://materialsproject.org/api); set {KEY}, or make the Prefect Secret block mp-api-key"
            )
        from deltalake.exceptions import DeltaError
        from mp_api.client.core import MPRestError
        from requests.exceptions import RequestException

        def attempt() -> T:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if self._client is None:
                        folder = cache_folder("materials_project", self._bulk_version)
                        self._client = _rester(key, self._endpoint, folder)
                    return call(self._client)
            except (MPRestError, RequestException, DeltaError, OSError, ValueError, KeyError) as error:
                message = " ".join(redacted(f"{type(error).__name__}: {error}", [key]).split())[:400]
            # raised here and not above, so that no chained exception carries the key
            found = re.search(r"status code (\d{3})", message)
            status = int(found[1]) if found else None
            if status in (401, 403):
                raise SourceError(f"{self.name}: the service refuses the key; check {KEY} ({message})")
            if status is not None and status not in BUSY:
                raise SourceError(f"{self.name}: the service refuses the request; check `query` ({message})")
            if "32 characters" in message:
                raise SourceError(
                    f"{self.name}: {KEY} is no key of the Materials Project: those have 32 characters"
                )
            raise ServerBusyError(f"{self.name}: {message}")

        return self._rate_limit.retrying(attempt)

    # -- records

    def _record(self, identifier: str, document: dict[str, Any] | None) -> Record:
        refusal: Refusal | None = None
        message = payload = ""
        document = document or {}
        structure = document.get("structure")
        if structure is None:
            refusal, message = Refusal.MISSING_STRUCTURE, "the service gave no structure for this id"
        else:
            try:
                payload = _text(structure)
            except (KeyError, TypeError, ValueError) as error:
                refusal = Refusal.MALFORMED_ROW
                message = f"a structure that is not pymatgen's ({type(error).__name__}: {error})"
        labels = labels_of(
            self.spec.labels, (_field(document, column) for column in label_columns(self.spec.labels))
        )
        if labels.problem:
            refusal, message = Refusal.BAD_LABEL, labels.problem
        licence = (document.get("builder_meta") or {}).get("license")
        return Record(
            identifier,
            "" if refusal else payload,
            "" if refusal else "pymatgen",
            self.name,
            _LICENCES.get(str(licence), self.licence),
            labels.values,
            labels.units,
            _updated(document),
            refusal,
            f"{identifier}: {message}" if refusal else labels.message,
        )


def _updated(document: dict[str, Any]) -> datetime | None:
    updated = document.get("last_updated")
    return timestamp(updated) if updated else None


def _field(document: dict[str, Any], column: str) -> Any:
    """A value of a document; `a.b` looks into nested objects."""
    value: Any = document
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _text(structure: Any) -> str:
    """A structure of a document (an object of pymatgen, or its dictionary) as JSON of what makes it, the same
    from the service and from the store. Raises KeyError, TypeError or ValueError."""
    values = structure if isinstance(structure, dict) else structure.as_dict()
    lattice = values["lattice"]
    matrix = [[float(number) for number in row] for row in lattice["matrix"]]
    periodic = [bool(along) for along in lattice.get("pbc") or (True, True, True)]
    sites = []
    for site in values["sites"]:
        species = [
            {key: one[key] for key in ("element", "oxidation_state", "spin") if one.get(key) is not None}
            | {"occu": float(one["occu"])}
            for one in site["species"]
        ]
        sites.append({"species": species, "abc": [float(number) for number in site["abc"]]})
    return json.dumps({"lattice": {"matrix": matrix, "pbc": periodic}, "sites": sites}, separators=(",", ":"))


def _rester(key: str, endpoint: str, folder: Path) -> Any:
    from mp_api.client import MPRester

    return MPRester(
        key,
        endpoint=endpoint,
        use_document_model=False,
        mute_progress_bars=True,
        local_dataset_cache=folder,
    )
