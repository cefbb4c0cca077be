"""What a store's refusal says stands in the error, without secrets, and with an advice that fits the code."""

from __future__ import annotations

import html
import json
import pickle
import re
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from datashard_testkit.s3_server import S3Server
from datashard_testkit.scripted_server import ScriptedServer, answer, refusal

import datashard_core as ds
from datashard_core.config import S3Config, TransportChoice
from datashard_core.errors import DataShardError, StorageError
from datashard_core.storage import s3_client
from datashard_core.storage.arrow_errors import read_arrow
from datashard_core.storage.redact import LONGEST, clean, words
from datashard_core.storage.s3 import ONE_PUT, S3Storage
from datashard_core.storage.s3_codes import CODES
from datashard_core.storage.s3_errors import Answer, meaning, read_answer

TRANSPORTS: tuple[TransportChoice, ...] = ("boto3", "obstore")
SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "b", "type": "binary"}])

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEXAMPLETOKEN//////////wEaDOw=="
KEY = "AKIAIOSFODNN7EXAMPLE"


@pytest.fixture(autouse=True)
def fresh_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "_made", {})


def config_at(endpoint: str, transport: TransportChoice, **changes: Any) -> S3Config:
    values: dict[str, Any] = {
        "bucket": "bucket",
        "prefix": "p",
        "endpoint": endpoint,
        "region": "us-east-1",
        "access_key": KEY,
        "secret_key": SECRET,
        "session_token": TOKEN,
        "read_timeout": 8.0,
        "max_attempts": 3,
        "transport": transport,
        **changes,
    }
    return S3Config(**values)


OPERATIONS: dict[str, Callable[[S3Storage], object]] = {
    "get": lambda storage: storage.get("k"),
    "head": lambda storage: storage.head("k"),
    "list": lambda storage: list(storage.list("k")),
    "put": lambda storage: storage.put("k", b"x"),
    "put_if_absent": lambda storage: storage.put_if_absent("k", b"x"),
    "delete": lambda storage: storage.delete(["k"]),
    "large put": lambda storage: storage.put_data("k", bytes(ONE_PUT + 1)),
    "large get": lambda storage: storage.open_input("k").read(),
}
WITH_BODY = [name for name in OPERATIONS if name not in ("head", "large put", "large get")]

CAUSES: list[tuple[int, str, str, str, str]] = [
    (403, "AccessDenied", "Access Denied", "access-denied", "is missing on s3://bucket/p"),
    (403, "RequestTimeTooSkewed", "The difference is too large", "access-denied", "clock of this machine"),
    (403, "RequestExpired", "Request has expired", "access-denied", "clock of this machine"),
    (400, "KMS.DisabledException", "arn:aws:kms:x:1:key/2 is disabled", "access-denied", "kms:Decrypt"),
    (400, "KMS.NotFoundException", "Invalid keyId", "access-denied", "kms:GenerateDataKey"),
    (403, "AccessDenied", "not authorized to perform: kms:Decrypt on x", "access-denied", "kms:Decrypt (to read"),
    (403, "InvalidObjectState", "not valid for the object's storage class", "access-denied", "restore it"),
    (403, "QuotaExceeded", "Bucket quota exceeded", "other", "quota or disk is full"),
    (400, "XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded", "other", "quota or disk is full"),
    (400, "ExpiredToken", "The provided token has expired.", "credentials-missing", "temporary keys"),
    (403, "InvalidToken", "The provided token is malformed", "credentials-missing", "temporary keys"),
    (400, "TokenRefreshRequired", "must be refreshed", "credentials-missing", "temporary keys"),
    (403, "InvalidAccessKeyId", "does not exist in our records", "credentials-missing", "check the access key"),
    (403, "SignatureDoesNotMatch", "does not match the signature", "credentials-missing", "Check the secret key"),
    (403, "AccountProblem", "There is a problem with your account", "access-denied", "suspended or not set up"),
    (403, "AllAccessDisabled", "All access has been disabled", "access-denied", "suspended or not set up"),
    (403, "UserSuspended", "suspended", "access-denied", "suspended or not set up"),
    (403, "BrandNewCode", "words of a later store", "access-denied", "words of a later store"),
    (418, "Teapot", "short and stout", "other", "short and stout"),
]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("status", "code", "message", "reason", "advice"), CAUSES, ids=lambda value: str(value)[:24])
def test_the_stores_code_and_words_are_in_the_error_and_the_advice_fits(
    status: int, code: str, message: str, reason: str, advice: str, transport: TransportChoice
) -> None:
    with ScriptedServer(lambda head: refusal(head, status, code, message)) as server:
        storage = S3Storage(config_at(server.endpoint, transport))
        for name in WITH_BODY:
            before = len(server.heads)
            with pytest.raises(StorageError) as caught:
                OPERATIONS[name](storage)
            text = str(caught.value)
            assert caught.value.reason == reason, f"{name}: {text}"
            assert code in text and message in text and advice in text, f"{name}: {text}"
            if code not in ("AccessDenied", "BrandNewCode"):
                assert "GetObject" not in text, f"{name}: {text}"
            assert len(server.heads) - before == 1, "what the store refuses for good is not asked again"


