/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Backends of other nodes that answer clients themselves: the packet says on its way what the client has asked for, in
 * Cilium's formats. In two things ours differ: the identification (IPv4) or flow label (IPv6) of a packet with another
 * one in it (DSR_IPIP) is the backend's port, which Cilium takes to be the frontend's. And what goes in another one goes
 * to the backend's own address, over whichever of IPv4 and IPv6 it came by, as there is no need to know whose node that
 * is; with Geneve, Cilium sends it to the node.
 */
#ifndef CPLANE_DSR_H
#define CPLANE_DSR_H

#define DSR_OPTION 1	/* an IPv4 option, or an IPv6 destination option, of the first packet */
#define DSR_IPIP 2	/* the packet as the client has sent it, in another one to the backend */
#define DSR_GENEVE 3	/* the translated packet, in another one to the backend, of which the first has an option */

#ifndef CONFIG_dsr_dispatch
#define CONFIG_dsr_dispatch 1
#endif

#define DSR_OPTION4_TYPE 0x9a	/* copied into all fragments (RFC 791), number 26 */
#define DSR_OPTION6_TYPE 0x1b	/* RFC 8200 §4.2: who does not know it steps over it */
#define IPPROTO_IPIP 4
#define IPPROTO_IPV6 41

/* In the node's byte order, as Cilium writes it. */
struct dsr_option4 {
	u8 type;
	u8 length;
	u16 port;
	u32 addr;
};

struct dsr_option6 {
	u8 nexthdr;
	u8 header_length;	/* in units of 8 bytes, without the first */
	u8 type;
	u8 length;
	struct addr addr;
	__be16 port;
	u16 pad;
};

/* True if the backend answers by itself what this packet asks. */
static __always_inline bool dsr_is_asked(const struct packet *p, const struct nat *nat)
{
	return (nat->to.flags & (LB_FLOW_DSR | LB_FLOW_REVERSE)) == LB_FLOW_DSR && p->shape != SHAPE_ERROR;
}

/* True if it goes to the backend in another one. */
static __always_inline bool dsr_is_tunnelled(const struct packet *p, const struct nat *nat)
{
	return CONFIG(dsr_dispatch) != DSR_OPTION && dsr_is_asked(p, nat);
}

/* True if there is to be an option. In a Geneve packet it is where Cilium has it: with all but segments of a connection
 * that a SYN has told of. It is with pieces of segments, too, which only that could be said of.
 */
static __always_inline bool dsr_is_told(const struct packet *p, const struct nat *nat)
{
	if (CONFIG(dsr_dispatch) != DSR_GENEVE)
		return nat->told;
	return p->protocol != IPPROTO_TCP || p->shape == SHAPE_FRAGMENT || (p->tcp_flags & TCP_SYN);
}

/* By how much the packet grows on its way. */
static __always_inline u32 dsr_growth(const struct packet *p, const struct nat *nat)
{
	bool v6 = packet_is_v6(p);

	if (!dsr_is_asked(p, nat))
		return 0;
	if (CONFIG(dsr_dispatch) == DSR_IPIP)
		return v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	if (CONFIG(dsr_dispatch) == DSR_GENEVE)
		return geneve_growth(v6, dsr_is_told(p, nat) ? geneve_option_size(v6) : 0);
	if (!dsr_is_told(p, nat))
		return 0;
	return v6 ? sizeof(struct dsr_option6) : sizeof(struct dsr_option4);
}

