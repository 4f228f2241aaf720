/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connections that are translated packet by packet: their two rows, and how long these live.
 *
 * A row says what a packet that reads like its key becomes. So the two rows of a connection are each other turned
 * round: the key of one is the value of the other, with source and destination exchanged.
 */
#ifndef CPLANE_NAT_H
#define CPLANE_NAT_H

#define NAT_PORT_MIN 0x8000	/* the ports from here on are free to stand for those of clients */
#define NAT_TRIES 32		/* for one packet; the next one of the client goes on */

#define LB_FLOW_CLOSING (LB_FLOW_CLOSING_FWD | LB_FLOW_CLOSING_REV)
#define LB_FLOW_STATE (LB_FLOW_CLOSING | LB_FLOW_SEEN_NON_SYN)

/* struct bpf_fib_lookup */
struct fib {
	u8 family;
	u8 protocol;
	__be16 sport;
	__be16 dport;
	u16 length;		/* of the packet; afterwards the MTU */
	u32 ifindex;		/* by which it came; afterwards by which it goes */
	__be32 flow;
	struct addr saddr;
	struct addr daddr;	/* afterwards the next hop */
	__be16 vlan_proto;
	__be16 vlan;
	u8 smac[6];
	u8 dmac[6];
};

/* What is known of the translation of the packet in hand. It lies behind `struct packet`. */
struct nat {
	struct lb_flow_key key;	/* the packet; if it is an error, the packet that it is about, turned round */
	struct lb_flow to;	/* what that becomes */
	struct lb_flow_key twin_key;
	struct lb_flow twin;
	struct fib fib;
	u32 inner_offset;	/* SHAPE_ERROR: where the quoted packet's headers are */
	u32 inner_l4_offset;
	struct addr outer;	/* this node's, of a packet in which the packet goes on */
	__be32 fragment_id;
	bool fragmented;
	bool told;		/* DSR: the packet says what the client has asked for */
	bool known;		/* DSR_IPIP: which backend it is for has just been told */
	bool changed;		/* the packet is not what it was when it came */
	bool answered;		/* it is dropped, and its sender is to hear so */
};

_Static_assert(sizeof(struct packet) % 4 == 0, "struct nat is not aligned");
_Static_assert(sizeof(struct packet) + sizeof(struct nat) <= sizeof(struct scratch), "scratch has no room for both");

static __always_inline struct nat *nat_of(struct packet *p)
{
	return (struct nat *)(p + 1);
}

/* The same, where a packet begins. All else is written before it is read. */
static __always_inline struct nat *nat_begin(struct packet *p)
{
	struct nat *nat = nat_of(p);

	nat->changed = false;
	nat->told = false;
	nat->answered = false;
	return nat;
}

/* The programs' own clock, which costs nothing to read: about a second, whatever the kernel's HZ is (0.3 to 2.6 s). */
static __always_inline u32 nat_tick(void)
{
	return jiffies64() >> 8;
}

static __always_inline bool nat_is_live(const struct lb_flow *flow, const struct packet *p)
{
	return (s32)(flow->lifetime - p->now) > 0;
}

static __always_inline u32 nat_timeout(u8 flags, u8 protocol)
{
	if (protocol != IPPROTO_TCP)
		return CONFIG(ct_any_s);
	if ((flags & LB_FLOW_CLOSING) == LB_FLOW_CLOSING)
		return CONFIG(ct_tcp_closing_s);
	/* Who sees one direction only must not wait for the other's FIN. */
	if ((flags & LB_FLOW_DSR) && (flags & LB_FLOW_CLOSING))
		return CONFIG(ct_tcp_syn_s);
	return flags & LB_FLOW_SEEN_NON_SYN ? CONFIG(ct_tcp_s) : CONFIG(ct_tcp_syn_s);
}

