"""What recon says when it does not work.

DomainError
└── SettlementError
    ├── SettlementPaused   nothing can be done now; the next beat tries again
    ├── FundingRefused     `manage.py demo_fund`: wrong arguments, or not the demo
    └── DeploymentRefused  `deploy_program`, `initialize_bond`: another cluster, or a key that must not be used
"""

from apps.core.errors import DomainError


class SettlementError(DomainError):
    code = "settlement_error"
    status = 500


class SettlementPaused(SettlementError):
    """The chain is away, or this process is set up for another chain, program, token or relayer than the
    one in force."""

    code = "settlement_paused"
    status = 503


class FundingRefused(SettlementError):
    """Test money was asked for in a way, or in a place, where there is none."""

    code = "funding_refused"
    status = 400


class DeploymentRefused(SettlementError):
    """A cluster, key or program that the command must not be run with. Nothing was sent."""

    code = "deployment_refused"
    status = 400