static __always_inline s32 dsr_option4(struct packet_ctx *ctx, const struct packet *p)
{
	struct dsr_option4 *option;
	struct iphdr *ip;
	u32 words[2], before;

	if (p->l4_offset + sizeof(*option) > ETH_HLEN + 60)
		return DROP(CT_INVALID_HEADER, NODEPORT);
	if (ctx_grow_l3(ctx, false, sizeof(*option)))
		return DROP(WRITE_ERROR, NODEPORT);
	ip = ctx_at(ctx, ETH_HLEN, sizeof(*ip) + sizeof(*option));
	if (!ip)
		return DROP(WRITE_ERROR, NODEPORT);
	option = (struct dsr_option4 *)(ip + 1);
	option->type = DSR_OPTION4_TYPE;
	option->length = sizeof(*option);
	option->port = bpf_ntohs(p->dport);
	option->addr = bpf_htonl(p->daddr.word[0]);
	__builtin_memcpy(words, option, sizeof(words));
	before = *(u32 *)ip;
	ip->version_ihl += sizeof(*option) / 4;
	ip->tot_len = bpf_htons((u16)(bpf_ntohs(ip->tot_len) + sizeof(*option)));
	ip->check = csum_changed(ip->check, csum_word(csum_word(csum_word(0, before, *(u32 *)ip), 0, words[0]), 0, words[1]));
	return 0;
}

static __always_inline s32 dsr_option6(struct packet_ctx *ctx, const struct packet *p)
{
	struct dsr_option6 *option;
	struct ipv6hdr *ip;

	if (ctx_grow_l3(ctx, true, sizeof(*option)))
		return DROP(WRITE_ERROR, NODEPORT);
	ip = ctx_at(ctx, ETH_HLEN, sizeof(*ip) + sizeof(*option));
	if (!ip)
		return DROP(WRITE_ERROR, NODEPORT);
	option = (struct dsr_option6 *)(ip + 1);
	option->nexthdr = ip->nexthdr;
	option->header_length = sizeof(*option) / 8 - 1;
	option->type = DSR_OPTION6_TYPE;
	option->length = sizeof(*option) - 4;
	option->addr = p->daddr;
	option->port = p->dport;
	option->pad = 0;
	ip->nexthdr = NEXTHDR_DEST;
	ip->payload_len = bpf_htons((u16)(bpf_ntohs(ip->payload_len) + sizeof(*option)));
	return 0;
}

/* The network header of a packet with another one in it, before `size` bytes. */
static __always_inline void dsr_outer4(struct iphdr *ip, const struct nat *nat, u8 protocol, u32 size, __be16 id)
{
	ip->version_ihl = 0x45;
	ip->tos = 0;
	ip->tot_len = bpf_htons((u16)(size + sizeof(*ip)));
	ip->id = id;
	ip->frag_off = bpf_htons(IP_DONT_FRAGMENT);
	ip->ttl = ANSWER_HOPS;
	ip->protocol = protocol;
	ip->check = 0;
	ip->saddr = nat->outer.word[0];
	ip->daddr = nat->to.daddr.word[0];
	ip->check = ~answer_fold(csum_diff(NULL, 0, ip, sizeof(*ip), 0));
}

static __always_inline void dsr_outer6(struct ipv6hdr *ip, const struct nat *nat, u8 protocol, u32 size, u32 label)
{
	ip->version_class_flow = bpf_htonl(6U << 28 | label);
	ip->payload_len = bpf_htons((u16)size);
	ip->nexthdr = protocol;
	ip->hop_limit = ANSWER_HOPS;
	ip->saddr = nat->outer;
	ip->daddr = nat->to.daddr;
}

static __always_inline s32 dsr_ipip4(struct packet_ctx *ctx, const struct nat *nat)
{
	struct iphdr *ip;

	if (ctx_grow_outer(ctx, sizeof(*ip), BPF_F_ENCAP_L3_IPV4 | BPF_F_FIXED_GSO))
		return DROP(WRITE_ERROR, NODEPORT);
	ip = ctx_at(ctx, ETH_HLEN, 2 * sizeof(*ip));
	if (!ip)
		return DROP(WRITE_ERROR, NODEPORT);
	dsr_outer4(ip, nat, IPPROTO_IPIP, bpf_ntohs(ip[1].tot_len), nat->to.dport);
	return 0;
}

