/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Conntrack and policy of one endpoint for one packet: the decision that everything else serves. */
#ifndef CPLANE_JUDGE_H
#define CPLANE_JUDGE_H

/* A judgement that is no drop is a TRACE_* reason, and this bit if a trace record is due. */
#define JUDGE_REPORT 0x100

/* Whose conntrack and policy are asked. */
struct judged {
	u32 policy_id;
	u16 lxc_id;
	u16 flags;	/* ENDPOINT_FLAG_* */
};

/* The identity of the other side, which the caller may know already. */
static __always_inline s32 judge_peer(const struct packet_ctx *ctx, struct packet *p, const u8 direction)
{
	if (direction == DIRECTION_INGRESS)
		return p->src_identity ? 0 : identity_of_source(ctx, p);
	if (!p->dst_identity)
		p->dst_identity = identity_of(&p->daddr, p->family);
	return 0;
}

/* True if a refusal that lets the packet pass is news: of a first packet or of a fragment, which belongs to no
 * connection, or the first one of a live connection, which enforcement would cut.
 */
static __always_inline bool judge_tells_audit(const struct ct_entry *entry)
{
	return !entry || !(entry->flags & CT_AUDITED);
}

/* The policy's decision. Recorded if it is a refusal, or the first decision about the connection. A refusal by
 * rules that are only audited, or of an endpoint that is, lets the packet pass.
 */
static __always_inline s32 judge_policy(const struct packet_ctx *ctx, struct packet *p, const struct judged *who,
					const struct ct_entry *entry, const u8 direction)
{
	u32 peer = direction == DIRECTION_EGRESS ? p->dst_identity : p->src_identity;
	struct verdict verdict = policy_of(p, who->policy_id, peer, direction);
	bool audited = who->flags & ENDPOINT_FLAG_AUDIT;
	u32 cookie = verdict.cookie;

	if (unlikely(!verdict.reason && verdict.audited)) {
		struct verdict other = policy_of(p, who->policy_id | POLICY_AUDIT_PLANE, peer, direction);

		if (other.reason) {
			verdict = other;
			audited = true;
		}
	}
	p->cookie = verdict.cookie;
	p->audited = verdict.reason && audited;
	if (unlikely(p->audited)) {
		p->flags |= RECORD_AUDITED;
		if (judge_tells_audit(entry))
			policy_notify(ctx, p, &verdict);
		p->flags &= ~RECORD_AUDITED;
		p->cookie = cookie;
		return 0;
	}
	if (verdict.reason || (!entry && p->shape != SHAPE_FRAGMENT))
		policy_notify(ctx, p, &verdict);
	return verdict.reason ? DROP_REASON(verdict.reason, FILE_LXC) : 0;
}

/* A live connection was judged again, and goes on. */
static __always_inline void judge_renew(const struct packet *p, struct ct_entry *entry, u32 peer, u64 epoch)
{
	u8 flags = p->audited ? entry->flags | CT_AUDITED : entry->flags & ~CT_AUDITED;

	entry->peer_identity = peer;
	entry->cookie = p->cookie;
	entry->epoch = epoch;
	if (entry->flags != flags)
		entry->flags = flags;
}

/* The rest of the life of an allowed packet of a known connection. */
static __always_inline s32 judge_known(struct packet *p, struct ct_entry *entry, u32 *peer, bool forward,
				       bool report)
{
	if (!*peer)
		*peer = entry->peer_identity;
	p->cookie = entry->cookie;
	if (!forward)
		p->flags |= RECORD_REPLY;
	conntrack_update(entry, p, forward);
	if (report && conntrack_report(entry, p, forward))
		return (forward ? TRACE_ESTABLISHED : TRACE_REPLY) | JUDGE_REPORT;
	return forward ? TRACE_ESTABLISHED : TRACE_REPLY;
}

/* 0 or more: let through, see JUDGE_REPORT. Less: a drop. Replies and related errors need no policy; packets
 * of the initiator need it once, and again after every change of policy (the epoch says so).
 */
static __always_inline s32 judge(const struct packet_ctx *ctx, struct packet *p, const struct judged *who,
				 bool report, const u8 direction)
{
	u32 *peer = direction == DIRECTION_EGRESS ? &p->dst_identity : &p->src_identity;
	bool related = false, forward = true;
	struct ct_entry *entry = NULL;
	u64 epoch = 0;
	s32 ret;

	p->flags = (p->flags & RECORD_IPV6) | (direction == DIRECTION_EGRESS ? RECORD_EGRESS : 0);
	p->cookie = 0;
	if (likely(p->shape != SHAPE_FRAGMENT)) {
		p->flags |= RECORD_REPLY_KNOWN;
		related = p->shape == SHAPE_ERROR && conntrack_is_related(p, who->lxc_id, direction);
		entry = related ? NULL : conntrack_lookup(p, who->lxc_id);
		if (entry)
			forward = conntrack_is_forward(entry, p);
		/* Read before the policy: a change in between leaves the older number, and so another look. */
		epoch = forward ? state_number(STATE_EPOCH) : 0;
		if (likely(entry && (!forward || entry->epoch == epoch)))
			return judge_known(p, entry, peer, forward, report);
	}
	ret = judge_peer(ctx, p, direction);
	if (ret < 0)
		return ret;
	if (related)
		return TRACE_RELATED | JUDGE_REPORT;
	if (unlikely(policy_is_bypassed(p))) {
		p->flags &= ~RECORD_REPLY_KNOWN;
		return TRACE_UNKNOWN | JUDGE_REPORT;
	}
	ret = judge_policy(ctx, p, who, entry, direction);
	if (ret < 0)
		return ret;
	if (p->shape == SHAPE_FRAGMENT)
		return TRACE_UNKNOWN;
	if (!entry) {
		ret = conntrack_create(p, *peer, epoch);
		return ret < 0 ? ret : TRACE_NEW | JUDGE_REPORT;
	}
	judge_renew(p, entry, *peer, epoch);
	return judge_known(p, entry, peer, true, report);
}

#endif
