"""Keys: secrets that programs use, known by the prefix their issuer documents."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KeyKind:
    """One kind of secret.

    Attributes:
        issuer: who issues it.
        marks: texts of which one stands in every such key; looked for first, which is fast.
        pattern: the key itself.
    """

    issuer: str
    marks: tuple[str, ...]
    pattern: re.Pattern[str]


def _kind(issuer: str, marks: str, pattern: str) -> KeyKind:
    return KeyKind(
        issuer, tuple(marks.split()), re.compile(rf"(?<![A-Za-z0-9_-])(?:{pattern})(?![A-Za-z0-9_])")
    )


# Prefixes as the issuers document them; lengths as they issue them today, at least.
KEY_KINDS: tuple[KeyKind, ...] = (
    # docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html; a digit of base 32 each
    _kind("AWS", "AKIA ASIA", r"A[KS]IA[A-Z2-7]{16}"),
    # github.blog/2021-04-05-behind-githubs-new-authentication-token-formats
    _kind(
        "GitHub",
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
        r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{82}",
    ),
    # docs.gitlab.com/security/tokens (token prefixes)
    _kind("GitLab", "glpat- gldt- glrt-", r"gl(?:pat|dt|rt)-[\w-]{20,}"),
    # api.slack.com/authentication/token-types
    _kind("Slack", "xox xapp-", r"(?:xox[abprs]|xapp)-[\w-]{20,}"),
    # keys carry the base-64 of "OpenAI" in their middle; the older form is 48 letters and digits
    _kind(
        "OpenAI",
        "sk-",
        r"sk-[\w-]{20,}T3BlbkFJ[\w-]{20,}|sk-(?:proj|svcacct|admin)-[\w-]{40,}|sk-[A-Za-z0-9]{48}",
    ),
    _kind("Anthropic", "sk-ant-", r"sk-ant-[a-z0-9]+-[\w-]{80,}"),
    # huggingface.co/docs/hub/security-tokens
    _kind("Hugging Face", "hf_", r"hf_[A-Za-z0-9]{34,}"),
    # cloud.google.com/docs/authentication/api-keys
    _kind("Google", "AIza", r"AIza[\w-]{35}"),
    # docs.stripe.com/keys
    _kind("Stripe", "k_live_ k_test_", r"[sr]k_(?:live|test)_[A-Za-z0-9]{24,}"),
    # docs.npmjs.com/about-access-tokens, pypi.org/help/#apitoken
    _kind("npm", "npm_", r"npm_[A-Za-z0-9]{36}"),
    _kind("PyPI", "pypi-AgEI", r"pypi-AgEI[\w-]{50,}"),
    # RFC 7519: three base-64 parts, the first two begin with {"
    _kind("JSON Web Token", "eyJ", r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    # RFC 7468; a block without its end is masked as far as it goes
    KeyKind(
        "private key",
        ("PRIVATE KEY",),
        re.compile(
            r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----[A-Za-z0-9+/=\s:,\-.\\]{40,}?"
            r"(?:-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----|\Z)"
        ),
    ),
)
# Blanks to fill in are no secrets: AKIAXXXXXXXXXXXXXXXX, sk-your-key-here...
_BLANK = re.compile(r"(?i:your|xxxx|placeholder)|(.)\1{7}")


def is_secret(text: str) -> bool:
    """Tell whether a key is one and no blank to fill in."""
    return "PRIVATE KEY" in text or _BLANK.search(text) is None
