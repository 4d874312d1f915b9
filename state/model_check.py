"""Whether a saved model fits the model that the code builds now, and what mends it where it does not. Pure."""

import msgspec

from headrace.state.models.model import Scope
from headrace.state.models.spec import difference
from headrace.state.snapshot import SavedModel

SCOPES: dict[Scope, str] = {
    "partition": "one for each partition",
    "key": "one for each key",
    "global": "one for all workers",
}
UNDO = "undo the change, start under another `name`"
# The codec of compiled models has a name that begins so.
_COMPILED = "arrays-"


class Mismatch(msgspec.Struct, frozen=True):
    """What does not fit, and what mends it; the `hint` is empty where only a new history is left."""

    message: str
    hint: str = ""


def model_mismatch(saved: SavedModel, *, scope: Scope, spec: str, codec: str) -> Mismatch | None:
    """Compare a saved model with the one that is asked for; None where it fits."""
    if saved.scope != scope:
        return other_scope(saved.scope, scope, "in the store")
    if saved.spec != spec:
        how = difference(saved.spec, spec)
        return Mismatch(f"model.py builds another model than the one in the store: {how}", UNDO)
    if saved.codec != codec:
        return Mismatch(f"the snapshot was written by {saved.codec}; here is {codec}", _mend(saved.codec, codec))
    return None


def other_scope(before: Scope, now: Scope, which: str) -> Mismatch:
    """Say that models are of another scope than the configuration asks for."""
    return Mismatch(
        f'the models {which} are {SCOPES[before]}, and model.scope = "{now}" asks for {SCOPES[now]}',
        f'set model.scope = "{before}" again, start under another `name`',
    )


def _mend(written: str, here: str) -> str:
    """Say what makes a snapshot readable again that was `written` by another codec than the one that is `here`."""
    if written.startswith(_COMPILED) and not here.startswith(_COMPILED):
        return "set model.compile = true again"
    if here.startswith(_COMPILED) and not written.startswith(_COMPILED):
        return "set model.compile = false again"
    return "install that release of River"
