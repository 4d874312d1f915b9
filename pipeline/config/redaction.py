"""Decides which values of a configuration may be shown; all others are `***` in output, errors, logs and dead letters.

This file lists the keys that may be shown. So a new or unknown key is hidden until it is added here.
"""

import base64
import binascii
import html
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, SecretStr

HIDDEN = "***"

_SECTIONS = frozenset(
    (
        "batch",
        "challengers",
        "delivery",
        "dlq",
        "keys",
        "labels",
        "log",
        "metrics",
        "mix",
        "model",
        "page",
        "predictions",
        "promotion",
        "quality",
        "records",
        "schema",
        "serve",
        "snapshot",
        "topics",
    )
)
"""Tables in which no key holds a secret."""
_KEYS = frozenset(
    (
        "challengers",
        "name",
        "kafka.bootstrap_servers",
        "kafka.oauth",
        "redis.timeout",
        "registry.register",
        "sink.http.timeout",
    )
)
_ADDRESSES = frozenset(("redis.url", "registry.url", "sink.http.url"))
_REDIS_CLIENTS = ("redis.client.", "redis.sentinel.")
_REDIS_HARMLESS = """
    client_name health_check_interval lib_name lib_version max_connections protocol socket_keepalive socket_read_size
    ssl_ca_certs ssl_ca_path ssl_cert_reqs ssl_certfile ssl_check_hostname ssl_ciphers ssl_keyfile ssl_min_version
    ssl_validate_ocsp ssl_validate_ocsp_stapled
"""
_REDIS_PROPERTIES = frozenset(_REDIS_HARMLESS.split())
"""Properties of redis-py that hold no secret."""
_LIBRDKAFKA = "kafka.librdkafka"
_HARMLESS = """
    acks allow.auto.create.topics api.version.fallback.ms api.version.request api.version.request.timeout.ms
    auto.commit.interval.ms batch.num.messages batch.size broker.address.family broker.address.ttl
    broker.version.fallback check.crcs client.dns.lookup client.id client.rack compression.codec compression.level
    compression.type connections.max.idle.ms coordinator.query.interval.ms debug delivery.timeout.ms
    enable.gapless.guarantee enable.metrics.push enable.random.seed enable.sasl.oauthbearer.unsecure.jwt
    enable.ssl.certificate.verification fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes
    fetch.min.bytes fetch.queue.backoff.ms fetch.wait.max.ms group.instance.id group.protocol group.protocol.type
    group.remote.assignor heartbeat.interval.ms https.ca.location linger.ms log.connection.close log.queue
    log.thread.name log_level max.in.flight max.in.flight.requests.per.connection max.partition.fetch.bytes
    max.poll.interval.ms max.poll.records message.copy.max.bytes message.max.bytes message.send.max.retries
    message.timeout.ms metadata.max.age.ms metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy
    partition.assignment.strategy partitioner queue.buffering.backpressure.threshold queue.buffering.max.kbytes
    queue.buffering.max.messages queue.buffering.max.ms queued.max.messages.kbytes queued.min.messages
    queuing.strategy receive.message.max.bytes reconnect.backoff.jitter.ms reconnect.backoff.max.ms
    reconnect.backoff.ms request.required.acks request.timeout.ms retries retry.backoff.max.ms retry.backoff.ms
    sasl.kerberos.min.time.before.relogin sasl.kerberos.service.name sasl.mechanism sasl.mechanisms
    sasl.oauthbearer.grant.type sasl.oauthbearer.metadata.authentication.type sasl.oauthbearer.method
    security.protocol session.timeout.ms socket.blocking.max.ms socket.connection.setup.timeout.ms
    socket.keepalive.enable socket.max.fails socket.nagle.disable socket.receive.buffer.bytes
    socket.send.buffer.bytes socket.timeout.ms ssl.ca.certificate.stores ssl.ca.location ssl.certificate.location
    ssl.cipher.suites ssl.crl.location ssl.curves.list ssl.endpoint.identification.algorithm ssl.key.location
    ssl.keystore.location ssl.sigalgs.list statistics.interval.ms sticky.partitioning.linger.ms
    topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt topic.metadata.refresh.fast.interval.ms
    topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse transaction.timeout.ms
"""
_PROPERTIES = frozenset(_HARMLESS.split())
"""Properties of librdkafka that hold no secret."""
# A text may contain a shorter secret by chance.
_SECRET_CHARACTERS_MIN = 4
_PART_CHARACTERS_MIN = 6
_SHORT_CHARACTERS = 8
_PIECE = 12
# The separators in headers and in lists of properties.
_BETWEEN_PARTS = re.compile(r"[\s,;=\"'&?/]+")
# Common words. To hide them protects nothing, and many stores have a user with such a name.
_COMMON = frozenset(
    (
        "headrace",
        "kafka",
        "redis",
        "valkey",
        "store",
        "admin",
        "default",
        "user",
        "true",
        "false",
        "null",
        "none",
        "debug",
        "info",
        "warning",
        "error",
        "Basic",
        "Bearer",
        "application",
        "https:",
    )
)


def may_show(key: str) -> bool:
    """Return whether the value of a dotted key may be shown, if it did not come from a reference."""
    if key.startswith(f"{_LIBRDKAFKA}."):
        return key.removeprefix(f"{_LIBRDKAFKA}.") in _PROPERTIES
    if key.startswith(_REDIS_CLIENTS):
        return key.rpartition(".")[2] in _REDIS_PROPERTIES
    return key in _KEYS or ("." in key and key.partition(".")[0] in _SECTIONS)


