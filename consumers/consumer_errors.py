"""Sorts Kafka's error codes for consumers and admin requests: which pass by themselves, and which do not.

Every code of the client is listed once: to wait for an error that does not pass would stop the pipeline for ever. The
error of a call that got no connection only says that no broker answers; `ConnectionFaults` knows the reason.
"""

import re
import time
from collections.abc import Callable
from typing import Literal, get_args

import msgspec
from confluent_kafka import KafkaError

ReadErrorMeaning = Literal["passes", "offset", "right", "setting"]
"""The error passes by itself; the log lacks an offset; the user lacks a right; or a setting must change, of the client,
the topic or the broker."""

_CODES: dict[ReadErrorMeaning, str] = {
    "passes": """
        UNKNOWN INVALID_MSG UNKNOWN_TOPIC_OR_PART INVALID_MSG_SIZE LEADER_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION
        REQUEST_TIMED_OUT BROKER_NOT_AVAILABLE REPLICA_NOT_AVAILABLE MSG_SIZE_TOO_LARGE STALE_CTRL_EPOCH
        NETWORK_EXCEPTION COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR RECORD_LIST_TOO_LARGE
        NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND ILLEGAL_GENERATION INCONSISTENT_GROUP_PROTOCOL
        UNKNOWN_MEMBER_ID REBALANCE_IN_PROGRESS INVALID_TIMESTAMP TOPIC_ALREADY_EXISTS NOT_CONTROLLER
        OUT_OF_ORDER_SEQUENCE_NUMBER DUPLICATE_SEQUENCE_NUMBER INVALID_PRODUCER_EPOCH INVALID_TXN_STATE
        INVALID_PRODUCER_ID_MAPPING CONCURRENT_TRANSACTIONS TRANSACTION_COORDINATOR_FENCED OPERATION_NOT_ATTEMPTED
        KAFKA_STORAGE_ERROR LOG_DIR_NOT_FOUND UNKNOWN_PRODUCER_ID REASSIGNMENT_IN_PROGRESS NON_EMPTY_GROUP
        GROUP_ID_NOT_FOUND FETCH_SESSION_ID_NOT_FOUND INVALID_FETCH_SESSION_EPOCH LISTENER_NOT_FOUND
        FENCED_LEADER_EPOCH UNKNOWN_LEADER_EPOCH STALE_BROKER_EPOCH OFFSET_NOT_AVAILABLE MEMBER_ID_REQUIRED
        PREFERRED_LEADER_NOT_AVAILABLE GROUP_MAX_SIZE_REACHED FENCED_INSTANCE_ID ELIGIBLE_LEADERS_NOT_AVAILABLE
        ELECTION_NOT_NEEDED NO_REASSIGNMENT_IN_PROGRESS GROUP_SUBSCRIBED_TO_TOPIC INVALID_RECORD UNSTABLE_OFFSET_COMMIT
        THROTTLING_QUOTA_EXCEEDED PRODUCER_FENCED RESOURCE_NOT_FOUND DUPLICATE_RESOURCE INCONSISTENT_VOTER_SET
        INVALID_UPDATE_VERSION FEATURE_UPDATE_FAILED UNKNOWN_TOPIC_ID INCONSISTENT_TOPIC_ID FENCED_MEMBER_EPOCH
        UNRELEASED_INSTANCE_ID STALE_MEMBER_EPOCH UNKNOWN_CONTROLLER_ID UNKNOWN_SUBSCRIPTION_ID TELEMETRY_TOO_LARGE
        TRANSACTION_ABORTABLE INVALID_RECORD_STATE SHARE_SESSION_NOT_FOUND INVALID_SHARE_SESSION_EPOCH
        FENCED_STATE_EPOCH INVALID_VOTER_KEY DUPLICATE_VOTER VOTER_NOT_FOUND REBOOTSTRAP_REQUIRED
        STREAMS_INVALID_TOPOLOGY STREAMS_INVALID_TOPOLOGY_EPOCH STREAMS_TOPOLOGY_FENCED SHARE_SESSION_LIMIT_REACHED
        NO_ERROR INVALID_TRANSACTION_TIMEOUT UNSUPPORTED_FOR_MESSAGE_FORMAT INVALID_REQUIRED_ACKS
        _BAD_MSG _BAD_COMPRESSION _DESTROY _FAIL _TRANSPORT _CRIT_SYS_RESOURCE _RESOLVE _MSG_TIMED_OUT _PARTITION_EOF
        _UNKNOWN_PARTITION _FS _UNKNOWN_TOPIC _ALL_BROKERS_DOWN _TIMED_OUT _QUEUE_FULL _ISR_INSUFF _NODE_UPDATE _SSL
        _WAIT_COORD _UNKNOWN_GROUP _IN_PROGRESS _PREV_IN_PROGRESS _EXISTING_SUBSCRIPTION _ASSIGN_PARTITIONS
        _REVOKE_PARTITIONS _CONFLICT _STATE _NO_OFFSET _OUTDATED _TIMED_OUT_QUEUE _WAIT_CACHE _INTR _KEY_SERIALIZATION
        _VALUE_SERIALIZATION _KEY_DESERIALIZATION _VALUE_DESERIALIZATION _PARTIAL _READ_ONLY _NOENT _UNDERFLOW
        _INVALID_TYPE _RETRY _PURGE_QUEUE _PURGE_INFLIGHT _FATAL _INCONSISTENT _GAPLESS_GUARANTEE _MAX_POLL_EXCEEDED
        _UNKNOWN_BROKER _FENCED _APPLICATION _ASSIGNMENT_LOST _NOOP _INVALID_DIFFERENT_RECORD _DESTROY_BROKER
        _INVALID_ARG
    """,
    "offset": "OFFSET_OUT_OF_RANGE _AUTO_OFFSET_RESET _LOG_TRUNCATION",
    "right": """
        TOPIC_AUTHORIZATION_FAILED GROUP_AUTHORIZATION_FAILED CLUSTER_AUTHORIZATION_FAILED
        TRANSACTIONAL_ID_AUTHORIZATION_FAILED DELEGATION_TOKEN_AUTHORIZATION_FAILED UNSUPPORTED_SASL_MECHANISM
        ILLEGAL_SASL_STATE SASL_AUTHENTICATION_FAILED SECURITY_DISABLED DELEGATION_TOKEN_AUTH_DISABLED
        DELEGATION_TOKEN_NOT_FOUND DELEGATION_TOKEN_OWNER_MISMATCH DELEGATION_TOKEN_REQUEST_NOT_ALLOWED
        DELEGATION_TOKEN_EXPIRED INVALID_PRINCIPAL_TYPE UNACCEPTABLE_CREDENTIAL PRINCIPAL_DESERIALIZATION_FAILURE
        _AUTHENTICATION
    """,
    "setting": """
        OFFSET_METADATA_TOO_LARGE TOPIC_EXCEPTION INVALID_GROUP_ID INVALID_SESSION_TIMEOUT INVALID_COMMIT_OFFSET_SIZE
        UNSUPPORTED_VERSION INVALID_PARTITIONS INVALID_REPLICATION_FACTOR INVALID_REPLICA_ASSIGNMENT INVALID_CONFIG
        INVALID_REQUEST POLICY_VIOLATION TOPIC_DELETION_DISABLED UNSUPPORTED_COMPRESSION_TYPE UNSUPPORTED_ASSIGNOR
        MISMATCHED_ENDPOINT_TYPE UNSUPPORTED_ENDPOINT_TYPE INVALID_REGISTRATION INVALID_REGULAR_EXPRESSION
        _UNKNOWN_PROTOCOL _NOT_IMPLEMENTED _UNSUPPORTED_FEATURE _NOT_CONFIGURED
    """,
}