@pytest.mark.parametrize(
    ("status", "code", "message", "reason", "advice"),
    [
        case
        for case in CAUSES
        if case[1] in ("KMS.DisabledException", "InvalidObjectState", "QuotaExceeded", "ExpiredToken")
    ],
)
def test_arrows_client_is_understood_as_the_transports_are(
    status: int, code: str, message: str, reason: str, advice: str
) -> None:
    with ScriptedServer(lambda head: refusal(head, status, code, message)) as server:
        with pytest.raises(StorageError) as caught:
            OPERATIONS["large put"](S3Storage(config_at(server.endpoint, "boto3", max_attempts=1)))
        text = str(caught.value)
        assert caught.value.reason == reason, text
        assert code in text and message in text and advice in text and "s3:PutObject" not in text, text


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_head_carries_no_code_and_the_error_does_not_make_one_up(transport: TransportChoice) -> None:
    with ScriptedServer(lambda head: refusal(head, 403, "RequestTimeTooSkewed")) as server:
        storage = S3Storage(config_at(server.endpoint, transport, max_attempts=1))
        for name in ("head", "large get"):
            with pytest.raises(StorageError, match="may be missing") as caught:
                OPERATIONS[name](storage)
            assert caught.value.reason == "access-denied"
            assert "403 to a HEAD" in str(caught.value) and "carries no error code" in str(caught.value)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("operation", "permission"),
    [("get", "s3:GetObject"), ("list", "s3:ListBucket"), ("put", "s3:PutObject"), ("delete", "s3:DeleteObject")],
)
def test_a_denial_names_the_permission_of_the_operation(
    s3_server: S3Server, s3_config: S3Config, operation: str, permission: str, transport: TransportChoice
) -> None:
    with s3_server.modes("forbidden=AccessDenied"), pytest.raises(StorageError) as caught:
        OPERATIONS[operation](S3Storage(s3_server.config(s3_config.prefix, transport=transport)))
    assert f"{permission} is missing on s3://{s3_config.bucket}/{s3_config.prefix}" in str(caught.value)
    assert "403 AccessDenied: Access Denied" in str(caught.value)


def test_the_action_that_the_store_names_wins_over_the_operations_own() -> None:
    said = "User: arn:aws:iam::1:user/u is not authorized to perform: s3:PutObjectTagging with an explicit deny"
    text = str(meaning(Answer("AccessDenied", 403, said), "put", "k", config_at("http://h", "auto")))
    assert "s3:PutObjectTagging is missing" in text and "denies it explicitly" in text


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("status", "reason"), [(403, "access-denied"), (401, "credentials-missing"), (407, "credentials-missing")]
)
def test_a_page_of_a_proxy_is_no_answer_of_s3(status: int, reason: str, transport: TransportChoice) -> None:
    page = "<html><head><title>x</title></head><body><h1>Blocked</h1> by the policy of Example Inc</body></html>"
    with ScriptedServer(lambda head: answer(head, status, page, "Content-Type: text/html")) as server:
        storage = S3Storage(config_at(server.endpoint, transport))
        for name in ("get", "list", "put", "put_if_absent", "delete"):
            with pytest.raises(StorageError) as caught:
                OPERATIONS[name](storage)
            text = str(caught.value)
            assert caught.value.reason == reason, text
            assert f"{status} with a page that is no XML of S3 ('Blocked by the policy of Example Inc')" in text
            assert "proxy" in text.lower() and "s3:" not in text.replace("s3://", ""), text


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_a_store_does_not_offer_is_asked_once(transport: TransportChoice) -> None:
    with ScriptedServer(lambda head: refusal(head, 501, "NotImplemented", "not here")) as server:
        storage = S3Storage(config_at(server.endpoint, transport))
        for name, requests in {"get": 1, "head": 1, "list": 1, "put": 1, "delete": 2}.items():
            before = len(server.heads)
            with pytest.raises(StorageError) as caught:
                OPERATIONS[name](storage)
            assert caught.value.reason == "unsupported", f"{name}: {caught.value}"
            assert len(server.heads) - before == requests, name


