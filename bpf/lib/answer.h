/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Answers in the name of who was asked: that nobody is there, or that a packet is too big. The packet that asks
 * becomes the answer. Only for socket buffers: XDP programs leave that to those on tcx.
 *
 * A checksum that the sender has left to be computed is computed yet: its place is remembered with the buffer, and
 * there is no way to have that forgotten. So what is written there is what that computation needs.
 */
#ifndef CPLANE_ANSWER_H
#define CPLANE_ANSWER_H

#define ANSWER_HOPS 64
#define IP_DONT_FRAGMENT 0x4000

#define ICMP_PORT_UNREACHABLE 3	/* a code of ICMP_DEST_UNREACH */
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PORT_UNREACHABLE 4	/* a code of it */
#define ICMPV6_PACKET_TOO_BIG 2

/* An ICMP message that says nothing, or an MTU. */
struct icmp_message {
	u8 type;
	u8 code;
	u16 check;
	__be32 mtu;
};

static __always_inline u16 answer_fold(u64 sum)
{
	sum = csum_32(sum);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* True if the transport checksum is still to be computed: it does not follow a change then. */
static __always_inline bool answer_is_unsummed(struct packet_ctx *ctx, const struct packet *p)
{
	u32 check_at = rewrite_check_at(p->protocol);
	u32 offset = ctx_offset(p->l4_offset) + check_at;
	u16 *check = check_at ? ctx_at(ctx, offset, sizeof(*check)) : NULL;
	u16 before;

	if (!check)
		return false;
	before = *check;
	if (ctx_csum_change(ctx, offset, 1, 0))
		return false;
	check = ctx_at(ctx, offset, sizeof(*check));
	if (!check || *check == before)
		return check;
	*check = before;
	return false;
}

static __always_inline u64 answer_sum(const struct addr *addr)
{
	return (u64)addr->word[0] + addr->word[1] + addr->word[2] + addr->word[3];
}

/* The pseudo-header of RFC 8200 §8.1 and RFC 9293 §3.1, the same for both directions. */
static __always_inline u64 answer_pseudo(const struct packet *p, u8 protocol, u32 size)
{
	return answer_sum(&p->saddr) + answer_sum(&p->daddr) + bpf_htonl((u32)protocol) + bpf_htonl(size);
}

/* The headers before `size` bytes of an answer: all but the Ethernet header's type is written. */
static __always_inline void answer_head(struct ethhdr *eth, const struct packet *p, u8 protocol, u16 size, const bool v6)
{
	struct ipv6hdr *ip6 = (struct ipv6hdr *)(eth + 1);
	struct iphdr *ip4 = (struct iphdr *)(eth + 1);
	u8 mac[6];

	mac_copy(mac, eth->dest);
	mac_copy(eth->dest, eth->source);
	mac_copy(eth->source, mac);
	if (v6) {
		ip6->version_class_flow = bpf_htonl(6U << 28);
		ip6->payload_len = bpf_htons(size);
		ip6->nexthdr = protocol;
		ip6->hop_limit = ANSWER_HOPS;
		ip6->saddr = p->daddr;
		ip6->daddr = p->saddr;
		return;
	}
	ip4->version_ihl = 0x45;
	ip4->tos = 0;
	ip4->tot_len = bpf_htons((u16)(sizeof(*ip4) + size));
	ip4->id = 0;
	ip4->frag_off = bpf_htons(IP_DONT_FRAGMENT);
	ip4->ttl = ANSWER_HOPS;
	ip4->protocol = protocol;
	ip4->check = 0;
	ip4->saddr = p->daddr.word[0];
	ip4->daddr = p->saddr.word[0];
	ip4->check = ~answer_fold(csum_diff(NULL, 0, ip4, sizeof(*ip4), 0));
}

static __always_inline u32 answer_network_size(const bool v6)
{
	return v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
}

/* Bytes of the packet behind its network header. */
static __always_inline u32 answer_asked_size(const struct ethhdr *eth, const bool v6)
{
	if (v6)
		return bpf_ntohs(((struct ipv6hdr *)(eth + 1))->payload_len);
	return bpf_ntohs(((struct iphdr *)(eth + 1))->tot_len) - sizeof(struct iphdr);
}

/* RFC 9293 §3.5.2, group 1: the reset that a segment gets where there is no connection. */
static __always_inline s32 answer_reset(struct packet_ctx *ctx, const struct packet *p, const bool v6)
{
	const u32 offset = ETH_HLEN + answer_network_size(v6);
	const u32 end = offset + sizeof(struct tcphdr);
	bool unsummed = answer_is_unsummed(ctx, p);
	struct ethhdr *eth = ctx_at(ctx, 0, end);
	struct tcphdr *tcp;
	u32 size, seq, ack;
	bool acked;
	u64 sum;

	if (!eth)
		return CTX_ACT_DROP;
	tcp = (void *)eth + offset;
	acked = tcp->flags & TCP_ACK;
	size = answer_asked_size(eth, v6) - ((u32)tcp->offset >> 4 << 2);
	size += !!(tcp->flags & TCP_SYN) + !!(tcp->flags & TCP_FIN);
	seq = acked ? tcp->ack : 0;
	ack = acked ? 0 : bpf_htonl(bpf_htonl(tcp->seq) + size);
	if (skb_change_tail(ctx, end, 0))
		return CTX_ACT_DROP;
	eth = ctx_at(ctx, 0, end);
	if (!eth)
		return CTX_ACT_DROP;
	tcp = (void *)eth + offset;
	answer_head(eth, p, IPPROTO_TCP, sizeof(*tcp), v6);
	tcp->source = p->dport;
	tcp->dest = p->sport;
	tcp->seq = seq;
	tcp->ack = ack;
	tcp->offset = sizeof(*tcp) / 4 << 4;
	tcp->flags = acked ? TCP_RST : TCP_RST | TCP_ACK;
	tcp->window = 0;
	tcp->check = 0;
	tcp->urgent = 0;
	sum = answer_pseudo(p, IPPROTO_TCP, sizeof(*tcp));
	tcp->check = unsummed ? answer_fold(sum) : ~answer_fold(sum + csum_diff(NULL, 0, tcp, sizeof(*tcp), 0));
	return redirect(ctx_device(ctx), 0);
}

/* An ICMP message that quotes the network header and the first `l4_size` bytes behind it. */
static __always_inline s32 answer_message(struct packet_ctx *ctx, const struct packet *p,
					  const struct icmp_message *message, const bool v6, const u32 l4_size)
{
	const u32 network = answer_network_size(v6);
	const u32 size = sizeof(*message) + network + l4_size;
	bool unsummed = answer_is_unsummed(ctx, p);
	struct icmp_message *icmp;
	struct ethhdr *eth;
	u16 *check;
	u64 sum;

	if (skb_change_tail(ctx, ETH_HLEN + network + l4_size, 0) ||
	    skb_adjust_room(ctx, network + sizeof(*message), BPF_ADJ_ROOM_MAC, 0))
		return CTX_ACT_DROP;
	eth = ctx_at(ctx, 0, ETH_HLEN + network + size);
	if (!eth)
		return CTX_ACT_DROP;
	answer_head(eth, p, icmp_protocol(v6), size, v6);
	icmp = (void *)(eth + 1) + network;
	*icmp = *message;
	sum = csum_diff(NULL, 0, icmp, size, 0) + (v6 ? answer_pseudo(p, IPPROTO_ICMPV6, size) : 0);
	if (unsummed) {
		void *l4 = (void *)(icmp + 1) + network;

		check = l4 + (l4_size == sizeof(struct tcphdr) ? __builtin_offsetof(struct tcphdr, check) :
								 __builtin_offsetof(struct udphdr, check));
		sum = csum_half(sum, *check, ~answer_fold(csum_diff(NULL, 0, l4, l4_size, 0)));
	}
	icmp->check = ~answer_fold(sum);
	return redirect(ctx_device(ctx), 0);
}

static __always_inline s32 answer_icmp(struct packet_ctx *ctx, const struct packet *p,
				       const struct icmp_message *message, const bool v6)
{
	if (p->protocol == IPPROTO_TCP)
		return answer_message(ctx, p, message, v6, sizeof(struct tcphdr));
	return answer_message(ctx, p, message, v6, sizeof(struct udphdr));
}

/* True if headers are where answers expect them: directly behind each other, without options or extensions. */
static __always_inline bool answer_is_possible(const struct packet *p)
{
	return p->shape == SHAPE_WHOLE && p->l4_offset == ETH_HLEN + answer_network_size(packet_is_v6(p));
}

/* There is nobody to serve the client. What cannot be answered is only dropped. */
static __always_inline s32 answer_refused(struct packet_ctx *ctx, const struct packet *p)
{
	struct icmp_message message = { .type = ICMP_DEST_UNREACH, .code = ICMP_PORT_UNREACHABLE };

	if (!answer_is_possible(p) || (p->tcp_flags & TCP_RST))
		return CTX_ACT_DROP;
	if (p->protocol == IPPROTO_TCP)
		return packet_is_v6(p) ? answer_reset(ctx, p, true) : answer_reset(ctx, p, false);
	if (!packet_is_v6(p))
		return answer_message(ctx, p, &message, false, sizeof(struct udphdr));
	message.type = ICMPV6_DEST_UNREACH;
	message.code = ICMPV6_PORT_UNREACHABLE;
	return answer_message(ctx, p, &message, true, sizeof(struct udphdr));
}

/* The packet does not fit the way that it is to go; the sender is to make smaller ones. */
static __always_inline s32 answer_too_big(struct packet_ctx *ctx, const struct packet *p, u16 mtu)
{
	struct icmp_message message = { .type = ICMP_DEST_UNREACH, .code = ICMP_FRAG_NEEDED, .mtu = bpf_htonl((u32)mtu) };

	if (!answer_is_possible(p))
		return CTX_ACT_DROP;
	if (!packet_is_v6(p))
		return answer_icmp(ctx, p, &message, false);
	message.type = ICMPV6_PACKET_TOO_BIG;
	message.code = 0;
	return answer_icmp(ctx, p, &message, true);
}

#endif
