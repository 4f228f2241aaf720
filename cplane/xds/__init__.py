"""What Envoy is told: redirections as its resources, served by delta ADS; and its access log."""
