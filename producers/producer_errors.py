"""Sorts Kafka's error codes for producers: which pass by themselves, and what to do about the others.

To wait for an error that does not pass would stop the pipeline for ever; to give up on one that passes would end it for
no reason. So every code of the client is listed once. An error passes if Kafka calls it retriable, or if a new producer
does not get it again.
"""

from typing import Literal

from confluent_kafka import KafkaError

BROKERS_KEY = "kafka.bootstrap_servers"
"""The key of the configuration that holds the brokers' addresses; errors name it."""

SendErrorMeaning = Literal["passes", "stale", "large", "record", "topic", "right", "setting"]
"""The error passes by itself; the group has a new generation; or it does not pass, because of the record's size, the
record itself, its topic, a missing right, or a setting of the client or the broker."""

_CODES: dict[SendErrorMeaning, str] = {
    "passes": """
        UNKNOWN INVALID_MSG UNKNOWN_TOPIC_OR_PART LEADER_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION REQUEST_TIMED_OUT
        BROKER_NOT_AVAILABLE REPLICA_NOT_AVAILABLE STALE_CTRL_EPOCH NETWORK_EXCEPTION COORDINATOR_LOAD_IN_PROGRESS
        COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND NOT_CONTROLLER
        OUT_OF_ORDER_SEQUENCE_NUMBER DUPLICATE_SEQUENCE_NUMBER INVALID_PRODUCER_EPOCH INVALID_TXN_STATE
        INVALID_PRODUCER_ID_MAPPING CONCURRENT_TRANSACTIONS TRANSACTION_COORDINATOR_FENCED OPERATION_NOT_ATTEMPTED
        KAFKA_STORAGE_ERROR LOG_DIR_NOT_FOUND UNKNOWN_PRODUCER_ID REASSIGNMENT_IN_PROGRESS FETCH_SESSION_ID_NOT_FOUND
        INVALID_FETCH_SESSION_EPOCH LISTENER_NOT_FOUND FENCED_LEADER_EPOCH UNKNOWN_LEADER_EPOCH STALE_BROKER_EPOCH
        OFFSET_NOT_AVAILABLE PREFERRED_LEADER_NOT_AVAILABLE ELIGIBLE_LEADERS_NOT_AVAILABLE ELECTION_NOT_NEEDED
        NO_REASSIGNMENT_IN_PROGRESS UNSTABLE_OFFSET_COMMIT THROTTLING_QUOTA_EXCEEDED PRODUCER_FENCED UNKNOWN_TOPIC_ID
        INCONSISTENT_TOPIC_ID UNKNOWN_CONTROLLER_ID TRANSACTION_ABORTABLE REBOOTSTRAP_REQUIRED NO_ERROR
        SHARE_SESSION_NOT_FOUND INVALID_SHARE_SESSION_EPOCH SHARE_SESSION_LIMIT_REACHED UNKNOWN_SUBSCRIPTION_ID
        OFFSET_OUT_OF_RANGE FENCED_STATE_EPOCH
        _DESTROY _FAIL _TRANSPORT _CRIT_SYS_RESOURCE _RESOLVE _MSG_TIMED_OUT _PARTITION_EOF _ALL_BROKERS_DOWN _TIMED_OUT
        _QUEUE_FULL _ISR_INSUFF _NODE_UPDATE _SSL _WAIT_COORD _IN_PROGRESS _PREV_IN_PROGRESS _ASSIGN_PARTITIONS
        _REVOKE_PARTITIONS _CONFLICT _STATE _NO_OFFSET _OUTDATED _TIMED_OUT_QUEUE _WAIT_CACHE _INTR _PARTIAL _NOENT
        _UNDERFLOW _RETRY _PURGE_QUEUE _PURGE_INFLIGHT _FATAL _INCONSISTENT _GAPLESS_GUARANTEE _MAX_POLL_EXCEEDED
        _UNKNOWN_BROKER _FENCED _APPLICATION _ASSIGNMENT_LOST _NOOP _AUTO_OFFSET_RESET _LOG_TRUNCATION
        _DESTROY_BROKER _BAD_MSG _EXISTING_SUBSCRIPTION _UNKNOWN_GROUP
    """,
    "stale": """
        ILLEGAL_GENERATION UNKNOWN_MEMBER_ID REBALANCE_IN_PROGRESS FENCED_INSTANCE_ID STALE_MEMBER_EPOCH
        FENCED_MEMBER_EPOCH MEMBER_ID_REQUIRED UNRELEASED_INSTANCE_ID GROUP_ID_NOT_FOUND
    """,
    "large": "MSG_SIZE_TOO_LARGE RECORD_LIST_TOO_LARGE",
    "record": """
        INVALID_RECORD INVALID_TIMESTAMP INVALID_MSG_SIZE UNSUPPORTED_FOR_MESSAGE_FORMAT UNSUPPORTED_COMPRESSION_TYPE
        INVALID_RECORD_STATE _BAD_COMPRESSION _KEY_SERIALIZATION _VALUE_SERIALIZATION _KEY_DESERIALIZATION
        _VALUE_DESERIALIZATION _INVALID_DIFFERENT_RECORD
    """,
    "topic": """
        TOPIC_EXCEPTION TOPIC_ALREADY_EXISTS INVALID_PARTITIONS INVALID_REPLICATION_FACTOR INVALID_REPLICA_ASSIGNMENT
        TOPIC_DELETION_DISABLED _UNKNOWN_PARTITION _UNKNOWN_TOPIC
    """,
    "right": """
        TOPIC_AUTHORIZATION_FAILED GROUP_AUTHORIZATION_FAILED CLUSTER_AUTHORIZATION_FAILED
        TRANSACTIONAL_ID_AUTHORIZATION_FAILED DELEGATION_TOKEN_AUTHORIZATION_FAILED UNSUPPORTED_SASL_MECHANISM
        ILLEGAL_SASL_STATE SASL_AUTHENTICATION_FAILED SECURITY_DISABLED DELEGATION_TOKEN_AUTH_DISABLED
        DELEGATION_TOKEN_NOT_FOUND DELEGATION_TOKEN_OWNER_MISMATCH DELEGATION_TOKEN_REQUEST_NOT_ALLOWED
        DELEGATION_TOKEN_EXPIRED INVALID_PRINCIPAL_TYPE UNACCEPTABLE_CREDENTIAL PRINCIPAL_DESERIALIZATION_FAILURE
        _AUTHENTICATION
    """,
    "setting": """
        OFFSET_METADATA_TOO_LARGE INVALID_REQUIRED_ACKS INCONSISTENT_GROUP_PROTOCOL INVALID_GROUP_ID
        INVALID_SESSION_TIMEOUT INVALID_COMMIT_OFFSET_SIZE UNSUPPORTED_VERSION INVALID_CONFIG INVALID_REQUEST
        POLICY_VIOLATION INVALID_TRANSACTION_TIMEOUT NON_EMPTY_GROUP GROUP_MAX_SIZE_REACHED GROUP_SUBSCRIBED_TO_TOPIC
        RESOURCE_NOT_FOUND DUPLICATE_RESOURCE INCONSISTENT_VOTER_SET INVALID_UPDATE_VERSION FEATURE_UPDATE_FAILED
        UNSUPPORTED_ASSIGNOR MISMATCHED_ENDPOINT_TYPE UNSUPPORTED_ENDPOINT_TYPE INVALID_REGISTRATION INVALID_VOTER_KEY
        DUPLICATE_VOTER VOTER_NOT_FOUND TELEMETRY_TOO_LARGE INVALID_REGULAR_EXPRESSION STREAMS_INVALID_TOPOLOGY
        STREAMS_INVALID_TOPOLOGY_EPOCH STREAMS_TOPOLOGY_FENCED
        _FS _INVALID_ARG _UNKNOWN_PROTOCOL _NOT_IMPLEMENTED _UNSUPPORTED_FEATURE _INVALID_TYPE _READ_ONLY
        _NOT_CONFIGURED
    """,
}

