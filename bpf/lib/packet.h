/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is known of the packet in hand; filled once, read by conntrack, policy and records.
 *
 * Parsing is compiled once per family. What follows works on this struct and branches on `v6` where it must:
 * a branch that is always predicted costs less than a second copy of everything in the instruction cache.
 */
#ifndef CPLANE_PACKET_H
#define CPLANE_PACKET_H

#define SHAPE_WHOLE 0		/* has its transport header, also when it is a first fragment */
#define SHAPE_FRAGMENT 1	/* a later fragment: no ports */
#define SHAPE_ERROR 2		/* an ICMP error about another packet, whose connection is in `related` */

#define PROXY_REPLY 2		/* in this judgement: it answers a proxy of this node */
#define PROXY_SENT 4		/* a proxy of this node sent it ... */
#define PROXY_JUDGED 8		/* ... having judged it by the receiver's policy */
#define PROXY_OTHER 16		/* in this judgement: another conversation has its addresses and ports, see conntrack_other() */
#define PROXY_OF_PACKET (PROXY_SENT | PROXY_JUDGED)

union ct_key {
	struct ct4_key v4;
	struct ct6_key v6;
};

struct connection {
	union ct_key key;	/* `lxc_id` is set before each lookup */
	bool source_low;	/* the packet's source is the first side of the key */
};

struct packet {
	struct addr saddr;
	struct addr daddr;
	u32 now;		/* s of CLOCK_MONOTONIC */
	u32 l4_offset;
	u32 src_identity;	/* 0 until it is known */
	u32 dst_identity;
	u32 cookie;		/* of the policy entry that decided in this judgement */
	u16 src_lxc;
	u16 dst_lxc;
	__be16 sport;		/* 0 for ICMP */
	__be16 dport;
	__be16 policy_port;	/* the port of the policy key: dport, or the ICMP type */
	__be16 icmp_id;
	__be16 proxy_port;	/* in this judgement: it goes there; 0: to nobody */
	u8 family;		/* FAMILY_*, or 0 while it is neither */
	u8 protocol;
	u8 shape;
	u8 tcp_flags;
	u8 icmp_type;
	u8 icmp_code;
	u8 flags;		/* RECORD_*, of the judgement in progress */
	bool error_to_sender;	/* SHAPE_ERROR: the inner packet was sent by the outer destination ... */
	bool error_by_receiver;	/* ... and had been received by the outer source */
	bool audited;		/* in this judgement: refused, and let through all the same */
	u8 proxy;		/* PROXY_* */
	u16 judgement;		/* of a packet that a proxy takes; not passed on in a register, whose every value the
				 * verifier would follow */
	struct connection connection;
	union {
		struct connection related;	/* SHAPE_ERROR */
		u32 tuple[9];			/* SHAPE_WHOLE: room for union sock_tuple (socket.h) */
	};
};

_Static_assert(sizeof(struct packet) <= sizeof(struct scratch), "scratch has no room for a packet");

/* A packet of which nothing is known yet. The connections stay as they are: they are written before they are
 * read. NULL never happens, but the verifier wants it asked.
 */
static __always_inline struct packet *packet_begin(u8 flags)
{
	struct packet *p = scratch_map();

	if (!p)
		return NULL;
	__builtin_memset(p, 0, __builtin_offsetof(struct packet, connection));
	p->flags = flags;
	return p;
}

/* Division, not a shift: the agent compares these numbers with its own CLOCK_MONOTONIC. */
static __always_inline u32 packet_now(void)
{
	return ktime_get_coarse_ns() / 1000000000ULL;
}

/* True if, as judged, a proxy of this node is to have it. */
static __always_inline bool packet_is_proxied(const struct packet *p)
{
	return p->proxy_port | (p->proxy & PROXY_REPLY);
}

static __always_inline bool packet_is_v6(const struct packet *p)
{
	return p->family == FAMILY_V6;
}

static __always_inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] &&
	       a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

static __always_inline bool addr_is_zero(const struct addr *a)
{
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

#endif
