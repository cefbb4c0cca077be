"""What AWS's variables and profile say beyond keys, for whoever leaves the search to the default chain.

boto3 heeds an ``endpoint_url`` or a ``ca_bundle`` of a profile by itself. Arrow does not, and one table's
files would go to two stores. So they are written into the configuration that every client is made from.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from datashard_core.config import S3Config

_OF_AWS = (".amazonaws.com", ".amazonaws.com.cn")


def with_aws_settings(config: S3Config, session: Any) -> S3Config:
    """A configuration with the endpoint, region, certificates and addressing style of AWS's settings.

    Args:
        config: one with ``use_default_chain``; what it says itself wins.
        session: a botocore session that knows the settings.

    Raises:
        ConfigurationError: the endpoint there is no URL of a store.
    """
    changes: dict[str, Any] = {}
    bundle = session.get_config_variable("ca_bundle")
    if bundle and config.verify_tls is True:
        changes["verify_tls"] = bundle
    if config.endpoint is None:
        # Only a client knows the order of variables, profile and its services section.
        client = session.create_client("s3", region_name=config.region or "us-east-1", verify=config.verify_tls)
        endpoint = client.meta.endpoint_url
        client.close()
        if not endpoint.rstrip("/").endswith(_OF_AWS):
            changes["endpoint"] = endpoint
            changes["region"] = config.region or session.get_config_variable("region")
            style = (session.get_scoped_config().get("s3") or {}).get("addressing_style", "auto")
            if config.addressing_style == "auto":
                changes["addressing_style"] = style
    return replace(config, **changes)
