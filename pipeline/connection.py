"""Explains the errors of connections: which address did not answer, which key has it, and why.

An error that knows the key of its address has the attribute `address_key`. For Kafka, the reason is what librdkafka
reported last of a connection: a wrong password, a certificate, another listener, or just nobody there.
"""

from headrace.pipeline.config.config import Config
from headrace.pipeline.config.redaction import shown
from headrace.pipeline.hinted_error import HintedError

_AWAY = 503
_HINTS = {
    "user": "check sasl.mechanism, sasl.username and sasl.password in [kafka.librdkafka]",
    "token": "check kafka.oauth and the token that it returns",
    "certificate": "check security.protocol, ssl.ca.location and the client's certificate in [kafka.librdkafka]",
    "listener": "check security.protocol in [kafka.librdkafka]: this listener speaks another protocol",
    "outage": "",
}


_STORE_ADVICE = {
    "Timeout connecting": "; a port without TLS does not answer rediss://",
    "Connection closed by server": "; a port with TLS closes a connection of redis://",
}


class ConnectionExplained(HintedError):
    """Raised in place of an error of a connection; `status` is 503 if the same call may work later, otherwise 401."""

    def __init__(self, message: str, *, hint: str, status: int) -> None:
        super().__init__(message, hint=hint)
        self.status = status


def explained(error: Exception, config: Config) -> Exception:
    """Return an error of a connection with its address, key and reason; any other error unchanged."""
    key = getattr(error, "address_key", "")
    if not key:
        return error
    status: int = getattr(error, "status", 0)
    message, hint = f"{error}; {key} is {_address(config, key)}", str(getattr(error, "hint", ""))
    fault = config.faults.best() if status == _AWAY and key.startswith("kafka.") else None
    if fault is not None:
        message = f"{message}: {fault.text}"
        hint = _HINTS[fault.kind] or hint
        status = _AWAY if fault.passes else 401
    elif key == "redis.url":
        hint += next((advice for words, advice in _STORE_ADVICE.items() if words in message), "")
    return ConnectionExplained(message, hint=hint, status=status)


def _address(config: Config, key: str) -> object:
    section, _, name = key.rpartition(".")
    node: object = config
    for part in section.split("."):
        node = getattr(node, part)
    return shown(key, getattr(node, name, None), secrets={})
