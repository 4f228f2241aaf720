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

/* Where a packet of `length` bytes goes that has become `to`: FIB_SUCCESS, or FIB_NO_NEIGHBOUR if the next hop's MAC is not known yet,
 * or FIB_TOO_BIG if it does not fit there. Less than 0: nowhere.
 */
static __always_inline s32 fib_route(struct packet_ctx *ctx, const struct packet *p, struct nat *nat,
				     const struct lb_flow *to, u16 length)
{
	struct fib *fib = &nat->fib;
	s32 ret;

	fib->family = packet_is_v6(p) ? AF_INET6 : AF_INET;
	fib->protocol = p->protocol;
	fib->sport = to->sport;
	fib->dport = to->dport;
	/* A socket buffer's length is known to the kernel, also that of its segments. */
	fib->length = CTX_XDP ? length : 0;
	fib->ifindex = ctx_device(ctx);
	fib->flow = 0;
	fib->saddr = to->saddr;
	fib->daddr = to->daddr;
	ret = fib_lookup(ctx, fib, sizeof(*fib), 0);
	return ret == FIB_SUCCESS || ret == FIB_NO_NEIGHBOUR || ret == FIB_TOO_BIG ? ret : -1;
}

/* What a lookup has found, to be used for a while. */
static __always_inline void fib_keep(const struct fib *fib, struct lb_route *route)
{
	route->ifindex = fib->ifindex;
	route->mtu = fib->length;
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
	struct lb_netdev *device;

	if (!eth)
		return false;
	if (likely(route->ifindex == ctx_device(ctx)))
		return mac_equal(eth->dest, route->smac);
	device = lb_netdevs_map(route->ifindex);
	return device && (device->flags & LB_NETDEV_REDIRECT) && fib_frame_is_ours(ctx);
}

/* What a router does to the headers. */
static __always_inline s32 fib_headers(struct packet_ctx *ctx, const struct packet *p, const struct lb_route *route)
{
	struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth) + sizeof(struct iphdr));
	struct ipv6hdr *ip6;

	if (!eth)
		return DROP(INVALID_PACKET, NODEPORT);
	if (route->ifindex) {
		mac_copy(eth->dest, route->dmac);
		mac_copy(eth->source, route->smac);
	}
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
				       const struct lb_route *route)
{
	s32 ret = fib_headers(ctx, p, route);

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
