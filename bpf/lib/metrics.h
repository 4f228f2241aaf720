/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counters per outcome and direction. An array, not Cilium's hash: it is on every packet's path. */
#ifndef CPLANE_METRICS_H
#define CPLANE_METRICS_H

#define METRIC_FORWARDED 0

/* `reason` is a drop reason or METRIC_FORWARDED. Per CPU and not interrupted by itself: no atomics. */
static __always_inline void metrics_count(const struct packet_ctx *ctx, u8 reason, const u8 direction)
{
	struct metrics_value *value = metrics_map((u32)reason << 2 | direction);

	if (value) {
		value->packets++;
		value->bytes += ctx_length(ctx);
	}
}

#endif