static __always_inline s32 dsr_ipip6(struct packet_ctx *ctx, const struct nat *nat)
{
	struct ipv6hdr *ip;

	if (ctx_grow_outer(ctx, sizeof(*ip), BPF_F_ENCAP_L3_IPV6 | BPF_F_FIXED_GSO))
		return DROP(WRITE_ERROR, NODEPORT);
	ip = ctx_at(ctx, ETH_HLEN, 2 * sizeof(*ip));
	if (!ip)
		return DROP(WRITE_ERROR, NODEPORT);
	dsr_outer6(ip, nat, IPPROTO_IPV6, bpf_ntohs(ip[1].payload_len) + sizeof(*ip), bpf_ntohs(nat->to.dport));
	return 0;
}

/* A number for a connection, the same for all of its packets. */
static __always_inline u32 dsr_hash(const struct nat *nat)
{
	const struct addr *addr = &nat->key.saddr;
	u32 ports = (u32)nat->key.dport << 16 | nat->key.sport;

	return jhash_3words(addr->word[0] ^ addr->word[2], addr->word[1] ^ addr->word[3], ports, nat->key.protocol);
}

/* The frame in a Geneve packet, with `option` bytes of options. Its own Ethernet header stays as it has come. */
static __always_inline s32 dsr_geneve(struct packet_ctx *ctx, const struct packet *p, const struct nat *nat,
				      const bool v6, const u32 option)
{
	const u32 network = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const u32 growth = geneve_growth(v6, option);
	const u64 flags = (v6 ? BPF_F_ENCAP_L3_IPV6 : BPF_F_ENCAP_L3_IPV4) | BPF_F_ENCAP_L4_UDP | BPF_F_ENCAP_L2_ETH |
			  BPF_F_ENCAP_L2(ETH_HLEN) | BPF_F_FIXED_GSO;
	struct geneve_outer *outer;
	struct ethhdr *eth, *inner;
	void *ip;
	u32 size;

	if (ctx_grow_outer(ctx, growth, flags))
		return DROP(WRITE_ERROR, NODEPORT);
	eth = ctx_at(ctx, 0, ETH_HLEN + growth + network);
	if (!eth)
		return DROP(WRITE_ERROR, NODEPORT);
	outer = (void *)(eth + 1) + network;
	inner = (void *)(outer + 1) + option;
	ip = inner + 1;
	/* Not what the frame has: a short one is padded. */
	size = v6 ? bpf_ntohs(((struct ipv6hdr *)ip)->payload_len) + network : bpf_ntohs(((struct iphdr *)ip)->tot_len);
	size += growth - network;
	mac_copy(inner->dest, eth->dest);
	mac_copy(inner->source, eth->source);
	inner->proto = eth->proto;
	if (v6)
		dsr_outer6((struct ipv6hdr *)(eth + 1), nat, IPPROTO_UDP, size, 0);
	else
		dsr_outer4((struct iphdr *)(eth + 1), nat, IPPROTO_UDP, size, 0);
	geneve_write(outer, dsr_hash(nat), size, IDENTITY_WORLD, option);
	if (option)
		geneve_option_write((union geneve_dsr *)(outer + 1), p, v6);
	return 0;
}

static __always_inline s32 dsr_tell_geneve(struct packet_ctx *ctx, const struct packet *p, const struct nat *nat,
					   const bool v6)
{
	if (dsr_is_told(p, nat))
		return dsr_geneve(ctx, p, nat, v6, geneve_option_size(v6));
	return dsr_geneve(ctx, p, nat, v6, 0);
}

/* What tells the backend's node of the frontend is put to the packet, which is translated already but for DSR_IPIP. */
static __always_inline s32 dsr_tell(struct packet_ctx *ctx, const struct packet *p, const struct nat *nat)
{
	bool v6 = packet_is_v6(p);

	if (!dsr_growth(p, nat))
		return 0;
	if (CONFIG(dsr_dispatch) == DSR_IPIP)
		return v6 ? dsr_ipip6(ctx, nat) : dsr_ipip4(ctx, nat);
	if (CONFIG(dsr_dispatch) == DSR_GENEVE)
		return v6 ? dsr_tell_geneve(ctx, p, nat, true) : dsr_tell_geneve(ctx, p, nat, false);
	return v6 ? dsr_option6(ctx, p) : dsr_option4(ctx, p);
}

#endif
