"""One Kafka broker with a listener for each way in, and the certificates, users and rights that belong to it."""

import base64
import contextlib
import datetime as dt
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from harness import Project

from headrace.pipeline.embedded import Stack, kafka
from headrace.pipeline.embedded.port import free_ports

USER = "fraud"
PASSWORD = "p4ss-of-the-test"
"""The password of `USER` for SASL PLAIN; that for SCRAM is set by `set_scram_password`."""
PAGE = Path(__file__).parents[2] / "docs/security.md"

_LOGIN = "org.apache.kafka.common.security"
_PROTOCOLS = {
    "PLAINTEXT": "PLAINTEXT",
    "TLS": "SSL",
    "MTLS": "SSL",
    "EXPIRED": "SSL",
    "PLAIN": "SASL_SSL",
    "SCRAM": "SASL_SSL",
    "OAUTH": "SASL_SSL",
    "JWKS": "SASL_SSL",
}
_OAUTH = f"{_LOGIN}.oauthbearer"


@dataclass
class Authority:
    """A certificate authority of the tests, which writes what it issues into a folder."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.trusted = self.folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.trusted)

    def issue(self, name: str, *, days: float = 1.0, file: str = "") -> tuple[Path, Path]:
        """Issue a certificate for this machine and a common name, and return the paths of it and of its key."""
        until = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
        begin = until - dt.timedelta(days=30)
        leaf = self.ca.issue_cert("127.0.0.1", "localhost", common_name=name, not_before=begin, not_after=until)
        certificate, key = (self.folder / f"{file or name}.{kind}" for kind in ("crt", "key"))
        certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
        # Kafka reads only keys in PKCS 8.
        loaded = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        key.write_bytes(loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key

    def keystore(self, name: str, *, days: float = 1.0) -> Path:
        """Issue a certificate of the broker, and return the path of a file with its key and itself."""
        certificate, key = self.issue(name, days=days)
        store = self.folder / f"{name}.pem"
        store.write_bytes(key.read_bytes() + certificate.read_bytes())
        return store


@dataclass
class Secured:
    """The running stack: the broker's address on each listener, and the authority of its certificates.

    The listener JWKS takes tokens that `signing_key` has signed.
    """

    stack: Stack
    addresses: dict[str, str]
    authority: Authority
    signing_key: Path

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.addresses["PLAINTEXT"], "log_level": 0})

    def set_scram_password(self, password: str) -> None:
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        asked = self.admin.alter_user_scram_credentials([UserScramCredentialUpsertion(USER, info, password.encode())])
        asked[USER].result(10)

    def grant(self, p: Project, *, without: str = "") -> None:
        """Give `USER` the rights that docs/security.md lists for a pipeline, but for those of one row."""
        outputs = [(ResourceType.TOPIC, topic) for topic in (p.predictions, p.dead_letters)]
        things = {
            "the topics of `topics.features` and `topics.labels`": [(ResourceType.TOPIC, p.features)],
            "the topics of `topics.predictions` and `topics.dead_letters`": outputs,
            "topics that don't exist yet": outputs,
            "the group `name`": [(ResourceType.GROUP, p.name)],
            "transactional ids that start with `name`": [(ResourceType.TRANSACTIONAL_ID, p.name)],
        }
        self.allow(
            [
                (*thing, right)
                for row in things
                if row != without
                for thing in things[row]
                for right in page_rights()[row]
            ]
        )

    def allow(self, rights: Sequence[tuple[ResourceType, str, str]]) -> None:
        """Give `USER` rights on things whose names begin so."""
        where = ResourcePatternType.PREFIXED, f"User:{USER}", "*"
        rules = [
            AclBinding(kind, name, *where, AclOperation[right], AclPermissionType.ALLOW) for kind, name, right in rights
        ]
        for done in self.admin.create_acls(rules, request_timeout=10).values():
            done.result(10)


def page_rights() -> dict[str, list[str]]:
    """Read the table of the rights in Kafka from docs/security.md."""
    text = PAGE.read_text(encoding="utf-8").partition("## Rights in Kafka\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| (.+?) \| ([A-Z_, ]+) \|$", text)
    return {row: rights.split(", ") for row, rights in rows}


@contextmanager
def secured_stack() -> Iterator[Secured]:
    """Run the broker and a store. Everybody on the listener PLAINTEXT may do all, and `USER` what was granted."""
    with contextlib.ExitStack() as exits:
        home = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="headrace-secured-")))
        port, controller, *ports = free_ports(len(_PROTOCOLS) + 1)
        addresses = {name: f"127.0.0.1:{at}" for name, at in zip(_PROTOCOLS, (port, *ports), strict=True)}
        # The settings of listeners override those of the stack, so its ports must be known before.
        (home / "kafka.ports").write_text(f"{port} {controller}")
        authority = Authority(home)
        signing_key, keys = home / "signing.key", home / "jwks.json"
        keys.write_text(json.dumps({"keys": [new_signing_key(signing_key)]}))
        settings = _settings(authority, addresses, f"127.0.0.1:{controller}", keys=keys.as_uri())
        # The broker reads keys only from places that this property allows, and it is no setting of Kafka's.
        patch = exits.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(kafka, "JVM", (*kafka.JVM, f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys.as_uri()}"))
        stack = exits.enter_context(Stack(data_dir=home, kafka_settings=settings))
        assert stack.addresses.kind == "kafka", "these tests prove nothing on a mock"
        # Its data is not read again, so it needs no clean end.
        exits.callback(stack.store.kill)
        exits.callback(stack.kafka.kill)
        yield Secured(stack, addresses, authority, signing_key)


def new_signing_key(file: Path) -> dict[str, str]:
    """Make a key that signs tokens, write it, and return its public part as a JSON Web Key."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    numbers = key.public_key().public_numbers()
    shown = {
        name: base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()
        for name, number in (("n", numbers.n), ("e", numbers.e))
    }
    return {"kty": "RSA", "kid": "test", "alg": "RS256", "use": "sig", **shown}


def _settings(authority: Authority, addresses: dict[str, str], controller: str, *, keys: str) -> dict[str, str]:
    listeners = [f"{name}://{address}" for name, address in addresses.items()]
    protocols = [f"{name}:{protocol}" for name, protocol in _PROTOCOLS.items()]
    return {
        "listeners": ",".join([*listeners, f"CONTROLLER://{controller}"]),
        "advertised.listeners": ",".join(listeners),
        "listener.security.protocol.map": ",".join([*protocols, "CONTROLLER:PLAINTEXT"]),
        "inter.broker.listener.name": "PLAINTEXT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(authority.keystore("broker")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.trusted),
        "ssl.principal.mapping.rules": r"RULE:^.*CN=([^,]+).*$/$1/",
        "listener.name.expired.ssl.keystore.type": "PEM",
        "listener.name.expired.ssl.keystore.location": str(authority.keystore("expired", days=-1)),
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.plain.plain.sasl.jaas.config": (
            f'{_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        ),
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{_LOGIN}.scram.ScramLoginModule required;",
        "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.oauth.oauthbearer.sasl.jaas.config": (
            f'{_OAUTH}.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
        ),
        "listener.name.jwks.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.jwks.oauthbearer.sasl.jaas.config": f"{_OAUTH}.OAuthBearerLoginModule required;",
        "listener.name.jwks.oauthbearer.sasl.server.callback.handler.class": (
            f"{_OAUTH}.OAuthBearerValidatorCallbackHandler"
        ),
        "listener.name.jwks.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": keys,
        "listener.name.jwks.oauthbearer.sasl.oauthbearer.expected.audience": "kafka",
    }
