"""Which options a bucket is opened with: resolved once, the very same for obstore and delta-rs.

    lake.storage_options  >  environment  >  AWS profile  >  our defaults   =   one dictionary

obstore and delta-rs stand on the same crate (object_store 0.14 and 0.13) and both look at the
environment too, each in its own way: delta-rs reads profiles only where no endpoint is set, obstore
never; delta-rs takes `TOKEN` or `endpoint` for an option of S3, obstore does not; both fill up the
keys of one place with the session token of another. So everything that is stated is written into
the options, which win in both, and what neither can be talked out of is refused. What has to be
renewed (web identity, container credentials, instance metadata, managed identity) is left to them:
both know all of these, by the same environment variables.

Limits: one request that is never answered ends after `timeout`, 30 s; one that fails is tried
`max_retries` times more, with pauses of at most 0.1 + 0.2 + 0.4 + 0.8 = 1.5 s in sum, and not at
all when `retry_timeout`, 10 s, has passed. Longer waits belong to the sinks, which try for ever and
say so. Measured, seconds until the error:

    store                      obstore get, put   obstore create, delete   delta-rs open, create
    refuses connections        0.5 to 1.4         0.5 to 1.4             0.5 to 1.4
    503 to everything          0.5 to 1.4         0.5 to 1.4             0.5 to 1.4
    resets connections         0.5 to 1.0         0.0 (not repeated)     0.5 to 1.0
    accepts, never answers     30.0               30.0                   30.0

A part of 8 MiB has to pass within the 30 s: eight of them at once need 18 Mbit/s. A slower line
needs a greater `timeout`.
"""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

from bridge.errors import ConfigError
from bridge.lake.aws_profile import read_profile
from bridge.lake.providers import AZURE, GCS, RETRIES, S3, Provider
from bridge.model.options import parse_duration

DEFAULTS = {
    "connect_timeout": "5s",
    "timeout": "30s",
    "max_retries": "4",
    "retry_timeout": "10s",
    "backoff_config.init_backoff": "100ms",
    "backoff_config.max_backoff": "2s",
    "backoff_config.base": "2",
}

_DURATIONS = ("connect_timeout", "timeout", "pool_idle_timeout", *RETRIES[1:4])
_NUMBERS = ("max_retries", "backoff_config.base", "pool_max_idle_per_host")


_SECRET = re.compile(r"secret|token|key|sas|credential|proxy_url|password")
"""Names of options whose values are not shown."""

_NOT_SECRET = {
    "aws_access_key_id",
    "aws_container_credentials_full_uri",
    "aws_container_credentials_relative_uri",
    "aws_sse_bucket_key_enabled",
    "aws_sse_kms_key_id",
    "aws_web_identity_token_file",
    "aws_container_authorization_token_file",
    "azure_federated_token_file",
    "google_application_credentials",
}


_OTHER_KEYS = {"aws_access_key_id", "aws_secret_access_key", "aws_skip_signature"}
"""With one of these a profile is not asked for keys. A web identity does not count: the AWS SDK in
delta-rs prefers the profile."""


