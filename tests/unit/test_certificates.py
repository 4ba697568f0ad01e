"""Whom the functions trust to be the database: layers/loop_runner/certs/rds.pem."""

from __future__ import annotations

import re
import ssl
import warnings
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.conftest import ROOT

FILE: Final = ROOT / "layers/loop_runner/certs/rds.pem"
OPERATIONS: Final = (ROOT / "docs/operations.md").read_text()
AMAZON: Final = {
    "Amazon Root CA 1",
    "Amazon Root CA 2",
    "Amazon Root CA 3",
    "Amazon Root CA 4",
    "Starfield Services Root Certificate Authority - G2",
}
"""Sign what AWS Certificate Manager issues, RDS Proxy's certificates among them."""


def certificates() -> dict[str, x509.Certificate]:
    """By name; the number of a serial is what AWS made of it."""
    with warnings.catch_warnings(action="ignore"):
        read = x509.load_pem_x509_certificates(FILE.read_bytes())
    named = {str(each.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value): each for each in read}
    assert len(named) == len(read)
    return named


@pytest.mark.parametrize("name", sorted(certificates()))
def test_certificate_is_a_root_of_amazon_and_valid_for_years(name: str) -> None:
    certificate = certificates()[name]
    (organization,) = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert organization.value in {"Amazon", "Amazon Web Services, Inc.", "Starfield Technologies, Inc."}
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certificate.verify_directly_issued_by(certificate)
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now
    assert certificate.not_valid_after_utc > now + timedelta(days=365)


def test_each_region_has_a_root_of_each_kind_and_the_proxies_have_theirs() -> None:
    names = set(certificates())
    roots = {match.groups() for name in names if (match := re.fullmatch(r"Amazon RDS (\S+) Root CA (\w+) G1", name))}
    regions = {region for region, _ in roots}
    assert roots == {(region, kind) for region in regions for kind in ("RSA2048", "RSA4096", "ECC384")}
    assert {name for name in names if not name.startswith("Amazon RDS ")} == AMAZON
    (told,) = re.findall(r"the roots of these regions: ([\w, -]+)\.", " ".join(OPERATIONS.split()))
    assert set(told.split(", ")) == regions


def test_openssl_reads_each_of_them() -> None:
    context = ssl.create_default_context(cafile=FILE)
    assert len(context.get_ca_certs()) == FILE.read_text().count("BEGIN CERTIFICATE") == len(certificates())
