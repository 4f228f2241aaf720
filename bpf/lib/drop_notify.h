/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The end of a dropped packet: one record, one count, one return code. Called by entry points only. */
#ifndef CPLANE_DROP_NOTIFY_H
#define CPLANE_DROP_NOTIFY_H

static __always_inline int drop_packet(const struct packet_ctx *ctx, const struct packet *p, s32 ret)
{
	struct record *r;

	metrics_count(ctx, drop_reason(ret), p->flags & RECORD_EGRESS ? METRICS_EGRESS : METRICS_INGRESS);
	if (!record_is_wanted(MONITOR_DROP))
		return CTX_ACT_DROP;
	r = record_begin(ctx, p, RECORD_DROP);
	if (!r)
		return CTX_ACT_DROP;
	r->subtype = drop_reason(ret);
	r->verdict = -(s32)drop_reason(ret);
	r->line = drop_line(ret);
	r->file = drop_file(ret);
	record_end(r);
	return CTX_ACT_DROP;
}

#endif