/* Flags of a row after a packet of it. */
static __always_inline u8 nat_flags(u8 flags, const struct packet *p)
{
	if (p->protocol != IPPROTO_TCP || p->shape == SHAPE_FRAGMENT)
		return flags;
	if (!(p->tcp_flags & TCP_SYN))
		flags |= LB_FLOW_SEEN_NON_SYN;
	if (p->tcp_flags & TCP_FIN)
		flags |= flags & LB_FLOW_REVERSE ? LB_FLOW_CLOSING_REV : LB_FLOW_CLOSING_FWD;
	if (p->tcp_flags & TCP_RST)
		flags |= LB_FLOW_CLOSING;
	return flags;
}

/* True if nothing is to be done about the row of this packet but to obey it. */
static __always_inline bool nat_is_fresh(const struct lb_flow *flow, const struct packet *p, u32 tick)
{
	if (flow->tick != tick)
		return false;
	return p->protocol != IPPROTO_TCP ||
	       (!(p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) && (flow->flags & LB_FLOW_SEEN_NON_SYN));
}

/* True if the packet does not belong to the connection of its row any more, but opens another one. */
static __always_inline bool nat_is_reopened(const struct lb_flow *flow, const struct packet *p)
{
	return (flow->flags & LB_FLOW_CLOSING) && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline void nat_key(struct lb_flow_key *key, const struct packet *p)
{
	key->saddr = p->saddr;
	key->daddr = p->daddr;
	key->sport = p->sport;
	key->dport = p->dport;
	key->protocol = p->protocol;
	key->family = p->family;
	key->kind = FLOW_KEY_PACKET;
}

/* The key of the other direction. */
static __always_inline void nat_turn(struct nat *nat, const struct lb_flow *flow)
{
	struct lb_flow_key *twin = &nat->twin_key;

	twin->saddr = flow->daddr;
	twin->daddr = flow->saddr;
	twin->sport = flow->dport;
	twin->dport = flow->sport;
	twin->protocol = nat->key.protocol;
	twin->family = nat->key.family;
	twin->kind = FLOW_KEY_PACKET;
}

/* The row of the other direction, but for its times. */
static __always_inline void nat_twin(struct nat *nat, const struct lb_flow *flow)
{
	struct lb_flow *twin = &nat->twin;

	twin->saddr = nat->key.daddr;
	twin->daddr = nat->key.saddr;
	twin->sport = nat->key.dport;
	twin->dport = nat->key.sport;
	twin->lifetime = flow->lifetime;
	twin->epoch = 0;
	twin->backend_id = flow->backend_id;
	twin->service_id = flow->service_id;
	twin->flags = flow->flags ^ LB_FLOW_REVERSE;
	twin->pad = 0;
	twin->tick = 0;
	__builtin_memset(&twin->route, 0, sizeof(twin->route));
}

/* True if a row that is found under `twin_key` leads back to `key`. */
static __always_inline bool nat_is_twin(const struct nat *nat, const struct lb_flow *found)
{
	const struct lb_flow_key *key = &nat->key;

	return found->dport == key->sport && found->sport == key->dport && addr_equal(&found->daddr, &key->saddr) &&
	       addr_equal(&found->saddr, &key->daddr);
}

/* What this direction's packets tell is told to the other's row, so that neither outlives the other. False if
 * the other one belongs to somebody else by now: then nobody knows what answers are meant for this connection.
 */
static __always_inline bool nat_touch_twin(struct nat *nat, const struct lb_flow *flow)
{
	struct lb_flow *twin;
	u8 flags;

	nat_turn(nat, flow);
	twin = lb_flows_map(&nat->twin_key);
	if (unlikely(!twin)) {
		nat_twin(nat, flow);
		lb_flows_set(&nat->twin_key, &nat->twin, BPF_NOEXIST);
		return true;
	}
	if (unlikely(!nat_is_twin(nat, twin)))
		return flow->flags & LB_FLOW_REVERSE;
	flags = twin->flags | (flow->flags & LB_FLOW_STATE);
	if (twin->flags != flags)
		twin->flags = flags;
	twin->lifetime = flow->lifetime;
	return true;
}

/* State and lifetime after this packet, if its row is not fresh. So the row is written once in a tick, and for TCP
 * flags: several CPUs share the cache line. False if it is of no use any more.
 */
static __always_inline bool nat_touch(struct nat *nat, struct lb_flow *flow, const struct packet *p)
{
	u8 flags = nat_flags(flow->flags, p);

	flow->route.ifindex = 0;
	flow->tick = nat_tick();
	/* What still trickles in does not keep a closed connection. */
	if (flags == flow->flags && (flags & LB_FLOW_CLOSING) == LB_FLOW_CLOSING)
		return true;
	flow->flags = flags;
	flow->lifetime = p->now + nat_timeout(flags, p->protocol);
	return flags & LB_FLOW_DSR ? true : nat_touch_twin(nat, flow);
}

/* True if a socket of the node gets what is sent to the port that `twin_key` has. */
static __always_inline bool nat_is_sockets(struct packet_ctx *ctx, const struct nat *nat)
{
	const struct lb_flow_key *key = &nat->twin_key;
	struct bpf_sock *sk = NULL;
	union sock_tuple tuple = {};
	u32 size;

	size = socket_tuple(&tuple, &key->saddr, &key->daddr, key->sport, key->dport, key->family == FAMILY_V6);
	if (key->protocol == IPPROTO_TCP)
		sk = sk_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (key->protocol == IPPROTO_UDP)
		sk = sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	sk_release(sk);
	return true;
}

/* A port of its own for the connection towards the backend: the client's if it is free, else one of a few others.
 * `nat->twin` becomes the row of answers. 0 if none of them is free.
 */
static __always_inline __be16 nat_allocate(struct packet_ctx *ctx, struct nat *nat, const struct packet *p)
{
	bool of_node = nat->to.flags & LB_FLOW_SNAT;
	u32 start = nat->key.saddr.word[0] ^ nat->key.saddr.word[3] ^ (u32)nat->key.sport << 16 ^ nat->key.dport;
	__be16 port = nat->key.sport;
	struct lb_flow *held;
	u32 i;

	start = (start * 0x9e3779b1) >> 16;
	if (of_node && bpf_ntohs(port) < NAT_PORT_MIN)
		port = bpf_htons((u16)(NAT_PORT_MIN | start));
	nat_turn(nat, &nat->to);
	nat_twin(nat, &nat->to);
	nat->twin_key.dport = port;
	/* Not asked again: of the ports from which the next is taken sockets have few. */
	if (of_node && nat_is_sockets(ctx, nat))
		port = bpf_htons((u16)(NAT_PORT_MIN | get_prandom_u32()));
#pragma clang loop unroll(disable)
	for (i = 1; i <= NAT_TRIES; i++) {
		nat->twin_key.dport = port;
		if (!lb_flows_set(&nat->twin_key, &nat->twin, BPF_NOEXIST))
			return port;
		held = lb_flows_map(&nat->twin_key);
		/* Free again, or of this very connection already. */
		if (held && (!nat_is_live(held, p) || nat_is_twin(nat, held))) {
			lb_flows_set(&nat->twin_key, &nat->twin, BPF_ANY);
			return port;
		}
		if (i > NAT_TRIES / 2)
			start = get_prandom_u32();
		port = bpf_htons((u16)(NAT_PORT_MIN | (start + i * 7919)));
	}
	return 0;
}

/* The connection's rows. `nat->to` is what its packets become, but for the port that stands for the client's. */
static __always_inline s32 nat_open(struct packet_ctx *ctx, struct nat *nat, const struct packet *p)
{
	struct lb_flow *to = &nat->to;

	/* One packet does not make a connection that is kept for hours, whatever it pretends to be. */
	to->flags = nat_flags(to->flags, p) & ~LB_FLOW_SEEN_NON_SYN;
	to->lifetime = p->now + nat_timeout(to->flags, p->protocol);
	to->tick = 0;
	__builtin_memset(&to->route, 0, sizeof(to->route));
	to->sport = nat->key.sport;
	if (!(to->flags & LB_FLOW_DSR)) {
		to->sport = nat_allocate(ctx, nat, p);
		if (!to->sport)
			return DROP(NAT_NO_MAPPING, NODEPORT);
	}
	if (lb_flows_set(&nat->key, to, BPF_ANY))
		return DROP(CT_MAP_INSERTION_FAILED, NODEPORT);
	return 0;
}

#endif
