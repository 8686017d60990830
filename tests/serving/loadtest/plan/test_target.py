import pytest

from hangtag.serving.loadtest.plan.target import Target, of_model, parse


def test_a_target_is_a_name_a_server_and_a_model() -> None:
    assert parse("old=127.0.0.1:8001/cnn-int8") == Target("old", "cnn-int8", "127.0.0.1:8001")
    assert parse("v6=[::1]:8001/cnn", "classify") == Target("v6", "cnn", "[::1]:8001", "classify")
    assert str(parse("old=localhost:1/cnn")) == "old=localhost:1/cnn"


def test_a_model_may_have_a_version() -> None:
    assert of_model("cnn") == Target("cnn", "cnn")
    assert of_model("cnn@2", "[::1]:1") == Target("cnn@2", "cnn", "[::1]:1", version="2")
    assert parse("old=localhost:1/cnn@2") == Target("old", "cnn", "localhost:1", version="2")
    assert str(parse("old=localhost:1/cnn@2")) == "old=localhost:1/cnn@2"


@pytest.mark.parametrize("text", ["@2", "cnn@", "@", "cnn@1@2"])
def test_other_versions_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no version of a model: write MODEL@VERSION"):
        of_model(text)
    with pytest.raises(ValueError, match=r"is no version of a model: write MODEL@VERSION"):
        parse(f"old=localhost:1/{text}")


@pytest.mark.parametrize("text", ["cnn", "a=b", "a=host/cnn", "a=host:80", "=host:80/cnn", "a=host:80/", "a=b:1/c/d"])
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a target: write NAME=HOST:PORT/MODEL\[@VERSION\], for example old="):
        parse(text)


@pytest.mark.parametrize("empty", [{"name": ""}, {"model": ""}, {"address": ""}])
def test_a_target_is_complete(empty: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"has a {next(iter(empty))}"):
        Target(**({"name": "a", "model": "b", "address": "c:1"} | empty))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "localhost:", "8001", ":8001", "a:0", "a:65536", "::1:8001", "[::1]", "a b:1"],
)
def test_other_addresses_are_refused_before_any_call(address: str) -> None:
    with pytest.raises(ValueError, match=r"is no address: write HOST:PORT, for example 127\.0\.0\.1:8001"):
        Target("cnn", "cnn", address)


@pytest.mark.parametrize(
    ("server", "loopback"),
    [
        ("127.0.0.1:8001", True),
        ("127.9.9.9:1", True),
        ("localhost:8001", True),
        ("[::1]:8001", True),
        ("unix:/tmp/socket", True),
        ("10.0.0.1:8001", False),
        ("[2001:db8::1]:8001", False),
        ("localhost.example.org:8001", False),
        ("example.org:8001", False),
        ("http://127.0.0.1:8000", True),
        ("https://[::1]", True),
        ("http://localhost/tenant", True),
        ("http://10.0.0.1:8000", False),
        ("https://example.org", False),
    ],
)
def test_only_an_address_that_cannot_be_another_machine_is_loopback(server: str, loopback: bool) -> None:
    assert Target("cnn", "cnn", server).is_loopback is loopback


@pytest.mark.parametrize(
    ("text", "address", "model", "version", "listens_at"),
    [
        ("rest=http://127.0.0.1:8000/cnn", "http://127.0.0.1:8000", "cnn", "", "127.0.0.1:8000"),
        ("rest=HTTPS://[::1]/cnn@2", "HTTPS://[::1]", "cnn", "2", "[::1]:443"),
        ("rest=http://a.example/tenant/b/cnn", "http://a.example/tenant/b", "cnn", "", "a.example:80"),
    ],
)
def test_a_target_may_be_a_url(text: str, address: str, model: str, version: str, listens_at: str) -> None:
    target = parse(text)
    assert (target.name, target.address, target.model, target.version) == ("rest", address, model, version)
    assert (target.protocol, target.listens_at) == ("HTTP", listens_at)
    assert str(target) == text


@pytest.mark.parametrize(
    "text", ["rest=http://127.0.0.1:8000", "rest=http:///cnn", "rest=http://a:0/cnn", "rest=http://a/b?c=1/cnn"]
)
def test_a_url_without_a_server_or_a_model_is_no_target(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a target: write NAME=|is no URL of a server"):
        parse(text)
