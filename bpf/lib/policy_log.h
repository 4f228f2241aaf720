/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Policy verdicts, for the first packet of a connection and for every refused one. */
#ifndef CPLANE_POLICY_LOG_H
#define CPLANE_POLICY_LOG_H

static __always_inline void policy_notify(const struct packet_ctx *ctx, const struct packet *p,
					  const struct verdict *verdict)
{
	struct record *r;

	if (!record_is_wanted(MONITOR_VERDICT))
		return;
	r = record_begin(ctx, p, RECORD_VERDICT);
	if (!r)
		return;
	r->match_type = verdict->match_type;
	r->verdict = verdict->reason ? -(s32)verdict->reason : bpf_ntohs(verdict->proxy_port);
	record_end(r);
}

#endif
