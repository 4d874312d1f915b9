"""Measures how long it takes to save and load a model as data, compared with pickle: `python codec.py`.

It prints a line for each model. Times are CPU times, the best of several; a ratio is Headrace's time to pickle's.
"""

import gc
import pickle
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from river import anomaly, forest, linear_model, preprocessing, tree

from headrace.state.models.codec.model_codec import ModelCodec

_ROUNDS = 7
MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    "logistic": (lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(), 2_000),
    "tree": (tree.HoeffdingTreeClassifier, 20_000),
    "half-space trees": (lambda: preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1), 2_000),
    "forest of ten": (lambda: forest.ARFClassifier(n_models=10, seed=1), 5_000),
}


def main() -> None:
    """Print the times and sizes of each model."""
    for name, (make, records) in MODELS.items():
        model, codec = make(), ModelCodec(make())
        source = random.Random(7)
        for _ in range(records):
            _teach(model, source)
        pickled, saved = pickle.dumps(model, 5), codec.dump(("", model)) or b""
        dump, load = _best_s(partial(codec.dump, ("", model))), _best_s(partial(codec.load, saved))
        pickle_dump, pickle_load = _best_s(partial(pickle.dumps, model, 5)), _best_s(partial(pickle.loads, pickled))
        sys.stdout.write(
            f"{name}: {len(saved):,} bytes (pickle {len(pickled):,}), "
            f"saved in {dump * 1e3:.2f} ms ({dump / pickle_dump:.2f} of pickle's), "
            f"loaded in {load * 1e3:.2f} ms ({load / pickle_load:.2f})\n"
        )


def _teach(model: Any, source: random.Random) -> None:
    x: dict[str, Any] = {f"f{index}": source.gauss(0, 1) for index in range(8)}
    y = x["f0"] + x["f1"] * x["f2"] > 0.5
    if isinstance(model, tree.HoeffdingTreeClassifier | forest.ARFClassifier):
        x["kind"] = source.choice("abcdef")
    model.learn_one(x, y) if model._supervised else model.learn_one(x)


def _best_s(run: Callable[[], Any]) -> float:
    best_s = float("inf")
    for _ in range(_ROUNDS):
        gc.collect()
        began_s = time.process_time()
        run()
        best_s = min(best_s, time.process_time() - began_s)
    return best_s


if __name__ == "__main__":
    main()
