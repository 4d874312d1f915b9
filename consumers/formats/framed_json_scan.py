"""Reads batches of JSON with a JSON Schema to columns: the schema is checked record by record, the rest is `fastjson`.

Importing this module imports numba.
"""

import numpy as np

from headrace.consumers.fastjson.scan import Scan, Scanner
from headrace.consumers.formats.batch_frames import frames
from headrace.consumers.formats.format_decoder import FormatDecoder
from headrace.consumers.formats.json_schema import JsonSchemaReader
from headrace.consumers.record_batch import RecordBatch


class FramedJsonScanner:
    """Read batches as `decoder` does with the scanner of JSON, `json`; records that break their schema are slow."""

    def __init__(self, decoder: FormatDecoder, json: Scanner) -> None:
        self._schemas = decoder.schemas
        self._json = json
        self._value_bytes_max = decoder.value_bytes_max

    def scan(self, batch: RecordBatch) -> Scan:
        """Read the values of records; those that are not sure are slow."""
        rows = [value or b"" for value in batch.values]
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))
        text = np.frombuffer(b"".join([*rows, b"\0"]), np.uint8)
        fits = (sizes > 0) & (sizes <= self._value_bytes_max)
        if refused_below := self._schemas.refused_below(batch.partition):
            fits &= np.array(batch.offsets) >= refused_below
        # The scanner leaves an empty value to the decoder, unless such a value is skipped.
        payloads: list[bytes | None] = [b"-" if row else None for row in rows]
        for frame, size, positions in frames(batch, rows, text, np.cumsum(sizes) - sizes, fits, has_indexes=False):
            reader = self._schemas.known.get(frame.schema)
            if isinstance(reader, JsonSchemaReader):
                for position in np.atleast_1d(positions).tolist():
                    payload = rows[position][size:]
                    if reader.accepts(payload):
                        payloads[position] = payload
        return self._json.scan(batch.with_values(payloads))
