/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors about translated packets. An error goes the way of an answer: so its row is that of the packet that it
 * quotes, turned round, and the quoted packet becomes what that row says, turned round again.
 */
#ifndef CPLANE_NAT_ERROR_H
#define CPLANE_NAT_ERROR_H

/* Of a quoted transport header eight bytes are sure to be here. */
struct quoted {
	__be16 sport;
	__be16 dport;
	__be32 rest;
};

static __always_inline bool error_quotes4(struct packet_ctx *ctx, const struct packet *p, struct nat *nat)
{
	struct lb_flow_key *key = &nat->key;
	struct iphdr inner;

	if (ctx_load(ctx, nat->inner_offset, &inner, sizeof(inner)) || !ipv4_is_sound(&inner) ||
	    ipv4_is_later_fragment(&inner) || inner.saddr != p->daddr.word[0])
		return false;
	__builtin_memset(key, 0, sizeof(*key));
	key->saddr.word[0] = inner.daddr;
	key->daddr.word[0] = inner.saddr;
	key->protocol = inner.protocol;
	nat->inner_l4_offset = nat->inner_offset + ipv4_header_size(&inner);
	return true;
}

static __always_inline bool error_quotes6(struct packet_ctx *ctx, const struct packet *p, struct nat *nat)
{
	u32 offset = nat->inner_offset + sizeof(struct ipv6hdr);
	struct lb_flow_key *key = &nat->key;
	struct ipv6_fragment fragment = {};
	struct ipv6hdr inner;
	u8 header;

	if (ctx_load(ctx, nat->inner_offset, &inner, sizeof(inner)) || !addr_equal(&inner.saddr, &p->daddr))
		return false;
	header = inner.nexthdr;
	if (ipv6_skip(ctx, &offset, &header, &fragment) || fragment.later || offset > CTX_REACH - 64)
		return false;
	key->saddr = inner.daddr;
	key->daddr = inner.saddr;
	key->protocol = header;
	key->kind = FLOW_KEY_PACKET;
	nat->inner_l4_offset = offset;
	return true;
}

/* `nat->key` becomes that of the row for an error; false if it quotes nothing that services could be about, or was
 * sent to somebody else than who sent that.
 */
static __always_inline bool error_parse(struct packet_ctx *ctx, struct packet *p, struct nat *nat, const bool v6)
{
	struct lb_flow_key *key = &nat->key;
	struct quoted quoted;

	nat->inner_offset = p->l4_offset + sizeof(struct icmphdr);
	if (!(v6 ? error_quotes6(ctx, p, nat) : error_quotes4(ctx, p, nat)))
		return false;
	if (key->protocol == icmp_protocol(v6) || !l4_is_tracked(key->protocol, v6) ||
	    ctx_load(ctx, nat->inner_l4_offset, &quoted, sizeof(quoted)))
		return false;
	key->sport = quoted.dport;
	key->dport = quoted.sport;
	key->family = p->family;
	p->shape = SHAPE_ERROR;
	return true;
}

/* The quoted network header. Returns by how much the bytes of the error have changed: by nothing where a checksum
 * among them makes up for it.
 */
static __always_inline s32 error_quoted_addresses(struct packet_ctx *ctx, const struct packet *p, const struct nat *nat,
						  u64 addresses, u64 *change)
{
	u32 offset = ctx_offset(nat->inner_offset);
	const struct lb_flow *to = &nat->to;
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	if (packet_is_v6(p)) {
		ip6 = ctx_at(ctx, offset, sizeof(*ip6));
		if (!ip6)
			return DROP(WRITE_ERROR, NODEPORT);
		ip6->saddr = to->daddr;
		ip6->daddr = to->saddr;
		*change += addresses;
		return 0;
	}
	ip4 = ctx_at(ctx, offset, sizeof(*ip4));
	if (!ip4)
		return DROP(WRITE_ERROR, NODEPORT);
	ip4->saddr = to->daddr.word[0];
	ip4->daddr = to->saddr.word[0];
	ip4->check = csum_changed(ip4->check, addresses);
	return 0;
}

/* The quoted ports, and the quoted checksum, if as much has been quoted. */
static __always_inline s32 error_quoted_ports(struct packet_ctx *ctx, const struct nat *nat, u64 addresses, u64 *change)
{
	u32 offset = ctx_offset(nat->inner_l4_offset);
	u32 check_at = rewrite_check_at(nat->key.protocol);
	const struct lb_flow *to = &nat->to;
	struct quoted *quoted;
	u16 *check, before;
	u64 ports;

	ports = csum_half(csum_half(0, nat->key.dport, to->dport), nat->key.sport, to->sport);
	quoted = ctx_at(ctx, offset, sizeof(*quoted));
	if (!quoted)
		return DROP(WRITE_ERROR, NODEPORT);
	quoted->sport = to->dport;
	quoted->dport = to->sport;
	*change += ports;
	check = check_at ? ctx_at(ctx, offset + check_at, sizeof(*check)) : NULL;
	if (!check || (nat->key.protocol == IPPROTO_UDP && !*check))
		return 0;
	before = *check;
	*check = csum_changed(before, (u64)csum_32(addresses) + csum_32(ports));
	*change = csum_half(*change, before, *check);
	return 0;
}

static __always_inline s32 error_rewrite(struct packet_ctx *ctx, const struct packet *p, const struct nat *nat)
{
	const struct lb_flow *to = &nat->to;
	/* Whoever is hidden, or is not to be seen, has not sent the error either. */
	const struct addr *saddr = to->flags & (LB_FLOW_REVERSE | LB_FLOW_SNAT) ? &to->saddr : &p->saddr;
	u64 outer = csum_addr(csum_addr(0, &p->saddr, saddr), &p->daddr, &to->daddr);
	u64 inner = csum_addr(csum_addr(0, &nat->key.daddr, &to->daddr), &nat->key.saddr, &to->saddr);
	u32 check = ctx_offset(p->l4_offset) + __builtin_offsetof(struct icmphdr, check);
	u64 change = 0;
	s32 ret;

	ret = error_quoted_addresses(ctx, p, nat, inner, &change);
	if (ret < 0)
		return ret;
	ret = error_quoted_ports(ctx, nat, inner, &change);
	if (ret < 0)
		return ret;
	if (ctx_csum_change(ctx, check, csum_32(change), 0))
		return DROP(CSUM_L4, NODEPORT);
	if (packet_is_v6(p) && ctx_csum_change(ctx, check, csum_32(outer), CSUM_PSEUDO | CSUM_IPV6))
		return DROP(CSUM_L4, NODEPORT);
	return rewrite_addresses(ctx, p, saddr, &to->daddr, outer);
}

#endif
