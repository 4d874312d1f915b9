"""Saves River models as data and loads them: bytes from the store can make objects, but run no code.

`graph.py` defines the format; `trust.py` decides which classes and functions the bytes may name.
"""

from collections.abc import Iterable
from typing import Any

from headrace.state.models.codec import graph_reader, graph_writer
from headrace.state.models.codec.graph import CodecError
from headrace.state.models.codec.trust import Trust

_KEEP = "keep numbers, text, containers, numpy arrays and objects of classes of your own in it, and named functions"
_DAMAGED = (
    "if model.py makes objects of another package only when it learns, name that in model.trusted_packages; "
    "if model.py has moved or renamed a class, undo that"
)


class ModelCodec:
    """Saves and loads models of one factory, whose new model is `first`. Raises CodecError.

    `pickles` allows pickle for objects that define how they are saved. Only for signed bytes: a pickle can run code.
    """

    def __init__(self, first: Any, *, modules: Iterable[str] = (), pickles: bool = False) -> None:
        self._trust = Trust(modules, pickles=pickles)
        self._kind = type(first)
        self._trust.learns = True
        try:
            self.dump(("", first))
        finally:
            self._trust.learns = False

    def dump(self, model: tuple[str, Any], *, bytes_max: int | None = None) -> bytes | None:
        """Return a string and a model as bytes; None when they take more than `bytes_max`."""
        try:
            raw = graph_writer.write(model, self._trust, bytes_max=bytes_max)
        except CodecError as error:
            error.hint = error.hint or _KEEP
            raise
        return raw if bytes_max is None or raw is None or len(raw) <= bytes_max else None

    def load(self, raw: bytes) -> tuple[str, Any]:
        """Return the string and the model that `dump` saved."""
        try:
            found = graph_reader.read(raw, self._trust)
        except CodecError as error:
            error.hint = error.hint or _DAMAGED
            raise
        if type(found) is tuple and [*map(type, found)] == [str, self._kind]:
            return found
        raise CodecError("they hold another kind of model", hint=_DAMAGED)
