/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A device by which the node reaches the outside, before there is a socket buffer: what goes on to another node, or
 * back to a client, goes from here. Everything else is left to the programs of bpf_host.c, as it came.
 *
 *   xdp_netdev  XDP
 */
#define CPLANE_XDP
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
#include "lib/netdev.h"

PROGRAM int xdp_netdev(struct packet_ctx *ctx)
{
	struct packet *p = packet_begin(0);
	struct nat *nat;
	s32 ret;

	if (!p)
		return CTX_ACT_OK;
	nat = nat_begin(p);
	if (!netdev_parse(ctx, p, nat))
		return CTX_ACT_OK;
	ret = nodeport_from_outside(ctx, p, nat);
	if (likely(ret == NODEPORT_NOT_OURS))
		return CTX_ACT_OK;
	return ret < 0 ? netdev_drop(ctx, p, ret, false) : ret;
}
