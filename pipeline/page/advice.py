"""Says what a state of the stream means for the records, and what to do next. Pure."""

import msgspec

STATUS = {"running": 200, "relearning": 200, "paused": 503, "stopped": 0, "unknown": 0}
"""The outcome of a record that comes now: handled, or paused. 0: nobody reads the topic."""

_WAITS = "Nothing is lost and nothing is sent twice. The stream goes on by itself when it answers."
_FLOOD = (
    "Nearly every record is refused, for the reason above. Correct that and start again, or set dlq.flood_guard = "
    "false to send them to the dead letters."
)
_ADVICE = {
    "store": (_WAITS, "headrace doctor"),
    "kafka": (_WAITS, "headrace doctor"),
    "sink": (_WAITS, "headrace doctor"),
    "registry": (_WAITS, "headrace doctor"),
    "flood": (_FLOOD, "headrace check TOPIC"),
}


class Advice(msgspec.Struct, frozen=True):
    """What is going on, in a sentence or two, and the command to run next; each may be empty."""

    words: str = ""
    command: str = ""


def advise(state: str, cause: str, *, has_stop_reason: bool, is_new: bool) -> Advice:
    """Return the advice for a state. `cause` is what pauses the stream; `is_new` says that nothing was ever read.

    `has_stop_reason` says that a worker left the reason for which it stopped.
    """
    if state == "paused":
        words, command = _ADVICE.get(cause, (_WAITS, "headrace doctor"))
        return Advice(words, command)
    if state == "stopped":
        if has_stop_reason:
            return Advice("It stopped for this reason. Put it right, then start it again.", "headrace run")
        words = "No worker runs, and no record was read yet." if is_new else "No worker runs; new records wait."
        return Advice(words, "headrace run")
    if state == "relearning":
        return Advice("A worker relearns the records that the saved model lacks. After that, predictions go on.")
    if state == "unknown":
        return Advice("Neither Kafka nor the store nor a worker on this machine has answered.", "headrace doctor")
    if is_new:
        return Advice("It waits for the first record.", "headrace produce sample.jsonl")
    return Advice()