# -- secrets ----------------------------------------------------------------------------------


def echo(head: bytes, status: int, kind: str) -> bytes:
    """An answer that repeats the request, as debugging proxies and S3's own SignatureDoesNotMatch do."""
    sent = head.decode("latin-1")
    if kind == "xml":
        signature = sent.partition("Signature=")[2].split("\r\n")[0]
        more = (
            f"<AWSAccessKeyId>{KEY}</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256 {TOKEN}</StringToSign>"
            f"<SignatureProvided>{signature}</SignatureProvided><CanonicalRequest>{sent}</CanonicalRequest>"
        )
        return refusal(head, status, "SignatureDoesNotMatch", f"It does not match. {TOKEN} {SECRET}", more)
    if kind == "html":
        rows = "".join(
            f"<tr><td>{n}</td><td>{v}</td></tr>" for n, _, v in (x.partition(":") for x in sent.split("\r\n"))
        )
        return answer(head, status, f"<html><body>Denied<table>{rows}</table><pre>{sent}</pre>{SECRET}</body></html>")
    if kind == "json":
        return answer(head, status, json.dumps({"error": "denied", "headers": sent.split("\r\n"), "raw": sent}))
    return answer(head, status, f"denied\n{html.escape(sent)}\n{quote(sent)}")


def everything_of(error: BaseException) -> str:
    """All text that a log, a pickle or an error tracker could take out of an error."""
    found, seen = [], set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        found += [str(one), repr(one), repr(one.args), repr(vars(one)), *getattr(one, "__notes__", ())]
        todo += [one.__cause__, one.__context__]
    found.append("".join(traceback.format_exception(error)))
    found.append(repr(pickle.dumps(error)))
    return "\n".join(found)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("status", [400, 403, 404, 409, 500, 501])
@pytest.mark.parametrize("kind", ["xml", "html", "json", "text"])
def test_an_answer_that_echoes_the_request_gives_no_secret_away(
    status: int, kind: str, transport: TransportChoice, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="datashard_core")
    with ScriptedServer(lambda head: echo(head, status, kind)) as server:
        storage = S3Storage(config_at(server.endpoint, transport, max_attempts=1))
        for name in ("get", "list", "put", "put_if_absent", "delete"):
            with pytest.raises(DataShardError) as caught:
                OPERATIONS[name](storage)
            signatures = {head.partition(b"Signature=")[2][:64].decode() for head in server.heads} - {""}
            assert signatures
            shown = everything_of(caught.value) + caplog.text
            for secret in (SECRET, TOKEN, KEY, quote(SECRET, safe=""), quote(TOKEN, safe=""), *signatures):
                assert secret not in shown, f"{name} {status} {kind}: {secret[:8]}"


