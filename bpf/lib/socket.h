/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sockets of the node: found by addresses, and given back. */
#ifndef CPLANE_SOCKET_H
#define CPLANE_SOCKET_H

/* As far as programs read it. */
struct bpf_sock {
	u32 unread[4];
	u32 mark;
	u32 priority;
	u32 src_ip4;
	u32 src_ip6[4];
	u32 src_port;
	__be16 dst_port;
	u16 pad;
	u32 dst_ip4;
	u32 dst_ip6[4];
	u32 state;
};

#define SOCKET_LISTEN 10	/* of state: TCP_LISTEN */

HELPER(struct bpf_sock *, sk_lookup_tcp, 84, struct packet_ctx *ctx, void *tuple, u32 size, u64 netns, u64 flags);
HELPER(struct bpf_sock *, sk_lookup_udp, 85, struct packet_ctx *ctx, void *tuple, u32 size, u64 netns, u64 flags);
HELPER(long, sk_release, 86, struct bpf_sock *sk);
HELPER(struct bpf_sock *, sk_fullsock, 95, struct bpf_sock *sk);
HELPER(struct bpf_sock *, skc_lookup_tcp, 99, struct packet_ctx *ctx, void *tuple, u32 size, u64 netns, u64 flags);

#define BPF_F_CURRENT_NETNS (-1L)

/* struct bpf_sock_tuple: as a packet to the socket has them. */
union sock_tuple {
	struct {
		__be32 saddr;
		__be32 daddr;
		__be16 sport;
		__be16 dport;
	} v4;
	struct {
		struct addr saddr;
		struct addr daddr;
		__be16 sport;
		__be16 dport;
	} v6;
};

/* Returns the size that goes with the tuple. */
static __always_inline u32 socket_tuple(union sock_tuple *tuple, const struct addr *saddr, const struct addr *daddr,
					__be16 sport, __be16 dport, bool v6)
{
	if (v6) {
		tuple->v6.saddr = *saddr;
		tuple->v6.daddr = *daddr;
		tuple->v6.sport = sport;
		tuple->v6.dport = dport;
		return sizeof(tuple->v6);
	}
	tuple->v4.saddr = saddr->word[0];
	tuple->v4.daddr = daddr->word[0];
	tuple->v4.sport = sport;
	tuple->v4.dport = dport;
	return sizeof(tuple->v4);
}

#endif
