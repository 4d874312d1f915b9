import pytest

from headrace.state.store.address import AddressInvalid, StoreAddress, parse


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", StoreAddress("server", False, (("h", 6379),))),
        ("rediss://u:p%2Fw@h:1/3", StoreAddress("server", True, (("h", 1),), database=3, username="u", password="p/w")),
        ("redis://[::1]:2/0", StoreAddress("server", False, (("::1", 2),))),
        ("redis://h/?db=4", StoreAddress("server", False, (("h", 6379),), database=4, options={"db": "4"})),
        (
            "unix:///run/r.sock?db=2",
            StoreAddress("server", False, (), path="/run/r.sock", database=2, options={"db": "2"}),
        ),
        ("redis+cluster://a:1,b,[::1]:3", StoreAddress("cluster", False, (("a", 1), ("b", 6379), ("::1", 3)))),
        ("rediss+cluster://:w@a:1/0", StoreAddress("cluster", True, (("a", 1),), password="w")),
        ("redis+sentinel://a,b:7/fraud", StoreAddress("sentinel", False, (("a", 26379), ("b", 7)), service="fraud")),
        (
            "rediss+sentinel://u:w@a:1/fraud/5?client_name=x",
            StoreAddress(
                "sentinel",
                True,
                (("a", 1),),
                service="fraud",
                database=5,
                username="u",
                password="w",
                options={"client_name": "x"},
            ),
        ),
    ],
)
def test_each_form_of_address_is_read(url: str, address: StoreAddress) -> None:
    assert parse(url) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://s3cret@h", "must be like redis://"),
        ("s3cret", "must be like redis://"),
        ("redis://", "must be like redis://"),
        ("redis://:s3cret@/0", "must be like redis://"),
        ("redis://h:0", "must be like redis://"),
        ("redis://h:s3cret", "not an address"),
        ("redis://a:1,b:2/0", "not an address"),
        ("redis://h/s3cret", "must be a number"),
        ("redis://h//1", "must be a number"),
        ("redis://h/0?s3cret=1", "are accepted"),
        ("redis://h/0?db=s3cret", "db after its ? must be a number"),
        ("redis://h/0#s3cret", "must not contain a #"),
        ("redis+cluster://a:1,:s3cret/0", "not an address"),
        ("redis+cluster://a:1/3", "only the database 0"),
        ("redis+sentinel://a:1", "the name of a service"),
        ("redis+sentinel://a:1/fraud/s3cret", "must be a number"),
        ("redis+sentinel://a:1/fraud/0/s3cret", "the name of a service"),
        ("unix://", "must be like redis://"),
    ],
)
def test_what_is_no_address_is_refused_and_not_quoted(url: str, words: str) -> None:
    with pytest.raises(AddressInvalid) as caught:
        parse(url)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)
