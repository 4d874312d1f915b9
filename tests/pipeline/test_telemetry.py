import json
import logging

import pytest
import structlog

from headrace.pipeline.telemetry import configure_logs


@pytest.mark.parametrize(
    ("said", "is_shown"),
    [
        ("GETPID [fraud-0#producer-2] [thrd:main]: Failed to acquire transactional PID: retrying", False),
        ("TXNERR [fraud-0#producer-2] [thrd:main]: Current transaction failed: ILLEGAL_GENERATION", False),
        ("FAIL [fraud#consumer-1] [thrd:127.0.0.1:1]: Connect failed: Connection refused", False),
        ("MAXPOLL [fraud#consumer-1] [thrd:main]: Application maximum poll interval exceeded", True),
    ],
)
def test_what_the_client_tries_again_by_itself_is_no_warning(
    said: str, capsys: pytest.CaptureFixture[str], *, is_shown: bool
) -> None:
    root, client = logging.getLogger(), logging.getLogger("librdkafka")
    kept = root.handlers[:], root.level, client.filters[:]
    try:
        configure_logs(level="info", style="json")
        client.warning(said)
        shown = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    finally:
        structlog.reset_defaults()
        logging.captureWarnings(capture=False)
        root.handlers[:], client.filters[:] = kept[0], kept[2]
        root.setLevel(kept[1])
    assert shown == ([said] if is_shown else [])
