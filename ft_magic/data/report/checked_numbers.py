"""Checked numbers: bank cards, bank accounts and telephones, each proven by its checksum or numbering plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType

# length -> prefixes of card numbers issued today: ISO/IEC 7812 ranges as the networks publish them
_CARD_PREFIXES: Mapping[int, str] = MappingProxyType(
    {
        14: r"3(?:0[0-5]|[68])",  # Diners Club
        15: r"3[47]",  # American Express
        16: r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|6(?:011|5|4[4-9])|35(?:2[89]|[3-8])|62",
        19: r"4|62|6(?:011|5)",
    }
)
_CARD_PATTERNS = {length: re.compile(prefixes) for length, prefixes in _CARD_PREFIXES.items()}
# length of an IBAN by country: IBAN registry of SWIFT, ISO 13616
_IBAN_LENGTHS: Mapping[str, int] = MappingProxyType(
    {
        word[:2]: int(word[2:])
        for word in (  # noqa: SIM905  a table of 77 short words reads better as text
            "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 "
            "ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
            "LB28 LC32 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 "
            "RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
        ).split()
    }
)


def is_card(text: str) -> bool:
    """Tell whether digits (spaces and hyphens allowed) are a card number: prefix, length and Luhn's checksum."""
    digits = re.sub(r"[ -]", "", text)
    pattern = _CARD_PATTERNS.get(len(digits))
    return (
        pattern is not None and pattern.match(digits) is not None and len(set(digits)) > 1 and _luhn(digits)
    )


def is_iban(text: str) -> bool:
    """Tell whether a text is an account number: its country's length and the remainder 1 by 97 (ISO 7064)."""
    packed = text.replace(" ", "")
    if _IBAN_LENGTHS.get(packed[:2]) != len(packed):
        return False
    return int("".join(str(int(sign, 36)) for sign in packed[4:] + packed[:4])) % 97 == 1


def can_tell_phones() -> bool:
    """Tell whether the package that knows the world's numbering plans is installed."""
    return find_spec("phonenumbers") is not None


def is_phone(text: str) -> bool:
    """Tell whether a text is a telephone number in use: with its country's +, or written as North America does."""
    if not can_tell_phones():
        return False
    import phonenumbers

    try:
        number = phonenumbers.parse(text, None if text.startswith("+") else "US")
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number(number))


def _luhn(digits: str) -> bool:
    """Return whether Luhn's checksum holds (ISO/IEC 7812-1, annex B)."""
    doubled = (2 * int(digit) for digit in digits[-2::-2])
    return (
        sum(int(digit) for digit in digits[-1::-2]) + sum(d - 9 if d > 9 else d for d in doubled)
    ) % 10 == 0
