"""Static files: found by name only, compressed once, kept by the browser."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.web import assets
from app.web.rendering import static_url

VENDORED = ("plotly.min.js", "htmx.min.js")


@pytest.mark.parametrize("name", VENDORED)
def test_libraries_come_out_of_the_installed_wheels(shared_client: TestClient, name: str) -> None:
    answer = shared_client.get(static_url(name))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert len(answer.content) > 20_000
    # It is the wheel's own file, not a copy in the project.
    root = assets.static_folder()
    assert not list(root.rglob(name))


def test_gzip_only_where_it_is_taken(shared_client: TestClient) -> None:
    url = static_url("htmx.min.js")
    plain = shared_client.get(url, headers={"Accept-Encoding": "identity"})
    refused = shared_client.get(url, headers={"Accept-Encoding": "gzip;q=0, br"})
    packed = shared_client.get(url, headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in refused.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.content == packed.content == refused.content
    assert plain.headers["etag"] != packed.headers["etag"]
    for answer in (plain, packed):
        assert answer.headers["vary"] == "Accept-Encoding"


def test_only_the_right_hash_is_kept_for_ever(shared_client: TestClient) -> None:
    for wrong in ("/static/htmx.min.js", "/static/htmx.min.js?v=0123456789abcdef"):
        answer = shared_client.get(wrong)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-cache"


def test_what_has_not_changed_is_not_sent_again(shared_client: TestClient) -> None:
    first = shared_client.get("/static/htmx.min.js")
    tag = first.headers["etag"]
    again = shared_client.get("/static/htmx.min.js", headers={"If-None-Match": f'"x", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    other = shared_client.get("/static/htmx.min.js", headers={"If-None-Match": '"x"'})
    assert other.status_code == 200


def test_every_file_of_the_catalogue_is_served(shared_client: TestClient) -> None:
    names = list(assets.catalogue())
    assert set(VENDORED) < set(names)
    for name in names:
        answer = shared_client.get(static_url(name))
        assert answer.status_code == 200, name
        assert "immutable" in answer.headers["cache-control"]


def test_a_changed_file_gets_another_hash(tmp_path: Path) -> None:
    file = tmp_path / "site.css"
    file.write_text("a { color: red }")
    asset = assets.Asset("site.css", file)
    first = asset.digest()
    content = asset.content()
    assert content.compressed is not None
    assert gzip.decompress(content.compressed) == content.body
    assert content == asset.content()
    file.write_text("a { color: green }")
    assert asset.digest() != first
    assert asset.content().body == b"a { color: green }"


def test_a_name_that_is_not_there_is_an_error_in_a_template() -> None:
    with pytest.raises(KeyError):
        static_url("no/such/file.css")


def test_an_installed_package_brings_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "_PACKAGE", tmp_path / "app")
    assert assets.static_folder() == tmp_path / "static"  # a checkout
    (tmp_path / "app" / "_assets" / "static").mkdir(parents=True)
    (tmp_path / "app" / "_assets" / "templates").mkdir()
    assert assets.static_folder() == tmp_path / "app" / "_assets" / "static"
    assert assets.templates_folder() == tmp_path / "app" / "_assets" / "templates"
