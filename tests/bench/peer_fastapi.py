"""FastAPI and River, as most people serve a River model: `python peer_fastapi.py PORT COUNT` learns, then answers.

Each process of uvicorn has the model in its memory, so it never learns more.
"""

import sys
from functools import cache
from typing import Any

import fastapi
import uvicorn
from model import build
from pydantic import BaseModel
from stream import events

PROCESSES = 2
COUNT_VARIABLE = "BENCH_COUNT"


class Question(BaseModel):
    """A record, as Headrace's server takes it."""

    id: str
    features: dict[str, float]


@cache
def learned() -> Any:
    """Return the model after the records of the measurement."""
    import os  # noqa: PLC0415 the processes of uvicorn import this module anew

    model = build()
    for event in events(int(os.environ[COUNT_VARIABLE])):
        model.learn_one(event["features"], event["label"])
    return model


app = fastapi.FastAPI()


@app.post("/predict")
def predict(question: Question) -> dict[str, Any]:
    """Predict one record."""
    proba = learned().predict_proba_one(question.features)
    return {
        "id": question.id,
        "prediction": proba[True] > proba[False],
        "proba": {str(k).lower(): p for k, p in proba.items()},
    }


@app.get("/readyz")
def ready() -> dict[str, str]:
    """Learn, and say that it is done."""
    learned()
    return {"status": "ok"}


if __name__ == "__main__":
    import os

    os.environ[COUNT_VARIABLE] = sys.argv[2]
    uvicorn.run(
        "peer_fastapi:app",
        host="127.0.0.1",
        port=int(sys.argv[1]),
        workers=PROCESSES,
        log_level="warning",
        access_log=False,
    )
