/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From this node to another one, by the kernel's routes and neighbours. */
#ifndef CPLANE_FIB_H
#define CPLANE_FIB_H

#define AF_INET 2
#define AF_INET6 10

/* BPF_FIB_LKUP_RET_* */
#define FIB_SUCCESS 0
#define FIB_NO_NEIGHBOUR 7
#define FIB_TOO_BIG 8

/* struct bpf_redir_neigh */
struct fib_next_hop {
	u32 family;
	struct addr addr;
};

HELPER(long, fib_lookup, 69, struct packet_ctx *ctx, struct fib *fib, u32 size, u32 flags);
HELPER(long, redirect_neigh, 152, u32 ifindex, const struct fib_next_hop *next, u32 size, u64 flags);

/* Where a packet of `length` bytes goes that has become `to`: FIB_SUCCESS, or FIB_NO_NEIGHBOUR if the next hop's MAC is
 * not known yet, or FIB_TOO_BIG if it does not fit there. Less than 0: nowhere.
 */
static __always_inline s32 fib_route(struct packet_ctx *ctx, const struct packet *p, struct fib *fib,
				     const struct lb_flow *to, u16 length)
{
	s32 ret;

	fib->family = packet_is_v6(p) ? AF_INET6 : AF_INET;
	fib->protocol = p->protocol;
	fib->sport = to->sport;
	fib->dport = to->dport;
	fib->length = length;
	fib->ifindex = ctx_device(ctx);
	fib->flow = 0;
	fib->saddr = to->saddr;
	fib->daddr = to->daddr;
	ret = fib_lookup(ctx, fib, sizeof(*fib), 0);
	return ret == FIB_SUCCESS || ret == FIB_NO_NEIGHBOUR || ret == FIB_TOO_BIG ? ret : -1;
}

/* Bytes of the packet, or of the largest of the packets that it will be cut to, from the network header on. */
static __always_inline u32 fib_packet_size(struct packet_ctx *ctx, const struct packet *p)
{
	struct tcphdr *tcp;
	u32 head;

	if (likely(!ctx_segment_size(ctx)))
		return ctx_length(ctx) - ETH_HLEN;
	tcp = p->protocol == IPPROTO_TCP ? ctx_at(ctx, ctx_offset(p->l4_offset), sizeof(*tcp)) : NULL;
	head = tcp ? (u32)tcp->offset >> 4 << 2 : sizeof(struct udphdr);
	return p->l4_offset - ETH_HLEN + head + ctx_segment_size(ctx);
}

/* What a lookup has found, to be used for a while. */
static __always_inline void fib_keep(const struct fib *fib, struct lb_route *route)
{
	struct lb_netdev *device = lb_netdevs_map(fib->ifindex);

	route->ifindex = fib->ifindex;
	route->mtu = fib->length;
	route->flags = device ? device->flags : LB_NETDEV_MUTE;
	mac_copy(route->dmac, fib->dmac);
	mac_copy(route->smac, fib->smac);
}

/* True if the frame was sent to the device that it came by, and not to another one on the same wire. On tcx the
 * kernel has said so.
 */
static __always_inline bool fib_frame_is_ours(struct packet_ctx *ctx)
{
	struct lb_netdev *device = lb_netdevs_map(ctx_device(ctx));
	struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth));

	return device && eth && mac_equal(eth->dest, device->mac);
}

/* True if an XDP program can send by itself: back by the device that the packet came by, or by one that takes it. */
static __always_inline bool fib_is_reached_by_xdp(struct packet_ctx *ctx, const struct lb_route *route)
{
	struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth));

	if (!eth)
		return false;
	if (likely(route->ifindex == ctx_device(ctx)))
		return !(route->flags & LB_NETDEV_MUTE) && mac_equal(eth->dest, route->smac);
	return (route->flags & LB_NETDEV_REDIRECT) && fib_frame_is_ours(ctx);
}

/* True if the transport checksum is yet to be computed by whoever receives the packet, which a sender on the same machine
 * may leave to it (veth, tap): it is the sum of the pseudo-header so far; that of SCTP is nothing. The kernel knows, but
 * forgets it of what an XDP program sends on. One in 65,536 packets looks like that and is not.
 */
static __always_inline bool fib_is_unsummed(struct packet_ctx *ctx, const struct packet *p)
{
	u32 at = ctx_offset(p->l4_offset), check_at = rewrite_check_at(p->protocol);
	struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth) + sizeof(struct iphdr));
	struct sctphdr *sctp;
	u16 *check;
	u32 size;

	if (p->shape != SHAPE_WHOLE)
		return false;
	if (!check_at) {
		sctp = ctx_at(ctx, at, sizeof(*sctp));
		return sctp && !sctp->check;
	}
	check = ctx_at(ctx, at + check_at, sizeof(*check));
	if (!eth || !check)
		return false;
	size = packet_is_v6(p) ? bpf_ntohs(((struct ipv6hdr *)(eth + 1))->payload_len) + sizeof(struct ipv6hdr) :
				 bpf_ntohs(((struct iphdr *)(eth + 1))->tot_len);
	size -= p->l4_offset - ETH_HLEN;
	return answer_fold(csum_half(answer_pseudo(p, p->protocol, size), *check, 0)) == 0xffff;
}

/* What a router does to the headers. One that is made here has its hops yet (`fresh`). */
static __always_inline s32 fib_headers(struct packet_ctx *ctx, const struct packet *p, const struct lb_route *route,
				       bool fresh)
{
	struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth) + sizeof(struct iphdr));
	struct ipv6hdr *ip6;

	if (!eth)
		return DROP(INVALID_PACKET, NODEPORT);
	if (route->ifindex) {
		mac_copy(eth->dest, route->dmac);
		mac_copy(eth->source, route->smac);
	}
	if (fresh)
		return 0;
	if (!packet_is_v6(p))
		return ipv4_forward((struct iphdr *)(eth + 1));
	ip6 = ctx_at(ctx, ETH_HLEN, sizeof(*ip6));
	if (!ip6)
		return DROP(INVALID_PACKET, NODEPORT);
	return ipv6_forward(ip6);
}

/* The translated packet leaves by its route; where that is not known, by the one of `fib`, whose neighbour the kernel
 * asks for its MAC.
 */
static __always_inline s32 fib_forward(struct packet_ctx *ctx, const struct packet *p, const struct fib *fib,
				       const struct lb_route *route, bool fresh)
{
	s32 ret = fib_headers(ctx, p, route, fresh);

	if (ret < 0)
		return ret;
	if (CTX_XDP && route->ifindex == ctx_device(ctx))
		return CTX_ACT_TX;
	if (!CTX_XDP && !route->ifindex) {
		struct fib_next_hop next = { .family = fib->family, .addr = fib->daddr };

		return redirect_neigh(fib->ifindex, &next, sizeof(next), 0);
	}
	return redirect(route->ifindex, 0);
}

#endif
