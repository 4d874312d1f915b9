"""The programs of all schemas that a scanner met, one after another, with the numbers of one vocabulary.

Importing this module imports numba.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from headrace.consumers.fastjson.interner import InternTable
from headrace.consumers.fastjson.schema_arrays import SchemaArrays
from headrace.consumers.formats.binary import avro_machine, avro_program, protobuf_machine, protobuf_program
from headrace.consumers.formats.binary.avro_program import AvroProgram
from headrace.consumers.formats.binary.places import FEATURE
from headrace.consumers.formats.binary.protobuf_program import ProtobufProgram
from headrace.consumers.formats.binary.values import BinaryColumns

Frames = tuple[Any, Any, Any]
"""Where the records of a batch begin and end, without their frames, and where their programs begin; -1 for none."""


class LinkedPrograms(Protocol):
    """Programs of one format. `features_max` is the largest number of features of one of them."""

    features_max: int

    def add(self, program: Any, *, names: Sequence[int], symbols: Sequence[int]) -> int:
        """Add a program with the numbers of its names and symbols; return where it begins."""

    def run(
        self, text: Any, frames: Frames, columns: BinaryColumns, *, words: InternTable, rules: SchemaArrays, first: int
    ) -> int:
        """Read the records from `first` on until all are read or the interner is full; return how many are read."""


class LinkedAvro:
    """Programs of Avro schemas, as `LinkedPrograms` says."""

    def __init__(self) -> None:
        self.features_max = 0
        self._code = np.zeros((1, avro_program.COLUMNS), np.int64)
        self._symbols = np.zeros(1, np.int64)

    def add(self, program: AvroProgram, *, names: Sequence[int], symbols: Sequence[int]) -> int:
        """Add a program; its positions and numbers become those of the whole."""
        code, at = program.code.copy(), len(self._code)
        kinds = code[:, avro_program.OPERATION]
        code[kinds == avro_program.JUMP, avro_program.FIRST] += at
        code[kinds == avro_program.ENUM, avro_program.FIRST] += len(self._symbols)
        is_feature = code[:, avro_program.TARGET] == FEATURE
        code[is_feature, avro_program.NAME] = _named(names, code[is_feature, avro_program.NAME])
        self._code = np.concatenate([self._code, code])
        self._symbols = np.concatenate([self._symbols, np.array(symbols, np.int64)])
        self.features_max = max(self.features_max, len(names))
        return at

    def run(
        self, text: Any, frames: Frames, columns: BinaryColumns, *, words: InternTable, rules: SchemaArrays, first: int
    ) -> int:
        """Read records by their programs, as `LinkedPrograms` says."""
        return avro_machine.run(text, *frames, self._code, self._symbols, columns, words, rules, first)


class LinkedProtobuf:
    """Programs of Protobuf messages, as `LinkedPrograms` says."""

    def __init__(self) -> None:
        self.features_max = 0
        self._code = np.zeros((1, protobuf_program.COLUMNS), np.int64)
        self._dispatch = np.zeros(1, np.int64)
        self._symbols = np.zeros(1, np.int64)
        self._stamp = 1
        self._notes = protobuf_machine.fields(1)

    def add(self, program: ProtobufProgram, *, names: Sequence[int], symbols: Sequence[int]) -> int:
        """Add a program; its rows and numbers become those of the whole."""
        code, at = program.code.copy(), len(self._code)
        kinds = code[:, protobuf_program.OPERATION]
        code[kinds == protobuf_program.MESSAGE, protobuf_program.FIRST] += len(self._dispatch)
        has_symbols = (kinds == protobuf_program.ENUM) | (kinds == protobuf_program.STRING)
        code[has_symbols, protobuf_program.FIRST] += len(self._symbols)
        for column in (protobuf_program.PARENT, protobuf_program.ONEOF):
            code[code[:, column] >= 0, column] += at
        is_feature = code[:, protobuf_program.TARGET] == FEATURE
        code[is_feature, protobuf_program.NAME] = _named(names, code[is_feature, protobuf_program.NAME])
        code[0, protobuf_program.NAME] += at
        rows = np.array(program.dispatch, np.int64)
        self._dispatch = np.concatenate([self._dispatch, np.where(rows < 0, -1, rows + at)])
        self._code = np.concatenate([self._code, code])
        self._symbols = np.concatenate([self._symbols, np.array(symbols, np.int64)])
        self._notes = protobuf_machine.fields(len(self._code))
        self.features_max = max(self.features_max, len(names))
        return at

    def run(
        self, text: Any, frames: Frames, columns: BinaryColumns, *, words: InternTable, rules: SchemaArrays, first: int
    ) -> int:
        """Read records by their programs, as `LinkedPrograms` says."""
        stamp = self._stamp
        # Each call has stamps of its own: it reads the record again that the last one could not finish.
        self._stamp += len(frames[0])
        return protobuf_machine.run(
            text, *frames, self._code, self._dispatch, self._symbols, columns, words, rules, self._notes, stamp, first
        )


def _named(names: Sequence[int], places: Any) -> Any:
    return np.array([*names, 0], np.int64)[places]
