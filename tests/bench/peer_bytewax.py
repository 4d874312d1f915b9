"""Headrace's peer on Bytewax: the same records, the same River model a partition, in a keyed stateful step.

    python peer_bytewax.py BOOTSTRAP FEATURES OUTPUT

It ends at the end of the topic. Without a recovery store, as here, Bytewax keeps no offsets: after a crash it begins at
the start.
"""

import json
import sys
from typing import Any

from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from model import build


def answer(model: Any, message: KafkaSourceMessage) -> tuple[Any, KafkaSinkMessage]:
    """Predict, then learn; return the model, which is the state of the partition, and the message to send."""
    model = model or build()
    record = json.loads(message.value)
    proba = model.predict_proba_one(record["features"])
    if "label" in record:
        model.learn_one(record["features"], record["label"])
    value = {
        "id": record["id"],
        "prediction": max(proba, key=proba.get),
        "proba": {"false": proba[False], "true": proba[True]},
        "source": {"topic": message.topic, "partition": message.partition, "offset": message.offset},
    }
    return model, KafkaSinkMessage(message.key, json.dumps(value).encode())


def main(bootstrap: str, features: str, output: str) -> None:
    """Run to the end of the topic."""
    flow = Dataflow("bench")
    records = op.input("in", flow, KafkaSource([bootstrap], [features], tail=False))
    keyed = op.key_on("by_partition", records, lambda message: str(message.partition))
    answers = op.stateful_map("predict", keyed, answer)
    op.output("out", op.key_rm("bare", answers), KafkaSink([bootstrap], output))
    run_main(flow)
    # The meter takes a last sample before this process ends.
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
