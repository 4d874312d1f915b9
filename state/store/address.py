"""The address of the store: one server, a cluster, or a service whose primary the sentinels know."""

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

FORMS = (
    "redis://host:6379/0, rediss://…, unix:///path, redis+cluster://host:6379,…, rediss+cluster://…, "
    "redis+sentinel://host:26379,…/service/0 or rediss+sentinel://…"
)
"""The addresses that are accepted, for messages."""
ESCAPE = "in a user or a password write %2F for /, %23 for #, %3F for ? and %40 for @"

Topology = Literal["server", "cluster", "sentinel"]

_PORTS: dict[Topology, int] = {"server": 6379, "cluster": 6379, "sentinel": 26379}
_SCHEME = re.compile(r"redis(?P<tls>s)?(\+(?P<topology>cluster|sentinel))?")
_DATABASE = re.compile(r"\d{1,6}", re.ASCII)
_NUMBERS = frozenset({"db", "health_check_interval", "protocol"})
_OPTIONS = _NUMBERS | frozenset(
    (
        "client_name",
        "password",
        "socket_keepalive",
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_keyfile",
        "ssl_password",
        "username",
    )
)
"""Options that redis-py accepts in a URL, without those that the pipeline sets itself."""


class AddressInvalid(ValueError):
    """Raised when a text is no address of a store; the message quotes no part of it, which may be a password."""


class StoreAddress(msgspec.Struct, frozen=True):
    """Where the store is. `hosts` are the servers, the known nodes of the cluster, or the sentinels, with their ports.

    `path` is that of a Unix socket, and `service` the name by which the sentinels know the primary. `options` are those
    after the `?`.
    """

    topology: Topology
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    path: str = ""
    service: str = ""
    database: int = 0
    username: str = ""
    password: str = ""
    options: Mapping[str, str] = {}


def parse(url: str) -> StoreAddress:
    """Read a URL. Raises AddressInvalid."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise AddressInvalid(f"it is not an address; {ESCAPE}") from None
    scheme = _SCHEME.fullmatch(parts.scheme)
    if scheme is None and parts.scheme != "unix":
        raise AddressInvalid(f"it must be like {FORMS}")
    if parts.fragment:
        raise AddressInvalid(f"it must not contain a # with text after it; {ESCAPE}")
    user, _, place = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    address = StoreAddress(
        topology="server",
        tls=False,
        hosts=(),
        username=unquote(username),
        password=unquote(password),
        options=_options(parts.query),
    )
    if scheme is None:
        return _unix(address, parts.path)
    topology: Topology = scheme["topology"] or "server"  # type: ignore[assignment]
    service, database = _path(topology, parts.path)
    return msgspec.structs.replace(
        address,
        topology=topology,
        tls=bool(scheme["tls"]),
        hosts=tuple(_host(one, _PORTS[topology]) for one in (place.split(",") if topology != "server" else [place])),
        service=service,
        database=int(address.options.get("db", database)),
    )


def _unix(address: StoreAddress, path: str) -> StoreAddress:
    if not path:
        raise AddressInvalid(f"it must be like {FORMS}")
    return msgspec.structs.replace(address, path=unquote(path), database=int(address.options.get("db", 0)))


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        found = parts.hostname, port if parts.port is None else parts.port
    except ValueError:
        # The message quotes the port or the host as it was parsed, which may be part of a password.
        raise AddressInvalid(f"it is not an address; {ESCAPE}") from None
    if not found[0] or not found[1]:
        raise AddressInvalid(f"it must be like {FORMS}")
    return unquote(found[0]), found[1]


def _path(topology: Topology, path: str) -> tuple[str, int]:
    """Return the service and the database in a path."""
    names = path.strip("/").split("/") if path.strip("/") else []
    if topology == "sentinel":
        if not names or len(names) > 2:  # noqa: PLR2004 a service and a database
            raise AddressInvalid(
                "the sentinels need the name of a service, as in redis+sentinel://host:26379/service/0"
            )
        service, *names = names
    else:
        service = ""
    if len(names) > 1 or not all(_DATABASE.fullmatch(name) for name in names) or path.startswith("//"):
        raise AddressInvalid(f"the database after the host must be a number, as in redis://host:6379/0; {ESCAPE}")
    database = int(names[0]) if names else 0
    if topology == "cluster" and database:
        raise AddressInvalid("a cluster has only the database 0")
    return unquote(service), database


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in _OPTIONS:
            raise AddressInvalid(f"after its ? only {', '.join(sorted(_OPTIONS))} are accepted; {ESCAPE}")
        if name in _NUMBERS and not _DATABASE.fullmatch(value):
            raise AddressInvalid(f"{name} after its ? must be a number")
    return options
