"""What Envoy is told: redirections as its resources, served by delta ADS; and its access log.

May import domain, transport, telemetry. The only home of Envoy's messages (`envoy.*`), whose import takes a tenth of a
second: who does not redirect does not import this package. All but `server` is pure.
"""
