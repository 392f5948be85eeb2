"""Turn a bound on T into a guarantee on the loss."""

from linflow.certificates._base import Guarantee
from linflow.certificates.certificate import Certificate, certify
from linflow.certificates.checking import Check, Violation
from linflow.certificates.descent import safe_step_size
from linflow.certificates.margin import margin

__all__ = ["Certificate", "Check", "Guarantee", "Violation", "certify", "margin", "safe_step_size"]
