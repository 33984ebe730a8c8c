"""A part of a source, to try things out: the first records, or some at random."""

import random
from collections.abc import Iterator
from itertools import islice

from cloud_core.sources.record import Listing, Partition, Record, Since, Source, short_hash


class Part:
    """The first `limit` records of a source, or `sample` of them at random (seed 0), as one partition.

    A sample reads the whole source once and holds so many records in memory (Vitter's algorithm R).
    """

    def __init__(self, source: Source, limit: int | None, sample: int | None) -> None:
        self.source = source
        self.name, self.licence = source.name, source.licence
        self.limit, self.sample = limit, sample

    def passed_over(self) -> list[str]:
        return self.source.passed_over() if isinstance(self.source, Listing) else []

    def partitions(self, since: Since = None) -> Iterator[Partition]:
        cursors = [partition.cursor for partition in self.source.partitions()]
        yield Partition("part", short_hash([self.limit, self.sample, *cursors]), self.limit or self.sample)

    def read(self, partition: Partition) -> Iterator[Record]:
        records = (record for each in self.source.partitions() for record in self.source.read(each))
        if self.sample is None:
            yield from islice(records, self.limit)
            return
        kept = list(islice(records, self.sample))
        draw = random.Random(0)
        for number, record in enumerate(records, self.sample):
            place = draw.randint(0, number)
            if place < self.sample:
                kept[place] = record
        yield from kept
