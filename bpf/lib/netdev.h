/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way into and out of a program on a device to the outside. */
#ifndef CPLANE_NETDEV_H
#define CPLANE_NETDEV_H

/* False for what services are not about. */
static __always_inline bool netdev_parse(struct packet_ctx *ctx, struct packet *p, struct nat *nat)
{
	struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth));

	if (!eth || ctx_is_tagged(ctx))
		return false;
	if (eth->proto == bpf_htons(ETH_P_IP))
		return nodeport_parse(ctx, p, nat, false);
	if (eth->proto == bpf_htons(ETH_P_IPV6))
		return nodeport_parse(ctx, p, nat, true);
	return false;
}

/* An XDP program drops nothing that was not for us, and leaves answers to those on tcx. */
static __always_inline int netdev_drop(struct packet_ctx *ctx, struct packet *p, s32 ret, const bool answers)
{
	struct nat *nat = nat_of(p);

	if (CTX_XDP && !nat->changed && (nat->answered || !fib_frame_is_ours(ctx)))
		return CTX_ACT_OK;
	p->src_identity = identity_of(&p->saddr, p->family);
	p->dst_identity = identity_of(&p->daddr, p->family);
	drop_packet(ctx, p, ret);
	return answers && nat->answered ? answer_refused(ctx, p) : CTX_ACT_DROP;
}

#endif
