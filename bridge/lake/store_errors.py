"""What a store's error means: is the object missing, are we refused, or is it away?

obstore tells little by its types (a wrong key and a missing bucket can be a missing object, and 403
to a listing is a generic error), delta-rs nothing, so both are read by their text, which is that of
the same crate: the HTTP status and the code in the body that S3, GCS and Azure answer with.

Invariant:
    LAKE-11  no secret leaves in a message: what is quoted is the code and the sentence of the
             store's answer, never its whole body, and the values of secret options are blotted out.

Limit: 400 characters of text that is not understood.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

TEXT_CHARACTERS_MAX = 400

_KEY = "the key is not known there"
_SIGNATURE = "the secret of the key is wrong"
_RIGHT = "the key is known and lacks the right to do this"
_BUCKET = "there is no such bucket"
_EXPIRED = "the token is wrong or has expired"
_REGION = "the region is wrong"

_REFUSALS = {
    "InvalidAccessKeyId": _KEY,
    "XAdminUserNotFound": _KEY,
    "SignatureDoesNotMatch": _SIGNATURE,
    "AuthenticationFailed": "the key, or its account, is wrong",
    "InvalidAuthenticationInfo": "the key, or its account, is wrong",
    "NoAuthenticationInformation": "there are no credentials",
    "AccessDenied": _RIGHT,
    "AllAccessDisabled": _RIGHT,
    "AccountProblem": "the account is closed",
    "AuthorizationFailure": "the key is wrong, or lacks the right to do this",
    "AuthorizationPermissionMismatch": _RIGHT,
    "InsufficientAccountPermissions": _RIGHT,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidIdentityToken": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "NoSuchBucket": _BUCKET,
    "InvalidBucketName": _BUCKET,
    "ContainerNotFound": "there is no such container",
    "ContainerBeingDeleted": "the container is being deleted",
    "ResourceNotFound": "there is no such container",
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
}
"""By the code in the body: what a person has to put right."""

_MISSING = {"NoSuchKey", "BlobNotFound", "NoSuchVersion"}

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STATUS = re.compile(r"status code\W{1,8}(\d{3})\b")
_CODE = re.compile(r"<Code>\s*([^<]{1,80}?)\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<\n]{1,300})")
_BODY = re.compile(r"(<\?xml|<Error|<!DOCTYPE|<html).*", re.DOTALL | re.IGNORECASE)
_DEEPER = re.compile(
    r'message: "([^"]{1,200})"|(dns error|TimedOut|UnexpectedEof|InvalidCertificate\([A-Za-z]*\)?)'
)
_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")


@dataclass(frozen=True, slots=True)
class Explained:
    """An error, understood.

    Attributes:
        text: for a person, without secrets.
        is_missing: the object is not there; the store itself is fine.
        is_refused: the store says no, until a person does something.
        is_beyond_end: what was asked for begins where the object has ended.
    """

    text: str
    is_missing: bool = False
    is_refused: bool = False
    is_beyond_end: bool = False


def explain(error: BaseException, secrets: Sequence[str] = ()) -> Explained:
    """Reads what obstore or delta-rs raised.

    Args:
        error: as it was raised.
        secrets: texts that may not be shown.
    """
    shown, _, debug = _ANSI.sub("", str(error)).partition("\n\nDebug source")
    status = _first(_STATUS, shown)
    code = _first(_CODE, shown)
    if code in _MISSING or (isinstance(error, FileNotFoundError) and (not status or not code)):
        return Explained(redact(_tidy(shown), secrets), is_missing=True)
    if code in _REFUSALS:
        message = _first(_MESSAGE, shown)
        text = f"{_REFUSALS[code]} ({code}{': ' + html.unescape(message) if message else ''})"
        return Explained(redact(text, secrets), is_refused=True)
    if "redirect without LOCATION" in shown:
        return Explained(f"{_REGION} (the store redirects to another one)", is_refused=True)
    if any(host in shown for host in _METADATA):
        text = f"there are no credentials, and no instance metadata that has some: {_tidy(shown)}"
        return Explained(redact(text, secrets), is_refused=True)
    # An answer without a code is not the store's: a gateway in front of it that is up before it.
    is_refused = (bool(code) and status in {"401", "403", "404"}) or (
        not status and isinstance(error, PermissionDeniedError | UnauthenticatedError)
    )
    text = _tidy(shown)
    if code:
        text += f" {code}"
    if not status and (deeper := _DEEPER.search(debug)):
        text += f" ({deeper[1] or deeper[2]})"
    is_beyond_end = status == "416" or "StartTooLarge" in debug
    return Explained(redact(text, secrets), is_refused=is_refused, is_beyond_end=is_beyond_end)


def redact(text: str, secrets: Sequence[str]) -> str:
    """The text with each secret blotted out."""
    for secret in secrets:
        text = text.replace(secret, "<secret>")
    return text


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _tidy(text: str) -> str:
    """One line, without the body of an answer and without delta-rs' arrows."""
    line = " ".join(_BODY.sub("", text).replace("↳", "").split())
    return line if len(line) <= TEXT_CHARACTERS_MAX else f"{line[:TEXT_CHARACTERS_MAX]}…"
