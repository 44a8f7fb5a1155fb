"""The options of each kind of object store, by the names that obstore and delta-rs both know.

Source: `AmazonS3ConfigKey`, `GoogleConfigKey`, `AzureConfigKey` and `ClientConfigKey` of the crate
object_store, 0.13.2 under deltalake 1.6 and 0.14.2 under obstore 0.12: what stands in both. obstore
refuses what it does not know, delta-rs passes over it in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass

CLIENT = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "http1_only",
    "http2_only",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "randomize_addresses",
    "timeout",
    "user_agent",
)

RETRIES = (
    "max_retries",
    "retry_timeout",
    "backoff_config.init_backoff",
    "backoff_config.max_backoff",
    "backoff_config.base",
)
"""As delta-rs names them; obstore takes them apart from the others."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One kind of object store.

    Attributes:
        name: for messages.
        schemes: of `lake.uri`.
        prefix: what its options, in capitals, have before their names in the environment.
        keys: its options, as both libraries name them.
        aliases: other names that both take.
        credentials: groups of options, each enough to be let in; those of two places are not mixed.
        endpoint: the option that names another server than the provider's own.
    """

    name: str
    schemes: tuple[str, ...]
    prefix: str
    keys: tuple[str, ...]
    aliases: Mapping[str, str]
    credentials: tuple[str, ...]
    endpoint: str

    def canonical(self, key: str) -> str | None:
        """The name under which both libraries know this option; None if one does not."""
        key = key.lower()
        for name in (key, f"{self.prefix}{key}", key.removeprefix(self.prefix)):
            if name in self.aliases:
                return self.aliases[name]
            if name in self.keys or name in CLIENT or name in RETRIES:
                return name
        return None

    @property
    def allowed(self) -> str:
        """All options, for a message."""
        return ", ".join((*self.keys, *CLIENT, *RETRIES))


S3 = Provider(
    name="S3",
    schemes=("s3", "s3a"),
    prefix="aws_",
    keys=(
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "aws_region",
        "aws_endpoint",
        "aws_virtual_hosted_style_request",
        "aws_conditional_put",
        "aws_skip_signature",
        "aws_unsigned_payload",
        "aws_checksum_algorithm",
        "aws_request_payer",
        "aws_s3_express",
        "aws_server_side_encryption",
        "aws_sse_kms_key_id",
        "aws_sse_bucket_key_enabled",
        "aws_sse_customer_key_base64",
        "aws_web_identity_token_file",
        "aws_role_arn",
        "aws_role_session_name",
        "aws_endpoint_url_sts",
        "aws_container_credentials_relative_uri",
        "aws_container_credentials_full_uri",
        "aws_container_authorization_token_file",
        "aws_metadata_endpoint",
        "aws_imdsv1_fallback",
    ),
    aliases={
        "aws_endpoint_url": "aws_endpoint",
        "aws_endpoint_url_s3": "aws_endpoint",
        "aws_default_region": "aws_region",
        "aws_token": "aws_session_token",
    },
    credentials=("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
    endpoint="aws_endpoint",
)

GCS = Provider(
    name="GCS",
    schemes=("gs",),
    prefix="google_",
    keys=(
        "google_service_account",
        "google_service_account_key",
        "google_application_credentials",
        "google_base_url",
        "google_skip_signature",
    ),
    aliases={"google_service_account_path": "google_service_account"},
    credentials=(
        "google_service_account",
        "google_service_account_key",
        "google_application_credentials",
    ),
    endpoint="google_base_url",
)

AZURE = Provider(
    name="Azure",
    schemes=("az", "azure", "abfs", "abfss", "adl"),
    prefix="azure_",
    keys=(
        "azure_storage_account_name",
        "azure_storage_account_key",
        "azure_storage_sas_key",
        "azure_storage_token",
        "azure_storage_client_id",
        "azure_storage_client_secret",
        "azure_storage_tenant_id",
        "azure_storage_authority_host",
        "azure_storage_endpoint",
        "azure_storage_use_emulator",
        "azure_federated_token_file",
        "azure_msi_endpoint",
        "azure_msi_resource_id",
        "azure_object_id",
        "azure_use_azure_cli",
        "azure_use_fabric_endpoint",
        "azure_skip_signature",
        "azure_disable_tagging",
    ),
    aliases={
        "azure_storage_access_key": "azure_storage_account_key",
        "azure_storage_master_key": "azure_storage_account_key",
        "azure_account_name": "azure_storage_account_name",
        "azure_account_key": "azure_storage_account_key",
        "azure_access_key": "azure_storage_account_key",
        "azure_storage_sas_token": "azure_storage_sas_key",
        "azure_sas_key": "azure_storage_sas_key",
        "azure_sas_token": "azure_storage_sas_key",
        "azure_bearer_token": "azure_storage_token",
        "azure_client_id": "azure_storage_client_id",
        "azure_client_secret": "azure_storage_client_secret",
        "azure_tenant_id": "azure_storage_tenant_id",
        "azure_storage_authority_id": "azure_storage_tenant_id",
        "azure_authority_id": "azure_storage_tenant_id",
        "azure_authority_host": "azure_storage_authority_host",
        "azure_endpoint": "azure_storage_endpoint",
        "azure_use_emulator": "azure_storage_use_emulator",
        "azure_identity_endpoint": "azure_msi_endpoint",
    },
    credentials=(
        "azure_storage_account_key",
        "azure_storage_sas_key",
        "azure_storage_token",
        "azure_storage_client_id",
        "azure_storage_client_secret",
        "azure_federated_token_file",
    ),
    endpoint="azure_storage_endpoint",
)

PROVIDERS = {scheme: provider for provider in (S3, GCS, AZURE) for scheme in provider.schemes}
