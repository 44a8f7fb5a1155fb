"""What obstore and delta-rs are both told, out of options, environment and files."""

from pathlib import Path

import pytest
from obstore.store import AzureStore, GCSStore, S3Store

from bridge.errors import ConfigError
from bridge.lake.providers import AZURE, GCS, PROVIDERS, RETRIES, S3, Provider
from bridge.lake.store_options import DEFAULTS, resolve_options, secrets_of

KEYS = {"aws_access_key_id": "id", "aws_secret_access_key": "secret"}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment of nothing but a home without files."""
    (tmp_path / ".aws").mkdir()
    return {"HOME": str(tmp_path)}


def profiles(home: dict[str, str], credentials: str = "", config: str = "") -> None:
    Path(home["HOME"], ".aws/credentials").write_text(credentials)
    Path(home["HOME"], ".aws/config").write_text(config)


def resolved(
    home: dict[str, str], stated: dict[str, str] | None = None, /, **environment: str
) -> dict[str, str]:
    options = resolve_options(S3, stated or {}, home | environment)
    return {key: value for key, value in options.items() if key not in DEFAULTS}


def test_without_anything_there_are_timeouts_a_region_and_put_if_absent(
    home: dict[str, str],
) -> None:
    assert resolve_options(S3, {}, home) == DEFAULTS | {
        "aws_region": "us-east-1",
        "aws_conditional_put": "etag",
    }


def test_options_win_over_the_environment_and_the_environment_over_the_profile(
    home: dict[str, str],
) -> None:
    profiles(home, config="[default]\nregion = profile\nendpoint_url = http://profile\n")
    assert resolved(home)["aws_region"] == "profile"
    assert resolved(home, AWS_REGION="environment")["aws_region"] == "environment"
    stated = {"region": "options"}
    assert resolved(home, stated, AWS_REGION="environment")["aws_region"] == "options"
    assert resolved(home)["aws_endpoint"] == "http://profile"


@pytest.mark.parametrize("key", ["endpoint", "AWS_ENDPOINT_URL", "aws_endpoint_url_s3"])
def test_every_name_of_an_option_is_the_same_option(home: dict[str, str], key: str) -> None:
    """Both names are set: AWS_ENDPOINT_URL_S3 of the environment would win otherwise."""
    options = resolved(home, {key: "http://here:9000"}, AWS_ENDPOINT_URL_S3="http://there")
    assert options["aws_endpoint"] == options["aws_endpoint_url_s3"] == "http://here:9000"
    assert options["allow_http"] == "true"


def test_the_endpoint_of_s3_wins_over_that_of_all_services(home: dict[str, str]) -> None:
    variables = {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3"}
    assert resolved(home, **variables)["aws_endpoint"] == "http://s3"


def test_an_encrypted_endpoint_allows_no_plain_one(home: dict[str, str]) -> None:
    assert "allow_http" not in resolved(home, {"endpoint": "https://here"})


def test_credentials_of_two_places_are_not_mixed(home: dict[str, str]) -> None:
    profiles(
        home,
        "[default]\naws_access_key_id = p\naws_secret_access_key = q\naws_session_token = r\n",
    )
    environment = {"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "f"}
    options = resolved(home, **environment)
    assert options["aws_access_key_id"] == "e"
    assert "aws_session_token" not in options
    assert resolved(home)["aws_session_token"] == "r"


def test_a_session_token_that_belongs_to_other_keys_is_refused(home: dict[str, str]) -> None:
    """Both libraries would take it from the environment."""
    with pytest.raises(ConfigError, match="unset AWS_SESSION_TOKEN"):
        resolved(home, KEYS, AWS_SESSION_TOKEN="other")
    profiles(home, "[default]\naws_access_key_id = p\naws_secret_access_key = q\n")
    with pytest.raises(ConfigError, match="unset AWS_SESSION_TOKEN"):
        resolved(home, AWS_SESSION_TOKEN="other")


def test_a_profile_is_read_from_the_files_that_the_environment_names(
    home: dict[str, str], tmp_path: Path
) -> None:
    credentials, config = tmp_path / "some", tmp_path / "other"
    credentials.write_text("[work]\naws_access_key_id = a\naws_secret_access_key = b # mine\n")
    config.write_text("[profile work]\nregion=eu-west-1\naws_access_key_id = lost\n")
    options = resolved(
        home,
        AWS_PROFILE="work",
        AWS_SHARED_CREDENTIALS_FILE=str(credentials),
        AWS_CONFIG_FILE=str(config),
    )
    assert options["aws_access_key_id"] == "a"
    assert options["aws_secret_access_key"] == "b"
    assert options["aws_region"] == "eu-west-1"


def test_a_profile_that_is_not_there_is_named(home: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"AWS_PROFILE is 'work'.*credentials"):
        resolved(home, AWS_PROFILE="work")


@pytest.mark.parametrize("line", ["role_arn = a", "sso_session = b", "credential_process = c"])
def test_a_profile_that_has_to_be_exchanged_for_keys_is_refused(
    home: dict[str, str], line: str
) -> None:
    profiles(home, config=f"[default]\n{line}\n")
    with pytest.raises(ConfigError, match=line.split(maxsplit=1)[0]):
        resolved(home)
    assert resolved(home, KEYS)["aws_access_key_id"] == "id"


def test_a_file_that_is_no_file_of_profiles_is_not_quoted(home: dict[str, str]) -> None:
    """LAKE-11."""
    profiles(home, "aws_secret_access_key = verysecret\n")
    with pytest.raises(ConfigError, match="no file of AWS profiles") as caught:
        resolved(home)
    assert "verysecret" not in str(caught.value)


def test_an_unknown_option_is_named_with_those_that_are_taken(home: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"S3 has no option 'aws_colour'.*aws_region"):
        resolved(home, {"aws_colour": "red"})


def test_an_option_under_two_names_is_refused(home: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="aws_endpoint is given twice"):
        resolved(home, {"endpoint": "http://a", "aws_endpoint_url": "http://b"})


@pytest.mark.parametrize(
    "address",
    ["::nonsense::", "here:9000", "ftp://here", "http://", "http://key:secret@here", "http://a b"],
)
def test_an_endpoint_that_is_no_address_is_refused(home: dict[str, str], address: str) -> None:
    """obstore would end the process."""
    with pytest.raises(ConfigError, match="not an address") as caught:
        resolved(home, {"endpoint": address})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeout", "verysecret"),
        ("retry_timeout", "6789"),
        ("max_retries", "many"),
        ("aws_secret_access_key", "very\nsecret"),
    ],
)
def test_a_malformed_value_is_named_but_not_quoted(
    home: dict[str, str], key: str, value: str
) -> None:
    """LAKE-11."""
    with pytest.raises(ConfigError, match=f"lake.storage_options: {key} ") as caught:
        resolved(home, {key: value})
    assert value not in str(caught.value)


@pytest.mark.parametrize("variable", ["TOKEN", "endpoint", "Proxy_Url"])
def test_variables_that_delta_rs_alone_would_take_are_refused(
    home: dict[str, str], variable: str
) -> None:
    with pytest.raises(ConfigError, match=f"delta-rs would take .* {variable} "):
        resolved(home, KEYS, **{variable: "x"})


@pytest.mark.parametrize("variable", ["REGION", "TIMEOUT", "BUCKET", "DEFAULT_REGION", "PATH"])
def test_variables_that_change_nothing_are_left_alone(home: dict[str, str], variable: str) -> None:
    assert resolved(home, KEYS, **{variable: "x"})["aws_region"] == "us-east-1"


def test_azure_and_google_take_their_environment(home: dict[str, str]) -> None:
    options = resolve_options(
        AZURE,
        {"account_name": "me"},
        home | {"AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0", "IDENTITY_ENDPOINT": "http://id"},
    )
    assert options["azure_storage_account_name"] == "me"
    assert options["azure_storage_account_key"] == "c2VjcmV0"
    assert options["azure_msi_endpoint"] == "http://id"
    options = resolve_options(GCS, {}, home | {"GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json"})
    assert options["google_application_credentials"] == "/etc/key.json"


def test_credentials_of_azure_in_two_places_are_refused(home: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="unset AZURE_STORAGE_ACCOUNT_KEY"):
        resolve_options(
            AZURE, {"sas_token": "sv=1"}, home | {"AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0"}
        )


@pytest.mark.parametrize("provider", [S3, GCS, AZURE], ids=lambda provider: provider.name)
def test_obstore_knows_every_option(provider: Provider) -> None:
    """delta-rs takes what it does not know in silence, so the names are those of its source."""
    kind = {"S3": S3Store, "GCS": GCSStore, "Azure": AzureStore}[provider.name]
    for key in (*provider.keys, *provider.aliases.values()):
        assert provider.canonical(key) == key
        assert provider.canonical(key.removeprefix(provider.prefix).upper()) == key
        try:
            kind("bucket", config={key: "true"})
        except Exception as error:  # noqa: BLE001 - whatever it thinks of the value
            assert "not valid for store" not in str(error)  # noqa: PT017


def test_secrets_are_the_values_that_let_one_in(home: dict[str, str]) -> None:
    """LAKE-11."""
    options = resolve_options(
        S3,
        KEYS | {"aws_session_token": "session", "sse_customer_key_base64": "a2V5IGtleQ=="},
        home,
    )
    assert secrets_of(options) == ["a2V5IGtleQ==", "session", "secret"]
    assert secrets_of({"azure_storage_sas_key": "sv=1&sig=2"}) == ["sv=1&sig=2"]
    assert secrets_of({"google_service_account_key": "{json}"}) == ["{json}"]


def test_every_scheme_has_its_provider() -> None:
    assert {scheme: provider.name for scheme, provider in PROVIDERS.items()} == {
        "s3": "S3",
        "s3a": "S3",
        "gs": "GCS",
        "az": "Azure",
        "azure": "Azure",
        "abfs": "Azure",
        "abfss": "Azure",
        "adl": "Azure",
    }
    assert set(RETRIES) < set(DEFAULTS)
