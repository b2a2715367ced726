"""Personal data in a text: what has a form that can be checked. Nothing is downloaded and nothing leaves this machine.

    e-mail addresses                    by form; domains that are kept for examples (RFC 2606) name nobody and are passed over
    phone numbers                       phonenumbers, Google's own library: numbers that are valid in their country
    card and account numbers, wallets   by form and check digits (python-stdnum)
    US social security numbers          by form, and only ranges that are given out (python-stdnum)
    addresses of machines               ipaddress; those kept for documentation and for private networks are passed over likewise
    passports, driver's licences        a number of the usual length close behind these words: by itself it looks like any other number
    birth dates                         a whole date close behind such a word, from 1900 on: who was born before is history

Names and postal addresses have no such form and are not found; the report says so.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

REGIONS = ("US", "GB", "DE", "FR", "IN", "BR")
"""Countries whose phone numbers are known without their country code."""
_EMAIL = re.compile(r"(?<![\w.+%@-])[\w+%-]+(?:\.[\w+%-]+)*@(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,24}(?![\w@-])", re.IGNORECASE)
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}(?!\w)")
_SSN = re.compile(r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-])")
_WALLET = re.compile(r"(?<!\w)(?:[13][1-9A-HJ-NP-Za-km-z]{25,34}|bc1[02-9ac-hj-np-z]{11,71})(?!\w)")
_IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{1,4})(?![\w:]|\.\d)", re.IGNORECASE)
_DIGITS = re.compile(r"\d(?:[ ()./+-]{0,3}\d){6,}")
_RESERVED = re.compile(r"[@.](?:example\.(?:com|net|org)|[a-z0-9-]+\.(?:example|invalid|test|localhost))\Z", re.IGNORECASE)
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_NOBODY = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")))


_GAP = r"[^\n\d;!?]{0,30}?(?<!\w)"
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_YEAR = r"(?:19|20)\d\d"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = rf"(?:{_YEAR}([-/.])\d\d?\2\d\d?|\d\d?([-/.])\d\d?\3{_YEAR}|{_DAY}(?: of)? {_MONTH},? {_YEAR}|{_MONTH} {_DAY},? {_YEAR})"
_AFTER_WORDS = [(kind, re.compile(rf"\b{words}\b{_GAP}({form})(?![\w-])", re.IGNORECASE)) for kind, words, form in (
    ("passport number", "passport", r"(?=(?:[a-z]{0,4}\d){5})[a-z0-9]{7,9}"),
    ("driver's licence number", r"driv(?:er['\u2019]?s?|ing) licen[cs]e", r"(?=(?:[a-z-]{0,6}\d){5})[a-z0-9][a-z0-9-]{5,17}"),
    ("birth date", r"(?:born|date of birth|dob|birth ?da(?:te|y))", _DATE))]
"""What has no check digits, and is known by the words before it."""


class Personal(NamedTuple):
    """A place in a text, from `start` up to before `end`, and what stands there ("e-mail address", "phone number", ...)."""

    kind: str
    start: int
    end: int


class PersonalData:
    """Finds personal data and hides it."""

    name = "patterns and check digits (names and postal addresses cannot be found that way)"

    def find(self, text: str) -> list[Personal]:
        """Every place, in order; of two that overlap the one of the surer kind."""
        kept: list[Personal] = []
        for found in _candidates(text):
            if all(found.end <= other.start or found.start >= other.end for other in kept):
                kept.append(found)
        return sorted(kept, key=lambda one: one.start)

    def hide(self, text: str) -> str:
        """The text with every such place masked."""
        for one in reversed(self.find(text)):
            text = text[:one.start] + masked(text[one.start:one.end]) + text[one.end:]
        return text


def masked(text: str) -> str:
    """The first letter, then a star for each letter or digit: enough to find the place, too little to use it."""
    return text[:1] + "".join("*" if letter.isalnum() else letter for letter in text[1:])


def _candidates(text: str) -> Iterator[Personal]:
    """Surest kinds first."""
    from stdnum import bitcoin, iban, luhn
    from stdnum.us import ssn

    def card(digits: str) -> bool:
        plain = re.sub(r"\D", "", digits)
        return len(set(plain)) > 1 and bool(luhn.is_valid(plain))

    checks: list[tuple[str, re.Pattern[str], Callable[[str], bool]]] = [
        ("e-mail address", _EMAIL, lambda found: not _RESERVED.search(found)),
        ("account number", _IBAN, iban.is_valid), ("card number", _CARD, card),
        ("social security number", _SSN, ssn.is_valid), ("wallet", _WALLET, bitcoin.is_valid), ("address of a machine", _IP, _is_somebodys)]
    for kind, pattern, holds in checks:
        yield from (Personal(kind, *match.span()) for match in pattern.finditer(text) if holds(match[0]))
    for kind, pattern in _AFTER_WORDS:
        yield from (Personal(kind, *match.span(1)) for match in pattern.finditer(text))
    if _DIGITS.search(text):
        import phonenumbers

        for region in REGIONS:
            for match in phonenumbers.PhoneNumberMatcher(text, region):
                yield Personal("phone number", match.start, match.end)


def _is_somebodys(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    documented = any(address in network for network in _NOBODY if network.version == address.version)
    return address.is_global and not address.is_multicast and not documented and (address.version == 4 or address in _GLOBAL_V6)
