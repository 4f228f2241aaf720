/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Marks of packets and sockets that proxies of this node have to do with. */
#ifndef CPLANE_MARK_H
#define CPLANE_MARK_H

/* Marks of packets, in the bits of MARK_MASK. A rule of the node routes MARK_TO_PROXY to itself. */
#define MARK_MASK 0xf00
#define MARK_TO_PROXY 0x200
#define MARK_FROM_INGRESS_PROXY 0xa00
#define MARK_FROM_EGRESS_PROXY 0xb00
/* Beside MARK_TO_PROXY: PROXY_REPLY in the lowest bits, the proxy port in the upper half. Listeners of proxies have their
 * port there, too, and so have the connections that they accept.
 */
#define MARK_PROXY_BITS PROXY_REPLY
#define MARK_PORT_SHIFT 16

/* True if a proxy has such a socket to speak with a server. */
static __always_inline bool mark_is_from_proxy(u32 mark)
{
	return (mark & MARK_MASK) == MARK_FROM_INGRESS_PROXY || (mark & MARK_MASK) == MARK_FROM_EGRESS_PROXY;
}

#endif
