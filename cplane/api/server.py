"""The admin services of one agent."""

from typing import TYPE_CHECKING

from cplane.api.config import ConfigService
from cplane.api.endpoint import EndpointService
from cplane.api.fqdn import FqdnService
from cplane.api.identity import IdentityService, IpService
from cplane.api.log import LogService
from cplane.api.policy import PolicyService
from cplane.api.ports import Agent, Engine
from cplane.api.probe import ProbeService
from cplane.api.service import ServiceService
from cplane.api.status import StatusService
from cplane.api.tables import MapService
from cplane.api.timetravel import TimeTravelService

if TYPE_CHECKING:
    from grpclib._typing import IServable


def admin_services(engine: Engine, agent: Agent) -> "list[IServable]":
    """The services of the administration socket; serve them with `api.errors.refuse`."""
    return [
        PolicyService(engine, agent),
        EndpointService(engine),
        ConfigService(engine, agent),
        ServiceService(engine),
        IdentityService(engine),
        IpService(engine),
        FqdnService(engine, agent),
        MapService(engine),
        StatusService(engine, agent),
        LogService(engine, agent),
        ProbeService(agent),
        TimeTravelService(engine, agent),
    ]
