/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Neighbour discovery (RFC 4861) of pods: the node answers for everyone, and nobody else is heard. */
#ifndef CPLANE_ICMP6_H
#define CPLANE_ICMP6_H

#define ICMPV6_MLD_QUERY 130
#define ICMPV6_MLD_DONE 132
#define ICMPV6_ND_ROUTER_SOLICITATION 133
#define ICMPV6_ND_SOLICITATION 135
#define ICMPV6_ND_ADVERTISEMENT 136
#define ICMPV6_ND_REDIRECT 137
#define ICMPV6_MLD2_REPORT 143

#define ND_HOP_LIMIT 255	/* RFC 4861 §7.1: a packet with less has crossed a router */
#define ND_OPTION_TARGET_MAC 2
#define ND_SOLICITED 0x40000000
#define ND_OVERRIDE 0x20000000

struct nd_message {		/* with one link-layer address option; without it 8 bytes shorter */
	u8 type;
	u8 code;
	u16 check;
	__be32 flags;
	struct addr target;
	u8 option;
	u8 option_length;	/* in units of 8 bytes */
	u8 mac[6];
};

#define ND_OFFSET (ETH_HLEN + sizeof(struct ipv6hdr))
#define ND_SIZE (ND_OFFSET + sizeof(struct nd_message))
#define ND_SHORT_SIZE (ND_SIZE - 8)

static __always_inline bool icmp6_is_nd(u8 type)
{
	return type >= ICMPV6_ND_ROUTER_SOLICITATION && type <= ICMPV6_ND_REDIRECT;
}

static __always_inline bool icmp6_is_link_noise(u8 type)
{
	return icmp6_is_nd(type) || (type >= ICMPV6_MLD_QUERY && type <= ICMPV6_MLD_DONE) ||
	       type == ICMPV6_MLD2_REPORT;
}

/* RFC 8200 §8.1: over the pseudo-header, whose addresses lie together, and the message. */
static __always_inline u16 icmp6_checksum(const struct ipv6hdr *ip, const struct nd_message *nd)
{
	u32 sum = bpf_htonl(sizeof(*nd)) + bpf_htonl(IPPROTO_ICMPV6);

	sum = csum_diff(NULL, 0, &ip->saddr, 2 * sizeof(struct addr), sum);
	sum = csum_diff(NULL, 0, nd, sizeof(*nd), sum);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The solicitation becomes an advertisement: the node's side of the device has the address that was asked for. */
static __always_inline s32 icmp6_answer(struct packet_ctx *ctx, const struct device_info *device)
{
	struct nd_message *nd;
	struct ipv6hdr *ip;
	struct ethhdr *eth;
	long error = ctx->len == ND_SIZE ? 0 : skb_change_tail(ctx, ND_SIZE, 0);

	if (error) {
		debug_error(ctx, device->lxc_id, HELPER_SKB_CHANGE_TAIL, error);
		return DROP(WRITE_ERROR, ICMP6);
	}
	eth = ctx_at(ctx, 0, ND_SIZE);
	if (!eth)
		return DROP(WRITE_ERROR, ICMP6);
	ip = (struct ipv6hdr *)(eth + 1);
	nd = (struct nd_message *)(ip + 1);
	mac_copy(eth->dest, eth->source);
	mac_copy(eth->source, device->node_mac);
	ip->payload_len = bpf_htons(sizeof(*nd));
	ip->hop_limit = ND_HOP_LIMIT;
	ip->daddr = ip->saddr;
	ip->saddr = nd->target;
	nd->type = ICMPV6_ND_ADVERTISEMENT;
	nd->code = 0;
	nd->check = 0;
	nd->flags = bpf_htonl(ND_SOLICITED | ND_OVERRIDE);
	nd->option = ND_OPTION_TARGET_MAC;
	nd->option_length = 1;
	mac_copy(nd->mac, device->node_mac);
	nd->check = icmp6_checksum(ip, nd);
	return redirect(ctx->ifindex, 0);
}

/* A solicitation of a pod: answered, unless it is for the pod's own address or a probe for a duplicate. */
static __always_inline s32 icmp6_solicitation(struct packet_ctx *ctx, const struct device_info *device)
{
	struct ipv6hdr *ip = ctx_at(ctx, ETH_HLEN, ND_SHORT_SIZE - ETH_HLEN);
	struct nd_message *nd = (struct nd_message *)(ip + 1);

	if (!ip || ip->nexthdr != IPPROTO_ICMPV6 || ip->hop_limit != ND_HOP_LIMIT || nd->code)
		return CTX_ACT_DROP;
	if (addr_is_zero(&ip->saddr) || addr_equal(&nd->target, &device->ipv6))
		return CTX_ACT_DROP;
	if (!addr_equal(&ip->saddr, &device->ipv6) && !ipv6_is_link_local(&ip->saddr))
		return DROP(INVALID_SOURCE_IP, ICMP6);
	debug(ctx, device->lxc_id, DBG_ICMP6_NS, nd->target.word[2], nd->target.word[3]);
	return icmp6_answer(ctx, device);
}

/* The answer of a pod to the node, which may only be about the pod itself. */
static __always_inline s32 icmp6_advertisement(struct packet_ctx *ctx, const struct device_info *device)
{
	struct ipv6hdr *ip = ctx_at(ctx, ETH_HLEN, ND_SHORT_SIZE - ETH_HLEN);
	struct nd_message *nd = (struct nd_message *)(ip + 1);

	if (!ip || ip->nexthdr != IPPROTO_ICMPV6)
		return CTX_ACT_DROP;
	if (!addr_equal(&nd->target, &device->ipv6) && !ipv6_is_link_local(&nd->target))
		return DROP(INVALID_SOURCE_IP, ICMP6);
	return CTX_ACT_OK;
}

/* What becomes of link-local traffic of a pod: an action, or a drop. */
static __always_inline s32 icmp6_from_container(struct packet_ctx *ctx, const struct packet *p,
						const struct device_info *device)
{
	debug(ctx, device->lxc_id, DBG_ICMP6_HANDLE, p->icmp_type, 0);
	if (p->icmp_type == ICMPV6_ND_SOLICITATION)
		return icmp6_solicitation(ctx, device);
	if (p->icmp_type == ICMPV6_ND_ADVERTISEMENT)
		return icmp6_advertisement(ctx, device);
	/* Router and listener messages: there is no router to ask and no group to join. */
	return CTX_ACT_DROP;
}

/* True if a packet for a pod cannot have come from further than the node's own side of the veth: it was made
 * by the node, or is our answer to the pod and still bears the device by which the question came in. Without a
 * source address are listener reports of a node whose address is not checked yet (RFC 3810 §5.2.13).
 */
static __always_inline bool icmp6_is_of_link(struct packet_ctx *ctx)
{
	struct ipv6hdr *ip = ctx_at(ctx, ETH_HLEN, sizeof(*ip));

	if (!ip || (ctx->ingress_ifindex && ctx->ingress_ifindex != ctx->ifindex))
		return false;
	return ip->hop_limit == ND_HOP_LIMIT || ipv6_is_link_local(&ip->saddr) || addr_is_zero(&ip->saddr);
}

#endif
