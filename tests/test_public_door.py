"""The door of the public demo: what the environment says, who is let in at all, and by what a visitor is known again."""

from __future__ import annotations

import json

import pytest

from core.access import OWNER, Settings, gpu_words, read_settings
from core.methods import UserError
from core.runs import Workspace
from core.ui.door import open_door
from core.ui.visiting import address_of
from core.visitor_id import Signer, network

# what the environment says


def test_without_a_word_the_app_is_private_and_its_owner_may_all():
    assert read_settings({}) == Settings("private")
    assert Workspace.__init__.__defaults__[-1] is OWNER


@pytest.mark.parametrize("wrong", [{"GUARDWALTZ_MODE": "open"}, {"GUARDWALTZ_PUBLIC_MINUTES": "lots"}, {"GUARDWALTZ_PUBLIC_QUEUE": "0"},
                                   {"GUARDWALTZ_PUBLIC_MODELS": "embedded,openai:x"}, {"GUARDWALTZ_UPLOAD_MB": "-1"}])
def test_a_wrong_value_is_refused_by_its_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        read_settings(wrong)


def test_limits_and_lists_come_from_the_environment():
    found = read_settings({"GUARDWALTZ_MODE": "Public", "GUARDWALTZ_OWNERS": "ada, ben ,", "GUARDWALTZ_PUBLIC_MINUTES": "3",
                           "GUARDWALTZ_PUBLIC_MODELS": "mistral:small", "GUARDWALTZ_PUBLIC_RUNS": "rsft-0001"})
    assert (found.public, found.owners, found.limits.minutes, found.models, found.runs) == (
        True, ("ada", "ben"), 3, ("mistral:small",), ("rsft-0001",))


def test_a_private_space_needs_owners_and_sign_in(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "ada/guardwaltz")
    for name in ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="GUARDWALTZ_OWNERS"):
        open_door(Settings())
    with pytest.raises(UserError, match="hf_oauth: true"):
        open_door(Settings(owners=("ada",)))
    assert open_door(Settings("public")).host == "0.0.0.0"


def test_strangers_come_in_by_a_password_or_as_visitors_only(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setenv("PASSWORD", "x")
    with pytest.raises(UserError, match="needs a login"):
        open_door(Settings(), listen=True)
    with pytest.raises(UserError, match="do not go together"):
        open_door(Settings("public"), auth="ada:${PASSWORD}")
    assert open_door(Settings("public"), listen=True).login is None
    assert open_door(Settings(), listen=True, auth="ada:${PASSWORD}").login == ("ada", "x")
    assert open_door(Settings()).host == "127.0.0.1"


def test_a_space_says_when_its_gpu_is_not_what_it_seems(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert gpu_words() == ""
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert "not installed" in gpu_words()


# who asks


def test_a_cookie_is_ours_or_nobodys(tmp_path):
    signer = Signer.of(tmp_path)
    cookie = signer.new_cookie()
    assert signer.read_cookie(cookie)
    assert Signer.of(tmp_path).read_cookie(cookie)
    assert Signer(b"other").read_cookie(cookie) == ""
    for wrong in ("", ".", cookie[:-1], "x" + cookie, "name.", "ä.ö"):
        assert signer.read_cookie(wrong) == ""
    assert (tmp_path / "visitors.secret").stat().st_mode & 0o077 == 0
    mine, other = signer.visitor(cookie, "s1", "1.2.3.4"), signer.visitor("forged.00", "s1", "1.2.3.4")
    assert mine.key == signer.visitor(cookie, "s2", "9.9.9.9").key != other.key
    assert mine.address == other.address
    assert "1.2.3.4" not in json.dumps([mine.key, mine.address])


def test_a_household_is_one_address(monkeypatch):
    assert network("2001:db8:1:2::7") == network("2001:db8:1:2:ffff::1") != network("2001:db8:1:3::7")
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.delenv("GUARDWALTZ_PROXIES", raising=False)
    forged = {"x-forwarded-for": "8.8.8.8, 9.9.9.9, 10.0.0.1"}
    assert address_of(forged, "127.0.0.1") == "127.0.0.1", "without a proxy anybody can write that header"
    monkeypatch.setenv("SPACE_ID", "ada/guardwaltz")
    assert address_of(forged, "10.0.0.2") == "9.9.9.9", "what the nearest proxy saw, not what the browser wrote first"
    assert address_of({}, "10.0.0.2") == "10.0.0.2"
    monkeypatch.setenv("GUARDWALTZ_PROXIES", "1")
    assert address_of(forged, "10.0.0.2") == "8.8.8.8"