def resolve_options(
    provider: Provider, stated: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    """The options that both libraries are given.

    Args:
        provider: by the scheme of `lake.uri`.
        stated: `lake.storage_options`; they win.
        environment: of this process, which the libraries see too.

    Raises:
        ConfigError: an unknown option, a value that is none, or a variable that one of the
            libraries would take and the other not.
    """
    options = _canonical(provider, stated)
    found = _from_environment(provider, environment)
    keys = set(provider.credentials)
    profile: dict[str, str] = {}
    if provider is S3:
        has_keys = bool(_OTHER_KEYS & (options.keys() | found.keys()))
        profile = read_profile(environment, has_keys=has_keys)
        if has_keys:
            profile = _without(keys, profile)
    for place, credentials in (
        ("lake.storage_options", keys & options.keys()),
        ("the AWS profile", keys & profile.keys()),
    ):
        if credentials:
            _refuse_mixed(provider, place, keys & found.keys() - credentials, environment)
            found = _without(credentials, found)
    options = DEFAULTS | profile | found | options
    if provider is S3:
        options.setdefault("aws_region", "us-east-1")
        options.setdefault("aws_conditional_put", "etag")
        _refuse_strays(provider, options, environment)
    if provider is AZURE and "IDENTITY_ENDPOINT" in environment:
        # obstore takes it, delta-rs does not.
        options.setdefault("azure_msi_endpoint", environment["IDENTITY_ENDPOINT"])
    if provider is GCS and "SERVICE_ACCOUNT" in environment:
        options.setdefault("google_service_account", environment["SERVICE_ACCOUNT"])
    _check_values(provider, options)
    if provider is S3 and "aws_endpoint" in options:
        # Else AWS_ENDPOINT_URL_S3 of the environment would win over lake.storage_options.
        options["aws_endpoint_url_s3"] = options["aws_endpoint"]
    return options


def secrets_of(options: Mapping[str, str]) -> list[str]:
    """Values that may be shown nowhere, longest first so that none is left in part."""
    found = {
        value
        for key, value in options.items()
        if _SECRET.search(key) and key not in _NOT_SECRET and len(value) > 3
    }
    return sorted(found, key=len, reverse=True)


def _canonical(provider: Provider, stated: Mapping[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, value in stated.items():
        name = provider.canonical(key)
        if name is None:
            raise ConfigError(
                f"lake.storage_options: {provider.name} has no option {key!r}; allowed are "
                f"{provider.allowed}"
            )
        if name in options:
            raise ConfigError(f"lake.storage_options: {name} is given twice, once as {key!r}")
        if not value:
            raise ConfigError(f"lake.storage_options: {name} is empty")
        options[name] = value
    return options


def _from_environment(provider: Provider, environment: Mapping[str, str]) -> dict[str, str]:
    """What both libraries find by prefix; of two names for one option the more special wins."""
    found: dict[str, str] = {}
    special = {"AWS_ENDPOINT_URL_S3": 0, "AWS_ENDPOINT_URL": 1, "AWS_REGION": 0}
    for variable in sorted(environment, key=lambda name: (special.get(name, 2), name)):
        if variable.startswith(provider.prefix.upper()) and environment[variable]:
            name = provider.canonical(variable)
            if name is not None:
                found.setdefault(name, environment[variable])
    return found


def _without(keys: AbstractSet[str], options: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in options.items() if key not in keys}


def _refuse_mixed(
    provider: Provider, place: str, mixed: AbstractSet[str], environment: Mapping[str, str]
) -> None:
    """Both libraries would take what is missing in one place from the environment."""
    if mixed:
        variables = [
            variable
            for variable in sorted(environment)
            if variable.startswith(provider.prefix.upper())
            and provider.canonical(variable) in mixed
        ]
        raise ConfigError(
            f"{place} has credentials, and the environment has others that would be mixed with "
            f"them: unset {', '.join(variables)}, or state all in one place"
        )


_HARMLESS = {"aws_bucket", "aws_bucket_name", "aws_default_region", "aws_copy_if_not_exists"}


def _refuse_strays(
    provider: Provider, options: Mapping[str, str], environment: Mapping[str, str]
) -> None:
    """delta-rs takes every variable whose name, in any case, is that of an option of S3."""
    for variable in environment:
        lowered = variable.lower()
        if variable.startswith(provider.prefix.upper()) or lowered in RETRIES:
            continue
        name = provider.canonical(lowered)
        if name is not None and name not in options and f"aws_{lowered}" not in _HARMLESS:
            raise ConfigError(
                f"delta-rs would take the environment variable {variable} for the option {name} of "
                "S3, and no other part would: unset it, or set lake.storage_options"
            )


def _check_values(provider: Provider, options: dict[str, str]) -> None:
    """Refuses what the libraries would end the process for, or quote in a message."""
    for key, value in options.items():
        place = f"lake.storage_options: {key}"
        if key in _DURATIONS:
            try:
                parse_duration(value)
            except ConfigError:
                raise ConfigError(f"{place} is not a duration; write 500ms, 30s or 5m") from None
        if key in _NUMBERS and not value.isdecimal():
            raise ConfigError(f"{place} is not a whole number")
        if not value.isprintable():
            raise ConfigError(f"{place} has characters that cannot be sent")
    endpoint = options.get(provider.endpoint)
    if endpoint is not None:
        # obstore ends the process for an address that is none.
        if not _ADDRESS.fullmatch(endpoint) or urlsplit(endpoint).hostname is None:
            raise ConfigError(
                f"the endpoint ({provider.endpoint}) is not an address; write https://HOST:PORT or "
                "http://HOST:PORT, without a key in it"
            )
        if endpoint.startswith("http://"):
            options.setdefault("allow_http", "true")


_ADDRESS = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?"
)
