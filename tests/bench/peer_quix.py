"""Headrace's peer on Quix Streams: the same records, the same River model a partition, by the framework's own means.

    python peer_quix.py {at-least-once,exactly-once} BOOTSTRAP FEATURES OUTPUT COUNT COMMIT_S [REGISTRY]

With the URL of a registry it reads Avro instead of JSON, with the framework's own deserializer.

It runs in the environment of Quix Streams, which needs another Kafka client than Headrace. Its model is in memory, and
a crash loses it. Under exactly-once a reader sees records only after Quix has committed them, so the interval of its
commits is an argument.
"""

import importlib
import sys
from collections import defaultdict
from typing import Any

from model import build
from quixstreams import Application, message_context


def main(
    guarantee: Any, bootstrap: str, features: str, output: str, *, count: int, commit_s: float, registry: str = ""
) -> None:
    """Run to the end of `count` records; 0 means for ever."""
    app = Application(
        broker_address=bootstrap,
        consumer_group=output,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        processing_guarantee=guarantee,
        commit_interval=commit_s,
        # The wait of the next transaction if the last one is not quite over; the default is 100 ms.
        producer_extra_config={"retry.backoff.ms": 5},
        loglevel="WARNING",
    )
    models: dict[int, Any] = defaultdict(build)

    def answer(record: dict[str, Any]) -> dict[str, Any]:
        context = message_context()
        model = models[context.partition]
        proba = model.predict_proba_one(record["features"])
        if "label" in record:
            model.learn_one(record["features"], record["label"])
        return {
            "id": record["id"],
            "prediction": max(proba, key=proba.get),
            "proba": {"false": proba[False], "true": proba[True]},
            "source": {"topic": features, "partition": context.partition, "offset": context.offset},
        }

    incoming = app.topic(features, value_deserializer=_avro(registry) if registry else "json")
    outgoing = app.topic(output, value_serializer="json")
    app.dataframe(incoming).apply(answer).to_topic(outgoing)
    app.run(count=count, collect=False)
    # The meter takes a last sample before this process ends.
    sys.stdin.read()


def _avro(registry: str) -> Any:
    # The libraries of Avro and of the registry take a second to import.
    serializers = importlib.import_module("quixstreams.models.serializers.avro")
    config = importlib.import_module("quixstreams.models.serializers.schema_registry").SchemaRegistryClientConfig
    return serializers.AvroDeserializer(schema_registry_client_config=config(url=registry))


if __name__ == "__main__":
    _, *words, many, often = sys.argv[:7]
    main(*words, count=int(many), commit_s=float(often), registry="".join(sys.argv[7:]))
