/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A device by which the node reaches the outside: two tcx programs that serve clients there.
 *
 *   from_netdev  tcx ingress: what comes from outside, to services and from backends of other nodes
 *   to_netdev    tcx egress: what this node's own backends answer
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
#include "lib/eps.h"
#include "lib/lifetime.h"
#include "lib/lb.h"
#include "lib/jhash.h"
#include "lib/maglev.h"
#include "lib/nat.h"
#include "lib/fragment.h"
#include "lib/rewrite.h"
#include "lib/nat_error.h"
#include "lib/answer.h"
#include "lib/fib.h"
#include "lib/geneve.h"
#include "lib/dsr.h"
#include "lib/nodeport.h"
#include "lib/dsr_receive.h"
#include "lib/netdev.h"

PROGRAM int from_netdev(struct packet_ctx *ctx)
{
	struct packet *p = packet_begin(0);
	struct nat *nat;
	bool parsed;
	s32 ret;

	if (!p || ctx->pkt_type != PACKET_HOST)
		return CTX_ACT_OK;
	nat = nat_begin(p);
	parsed = netdev_parse(ctx, p, nat);
	ret = parsed ? nodeport_from_outside(ctx, p, nat) : NODEPORT_NOT_OURS;
	if (likely(ret == NODEPORT_NOT_OURS))
		ret = dsr_receive(ctx, p, nat, parsed);
	return ret < 0 ? netdev_drop(ctx, p, ret, true) : ret;
}

PROGRAM int to_netdev(struct packet_ctx *ctx)
{
	struct packet *p = packet_begin(RECORD_EGRESS);
	struct nat *nat;
	s32 ret;

	/* What came in by a device was translated there, or is not ours. */
	if (!p || ctx_came_in(ctx))
		return CTX_ACT_OK;
	nat = nat_begin(p);
	if (!netdev_parse(ctx, p, nat))
		return CTX_ACT_OK;
	ret = nodeport_to_outside(ctx, p, nat);
	return ret < 0 ? netdev_drop(ctx, p, ret, false) : ret;
}
