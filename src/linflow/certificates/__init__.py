"""From a bound on T to a guarantee on the loss."""

from linflow.certificates._base import Guarantee
from linflow.certificates.certificate import Certificate, Check, certify
from linflow.certificates.margin import margin

__all__ = ["Certificate", "Check", "Guarantee", "certify", "margin"]
