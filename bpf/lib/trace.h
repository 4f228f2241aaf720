/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Trace points: where a packet that was let through went. */
#ifndef CPLANE_TRACE_H
#define CPLANE_TRACE_H

#define TRACE_TO_ENDPOINT 0
#define TRACE_TO_PROXY 1
#define TRACE_TO_HOST 2
#define TRACE_TO_STACK 3

static __always_inline void trace_notify(const struct packet_ctx *ctx, const struct packet *p, u8 point,
					 u8 reason)
{
	struct record *r;

	if (!record_is_wanted(MONITOR_TRACE))
		return;
	r = record_begin(ctx, p, RECORD_TRACE);
	if (!r)
		return;
	r->subtype = point;
	r->trace_reason = reason;
	record_end(r);
}

#endif
