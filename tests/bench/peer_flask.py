"""The logic of chantilly, River's own server: Flask, and the model as a pickle in Redis, read for each request.

`python peer_flask.py PORT COUNT REDIS_URL` learns, then answers. Chantilly itself wants an old River.
"""

import pickle
import sys
from typing import Any

import flask
import redis
from model import build
from stream import events
from werkzeug.serving import WSGIRequestHandler, run_simple

_KEY = "bench.flask"


def served(store: Any) -> flask.Flask:
    """Return the application."""
    app = flask.Flask(__name__)

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        question = flask.request.json
        model = pickle.loads(store.get(_KEY))
        proba = model.predict_proba_one(question["features"])
        # A prediction may change a model, so chantilly writes it back.
        store.set(_KEY, pickle.dumps(model))
        return {
            "id": question["id"],
            "prediction": proba[True] > proba[False],
            "proba": {str(k).lower(): p for k, p in proba.items()},
        }

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    return app


if __name__ == "__main__":
    port, count, url = sys.argv[1:]
    model = build()
    for event in events(int(count)):
        model.learn_one(event["features"], event["label"])
    store = redis.Redis.from_url(url)
    store.set(_KEY, pickle.dumps(model))
    # Connections are kept, as those of the others.
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    run_simple("127.0.0.1", int(port), served(store), threaded=True, processes=1)
