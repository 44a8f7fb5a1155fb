"""The AWS profile of this machine: what `~/.aws/credentials` and `~/.aws/config` say.

Neither obstore nor, with an endpoint, delta-rs reads these files, so they are read here, once, and
both are told the same. Only what a profile states is taken: a profile that has to be exchanged for
keys (a role to assume, SSO, an external program) is refused with the way out, because keys that
expire have to be renewed by the libraries, and they cannot renew these.

Source: AWS SDKs and Tools Reference Guide, "Shared config and credentials files".
"""

import configparser
from collections.abc import Mapping
from pathlib import Path

from bridge.errors import ConfigError

_STATED = {
    "aws_access_key_id": "aws_access_key_id",
    "aws_secret_access_key": "aws_secret_access_key",
    "aws_session_token": "aws_session_token",
    "region": "aws_region",
    "endpoint_url": "aws_endpoint",
}

_EXCHANGED = ("role_arn", "sso_session", "sso_start_url", "credential_process")


def read_profile(environment: Mapping[str, str], *, has_keys: bool) -> dict[str, str]:
    """Storage options that the profile states; none if there are no files.

    Args:
        environment: `AWS_PROFILE`, `AWS_SHARED_CREDENTIALS_FILE`, `AWS_CONFIG_FILE`, `HOME`.
        has_keys: there are others, so those of the profile are not asked for.

    Raises:
        ConfigError: `AWS_PROFILE` names a profile that is not there, a file is not readable, or
            the profile states no keys but how to get some.
    """
    named = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
    profile = named or "default"
    home = Path(environment.get("HOME") or Path.home())
    places = {
        environment.get("AWS_CONFIG_FILE") or str(home / ".aws/config"): (
            "default" if profile == "default" else f"profile {profile}"
        ),
        # Last, because its keys win.
        environment.get("AWS_SHARED_CREDENTIALS_FILE") or str(home / ".aws/credentials"): profile,
    }
    found: dict[str, str] = {}
    is_found = False
    for place, section in places.items():
        path = Path(place.replace("~", str(home), 1) if place.startswith("~/") else place)
        content = _read(path)
        if content is not None and content.has_section(section):
            is_found = True
            found |= dict(content.items(section))
    if named and not is_found:
        raise ConfigError(
            f"AWS_PROFILE is {named!r}, and there is no such profile in {' or '.join(places)}"
        )
    options = {_STATED[key]: value for key, value in found.items() if key in _STATED and value}
    exchanged = [key for key in _EXCHANGED if key in found]
    if exchanged and not has_keys and "aws_access_key_id" not in options:
        raise ConfigError(
            f"the AWS profile {profile!r} has {exchanged[0]}, which prombridge cannot exchange for "
            "keys: give it keys of its own, a web identity or the role of the instance, or export "
            "the keys into its environment"
        )
    return options


def _read(path: Path) -> configparser.RawConfigParser | None:
    content = configparser.RawConfigParser(
        default_section="", comment_prefixes=("#", ";"), inline_comment_prefixes=("#", ";")
    )
    try:
        content.read_string(path.read_text(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"cannot read the AWS profiles of {path}: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError):
        # The parser's own message quotes the line, which may hold a key.
        raise ConfigError(f"{path} is no file of AWS profiles") from None
    return content
