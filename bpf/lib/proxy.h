/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets of connections that a proxy of this node reads: handed to its socket, with both addresses as they are.
 *
 * A proxy listens at 127.0.0.1 and ::1 on the proxy port that a policy entry names, and speaks with the other side
 * from the client's address. What a pod sends is handed over where it comes in; what the stack sends to a pod cannot
 * be, and takes a turn through the device in STATE_PROXY, where it comes in again.
 */
#ifndef CPLANE_PROXY_H
#define CPLANE_PROXY_H

#define LOOPBACK4 bpf_htonl(0x7f000001)
#define LOOPBACK6 bpf_htonl(1)	/* its last word */

/* The socket that takes connections, or datagrams, at the proxy port. */
static __always_inline struct bpf_sock *proxy_at_port(struct packet_ctx *ctx, struct packet *p)
{
	union sock_tuple *tuple = (void *)p->tuple;
	struct addr loopback = {};
	u32 size;

	if (packet_is_v6(p))
		loopback.word[3] = LOOPBACK6;
	else
		loopback.word[0] = LOOPBACK4;
	size = socket_tuple(tuple, &p->saddr, &loopback, p->sport, p->proxy_port, packet_is_v6(p));
	if (p->protocol == IPPROTO_TCP)
		return skc_lookup_tcp(ctx, tuple, size, BPF_F_CURRENT_NETNS, 0);
	return sk_lookup_udp(ctx, tuple, size, BPF_F_CURRENT_NETNS, 0);
}

/* The socket that a proxy has for this very connection. A datagram finds sockets of any sender and address, too; but
 * one that is connected is bound as well.
 *
 * What is found is read in two places, as the verifier tells the two kinds of sockets apart.
 */
static __always_inline struct bpf_sock *proxy_connected(struct packet_ctx *ctx, struct packet *p)
{
	union sock_tuple *tuple = (void *)p->tuple;
	struct bpf_sock *sk;
	u32 size;

	size = socket_tuple(tuple, &p->saddr, &p->daddr, p->sport, p->dport, packet_is_v6(p));
	if (p->protocol == IPPROTO_TCP) {
		sk = skc_lookup_tcp(ctx, tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (!sk || sk->state != SOCKET_LISTEN)
			return sk;
	} else {
		sk = sk_lookup_udp(ctx, tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (!sk || sk->dst_port == p->sport)
			return sk;
	}
	sk_release(sk);
	return NULL;
}

/* True if a packet, which belongs to no connection that conntrack knows, answers a proxy that speaks with the receiver's
 * address. No connection begins with such a packet of TCP.
 */
static __always_inline bool proxy_expects(struct packet_ctx *ctx, struct packet *p)
{
	struct bpf_sock *sk;

	if (p->shape != SHAPE_WHOLE || !state_number(STATE_PROXY))
		return false;
	if (p->protocol == IPPROTO_TCP ? !(p->tcp_flags & (TCP_ACK | TCP_RST)) : p->protocol != IPPROTO_UDP)
		return false;
	sk = proxy_connected(ctx, p);
	if (!sk)
		return false;
	sk_release(sk);
	return true;
}

/* What a proxy of this node has to do with a packet that the stack sends to a pod: PROXY_OF_PACKET. */
static __always_inline u8 proxy_sender(const struct packet_ctx *ctx)
{
	u32 mark = ctx->mark & MARK_MASK;

	if (likely(mark != MARK_FROM_INGRESS_PROXY && mark != MARK_FROM_EGRESS_PROXY))
		return 0;
	return mark == MARK_FROM_INGRESS_PROXY ? PROXY_SENT | PROXY_JUDGED : PROXY_SENT;
}

/* The socket, if the proxy that has the port has accepted it (or still may); NULL if it was another, by whose rules it
 * reads. What is closed already is nobody's.
 */
static __always_inline struct bpf_sock *proxy_accepted(struct bpf_sock *sk, const struct packet *p)
{
	struct bpf_sock *full = sk_fullsock(sk);

	if (!full || full->mark == (u32)bpf_ntohs(p->proxy_port) << MARK_PORT_SHIFT)
		return sk;
	sk_release(sk);
	return NULL;
}

/* The packet, which comes in, goes to the socket of the proxy that has its connection, or that is to have it. One
 * that nobody has resets the connection, as it does at any listener.
 */
static __always_inline s32 proxy_take(struct packet_ctx *ctx, struct packet *p)
{
	const bool reply = p->proxy & PROXY_REPLY;
	struct bpf_sock *sk = NULL;
	long error;

	/* Proxies have sockets, which know streams and datagrams. */
	if (p->shape != SHAPE_WHOLE || (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP))
		return DROP(PROXY_REDIRECTION_NOT_SUPPORTED, PROXY);
	if (reply || p->protocol == IPPROTO_TCP)
		sk = proxy_connected(ctx, p);
	/* Segments that bring no data may end what is left of the other. */
	if (sk && !reply && !(p->tcp_flags & (TCP_SYN | TCP_RST)))
		sk = proxy_accepted(sk, p);
	if (!sk && !reply)
		sk = proxy_at_port(ctx, p);
	if (!sk)
		return DROP(SOCKET_LOOKUP_FAILED, PROXY);
	error = sk_assign(ctx, sk, 0);
	sk_release(sk);
	if (error)
		return DROP(SOCKET_ASSIGN_FAILED, PROXY);
	ctx->mark = MARK_TO_PROXY;
	return CTX_ACT_OK;
}

/* The packet, which leaves, comes in again by the device at which it can be handed over. */
static __always_inline s32 proxy_send(struct packet_ctx *ctx, const struct packet *p)
{
	u32 ifindex = state_number(STATE_PROXY);

	if (!ifindex)
		return DROP(SOCKET_LOOKUP_FAILED, PROXY);
	ctx->mark = MARK_TO_PROXY | (p->proxy & MARK_PROXY_BITS) | (u32)p->proxy_port << MARK_PORT_SHIFT;
	return redirect(ifindex, BPF_F_INGRESS);
}

#endif
