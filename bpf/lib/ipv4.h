/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv4: header, options, fragments, TTL. */
#ifndef CPLANE_IPV4_H
#define CPLANE_IPV4_H

struct iphdr {
	u8 version_ihl;
	u8 tos;
	__be16 tot_len;
	__be16 id;
	__be16 frag_off;
	u8 ttl;
	u8 protocol;
	u16 check;
	__be32 saddr;
	__be32 daddr;
};

#define IP_OFFSET_MASK 0x1fff

static __always_inline bool ipv4_is_sound(const struct iphdr *ip)
{
	return ip->version_ihl >> 4 == 4 && (ip->version_ihl & 0xf) >= 5;
}

static __always_inline u32 ipv4_header_size(const struct iphdr *ip)
{
	return (u32)(ip->version_ihl & 0xf) << 2;
}

static __always_inline bool ipv4_is_later_fragment(const struct iphdr *ip)
{
	return ip->frag_off & bpf_htons(IP_OFFSET_MASK);
}

/* Addresses, protocol, where its header starts, and whether it is here. Options are stepped over, not read. */
static __always_inline s32 ipv4_parse(struct packet_ctx *ctx, struct packet *p)
{
	struct iphdr *ip = ctx_at(ctx, ETH_HLEN, sizeof(*ip));

	p->family = FAMILY_V4;
	if (!ip || !ipv4_is_sound(ip))
		return DROP(INVALID_PACKET, IPV4);
	p->saddr.word[0] = ip->saddr;
	p->daddr.word[0] = ip->daddr;
	p->protocol = ip->protocol;
	p->l4_offset = ETH_HLEN + ipv4_header_size(ip);
	p->shape = ipv4_is_later_fragment(ip) ? SHAPE_FRAGMENT : SHAPE_WHOLE;
	return 0;
}

/* One hop less; the checksum follows by RFC 1624. */
static __always_inline s32 ipv4_forward(struct iphdr *ip)
{
	u32 check;

	if (ip->ttl <= 1)
		return DROP(TTL_EXCEEDED, IPV4);
	check = ip->check + bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	ip->ttl--;
	return 0;
}

#endif
