"""Heads that were parsed before, and what must not be taken for one."""

from headrace.pipeline.serve.http.http_request import RequestHead
from headrace.pipeline.serve.http.known_heads import HEAD_BYTES_MAX, HEADS_MAX, KnownHeads

HEAD = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"


def parsed(length: bytes = b"2") -> RequestHead:
    return RequestHead(b"POST", b"/predict", {b"host": b"a", b"content-length": length})


def test_a_whole_request_with_the_same_head_is_found() -> None:
    heads, head = KnownHeads(), parsed()
    assert heads.find(HEAD + b"hi") is None
    heads.note(head, HEAD + b"hi", 2)
    assert heads.find(HEAD + b"ho") == (head, b"ho")


def test_a_part_of_a_request_and_more_than_one_are_not_found() -> None:
    heads = KnownHeads()
    heads.note(parsed(), HEAD + b"hi", 2)
    whole = HEAD + b"hi"
    for data in (b"", HEAD[:3], HEAD[:-1], HEAD, whole[:-1], whole + b"!", whole * 2, b"\r\n" + whole):
        assert heads.find(data) is None, data


def test_what_is_no_head_is_not_noted() -> None:
    heads = KnownHeads()
    heads.note(parsed(), HEAD[:5], 2)
    heads.note(RequestHead(b"GET", b"/", {}), b"GET", 0)
    heads.note(parsed(), (HEAD + b"hi") * 2, 2)
    heads.note(parsed(b"3"), HEAD + b"hi", 2)
    for data in (b"GET", HEAD[:5], HEAD + b"hi", HEAD):
        assert heads.find(data) is None, data


def test_the_number_of_heads_and_their_size_are_bounded() -> None:
    heads = KnownHeads()
    long = HEAD.replace(b"host", b"x: " + b"y" * HEAD_BYTES_MAX + b"\r\nhost")
    heads.note(parsed(), long + b"hi", 2)
    assert heads.find(long + b"hi") is None
    for number in range(3 * HEADS_MAX):
        one = HEAD.replace(b"host", b"x: %d\r\nhost" % number)
        heads.note(parsed(), one + b"hi", 2)
        assert heads.find(one + b"hi") is not None
    assert len(heads._heads) <= HEADS_MAX
