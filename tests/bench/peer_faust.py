"""Headrace's peer on Faust (faust-streaming): the same records, the same River model a partition, in an agent.

    python peer_faust.py BOOTSTRAP FEATURES OUTPUT COUNT

Its model is in memory, and a crash loses it.
"""

import asyncio
import signal
import sys
from collections import defaultdict
from typing import Any

import faust
from model import build


def main(bootstrap: str, features: str, output: str, *, count: int) -> None:
    """Run to the end of `count` records."""
    app = faust.App(
        output,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        producer_linger=0.005,
    )
    incoming = app.topic(features, key_type=bytes, key_serializer="raw", value_serializer="json")
    outgoing = app.topic(output, key_type=bytes, key_serializer="raw", value_serializer="json")
    models: dict[int, Any] = defaultdict(build)

    @app.agent(incoming)
    async def predict(stream: Any) -> None:
        left = count
        async for event in stream.events():
            if not left:
                # Records that come until the worker has stopped are not needed.
                continue
            record, partition = event.value, event.message.partition
            model = models[partition]
            proba = model.predict_proba_one(record["features"])
            if "label" in record:
                model.learn_one(record["features"], record["label"])
            answer = {
                "id": record["id"],
                "prediction": max(proba, key=proba.get),
                "proba": {"false": proba[False], "true": proba[True]},
                "source": {"topic": features, "partition": partition, "offset": event.message.offset},
            }
            await outgoing.send(key=event.key, value=answer, partition=partition)
            left -= 1
            if not left:
                # The meter takes a last sample before this process ends.
                await asyncio.to_thread(sys.stdin.read)
                signal.raise_signal(signal.SIGTERM)

    worker = faust.Worker(app, loglevel="WARN", redirect_stdouts=False)
    worker.execute_from_commandline()


if __name__ == "__main__":
    _, *words, many = sys.argv
    main(*words, count=int(many))
