/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From one pod of this node to another, without the stack: what a router would do to the headers. */
#ifndef CPLANE_LOCAL_DELIVERY_H
#define CPLANE_LOCAL_DELIVERY_H

static __always_inline s32 local_delivery_headers(struct packet_ctx *ctx, const struct packet *p,
						  const struct endpoint_info *to)
{
	struct ethhdr *eth = ctx_data(ctx);
	struct ipv6hdr *ip6 = (struct ipv6hdr *)(eth + 1);
	struct iphdr *ip4 = (struct iphdr *)(eth + 1);

	/* Parsing has made both headers readable. */
	if ((void *)(ip4 + 1) > ctx_data_end(ctx))
		return DROP(INVALID_PACKET, LOCAL_DELIVERY);
	mac_copy(eth->dest, to->mac);
	mac_copy(eth->source, to->node_mac);
	if (!packet_is_v6(p))
		return ipv4_forward(ip4);
	if ((void *)(ip6 + 1) > ctx_data_end(ctx))
		return DROP(INVALID_PACKET, LOCAL_DELIVERY);
	return ipv6_forward(ip6);
}

/* Judged by the receiver as it would be at its own device; less than 0 is a drop. */
static __always_inline s32 local_delivery(struct packet_ctx *ctx, struct packet *p, const struct endpoint_info *to)
{
	struct judged receiver = { .policy_id = to->policy_id, .lxc_id = to->lxc_id, .flags = to->flags };
	s32 ret;

	debug(ctx, p->src_lxc, DBG_LOCAL_DELIVERY, to->lxc_id, p->src_identity);
	ret = local_delivery_headers(ctx, p, to);
	if (ret < 0)
		return ret;
	ret = judge(ctx, p, &receiver, true, false, DIRECTION_INGRESS);
	if (ret >= 0)
		metrics_count(ctx, METRIC_FORWARDED, METRICS_INGRESS);
	return ret;
}

#endif