MEANINGS: dict[int, ReadErrorMeaning] = {
    getattr(KafkaError, name): meaning for meaning, names in _CODES.items() for name in names.split()
}
"""The meaning of each error code."""

_FRESH_S = 20.0
# The state of the connection, which librdkafka appends to each text.
_STATE = re.compile(r" ?\(after \d+ms in state \w+(, \d+ identical error\(s\) suppressed)?\)")
_OF_TOKENS = ("OAUTHBEARER", "invalid_token")
_OTHER_LISTENER = ("PLAINTEXT broker listener", "SSL listener", "security.protocol", "wrong version number")
# An alert is the broker's answer to the client's own certificate.
_OF_TLS = ("certificate verify failed", " alert ")

NOT_READY = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    }
)
"""The errors of a coordinator or a leader that has just started or moved: soon another request succeeds."""


def meaning_of(code: int) -> ReadErrorMeaning:
    """Return the meaning of a code. An unknown code counts as an outage that passes."""
    return MEANINGS.get(code, "passes")


FaultKind = Literal["token", "user", "certificate", "listener", "outage"]
"""What to check after a fault of a connection, the most telling first; the last two may pass by themselves."""


class ConnectionFault(msgspec.Struct, frozen=True):
    """Why a client could not connect."""

    text: str
    kind: FaultKind

    @property
    def passes(self) -> bool:
        """Whether the same client may connect later."""
        return self.kind in {"listener", "outage"}


class ConnectionFaults:
    """Keeps the faults of the connections of all Kafka clients of a process; `note` is their `error_cb`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._newest: dict[FaultKind, tuple[float, ConnectionFault]] = {}

    def note(self, error: KafkaError) -> None:
        """Keep a fault that says why a connection failed."""
        code = error.code()
        if code == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 librdkafka's own codes
            # It follows every fault. Alone it means that the broker has closed the connection, which is not reported.
            if self.best() is None:
                self.keep(_SILENT)
        elif code != KafkaError._TIMED_OUT:  # noqa: SLF001
            self.keep(_fault_of(code, _STATE.sub("", error.str())))

    def keep(self, fault: ConnectionFault) -> None:
        """Keep a fault that another part has found out."""
        self._newest[fault.kind] = self._clock(), fault

    def best(self) -> ConnectionFault | None:
        """Return the fault that tells most of those of the last seconds; older ones have been mended since."""
        fresh = {kind: fault for kind, (at, fault) in self._newest.items() if self._clock() - at < _FRESH_S}
        return next((fresh[kind] for kind in get_args(FaultKind) if kind in fresh), None)


_SILENT = ConnectionFault(
    "the broker closes the connection without an answer, as one that expects another security.protocol", "listener"
)


def _fault_of(code: int, text: str) -> ConnectionFault:
    if code == KafkaError._AUTHENTICATION:  # noqa: SLF001
        return ConnectionFault(text, "token" if any(word in text for word in _OF_TOKENS) else "user")
    if any(word in text for word in _OTHER_LISTENER):
        return ConnectionFault(text, "listener")
    return ConnectionFault(text, "certificate" if any(word in text for word in _OF_TLS) else "outage")