def shown(key: str, value: Any, *, secrets: Mapping[str, Any]) -> Any:
    """Return the value of a dotted key as `config show` prints it. `secrets` has the keys with references."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if value is None or value in ("", (), {}):
        return list(value) if isinstance(value, tuple) else value
    if isinstance(value, Mapping):
        return {name: shown(f"{key}.{name}", part, secrets=secrets) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [shown(f"{key}.{number}", part, secrets=secrets) for number, part in enumerate(value)]
    if key in secrets:
        return HIDDEN
    if key in _ADDRESSES:
        return address(_plain(value))
    return value if may_show(key) else HIDDEN


def address(url: str) -> str:
    """Return a URL without its user, password and query, and without the path of a web address."""
    try:
        parts = urlsplit(url)
        # The address of a cluster has several hosts.
        places = ",".join(map(_place, parts.netloc.rpartition("@")[2].split(",")))
    except ValueError:
        return HIDDEN
    web = parts.scheme in {"http", "https"}
    return (
        f"{parts.scheme}://{f'{HIDDEN}@' if '@' in parts.netloc else ''}{places}"
        f"{f'/{HIDDEN}' if web and parts.path not in {'', '/'} else parts.path}{f'?{HIDDEN}' if parts.query else ''}"
    )


def _place(text: str) -> str:
    """Return a host with its port. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}{f':{parts.port}' if parts.port else ''}"


def concealer(texts: Iterable[str], *, tokens: Iterable[str] = ()) -> Callable[[str], str]:
    """Return a function that replaces each of these secrets by `***` in a text.

    It also replaces pieces of `tokens`: a server that refuses a token may quote the beginning of it.
    """
    found = {text for text in texts if len(text) >= _SECRET_CHARACTERS_MIN and text not in _COMMON}
    found |= {quoted for text in found for quoted in _quoted(text)}
    pieces = {token[at : at + _PIECE] for token in tokens for at in range(len(token) - _PIECE + 1)}
    if not found and not pieces:
        return lambda text: text
    # The longest first: one secret may be a part of another.
    pattern = re.compile("|".join(_as_pattern(text) for text in sorted(found, key=len, reverse=True)) or r"(?!)")

    def conceal(text: str) -> str:
        text = pattern.sub(HIDDEN, text)
        visible = [True] * len(text)
        for at in range(len(text) - _PIECE + 1 if pieces else 0):
            if text[at : at + _PIECE] in pieces:
                visible[at : at + _PIECE] = [False] * _PIECE
        if all(visible):
            return text
        runs = itertools.groupby(zip(visible, text, strict=True), key=lambda pair: pair[0])
        return "".join("".join(sign for _, sign in run) if is_visible else HIDDEN for is_visible, run in runs)

    return conceal


def _as_pattern(text: str) -> str:
    """Return a pattern that finds a secret; a short secret is found only as a whole word."""
    escaped = re.escape(text)
    return escaped if len(text) >= _SHORT_CHARACTERS else rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])"


def _quoted(text: str) -> tuple[str, ...]:
    """Return a text as it is written in URLs, in Python, in JSON and in HTML."""
    return quote(text, safe=""), repr(text)[1:-1], json.dumps(text)[1:-1], html.escape(text)


def secrets_of(config: BaseModel, secrets: Mapping[str, Iterable[str]]) -> set[str]:
    """Return the secrets of a configuration, in full and in the parts that a server may quote."""
    found = {text for key, texts in secrets.items() if not _is_common(key) for text in texts}
    for key, text in _texts(config, ""):
        if key in _ADDRESSES:
            found |= set(_of_address(text))
        elif not may_show(key):
            found |= set(parts_of(text))
    return found


def parts_of(text: str) -> Iterator[str]:
    """Yield a secret and its parts: the token in a header, the user and password in it, the lines of a key."""
    yield text
    scheme, _, credentials = text.partition(" ")
    if scheme.lower() == "basic":
        try:
            plain = base64.b64decode(credentials, validate=True).decode()
        except (binascii.Error, ValueError):
            plain = ""
        yield from plain.split(":", 1)
    yield from (part for part in _BETWEEN_PARTS.split(text) if len(part) >= _PART_CHARACTERS_MIN)


def _of_address(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    if credentials:
        yield credentials
        for part in credentials.split(":", 1):
            yield part
            yield unquote(part)
        yield base64.b64encode(unquote(credentials).encode()).decode()
    if parts.query:
        yield parts.query
        yield from (value for pair in parts.query.split("&") for value in parts_of(pair.partition("=")[2]))
    if parts.scheme in {"http", "https"} and parts.path not in {"", "/"}:
        yield parts.path
        # A part with a digit may be a token, as in the paths of webhooks; other parts are names.
        yield from (part for part in parts.path.split("/") if re.search(r"\d", part))


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield each text of a configuration with its dotted key."""
    if isinstance(node, BaseModel):
        for name, field in type(node).model_fields.items():
            if not field.exclude:
                yield from _texts(getattr(node, name), f"{key}.{field.alias or name}".lstrip("."))
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _texts(value, f"{key}.{name}")
    elif isinstance(node, tuple | list):
        for number, value in enumerate(node):
            yield from _texts(value, f"{key}.{number}")
    elif node is not None and not isinstance(node, bool):
        yield key, _plain(node)


def _is_common(key: str) -> bool:
    # These sections hold numbers, modules and a few fixed words. To hide one would hide the same word everywhere.
    return "." in key and key.partition(".")[0] in _SECTIONS - {"topics"}


def _plain(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