@pytest.mark.parametrize("status", [403, 404, 500])
def test_arrows_errors_give_no_secret_away(status: int) -> None:
    with ScriptedServer(lambda head: echo(head, status, "xml")) as server:
        storage = S3Storage(config_at(server.endpoint, "boto3", max_attempts=1))
        with pytest.raises(DataShardError) as caught:
            OPERATIONS["large put"](storage)
        shown = everything_of(caught.value)
    assert not [secret for secret in (SECRET, TOKEN, KEY) if secret in shown]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (
            "GET /b/k?X-Amz-Signature=abc&X-Amz-Credential=AK%2F1&n=1",
            "GET /b/k?X-Amz-Signature=***&X-Amz-Credential=***&n=1",
        ),
        ("https://me:pw@host/x and ftp://u@h", "https://***@host/x and ftp://***@h"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=a/b, Signature=c\nHost: h", "Authorization: ***\nHost: h"),
        ('{"authorization": "Bearer abcdefgh", "n": 1}', '{"authorization": "***", "n": 1}'),
        ("cookie: a=b; c=d\r\nx: y", "cookie: ***\r\nx: y"),
        ("&lt;StringToSign&gt;a\nb&lt;/StringToSign&gt;c", "<StringToSign>***</StringToSign>c"),
        ("<s:SignatureProvided>abc", "<s:SignatureProvided>***</s:SignatureProvided>"),
        ("Token=abc, secret_key='xyz'", "Token=***, secret_key='***'"),
        ("the signature does not match the token", "the signature does not match the token"),
    ],
)
def test_secrets_are_found_by_the_name_before_them(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_words_are_few_and_on_one_line() -> None:
    found = words("<p>a\n\x1b[31m b</p><script>no()</script>" + "long " * 1000)
    assert found.startswith("a [31m b long") and "no()" not in found
    assert len(found) <= LONGEST + 3 and found.endswith("...") and found.isprintable()


# -- texts ------------------------------------------------------------------------------------


def test_a_code_is_read_from_any_shape_of_xml() -> None:
    for body in (
        "<Error><Code>QuotaExceeded</Code><Message>m</Message></Error>",
        "<s3:Error xmlns:s3='x'><s3:Code> QuotaExceeded </s3:Code><s3:Message>m</s3:Message></s3:Error>",
        "<ErrorResponse><Error><Type>Sender</Type><Code>QuotaExceeded</Code><Message>m</Message></Error></ErrorResponse>",
    ):
        found = read_answer(403, body)
        assert (found.code, found.message, found.is_page) == ("QuotaExceeded", "m", False)
    assert read_answer(403, "") == Answer("403", 403)
    assert read_answer(403, "nginx").is_page


@pytest.mark.parametrize(
    ("text", "code", "status", "operation"),
    [
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", "403", 403, "head"),
        ("AWS Error ACCESS_DENIED during PutObject operation: Access Denied", "AccessDenied", 403, "put"),
        ("AWS Error REQUEST_TIME_TOO_SKEWED during UploadPart operation: x", "RequestTimeTooSkewed", 403, "put"),
        (
            "AWS Error [code 136] during GetObject operation: the object's storage class",
            "InvalidObjectState",
            403,
            "get",
        ),
        ("AWS Error [code 199] during GetObject operation: else", "400", 400, "get"),
        (
            "AWS Error UNKNOWN (HTTP status 507) during PutObject operation: Unable to parse ExceptionName: "
            "XMinioStorageFull Message: full",
            "XMinioStorageFull",
            507,
            "put",
        ),
        ("AWS Error UNKNOWN (HTTP status 407) during PutObject operation: ", "407", 407, "put"),
        ("AWS Error ACCESS_DENIED during AbortMultipartUpload operation: no", "AccessDenied", 403, "abort"),
    ],
)
def test_texts_of_arrow(text: str, code: str, status: int, operation: str) -> None:
    told = read_arrow(f"When doing something with key 'k' in bucket 'b': {text}")
    assert told is not None
    assert (told[0].code, told[0].status, told[1]) == (code, status, operation)


def test_what_never_came_is_no_answer() -> None:
    assert read_arrow("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7, Could not connect") is None
    assert read_arrow("Unexpected end of stream") is None


def test_every_advice_can_be_given() -> None:
    for code in (*CODES, "KMS.Throttling", "MyQuotaReached"):
        for operation in ("get", "put"):
            error = meaning(Answer(code, 400, "words"), operation, "k", config_at("http://h", "auto"))
            assert code in str(error) and "{" not in str(error), str(error)


TOKEN = 'FwoGZXIv/YXdz+EBYa=="&é|x'


@pytest.mark.parametrize(
    "written",
    [
        TOKEN,
        quote(TOKEN),
        quote(TOKEN, safe=""),
        re.sub("%..", lambda found: found[0].lower(), quote(TOKEN, safe="")),
        quote(quote(TOKEN, safe=""), safe=""),
        json.dumps(TOKEN),
        json.dumps(TOKEN, ensure_ascii=False),
        json.dumps(TOKEN).replace("/", r"\/"),
        json.dumps(json.dumps(TOKEN)),
        html.escape(TOKEN),
        html.escape(html.escape(TOKEN)),
    ],
)
def test_a_known_secret_is_masked_however_it_is_written(written: str) -> None:
    """In words that no name stands before: S3's session tokens have slashes, plus and equals signs."""
    told = clean(f"what was sent, {written}, is not valid", [TOKEN])
    assert told.strip('"').replace('\\"', "").replace('"', "") == "what was sent, ***, is not valid"
    assert "YXdz" not in told
