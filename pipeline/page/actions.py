"""The actions of the page: the dry run and the replay of dead letters, by the code of `headrace dlq replay`."""

import threading
from typing import Any

import msgspec
import structlog

from headrace.pipeline.config.config import Config
from headrace.pipeline.dlq import execution, view
from headrace.pipeline.dlq.dead_letters import Selection, position_of
from headrace.pipeline.dlq.replay import ReplayError

log = structlog.get_logger("headrace")

NAMES = ("dry-run", "replay")
"""The actions, each the last part of its path."""
LETTERS_MAX = 1_000
BODY_BYTES_MAX = 2_097_152


class ReplayOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to replay: dead letters by `PARTITION:OFFSET`, or all with a code. `value` replaces that of a single one."""

    letters: list[str] | None = None
    code: str | None = None
    value: str | None = None


class Actions:
    """Act on one pipeline; one action at a time."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()

    def act(self, name: str, body: bytes, *, by: str) -> dict[str, Any]:
        """Do an action for `by`, and log it; return the summary as `dlq replay --json` prints it.

        Raises ReplayError, DeadLetterError, and the errors of Reader, Writer and Topics.
        """
        order, execute = _order(body), name == "replay"
        told = {
            "action": name,
            "by": by,
            "letters": order.letters,
            "code": order.code,
            "edited": order.value is not None,
        }
        if not self._lock.acquire(blocking=False):
            raise ReplayError("another action is running", hint="try again when it is done")
        try:
            summary = view.as_json(self._replay(order, execute=execute), execute=execute)
        except Exception as error:
            log.warning("page action failed", **told, reason=self._config.conceal(str(error)))
            raise
        finally:
            self._lock.release()
        log.info("page action", **told, sent=summary["sent"], parked=summary["parked"], already=summary["already"])
        return summary

    def _replay(self, order: ReplayOrder, *, execute: bool) -> Any:
        config = self._config
        places = None if order.letters is None else frozenset(map(position_of, order.letters))
        route = execution.plan(config, config.topics.dead_letters, execute=execute, foreign=False)
        value = None if order.value is None else order.value.encode()
        edit = None if value is None else lambda _old: value
        return execution.send(config, route, Selection(code=order.code, places=places), edit=edit, execute=execute)


def _order(body: bytes) -> ReplayOrder:
    """Read the body of an action. Raises ReplayError."""
    hint = 'send {"letters": ["PARTITION:OFFSET"]}, with "value" for one that was edited, or {"code": CODE}'
    try:
        order = msgspec.json.decode(body, type=ReplayOrder)
    except msgspec.DecodeError as error:
        raise ReplayError(f"the body of the action can't be read: {error}", hint=hint) from error
    if (order.letters is None) == (order.code is None):
        raise ReplayError("an action names letters, or a code", hint=hint)
    if order.letters is not None and not 0 < len(order.letters) <= LETTERS_MAX:
        raise ReplayError(f"an action takes 1 to {LETTERS_MAX} letters; these are {len(order.letters)}", hint=hint)
    if order.value is not None and len(order.letters or ()) != 1:
        raise ReplayError("an edited value is for one letter", hint=hint)
    return order
