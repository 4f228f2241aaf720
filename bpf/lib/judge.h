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

/* Identity of an address of `p`, as identity_of() says it. `asker` is the endpoint that is to know. */
static __always_inline u32 judge_identity(const struct packet_ctx *ctx, u16 asker, const struct packet *p,
					  const struct addr *addr)
{
	struct remote_endpoint_info *info = ipcache_row(addr, p->family, packet_is_v6(p) ? 128 : 32);
	u32 identity = info ? info->sec_identity : IDENTITY_WORLD;

	debug_identity(ctx, asker, p, addr, identity, info);
	return identity;
}

/* Who sent a packet that the stack hands to an endpoint. What came in by a device is not the host, whatever
 * its source says: such a packet was masqueraded by the node, or lies; either way the sender is outside. And
 * a local endpoint's packets come in by that endpoint's device only.
 */
static __always_inline s32 judge_source(const struct packet_ctx *ctx, struct packet *p)
{
	struct endpoint_info *info = endpoint_of(&p->saddr, p->family);
	u32 identity;

	if (info && !(info->flags & ENDPOINT_FLAG_HOST)) {
		if (ctx_came_in(ctx) && ctx_came_in(ctx) != info->ifindex)
			return DROP(INVALID_SOURCE_IP, LXC);
		p->src_identity = info->sec_id;
		p->src_lxc = info->lxc_id;
		return 0;
	}
	identity = info ? info->sec_id : judge_identity(ctx, p->dst_lxc, p, &p->saddr);
	if (identity == IDENTITY_HOST && ctx_came_in(ctx))
		identity = identity_of_world(&p->saddr, p->family);
	p->src_identity = identity;
	return 0;
}

/* The identity of the other side, which the caller may know already. */
static __always_inline s32 judge_peer(const struct packet_ctx *ctx, struct packet *p, const u8 direction)
{
	if (direction == DIRECTION_INGRESS)
		return p->src_identity ? 0 : judge_source(ctx, p);
	if (!p->dst_identity)
		p->dst_identity = judge_identity(ctx, p->src_lxc, p, &p->daddr);
	return 0;
}

/* True if a refusal that lets the packet pass is news: of a first packet or of a fragment, which belongs to no
 * connection, or the first one of a live connection, which enforcement would cut.
 */
static __always_inline bool judge_tells_audit(const struct ct_entry *entry)
{
	return !entry || !(entry->flags & CT_AUDITED);
}

/* What an entry, or that there is none, means to the packet: of `plane`, see POLICY_AUDIT_PLANE. */
static __always_inline struct verdict judge_lookup(const struct packet_ctx *ctx, const struct packet *p,
						   const struct judged *who, u32 plane, u32 peer, const u8 direction)
{
	struct verdict verdict = policy_of(p, who->policy_id | plane, peer, direction);
	u32 own = direction == DIRECTION_EGRESS ? p->src_identity : p->dst_identity;

	if (verdict.reason)
		debug(ctx, who->lxc_id, DBG_POLICY_DENIED, p->src_identity, p->dst_identity);
	else
		debug3(ctx, who->lxc_id, DBG_L4_CREATE, peer, own, (u32)p->policy_port << 16 | p->protocol);
	return verdict;
}

/* Who reads what is let through: policy says `port`, 0 nobody; `p` has what its connection had. A stream that a proxy has
 * keeps it where none is asked for any more, as the other side knows nothing of it.
 */
static __always_inline void judge_proxied(struct packet *p, __be16 port)
{
	__be16 held = p->proxy_port;

	p->proxy_port = port | (held & -(u16)(!port & (p->protocol == IPPROTO_TCP)));
}

/* The policy's decision. Recorded if it is a refusal, or the first decision about the connection. A refusal by
 * rules that are only audited, or of an endpoint that is, lets the packet pass.
 */
static __always_inline s32 judge_policy(const struct packet_ctx *ctx, struct packet *p, const struct judged *who,
					const struct ct_entry *entry, const u8 direction)
{
	u32 peer = direction == DIRECTION_EGRESS ? p->dst_identity : p->src_identity;
	struct verdict verdict = judge_lookup(ctx, p, who, 0, peer, direction);
	bool audited = who->flags & ENDPOINT_FLAG_AUDIT;
	__be16 proxy_port = verdict.proxy_port;
	u32 cookie = verdict.cookie;

	if (unlikely(!verdict.reason && verdict.audited)) {
		struct verdict other = judge_lookup(ctx, p, who, POLICY_AUDIT_PLANE, peer, direction);

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
		judge_proxied(p, proxy_port);
		return 0;
	}
	if (verdict.reason || (!entry && p->shape != SHAPE_FRAGMENT))
		policy_notify(ctx, p, &verdict);
	judge_proxied(p, proxy_port);
	return verdict.reason ? DROP_REASON(verdict.reason, FILE_LXC) : 0;
}

/* A live connection was judged again, and goes on. */
static __always_inline void judge_renew(const struct packet *p, struct ct_entry *entry, u32 peer, u64 epoch)
{
	u8 flags = p->audited ? entry->flags | CT_AUDITED : entry->flags & ~CT_AUDITED;

	flags = (flags & ~(CT_PROXIED | CT_FROM_PROXY)) | CT_PROXIED * !!p->proxy_port | CT_FROM_PROXY * !!(p->proxy & PROXY_SENT);
	entry->proxy_port = p->proxy_port;
	entry->peer_identity = peer;
	entry->cookie = p->cookie;
	entry->epoch = epoch;
	if (entry->flags != flags)
		entry->flags = flags;
}

