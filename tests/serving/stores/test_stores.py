"""Model repositories in object stores can be pushed, served, followed and pulled."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest

from hangtag.serving.stores.store import Store
from tests.kit import onnx_models
from tests.kit.command import contents, last_line, refusal, without
from tests.kit.repository import Repository
from tests.kit.stores import SECRET, ObjectStore, answer, swap, until_answer
from tests.kit.waiting import pass_time, until

pytest.importorskip("obstore", reason="the extra stores is not installed")
pytest.importorskip("moto", reason="moto is not installed")
pytestmark = pytest.mark.slow

AWAY = '"the copy of the model store cannot be updated; the previous models still serve"'
BACK = '"the copy of the model store is updated again"'
INDEX = "hangtag-index.json"


@pytest.mark.parametrize("scheme", ["s3", "web"])
def test_a_server_follows_what_is_pushed(scheme: str, local: Repository, request: pytest.FixtureRequest) -> None:
    store: ObjectStore = request.getfixturevalue(scheme)
    local.publish("other", 1)
    assert INDEX in store.push(local.folder)
    assert store.push(local.folder) == ""
    with store.server() as server:
        assert answer(server) == 1
        local.publish("m", 2)
        store.push(local.folder / "m")
        until_answer(server, 2)
        local.promote("m", 1)
        store.push(local.folder / "m")
        until_answer(server, 1)
        assert answer(server, "other") == 1
    assert store.run("list", "--models", store.url).count("other") == 1


def test_a_version_is_pushed_over_only_by_wish(s3: ObjectStore, local: Repository) -> None:
    s3.push(local.folder)
    local.remove("m")
    local.publish("m", 1, onnx_models.shifted(7))
    refused = s3.refused("push", local.folder, s3.url)
    assert refused == f"{s3.url} has different content for m 1: publish a new version, or give --replace"
    with s3.server() as server:
        assert answer(server) == 1
        s3.push("--replace", local.folder)
        until_answer(server, 7)


def test_of_two_pushes_at_once_one_is_refused(s3: ObjectStore, local: Repository) -> None:
    def push_another(data: bytes) -> bytes:  # after the first push has found no index
        s3.link.alter = bytes
        s3.put(INDEX, b"{}")
        return data

    s3.link.alter = push_another
    refused = s3.refused("push", local.folder, s3.url)
    assert refused == f"{s3.url}: a file was changed at the same time; try again"


def test_without_an_index_the_listing_counts(s3: ObjectStore, local: Repository) -> None:
    s3.put("m/1/model.onnx", (local.folder / "m/1/model.onnx").read_bytes())
    second = local.publish("m", 2).read_bytes()
    with s3.server() as server:
        s3.put("m/2/labels.txt", b"a")
        pass_time(0.5)
        assert answer(server) == 1  # a version folder without a model is no version yet
        s3.put("m/2/model.onnx", second)
        until_answer(server, 2)
        size = len(second)
        lies = (
            (b"Contents>", b"Nothings>", f"{s3.url} has no models, so no local model is removed"),
            (b"<Size>%d<" % size, b"<Size>%d<" % (size - 1), "does not match the store's index or listing"),
        )
        for count, (true, false, reason) in enumerate(lies, 1):
            s3.link.alter = swap(true, false)
            assert reason in server.wait_for_count(AWAY, count)[-1]
            s3.link.alter = bytes
            server.wait_for_count(BACK, count)
            assert answer(server) == 2
        assert s3.refused("push", local.folder, s3.url).startswith(f"{s3.url} has different content for m 1, m 2: ")
        local.publish("new")
        s3.push(local.folder / "new")
        until(lambda: "\nnew " in s3.run("list", "--models", s3.url))  # an index that lists only `new` would hide m
        assert answer(server) == 2


def test_a_pull_is_what_was_pushed(s3: ObjectStore, local: Repository, tmp_path: Path) -> None:
    for version in (2, 3):
        local.publish("m", version)
    local.settings("m", "max_queue_size = 100\n")
    local.promote("m", 2).write_text("no promotion")
    local.route("r", 'cascade = ["m", "m@1"]\n')
    s3.push(local.folder)
    pulled = tmp_path / "pulled"
    assert "m/serving.toml" in s3.run("pull", s3.url, pulled)
    assert contents(pulled) == contents(local.folder)
    assert s3.run("pull", s3.url, pulled) == ""
    (pulled / "m/1/model.onnx").write_bytes(b"else")
    refused = s3.refused("pull", s3.url, pulled)
    assert refused == f"{pulled} has different content for m 1: pull into another folder, or give --replace"
    s3.run("pull", s3.url, pulled, "--replace")
    assert contents(pulled) == contents(local.folder)


def test_a_pull_removes_an_incomplete_local_version_only_by_wish(
    s3: ObjectStore, local: Repository, tmp_path: Path
) -> None:
    s3.push(local.folder)
    pulled = tmp_path / "pulled"
    (pulled / "m/1").mkdir(parents=True)
    (pulled / "m/1/notes.txt").write_text("a version without model.onnx")
    before = contents(pulled)
    assert s3.refused("pull", s3.url, pulled).startswith(f"{pulled} has different content for m 1: ")
    assert contents(pulled) == before
    s3.run("pull", s3.url, pulled, "--replace")
    assert contents(pulled) == contents(local.folder)


def test_the_copy_keeps_to_its_bound(s3: ObjectStore, local: Repository) -> None:
    s3.push(local.folder)
    with s3.server("--model-cache-mib", 2) as server:
        for version, mib in enumerate((0.6, 0.6, 0.6, 0.6, 1.5), 2):
            file = local.publish("m", version)
            file.with_name("weights").write_bytes(b"\0" * int(mib * 2**20))
            s3.push(local.folder)
            if mib < 1:  # the cache removes a version that is neither the latest nor the previous one
                until_answer(server, version)
        assert "m: the model cache is limited to 2 MiB" in server.wait_for(AWAY)
        assert answer(server) == 5


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "the store refuses the credentials, or there are none"),
        (404, f"writes models and {INDEX}, without which a web server cannot be a store"),
        (503, "answers 503 Service Unavailable"),
    ],
)
def test_an_error_has_no_word_of_the_credentials(web: ObjectStore, status: int, reason: str) -> None:
    web.status = status
    refused = web.refused("list", "--models", web.url)
    assert refused.startswith(f"https://{web.link.address}/models")
    assert reason in refused
    assert SECRET not in refused


@pytest.mark.parametrize("authority", ["@host.invalid", "@[bad", "℀@host.invalid", "/@host.invalid", "?@host.invalid"])
def test_the_message_about_an_invalid_url_has_no_password(web: ObjectStore, authority: str) -> None:
    refused = web.refused("list", "--models", f"https://user:{SECRET}{authority}/models?sig={SECRET}")
    assert refused.startswith(f"https://{authority.partition('@')[2]}/models: ")
    assert SECRET not in refused


def test_a_command_that_needs_a_folder_does_not_quote_the_url_of_a_store(web: ObjectStore) -> None:
    web.variables["HANGTAG_MODELS"] = web.url
    for arguments in (("models", "show", "m"), ("import", "m.onnx", "--name", "m")):
        refused = refusal(*arguments, exit_code=2, variables=web.variables)
        assert "expected a folder" in refused
        assert SECRET not in refused


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AZURE_STORAGE_ACCOUNT_NAME"])
def test_stores_of_the_same_name_are_different_stores(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://one")
    one = Store("s3://bucket/models").identity
    monkeypatch.setenv(variable, "http://two")
    assert Store("s3://bucket/models").identity != one


def test_a_first_copy_of_many_models_looks_at_each_only_a_few_times(web: ObjectStore, local: Repository) -> None:
    for number in range(40):
        local.publish(f"m{number}")
    web.push(local.folder)
    with patch.object(Path, "lstat", autospec=True, side_effect=Path.lstat) as looks:
        web.run("list", "--models", web.url)
    assert looks.call_count < 20 * 40


def test_an_index_is_checked_and_leads_nowhere_else(web: ObjectStore, local: Repository, tmp_path: Path) -> None:
    file = tmp_path / "www/models" / INDEX
    web.push(local.folder)
    index = json.loads(file.read_text())
    for text, reason in (
        (file.read_text()[:-9], f"{INDEX} is not an index of format 1"),
        (file.read_text().replace('"sha256": "', '"sha256": "?'), f"{INDEX} is not an index of format 1"),
        ('{"format": 2}', "another version of hangtag wrote it"),
        (
            '{"format": 1, "files": []}',
            "has no models, so no local model is removed. 'hangtag models push' writes models",
        ),
        (" " * (65 << 20), f"{INDEX} has more than 67,108,864 bytes"),
    ):
        file.write_text(text)
        assert reason in web.refused("list", "--models", web.url)
    paths = ("m/1/../../../../x", "../x", "/x", "m/1/.hidden", "m/..", "m/1//x", "m/1/a\\b", "m/x/model.onnx", "m/7/x")
    index["files"] += [index["files"][0] | {"path": path} for path in paths]
    file.write_text(json.dumps(index))
    web.run("pull", web.url, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(local.folder)


def test_the_message_names_what_is_lacking(s3: ObjectStore, web: ObjectStore, tmp_path: Path) -> None:
    assert "http://host/models is not a model store" in s3.refused("list", "--models", "http://host/models")
    lacking = s3.refused("list", "--models", "s3://no-such-bucket/a")
    assert lacking.startswith("s3://no-such-bucket/a: there is no such bucket. /")
    assert s3.refused("push", tmp_path, s3.url).startswith(f"{tmp_path} has no model to push")
    assert "the host name is unknown" in s3.refused("list", "--models", "https://no-such-host.invalid/a")
    authorities = web.variables.pop("SSL_CERT_FILE")
    assert "this machine does not trust the store's certificate" in web.refused("list", "--models", web.url)
    web.variables = {"XDG_CACHE_HOME": authorities}  # a file where a folder belongs
    assert web.refused("list", "--models", web.url).startswith("a local file cannot be read or written: ")
    lacking = last_line(without(["obstore"], "serve", "--models", s3.url, **s3.variables).stderr)
    assert lacking.startswith("Error: a model store needs the Python module 'obstore")
    assert lacking.endswith("pip install '.[stores]'")
