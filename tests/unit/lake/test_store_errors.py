"""Errors as S3, GCS and Azure, through obstore and delta-rs, word them."""

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from bridge.lake.store_errors import TEXT_CHARACTERS_MAX, explain

OBSTORE = (
    "Generic S3 error: Error performing list request: Error performing GET "
    "http://127.0.0.1:7070/lake?list-type=2 in 1ms - Server returned non-2xx status code: "
    '{status}: <?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>{message}</Message>'
    "<StringToSign>very secret</StringToSign></Error>\n\nDebug source:\nGeneric {{ body: secret }}"
)
DELTA = (
    "Kernel error -> Generic S3 error\n          \x1b[31m↳\x1b[0m Error performing GET "
    "http://127.0.0.1:7070/lake/t in 1ms - Server returned non-2xx status code\n           "
    '\x1b[31m↳\x1b[0m {status}\n            \x1b[31m↳\x1b[0m <?xml version="1.0"?>\n<Error>'
    "<Code>{code}</Code><Message>{message}</Message><StringToSign>very secret</StringToSign>"
    "</Error>\n"
)


def answered(shape: str, status: str, code: str, message: str = "so it is") -> str:
    return shape.format(status=status, code=code, message=message)


@pytest.mark.parametrize("shape", [OBSTORE, DELTA], ids=["obstore", "delta-rs"])
@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        ("403 Forbidden", "InvalidAccessKeyId", "key is not known"),
        ("404 Not Found", "XAdminUserNotFound", "key is not known"),
        ("403 Forbidden", "SignatureDoesNotMatch", "secret of the key is wrong"),
        ("403 Forbidden", "AccessDenied", "lacks the right"),
        ("403 Forbidden", "AuthorizationPermissionMismatch", "lacks the right"),
        ("403 Forbidden", "AuthenticationFailed", "the key, or its account, is wrong"),
        ("404 Not Found", "NoSuchBucket", "no such bucket"),
        ("404 Not Found", "ContainerNotFound", "no such container"),
        ("400 Bad Request", "ExpiredToken", "token is wrong or has expired"),
        ("400 Bad Request", "AuthorizationHeaderMalformed", "region is wrong"),
        ("403 Forbidden", "RequestTimeTooSkewed", "clock of this machine"),
    ],
)
def test_a_refusal_says_what_a_person_has_to_put_right(
    shape: str, status: str, code: str, words: str
) -> None:
    """LAKE-11: the store's sentence is quoted, the rest of its answer is not."""
    explained = explain(GenericError(answered(shape, status, code, "a &#34;b&#34;")))
    assert explained.is_refused
    assert words in explained.text
    assert f'({code}: a "b")' in explained.text
    assert "secret>" not in explained.text
    assert "StringToSign" not in explained.text


@pytest.mark.parametrize("code", ["NoSuchKey", "BlobNotFound"])
def test_an_object_that_is_missing_is_no_refusal(code: str) -> None:
    explained = explain(FileNotFoundError(answered(OBSTORE, "404 Not Found", code)))
    assert explained.is_missing
    assert not explained.is_refused


@pytest.mark.parametrize("code", ["NoSuchBucket", "XAdminUserNotFound", "SomethingNew"])
def test_not_everything_that_is_not_found_is_a_missing_object(code: str) -> None:
    """A reader of a deleted bucket would otherwise find an empty lake."""
    explained = explain(FileNotFoundError(answered(OBSTORE, "404 Not Found", code)))
    assert explained.is_refused
    assert not explained.is_missing


def test_a_missing_file_without_an_answer_is_missing() -> None:
    assert explain(FileNotFoundError("No data in memory found. Location: x")).is_missing


@pytest.mark.parametrize(
    "text",
    [
        answered(OBSTORE, "503 Service Unavailable", "SlowDown"),
        answered(DELTA, "500 Internal Server Error", "InternalError"),
        "Generic S3 error: HTTP error: error sending request",
        "Generic S3 error: HTTP error: request or response body error",
        "something else",
    ],
)
def test_a_store_that_is_away_refuses_nobody(text: str) -> None:
    explained = explain(OSError(text))
    assert not explained.is_refused
    assert not explained.is_missing


def test_what_is_under_a_failed_request_is_told() -> None:
    debug = 'source: ConnectError("tcp connect error", Os {{ message: "Connection refused" }})'
    text = f"HTTP error: error sending request\n\nDebug source:\n{debug}"
    assert explain(GenericError(text)).text == (
        "HTTP error: error sending request (Connection refused)"
    )


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_a_refusal_in_words_that_are_not_known_is_one(status: str) -> None:
    assert explain(GenericError(answered(OBSTORE, status, "Novel"))).is_refused
    assert explain(PermissionDeniedError("no")).is_refused


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found"])
def test_a_page_of_a_gateway_is_no_word_of_the_store(status: str) -> None:
    text = f"Generic S3 error: Client error with status code {status}: <html>no route</html>"
    assert not explain(GenericError(text)).is_refused
    assert not explain(PermissionDeniedError(text)).is_refused


def test_without_credentials_the_message_says_so() -> None:
    """Nothing was set, so the library asked for those of the instance."""
    text = "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1s"
    explained = explain(GenericError(text))
    assert explained.is_refused
    assert "no credentials" in explained.text


def test_a_redirect_names_the_region() -> None:
    text = "Generic S3 error: Received redirect without LOCATION, this normally indicates"
    assert "region is wrong" in explain(GenericError(text)).text


def test_secrets_are_blotted_out_and_a_long_text_is_cut() -> None:
    """LAKE-11."""
    explained = explain(GenericError("failed for sig=abc&x " + "a" * 1000), ["sig=abc&x"])
    assert explained.text.startswith("failed for <secret> aaa")
    assert len(explained.text) <= TEXT_CHARACTERS_MAX + 10


@pytest.mark.parametrize(
    "text",
    [
        answered(OBSTORE, "416 Requested Range Not Satisfiable", "InvalidRange"),
        "Generic InMemory error: Invalid range: x\n\nDebug source:\n source: StartTooLarge {",
    ],
)
def test_a_range_behind_the_end_is_known_from_other_failures(text: str) -> None:
    assert explain(GenericError(text)).is_beyond_end
    assert not explain(GenericError("range: http://orange/416?range timed out")).is_beyond_end
