"""Remove secrets from text that a store, a proxy or a client wrote, before the text enters an error or a log. Pure.

An error page may repeat the request: the Authorization header, a session token, a presigned URL, the
string to sign. Known secrets are replaced by their value, all others by the name that stands before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"
LONGEST = 300
"""Characters of foreign text that an error quotes."""

_SHORTEST = 4
_CERTAIN = 8  # a shorter known value is replaced only where it stands alone
_ELEMENTS = (
    "StringToSign|StringToSignBytes|SignatureProvided|Signature|CanonicalRequest|CanonicalRequestBytes|AWSAccessKeyId|"
    "AccessKeyId|SecretAccessKey|SessionToken|SecurityToken|Token-0|Token|HostId|Authorization|Password"
)
_HEADERS = "proxy-authorization|authorization|x-amz-security-token|x-amz-server-side-encryption-customer-key|set-cookie"
_FIELDS = (
    "x-amz-signature|x-amz-credential|x-amz-security-token|awsaccesskeyid|aws_access_key_id|aws_secret_access_key|"
    "aws_session_token|access_?key(?:_?id)?|secret_?(?:access_?)?key|session_?token|security_?token|signature|credential|"
    "stringtosign|canonicalrequest|password|passwd|secret|token"
)
_RULES = (
    # An element whose end was cut off is masked to the end of the text.
    (rf"<((?:\w+:)?(?:{_ELEMENTS}))(?:\s[^<>]*)?>.*?(?:</\1\s*>|\Z)", rf"<\1>{MASK}</\1>"),
    (r"([a-z][a-z0-9+.-]*://)[^/\s\"'<>@]*@", rf"\1{MASK}@"),
    # A header's value goes to the end of its line, its cell or its string.
    (rf"\b({_HEADERS}|cookie)\b([\"']?\s*(?:[:=]|%3[AD]|</\w+>\s*<\w+>)\s*[\"']?)[^\r\n<\"'|}}]+", rf"\1\2{MASK}"),
    (rf"\b({_FIELDS})\b([\"']?\s*(?:[:=]|%3[AD])\s*[\"']?)[^\s&<>\"',;|}}]+", rf"\1\2{MASK}"),
    (r"\b(bearer|basic|negotiate|aws4-hmac-sha256)\s+(?!\*)[a-z0-9+/=._~-]{6,}(?:[,;]\s*\w+=\S+)*", rf"\1 {MASK}"),
    (r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b", MASK),
    (r"\b[0-9a-f]{64}\b", MASK),
)
_INVISIBLE = r"(?is)<(script|style|head)\b.*?</\1\s*>|<!--.*?-->"
_TAG = r"(?s)<[^<>]*>"


def clean(text: str, known: Iterable[str | None] = ()) -> str:
    """A text without secrets.

    Args:
        text: what somebody else wrote.
        known: secrets by value; those of fewer than four characters are left to the names before them.

    Example:
        >>> clean("GET https://me:hunter2@host/b?X-Amz-Signature=ab12&x=1")
        'GET https://***@host/b?X-Amz-Signature=***&x=1'
    """
    values = sorted({value for value in known if value and len(value) >= _SHORTEST}, key=len, reverse=True)
    found = _without(_unescaped(_without(text, values)), values)
    for pattern, by in _RULES:
        found = re.sub(pattern, by, found, flags=re.IGNORECASE | re.DOTALL)
    return found


def words(text: str, known: Iterable[str | None] = ()) -> str:
    """The visible words of a page or an answer on one line, without secrets, and at most :data:`LONGEST` of them.

    Example:
        >>> words("<html><h1>Blocked</h1> by <b>policy</b></html>")
        'Blocked by policy'
    """
    shown = re.sub(_TAG, " ", re.sub(_INVISIBLE, " ", clean(text, known)))
    shown = " ".join("".join(one if one.isprintable() else " " for one in shown).split())
    return shown if len(shown) <= LONGEST else shown[:LONGEST].rstrip() + "..."


def _unescaped(text: str) -> str:
    """Entities undone, also those of a page that quotes an escaped answer."""
    if "&" not in text:
        return text
    from html import unescape

    return unescape(unescape(text))


def _without(text: str, values: Iterable[str]) -> str:
    for value in values:
        form = "".join(map(_as_written, value))
        if len(value) < _CERTAIN:
            form = rf"(?<![A-Za-z0-9]){form}(?![A-Za-z0-9])"
        text = re.sub(form, MASK, text)
    return text


def _as_written(character: str) -> str:
    """A pattern for a character as it is in a text, a URL or JSON, in those within others, too."""
    if character.isascii() and character.isalnum():
        return character
    code = "".join(f"%(?:25)*{byte:02x}" for byte in character.encode(errors="replace"))
    return rf"(?:\\*{re.escape(character)}|(?i:{code}|\\+u{ord(character):04x}))"
