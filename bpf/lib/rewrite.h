/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet becomes what `nat->to` says: addresses, ports, and every checksum over them. */
#ifndef CPLANE_REWRITE_H
#define CPLANE_REWRITE_H

static __always_inline u64 csum_addr(u64 change, const struct addr *from, const struct addr *to)
{
	change = csum_word(change, from->word[0], to->word[0]);
	change = csum_word(change, from->word[1], to->word[1]);
	change = csum_word(change, from->word[2], to->word[2]);
	return csum_word(change, from->word[3], to->word[3]);
}

/* The network header; the checksum of IPv4's follows. */
static __always_inline s32 rewrite_addresses(struct packet_ctx *ctx, const struct packet *p, const struct addr *saddr,
					     const struct addr *daddr, u64 change)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	if (packet_is_v6(p)) {
		ip6 = ctx_at(ctx, ETH_HLEN, sizeof(*ip6));
		if (!ip6)
			return DROP(WRITE_ERROR, NODEPORT);
		ip6->saddr = *saddr;
		ip6->daddr = *daddr;
		return 0;
	}
	ip4 = ctx_at(ctx, ETH_HLEN, sizeof(*ip4));
	if (!ip4)
		return DROP(WRITE_ERROR, NODEPORT);
	ip4->saddr = saddr->word[0];
	ip4->daddr = daddr->word[0];
	ip4->check = csum_changed(ip4->check, change);
	return 0;
}

/* Where the checksum of a transport header is, from its beginning; 0 if it is none that we know. */
static __always_inline u32 rewrite_check_at(u8 protocol)
{
	if (protocol == IPPROTO_TCP)
		return __builtin_offsetof(struct tcphdr, check);
	return protocol == IPPROTO_UDP ? __builtin_offsetof(struct udphdr, check) : 0;
}

static __always_inline s32 rewrite_ports(struct packet_ctx *ctx, const struct packet *p, const struct lb_flow *to,
					 u64 addresses)
{
	u32 optional = p->protocol == IPPROTO_UDP ? CSUM_OPTIONAL : 0;
	u32 family = packet_is_v6(p) ? CSUM_IPV6 : 0;
	u32 offset = ctx_offset(p->l4_offset);
	u32 check = rewrite_check_at(p->protocol);
	__be16 *ports;
	u64 change;

	change = csum_half(csum_half(0, p->sport, to->sport), p->dport, to->dport);
	if (p->sport != to->sport || p->dport != to->dport) {
		/* The checksum of SCTP is none that could follow. */
		if (!check)
			return DROP(NAT_UNSUPPORTED_PROTOCOL, NODEPORT);
		ports = ctx_at(ctx, offset, 2 * sizeof(*ports));
		if (!ports)
			return DROP(WRITE_ERROR, NODEPORT);
		ports[0] = to->sport;
		ports[1] = to->dport;
		if (ctx_csum_change(ctx, offset + check, csum_32(change), optional))
			return DROP(CSUM_L4, NODEPORT);
	}
	if (check && ctx_csum_change(ctx, offset + check, csum_32(addresses), optional | family | CSUM_PSEUDO))
		return DROP(CSUM_L4, NODEPORT);
	return 0;
}

static __always_inline s32 rewrite_packet(struct packet_ctx *ctx, const struct packet *p, const struct lb_flow *to)
{
	u64 change = csum_addr(csum_addr(0, &p->saddr, &to->saddr), &p->daddr, &to->daddr);
	s32 ret = rewrite_addresses(ctx, p, &to->saddr, &to->daddr, change);

	if (ret < 0 || p->shape == SHAPE_FRAGMENT)
		return ret;
	return rewrite_ports(ctx, p, to, change);
}

#endif