MEANINGS: dict[int, SendErrorMeaning] = {
    getattr(KafkaError, name): meaning for meaning, names in _CODES.items() for name in names.split()
}
"""The meaning of each error code."""

_WORDS: dict[SendErrorMeaning, tuple[str, str]] = {
    "large": (
        "a record is too large for its topic",
        "raise max.message.bytes of the predictions and dead-letter topics above that of the features",
    ),
    "record": (
        "Kafka refuses a record of the batch",
        "set cleanup.policy=delete on the output topics: a compacted topic refuses a record without a key",
    ),
    "topic": (
        "an output topic does not exist, or has too few partitions",
        "give each output topic as many partitions as the features topic has (`headrace doctor` names the topic)",
    ),
    "right": (
        "Kafka denies it",
        "give the user WRITE on the output topics, and on transactional ids that start with the pipeline's name",
    ),
    "setting": (
        "Kafka refuses a request",
        "check [kafka.librdkafka], and the broker's own settings and version (`headrace doctor`)",
    ),
}
_OF_CODES: dict[int, tuple[str, str]] = {
    KafkaError.OFFSET_METADATA_TOO_LARGE: (
        "the broker's limit for the metadata of an offset is too low",
        "set the broker's offset.metadata.max.bytes to 4096, the default, or more",
    ),
    KafkaError.INVALID_TRANSACTION_TIMEOUT: (
        "the broker allows only a shorter transaction timeout",
        "lower transaction.timeout.ms in [kafka.librdkafka], or raise the broker's transaction.max.timeout.ms",
    ),
    KafkaError.POLICY_VIOLATION: (
        "a policy of the broker forbids it",
        "ask the broker's administrator about its policies for the output topics and their records",
    ),
}


class SendRefused(Exception):
    """Raised as one of its subclasses when Kafka refuses records until something is changed; `hint` says what.

    Its status is 403 if the user lacks a right.
    """

    def __init__(self, message: str, *, hint: str, code: int = KafkaError.NO_ERROR) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = 403 if meaning_of(code) == "right" else 400


def meaning_of(code: int) -> SendErrorMeaning:
    """Return the meaning of a code. An unknown code counts as an outage that passes."""
    return MEANINGS.get(code, "passes")


def refusal(code: int) -> tuple[str, str] | None:
    """Return the message and the hint for a code that does not pass; None for one that passes or is stale."""
    return _OF_CODES.get(code) or _WORDS.get(meaning_of(code))
