"""Personal data and secrets: found only where a checksum, plan or prefix proves them; never shown."""

import pytest

from ft_magic.data import Data
from ft_magic.data.report.personal import masked, personal_in

# Keys are put together here so that no scanner takes them for leaked ones.
KEYS = (
    "AKIA" + "QWERTYUIOPASDFGH",
    "ghp_" + "a1B2c3D4e5" * 4,
    "glpat-" + "x9Y8z7W6v5U4t3S2r1Q0",
    "xoxb-" + "1234567890-abcdefGHIJKL",
    "sk-proj-" + "a1B2c3D4e5" * 5,
    "hf_" + "kLmNoPqRsTuVwXyZaBcDeFgHiJkLmNoPqR",
    "AIza" + "SyA-1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6",
    "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N",
    "-----{0} RSA PRIVATE {2}-----\n{3}\n-----{1} RSA PRIVATE {2}-----".format(
        "BEGIN", "END", "KEY", "MIIEpAIBAAKCAQEA" * 6
    ),
)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Write to jane.doe+x@acme-corp.co.uk.", "Write to [EMAIL]."),
        ("<bob@acme.io>, ann@acme.io", "<[EMAIL]>, [EMAIL]"),
        ("Call +49 30 901820 now", "Call [PHONE] now"),
        ("Call (212) 736-5000 or 1-212-736-5000", "Call [PHONE] or [PHONE]"),
        ("phone:+442079460958.", "phone:[PHONE]."),
        ("Visa 4111 1111 1111 1111, Amex 378282246310005", "Visa [CARD], Amex [CARD]"),
        ("IBAN DE89 3704 0044 0532 0130 00, or GB82WEST12345698765432.", "IBAN [IBAN], or [IBAN]."),
        *((f"key: {key} end", "key: [KEY] end") for key in KEYS),
    ],
)
def test_personal_data_is_found_and_masked(text, clean):
    assert masked(text) == clean
    assert masked(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "order number 4111111111111112",  # fails Luhn
        "order number 1234567812345670",  # passes Luhn, but no network issues 1...
        "4,111,111,111,111,111 and 0.4111111111111111",
        "GB82WEST12345698765433",  # remainder by 97 is 2
        "ISBN 978-3-16-148410-0, 2021-10-12 12:30:40, 192.168.1.100",
        "pi = 3.14159265358979323846",
        "1 234 567 890 123 people, 555-1234, 12 345 678",
        "5+123456789012 = 123456789017",
        "git@github.com:a/b.git, logo@2x.png, me @ home, a@b",
        "AKIAXXXXXXXXXXXXXXXX, sk-your-key-here, hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "a task-oriented disk-based eyJustice",
        "-----BEGIN PUBLIC KEY----- MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert personal_in(text) == []
    assert masked(text) == text


def rows_with(*texts):
    rows = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(120)]
    return Data((*rows, *({"prompt": text, "completion": "Noted."} for text in texts)), "demo")


def test_the_report_counts_each_kind_and_shows_no_secret():
    key = KEYS[0]
    data = rows_with(f"Use {key} and jane.doe@acme.io or joe@acme.io", "Pay with 4242 4242 4242 4242")
    report = data.report()
    (finding,) = report.findings
    assert (finding.name, finding.level, finding.count, finding.examples) == ("pii", "problem", 2, (120, 121))
    assert "2 e-mail addresses" in finding.message
    assert "1 key" in finding.message
    assert "1 card number" in finding.message
    for shown in (str(report), report._repr_html_()):
        assert key not in shown
        assert "jane.doe" not in shown
        assert "4242 4242" not in shown


def test_an_address_alone_is_a_warning():
    assert rows_with("Ask joe@acme.io").report().findings[0].level == "warning"


def test_masking_changes_what_is_said_and_nothing_else():
    call = {"type": "function", "function": {"name": "mail", "arguments": {"to": "joe@acme.io"}}}
    row = {
        "messages": [
            {"role": "user", "content": "Mail joe@acme.io"},
            {"role": "assistant", "content": "", "tool_calls": [call], "train": False},
            {"role": "tool", "content": "sent to joe@acme.io", "name": "mail"},
            {"role": "assistant", "content": "Done."},
        ],
        "tools": [{"name": "mail"}],
    }
    plain = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    data = Data((plain, row), "demo").fix("pii")
    assert data[0] is plain
    said = data[1]["messages"]
    assert [turn["content"] for turn in said] == ["Mail [EMAIL]", "", "sent to [EMAIL]", "Done."]
    assert said[1]["tool_calls"] == [call]
    assert said[1]["train"] is False
    assert data[1]["tools"] == row["tools"]
    assert row["messages"][0]["content"] == "Mail joe@acme.io"  # the data before stay as they were
    assert data.lineage == ("fix pii: 1 rows changed",)
    assert data.repairs[0].changed == (1,)
    assert "joe" not in str(data.repairs)
