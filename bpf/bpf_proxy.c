/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The device by which packets to pods come in again that a proxy of this node is to have: one tcx program.
 *
 *   to_proxy  tcx ingress: what to_container has judged and marked
 */
#include "lib/ctx.h"
#include "lib/config.h"
#include "lib/types.h"
#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/socket.h"
#include "lib/drop.h"
#include "lib/metrics.h"
#include "lib/eth.h"
#include "lib/ipv4.h"
#include "lib/ipv6.h"
#include "lib/l4.h"
#include "lib/record.h"
#include "lib/drop_notify.h"
#include "lib/mark.h"
#include "lib/proxy.h"

/* It was parsed when it was judged. */
static __always_inline s32 parse(struct packet_ctx *ctx, struct packet *p, const bool v6)
{
	struct ipv6_fragment fragment = {};
	s32 ret = v6 ? ipv6_parse(ctx, p, &fragment) : ipv4_parse(ctx, p);

	return ret < 0 ? ret : l4_parse(ctx, p, v6);
}

static __always_inline s32 to_proxy_packet(struct packet_ctx *ctx, struct packet *p)
{
	struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth));
	s32 ret;

	if (!eth)
		return DROP(INVALID_PACKET, PROXY);
	ret = eth->proto == bpf_htons(ETH_P_IPV6) ? parse(ctx, p, true) : parse(ctx, p, false);
	if (ret < 0)
		return ret;
	p->proxy = ctx->mark & MARK_PROXY_BITS;
	p->proxy_port = ctx->mark >> MARK_PORT_SHIFT;
	/* Its Ethernet header is that of the pod's device. */
	if (skb_change_type(ctx, PACKET_HOST))
		return DROP(SOCKET_ASSIGN_FAILED, PROXY);
	return proxy_take(ctx, p);
}

PROGRAM int to_proxy(struct packet_ctx *ctx)
{
	struct packet *p;
	s32 ret;

	if ((ctx->mark & MARK_MASK) != MARK_TO_PROXY)
		return CTX_ACT_OK;
	p = packet_begin(0);
	if (!p)
		return CTX_ACT_DROP;
	ret = to_proxy_packet(ctx, p);
	return ret < 0 ? drop_packet(ctx, p, ret) : ret;
}