/* The rest of the life of an allowed packet of a known connection. */
static __always_inline s32 judge_known(struct packet *p, struct ct_entry *entry, u32 *peer, bool forward,
				       bool report, bool came_in)
{
	/* Where a proxy has the connection, nobody but the proxy, here, answers the initiator. What else reads so answers
	 * the proxy, which has taken the same port.
	 */
	const u8 answered = entry->flags & (CT_FROM_PROXY | CT_PROXIED * came_in);

	if (!*peer)
		*peer = entry->peer_identity;
	p->cookie = entry->cookie;
	if (!forward)
		p->flags |= RECORD_REPLY;
	p->proxy_port &= -(u16)forward;
	p->proxy |= PROXY_REPLY * (!forward & !!answered);
	conntrack_update(entry, p, forward);
	if ((report | packet_is_proxied(p)) && conntrack_report(entry, p, forward))
		return (forward ? TRACE_ESTABLISHED : TRACE_REPLY) | JUDGE_REPORT;
	return forward ? TRACE_ESTABLISHED : TRACE_REPLY;
}

/* What conntrack knows of the packet. */
static __always_inline void judge_debug(const struct packet_ctx *ctx, u16 source, const struct ct_entry *entry,
					bool related, bool forward)
{
	u32 state = related ? DEBUG_CT_RELATED : DEBUG_CT_NEW;

	if (entry) {
		debug(ctx, source, DBG_CT_MATCH, entry->lifetime, 0);
		state = forward ? DEBUG_CT_ESTABLISHED : DEBUG_CT_REPLY;
	}
	debug(ctx, source, DBG_CT_VERDICT, state, 0);
}

/* 0 or more: let through, see JUDGE_REPORT. Less: a drop. Replies and related errors need no policy; packets
 * of the initiator need it once, and again after every change of policy (the epoch says so). `from_stack`: the node's
 * stack sends it, so it may be from a proxy, or for one that speaks with the receiver's address. What a pod sends may be
 * that, too, if conntrack has forgotten the connection; then it needs policy, as any packet does then.
 */
static __always_inline s32 judge(struct packet_ctx *ctx, struct packet *p, const struct judged *who,
				 bool report, const bool from_stack, const u8 direction)
{
	u32 *peer = direction == DIRECTION_EGRESS ? &p->dst_identity : &p->src_identity;
	bool related = false, forward = true;
	struct ct_entry *entry = NULL;
	u64 epoch = 0;
	u8 other = 0;
	s32 ret;

	p->flags = (p->flags & RECORD_IPV6) | (direction == DIRECTION_EGRESS ? RECORD_EGRESS : 0);
	p->cookie = 0;
	p->proxy_port = 0;
	p->proxy &= PROXY_OF_PACKET;
	if (likely(p->shape != SHAPE_FRAGMENT)) {
		p->flags |= RECORD_REPLY_KNOWN;
		debug_ct_lookup(ctx, who->lxc_id, p, direction);
		related = p->shape == SHAPE_ERROR && conntrack_is_related(p, who->lxc_id, direction);
		entry = related ? NULL : conntrack_lookup(p, who->lxc_id);
		if (entry) {
			forward = conntrack_is_forward(entry, p);
			other = conntrack_other(entry, p, forward);
			p->proxy |= other * (PROXY_OTHER / PROXY_SENT);
			p->proxy_port = conntrack_proxy_port(entry) & (other / PROXY_SENT - 1);
		}
		judge_debug(ctx, who->lxc_id, entry, related, forward);
		/* Read before the policy: a change in between leaves the older number, and so another look. */
		epoch = forward ? state_number(STATE_EPOCH) : 0;
		/* Neither is what was allowed for the one allowed for the other. */
		epoch ^= (u64)other << 56;
		if (likely(entry && (!forward || entry->epoch == epoch)))
			return judge_known(p, entry, peer, forward, report, from_stack && ctx_came_in(ctx));
	}
	ret = judge_peer(ctx, p, direction);
	if (ret < 0)
		return ret;
	if (from_stack && !entry && unlikely(proxy_expects(ctx, p))) {
		p->flags |= RECORD_REPLY;
		p->proxy |= PROXY_REPLY;
		return TRACE_REPLY;
	}
	if (related)
		return TRACE_RELATED | JUDGE_REPORT;
	if (unlikely(policy_is_bypassed(p))) {
		p->flags &= ~RECORD_REPLY_KNOWN;
		return TRACE_UNKNOWN | JUDGE_REPORT;
	}
	if (!from_stack || likely(!(p->proxy & PROXY_JUDGED))) {
		ret = judge_policy(ctx, p, who, entry, direction);
		if (ret < 0)
			return ret;
	}
	/* The entry stays the other's, as a proxy takes what has none, too. */
	if (p->shape == SHAPE_FRAGMENT || unlikely((p->proxy & PROXY_OTHER) && p->proxy_port))
		return TRACE_UNKNOWN;
	if (!entry) {
		/* By an entry of the pod's own its receiver could answer it, past the proxy. */
		if (direction == DIRECTION_EGRESS && unlikely(proxy_expects(ctx, p)))
			p->proxy |= PROXY_REPLY;
		else
			ret = conntrack_create(ctx, p, who->lxc_id, *peer, epoch);
		return ret < 0 ? ret : TRACE_NEW | JUDGE_REPORT;
	}
	judge_renew(p, entry, *peer, epoch);
	return judge_known(p, entry, peer, true, report, false);
}

#endif
