/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv6: header, extension headers, fragments, hop limit. */
#ifndef CPLANE_IPV6_H
#define CPLANE_IPV6_H

struct ipv6hdr {
	__be32 version_class_flow;
	__be16 payload_len;
	u8 nexthdr;
	u8 hop_limit;
	struct addr saddr;
	struct addr daddr;
};

#define NEXTHDR_HOP 0
#define NEXTHDR_ROUTING 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_AUTH 51
#define NEXTHDR_NONE 59
#define NEXTHDR_DEST 60

#define IPV6_EXTENSIONS_MAX 4	/* as Cilium; RFC 8200 §4.1 has 7 at most, in practice there is one */
#define IPV6_OFFSET_MASK 0xfff8

struct ipv6_extension {		/* the fragment header has the same first 8 bytes, RFC 8200 §4.5 */
	u8 nexthdr;
	u8 length;
	__be16 frag_off;
	__be32 id;
};

/* Whether a packet is a piece of another one. */
struct ipv6_fragment {
	__be32 id;
	bool present;
	bool later;		/* not the first one */
};

static __always_inline bool ipv6_is_extension(u8 header)
{
	return header == NEXTHDR_HOP || header == NEXTHDR_ROUTING || header == NEXTHDR_FRAGMENT ||
	       header == NEXTHDR_AUTH || header == NEXTHDR_DEST;
}

/* Moves (offset, header) past extension headers. Stops at the transport header, or at a later fragment. */
static __always_inline s32 ipv6_skip(struct packet_ctx *ctx, u32 *offset, u8 *header, struct ipv6_fragment *fragment)
{
	struct ipv6_extension extension;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		if (!ipv6_is_extension(*header))
			break;
		if (ctx_load(ctx, *offset, &extension, sizeof(extension)))
			return DROP(INVALID_IPV6_EXTENSION, IPV6);
		if (*header == NEXTHDR_FRAGMENT) {
			*offset += sizeof(extension);
			fragment->id = extension.id;
			fragment->present = true;
			fragment->later = extension.frag_off & bpf_htons(IPV6_OFFSET_MASK);
		} else if (*header == NEXTHDR_AUTH) {
			*offset += ((u32)extension.length + 2) << 2;
		} else {
			*offset += ((u32)extension.length + 1) << 3;
		}
		*header = extension.nexthdr;
		if (fragment->later)
			break;
	}
	if (*header == NEXTHDR_NONE || (ipv6_is_extension(*header) && !fragment->later))
		return DROP(INVALID_IPV6_EXTENSION, IPV6);
	return 0;
}

/* Addresses, protocol, where its header starts, and whether it is here. `fragment` is all zeroes. */
static __always_inline s32 ipv6_parse(struct packet_ctx *ctx, struct packet *p, struct ipv6_fragment *fragment)
{
	struct ipv6hdr *ip = ctx_at(ctx, ETH_HLEN, sizeof(*ip));
	u32 offset = ETH_HLEN + sizeof(*ip);
	u8 header;
	s32 ret = 0;

	p->family = FAMILY_V6;
	p->flags |= RECORD_IPV6;
	if (!ip || *(u8 *)ip >> 4 != 6)
		return DROP(INVALID_PACKET, IPV6);
	p->saddr = ip->saddr;
	p->daddr = ip->daddr;
	header = ip->nexthdr;
	if (unlikely(header == NEXTHDR_NONE || ipv6_is_extension(header)))
		ret = ipv6_skip(ctx, &offset, &header, fragment);
	p->protocol = header;
	p->l4_offset = offset;
	p->shape = fragment->later ? SHAPE_FRAGMENT : SHAPE_WHOLE;
	return ret;
}

/* fe80::/10 */
static __always_inline bool ipv6_is_link_local(const struct addr *addr)
{
	return (addr->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* One hop less. */
static __always_inline s32 ipv6_forward(struct ipv6hdr *ip)
{
	if (ip->hop_limit <= 1)
		return DROP(TTL_EXCEEDED, IPV6);
	ip->hop_limit--;
	return 0;
}

#endif
