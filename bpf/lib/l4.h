/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Transport headers: ports, TCP flags, ICMP types, and the connection that a packet belongs to. */
#ifndef CPLANE_L4_H
#define CPLANE_L4_H

#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define ICMP_DEST_UNREACH 3
#define ICMP_FRAG_NEEDED 4	/* a code of it */
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_ERROR_MAX 4	/* 1 unreachable, 2 too big, 3 time exceeded, 4 parameter problem */

struct tcphdr {
	__be16 source;
	__be16 dest;
	__be32 seq;
	__be32 ack;
	u8 offset;
	u8 flags;
	__be16 window;
	u16 check;
	__be16 urgent;
};

struct udphdr {
	__be16 source;
	__be16 dest;
	__be16 len;
	u16 check;
};

struct sctphdr {
	__be16 source;
	__be16 dest;
	__be32 tag;
	u32 check;
};

struct icmphdr {		/* of both families, as far as they agree */
	u8 type;
	u8 code;
	u16 check;
	__be16 id;
	__be16 sequence;
};

static __always_inline u8 icmp_protocol(const bool v6)
{
	return v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
}

/* The request type of a query message or of its answer; -1 for messages that are neither. */
static __always_inline s32 icmp_question(u8 type, const bool v6)
{
	if (v6) {
		switch (type) {
		case 128: /* echo */
		case 129:
			return 128;
		case 160: /* extended echo, RFC 8335 */
		case 161:
			return 160;
		}
		return -1;
	}
	switch (type) {
	case 8: /* echo */
	case 0:
		return 8;
	case 13: /* timestamp */
	case 14:
		return 13;
	case 17: /* address mask */
	case 18:
		return 17;
	case 42: /* extended echo, RFC 8335 */
	case 43:
		return 42;
	}
	return -1;
}

static __always_inline bool icmp_is_error(u8 type, const bool v6)
{
	if (v6)
		return type >= 1 && type <= ICMPV6_ERROR_MAX;
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

/* Conntrack's view of a transport header. For ICMP the asker's port is the identifier, the other the type. */
struct l4_ports {
	__be16 source;
	__be16 dest;
	bool icmp;
	bool source_asks;
};

static __always_inline struct l4_ports icmp_ports(u8 type, __be16 id, const bool v6)
{
	s32 question = icmp_question(type, v6);
	struct l4_ports ports = { .icmp = true, .source_asks = question < 0 || question == type };
	__be16 kind = bpf_htons((u16)(question < 0 ? type : question));

	if (question < 0)
		id = 0;
	ports.source = ports.source_asks ? id : kind;
	ports.dest = ports.source_asks ? kind : id;
	return ports;
}

static __always_inline u8 l4_flavour(const struct l4_ports *ports, bool source_low)
{
	if (!ports->icmp)
		return CT_FLAVOUR_PORTS;
	return ports->source_asks == source_low ? CT_FLAVOUR_LOW_ASKS : CT_FLAVOUR_HIGH_ASKS;
}

static __always_inline void connection_set4(struct connection *c, __be32 saddr, __be32 daddr, u8 protocol,
					    const struct l4_ports *ports)
{
	bool low = ((u64)saddr << 16 | ports->source) < ((u64)daddr << 16 | ports->dest);
	struct ct4_key *key = &c->key.v4;

	key->addr[0] = low ? saddr : daddr;
	key->addr[1] = low ? daddr : saddr;
	key->port[0] = low ? ports->source : ports->dest;
	key->port[1] = low ? ports->dest : ports->source;
	key->protocol = protocol;
	key->flavour = l4_flavour(ports, low);
	c->source_low = low;
}

/* Which of two sides comes first: by words, as they lie in memory. Any total order does. */
static __always_inline bool side6_is_low(const struct addr *a, __be16 a_port, const struct addr *b, __be16 b_port)
{
	if (a->word[3] != b->word[3])
		return a->word[3] < b->word[3];
	if (a->word[2] != b->word[2])
		return a->word[2] < b->word[2];
	if (a->word[1] != b->word[1])
		return a->word[1] < b->word[1];
	if (a->word[0] != b->word[0])
		return a->word[0] < b->word[0];
	return a_port < b_port;
}

static __always_inline void connection_set6(struct connection *c, const struct addr *saddr,
					    const struct addr *daddr, u8 protocol, const struct l4_ports *ports)
{
	bool low = side6_is_low(saddr, ports->source, daddr, ports->dest);
	struct ct6_key *key = &c->key.v6;

	if (low) {
		key->addr[0] = *saddr;
		key->addr[1] = *daddr;
	} else {
		key->addr[0] = *daddr;
		key->addr[1] = *saddr;
	}
	key->port[0] = low ? ports->source : ports->dest;
	key->port[1] = low ? ports->dest : ports->source;
	key->protocol = protocol;
	key->flavour = l4_flavour(ports, low);
	c->source_low = low;
}

static __always_inline bool l4_is_tracked(u8 protocol, const bool v6)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == icmp_protocol(v6);
}

/* Ports, flags and types of a whole packet, into `p`; its transport header is at `offset`. */
static __always_inline s32 l4_parse_at(struct packet_ctx *ctx, struct packet *p, u32 offset, const bool v6)
{
	struct icmphdr *icmp;
	struct tcphdr *tcp;
	struct udphdr *udp;

	if (likely(p->protocol == IPPROTO_TCP)) {
		tcp = ctx_at(ctx, offset, sizeof(*tcp));
		if (!tcp)
			return DROP(CT_INVALID_HEADER, CONNTRACK);
		p->sport = tcp->source;
		p->dport = tcp->dest;
		p->tcp_flags = tcp->flags;
	} else if (p->protocol == icmp_protocol(v6)) {
		icmp = ctx_at(ctx, offset, sizeof(*icmp));
		if (!icmp)
			return DROP(CT_INVALID_HEADER, CONNTRACK);
		p->icmp_type = icmp->type;
		p->icmp_code = icmp->code;
		p->icmp_id = icmp->id;
		p->policy_port = bpf_htons((u16)icmp->type);
		return 0;
	} else {
		/* SCTP begins like UDP and goes on a little longer. */
		udp = ctx_at(ctx, offset, sizeof(*udp));
		if (!udp || (p->protocol == IPPROTO_SCTP && ctx_length(ctx) < offset + sizeof(struct sctphdr)))
			return DROP(CT_INVALID_HEADER, CONNTRACK);
		p->sport = udp->source;
		p->dport = udp->dest;
	}
	p->policy_port = p->dport;
	return 0;
}

static __always_inline s32 l4_parse(struct packet_ctx *ctx, struct packet *p, const bool v6)
{
	return l4_parse_at(ctx, p, p->l4_offset, v6);
}

#endif
