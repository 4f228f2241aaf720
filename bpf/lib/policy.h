/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Policy: which entry decides, and what it says. */
#ifndef CPLANE_POLICY_H
#define CPLANE_POLICY_H

/* ICMP "fragmentation needed" passes every policy: without it path MTU discovery fails silently. */
#ifndef CONFIG_allow_icmp_frag_needed
#define CONFIG_allow_icmp_frag_needed 1
#endif

/* No entry can win against this one: its holder decides without a second look. */
#define POLICY_PRECEDENCE_MAX 0xffffffff

#define MATCH_NONE 0
#define MATCH_L3_ONLY 1
#define MATCH_L3_L4 2
#define MATCH_L4_ONLY 3
#define MATCH_ALL 4
#define MATCH_L3_PROTO 5
#define MATCH_PROTO_ONLY 6

struct verdict {
	u32 cookie;
	u8 reason;		/* 0: allowed */
	u8 match_type;
	__be16 proxy_port;	/* allowed as far as this proxy allows it; 0: nobody is asked */
	bool audited;		/* ask the audit plane too */
};

static __always_inline u8 policy_match_type(u8 l4_bits, bool l3)
{
	if (!l4_bits)
		return l3 ? MATCH_L3_ONLY : MATCH_ALL;
	if (l4_bits <= POLICY_PROTO_BITS)
		return l3 ? MATCH_L3_PROTO : MATCH_PROTO_ONLY;
	return l3 ? MATCH_L3_L4 : MATCH_L4_ONLY;
}

/* What an entry means to a packet. There is no authentication: what needs it is dropped.
 * `other` is the entry that did not decide, or NULL: where the one that did does not say, it is asked for
 * authentication too.
 */
static __always_inline u8 policy_reason(const struct policy_entry *entry, const struct policy_entry *other)
{
	if (entry->flags & POLICY_FLAG_DENY)
		return REASON_POLICY_DENY;
	if (entry->auth_type || (other && other->auth_type && !(entry->flags & POLICY_FLAG_AUTH_SAID)))
		return REASON_AUTH_REQUIRED;
	return 0;
}

/* Two lookups, for the peer and for anyone. The higher precedence decides; then the longer L4 prefix; then
 * the entry that names the peer; one of the highest precedence there is decides without the second lookup.
 * `l4_bits` is how much of (protocol, port) the packet shows.
 */
static __always_inline struct verdict policy_lookup(u32 policy_id, u32 identity, const u8 direction, u8 protocol,
						    __be16 port, u8 l4_bits)
{
	struct policy_key key = {
		.prefixlen = POLICY_STATIC_BITS + l4_bits,
		.policy_id = policy_id,
		.sec_label = identity,
		.direction = direction,
		.protocol = protocol,
		.dport = port,
	};
	struct verdict verdict = { .reason = REASON_POLICY_DENIED, .match_type = MATCH_NONE };
	struct policy_entry *chosen, *any, *other = NULL;
	bool l3 = true;

	chosen = identity == IDENTITY_ANY ? NULL : policy_map(&key);
	if (!chosen || chosen->precedence != POLICY_PRECEDENCE_MAX) {
		key.sec_label = IDENTITY_ANY;
		any = policy_map(&key);
		other = any;
		if (any && (!chosen || any->precedence > chosen->precedence ||
			    (any->precedence == chosen->precedence &&
			     any->flags >> POLICY_L4_BITS_SHIFT > chosen->flags >> POLICY_L4_BITS_SHIFT))) {
			other = chosen;
			chosen = any;
			l3 = false;
		}
	}
	if (!chosen)
		return verdict;
	verdict.cookie = chosen->cookie;
	verdict.reason = policy_reason(chosen, other);
	verdict.match_type = policy_match_type(chosen->flags >> POLICY_L4_BITS_SHIFT, l3);
	verdict.audited = chosen->flags & POLICY_FLAG_AUDITED;
	verdict.proxy_port = verdict.reason ? 0 : chosen->proxy_port;
	return verdict;
}

/* True if no policy is asked. Such a packet makes no conntrack entry, which would let others follow it. */
static __always_inline bool policy_is_bypassed(const struct packet *p)
{
	return CONFIG(allow_icmp_frag_needed) && p->protocol == IPPROTO_ICMP && p->shape != SHAPE_FRAGMENT &&
	       p->icmp_type == ICMP_DEST_UNREACH && p->icmp_code == ICMP_FRAG_NEEDED;
}

/* The policy's word on `p`, which has its peer's identity. */
static __always_inline struct verdict policy_of(const struct packet *p, u32 policy_id, u32 identity,
						const u8 direction)
{
	struct verdict verdict;

	if (p->shape == SHAPE_FRAGMENT) {
		/* It shows no port, so only what allows all ports allows it: there is no fragment tracking. */
		verdict = policy_lookup(policy_id, identity, direction, p->protocol, 0, POLICY_PROTO_BITS);
		if (verdict.reason == REASON_POLICY_DENIED)
			verdict.reason = REASON_FRAGMENT_NOT_SUPPORTED;
		return verdict;
	}
	return policy_lookup(policy_id, identity, direction, p->protocol, p->policy_port, POLICY_L4_BITS);
}

#endif
