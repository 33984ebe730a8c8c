"""What a person hands over, files and objects, encoded under the limits of `encode_many`.

Files are taken apart here, as text (of a CIF of several, gemmi tells which blocks hold atoms); each structure
is read and encoded in a child process, so that one that hangs, crashes or eats memory costs itself alone.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from cloud_core.scope.encoder import encode_cell
from cloud_core.scope.isolation import Encoded, Refused, encode_many
from cloud_core.scope.settings import EncoderSettings
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formats import read_quickly, split

TIMEOUT_S = 30.0
MEMORY_MB = 2048


@dataclass(frozen=True, slots=True)
class Part:
    """One structure of an input; a record of `encode_many`.

    place: of the input among those given. name: of the structure in it, "" for a single one.
    """

    place: int
    name: str
    payload: Any
    format: str | None

    @property
    def id(self) -> str:
        return f"{self.place}{self.name}"


def encode_inputs(
    inputs: Iterable[Any],
    settings: EncoderSettings,
    timeout_s: float = TIMEOUT_S,
    memory_mb: int = MEMORY_MB,
    one_in_this_process: bool = False,
) -> Iterator[tuple[int, str, Encoded | Refused]]:
    """(place of the input, name, outcome) of each structure of each input, in order.

    inputs: what `structures.read` takes. An input of which nothing can be read has one outcome. timeout_s,
    memory_mb: as of `encode_many`. one_in_this_process: encode one plain CIF that comes alone here, without
    limits, and start no child for it; for a person at a terminal.
    """
    parts = _parts(inputs)
    first = list(islice(parts, 2))
    if one_in_this_process and len(first) == 1 and isinstance(part := first[0], Part):
        cell = read_quickly(part.payload, part.format)
        if cell is not None:
            try:
                yield part.place, part.name, Encoded(part.id, encode_cell(cell, settings))
            except StructureError as error:
                yield part.place, part.name, Refused(part.id, error.reason, str(error))
            return
    # Inputs refused already keep their place among the outcomes of the others.
    waiting: deque[Part | tuple[int, Refused]] = deque()

    def records() -> Iterator[Part]:
        for part in chain(first, parts):
            waiting.append(part)
            if isinstance(part, Part):
                yield part

    for outcome in encode_many(records(), settings, timeout_s=timeout_s, memory_mb=memory_mb):
        yield from _refused_before(waiting)
        part = waiting.popleft()
        assert isinstance(part, Part)
        yield part.place, part.name, outcome
    yield from _refused_before(waiting)


def _parts(inputs: Iterable[Any]) -> Iterator[Part | tuple[int, Refused]]:
    for place, payload in enumerate(inputs):
        try:
            found = False
            for name, part, format in split(payload):
                found = True
                yield Part(place, name, part, format)
            if not found:
                raise StructureError(Reason.NO_ATOMS, "no structure in it")
        except StructureError as error:
            yield place, Refused(str(place), error.reason, str(error))


def _refused_before(
    waiting: "deque[Part | tuple[int, Refused]]",
) -> Iterator[tuple[int, str, Refused]]:
    while waiting and not isinstance(waiting[0], Part):
        place, refused = waiting.popleft()  # type: ignore[misc]
        yield place, "", refused
