"""Hosts the engine on a file, without Kafka and Redis: `python predict_file.py FOLDER < records > predictions`.

FOLDER has the model.py. Each line of the input is a record of the features topic, and each line of the output its
prediction, made before the model learned from the record. Standard error gets the refused lines with their reasons.
"""  # noqa: INP001 a script that stands alone

import sys
from pathlib import Path

from headrace.consumers.record import Decoder
from headrace.consumers.record_batch import RecordBatch
from headrace.pipeline.engine.columnar import ColumnarEngine
from headrace.pipeline.engine.engine import Engine
from headrace.state.compiled.compiler import compile_model
from headrace.state.models.learner import build, load_factory
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard

river = build(load_factory("model:build", Path(sys.argv[1])))
shard = Shard(UndoableModel(compile_model(river.model) or river), partition=0, start=0)
columnar = ColumnarEngine(decoder=Decoder(), topic="file", name="file")
engine = Engine(decoder=Decoder(), topic="file", name="file", columnar=columnar)
lines = sys.stdin.buffer.read().splitlines()
count = len(lines)
batch = RecordBatch(0, offsets=range(count), timestamps=[0] * count, keys=[None] * count, values=lines)
outputs = engine.run(shard, batch, now_ms=0)
sys.stdout.buffer.writelines(b"%s\n" % line for line in outputs.predictions.values)
sys.stderr.writelines(f"line {letter.record.offset + 1}: {letter.refusal.message}\n" for letter in outputs.dead_letters)
