from headrace.consumers.fastjson.scan import Scanner
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.refusal import NO_KEY, Refusal
from headrace.pipeline.engine.key_column import KeyColumn

VALUES = [b'{"ts": 7, "features": {"a": 1}}', b'{"features": {"a": 1}}', b"{", b'{"features": {"a": 1}}']


def test_the_keys_of_decoded_records_are_met_and_those_without_a_key_are_refused() -> None:
    batch = RecordBatch(0, offsets=range(4), timestamps=[10, 11, 12, 13], keys=[b"a", None, b"c", b""], values=VALUES)
    refusals = {2: Refusal("not_json", "decode", "it breaks off")}
    keys = KeyColumn(batch, Scanner().scan(batch), {}, refusals)
    keys.refuse(refusals)
    assert refusals[1] == NO_KEY
    met = keys.met([0, 3])
    assert met["keys"] == [b"a", b""]
    assert met["answered"] is None, "all of them are answered"
    assert [times.tolist() for times in met["times"]] == [[7, -1], [10, 13]]
    assert keys.met([3])["answered"].tolist() == [1]
