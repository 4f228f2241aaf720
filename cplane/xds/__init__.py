"""What Envoy is told: redirections as its resources, served by delta ADS; and its access log.

May import domain, transport, telemetry. The only home of Envoy's messages (`envoy.*`), whose import takes a tenth of a
second: who does not redirect imports nothing of this package but `secrets`. All but that and `server` is pure.
"""
