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

static __always_inline int netdev_result(const struct packet_ctx *ctx, struct packet *p, s32 ret)
{
	if (ret >= 0)
		return ret;
	p->src_identity = identity_of(&p->saddr, p->family);
	p->dst_identity = identity_of(&p->daddr, p->family);
	return drop_packet(ctx, p, ret);
}

#endif
