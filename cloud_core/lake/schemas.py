"""Columns of the tables."""

import pyarrow as pa

ENCODED = "encoded"
QUARANTINED = "quarantined"
WITHDRAWN = "withdrawn"
STATUSES = (ENCODED, QUARANTINED, WITHDRAWN)

_TIME = pa.timestamp("us", tz="UTC")

STRUCTURES = pa.schema(
    [
        pa.field("structure_id", pa.string(), nullable=False),  # source:native id
        pa.field("source", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("status", pa.string(), nullable=False),  # partition column
        pa.field("canonical", pa.string()),
        pa.field("resolved", pa.string()),
        pa.field("element_key", pa.string()),
        pa.field("official", pa.string()),
        pa.field("full", pa.string()),
        pa.field("space_group", pa.int32()),
        pa.field("space_group_official", pa.int32()),
        pa.field("wyckoff", pa.list_(pa.string())),
        pa.field("elements", pa.list_(pa.string())),
        pa.field("fractions", pa.list_(pa.float64())),
        pa.field("n_sites", pa.int32()),
        pa.field("n_atoms_primitive", pa.float64()),  # disordered sites count by their occupancy
        pa.field("n_atoms_conventional", pa.float64()),
        pa.field("flags", pa.list_(pa.string())),
        pa.field("content_hash", pa.string()),  # of the payload alone
        pa.field("fingerprint", pa.string()),  # of the encoder and its settings
        pa.field("encoder_version", pa.int32()),  # null in rows that were written before it had a column: 1
        pa.field("request", pa.string()),  # the fingerprint asked for; a replay may use other tolerances
        pa.field("symprec", pa.float64()),  # Å
        pa.field("angle_tolerance", pa.float64()),  # degrees
        pa.field("labels", pa.map_(pa.string(), pa.float64())),
        pa.field("label_units", pa.map_(pa.string(), pa.string())),
        pa.field("reason", pa.string()),  # of a quarantined row: its code, and a message
        pa.field("message", pa.string()),
        pa.field("payload", pa.string()),  # kept for quarantined rows, so that they can be replayed
        pa.field("payload_format", pa.string()),
        pa.field("modified_at", _TIME),
        pa.field("encoded_at", _TIME),
        pa.field("chunk_key", pa.string()),  # the commit that wrote the row
        pa.field("revision", pa.int32()),  # of two rows with one id, the higher one is current
    ]
)

# What says how a row came into the table, not what it is: left out of a table's content hash.
# (The encoder's version is part of the fingerprint.)
PROVENANCE = ("modified_at", "encoded_at", "chunk_key", "revision", "encoder_version")
# Raised with every change of the columns; is in the table's description.
SCHEMA_VERSION = 2
DESCRIPTION = f"structures and their SCOPE strings, schema version {SCHEMA_VERSION}"
# Columns that tables written by earlier versions lack: null there, and added by the next commit.
LATER_COLUMNS = ("encoder_version", "resolved")
