/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Debug records: what a program does, step by step, under Cilium's numbers and with its arguments. They exist
 * only in programs that are compiled for them; in all others every call is nothing.
 */
#ifndef CPLANE_DEBUG_H
#define CPLANE_DEBUG_H

#ifndef CONFIG_debug
#define CONFIG_debug 0
#endif

#define DBG_LOCAL_DELIVERY 2
#define DBG_POLICY_DENIED 5
#define DBG_CT_MATCH 8
#define DBG_ICMP6_HANDLE 11
#define DBG_ICMP6_NS 13
#define DBG_CT_VERDICT 15
#define DBG_ERROR_RET 18
#define DBG_TO_HOST 19
#define DBG_TO_STACK 20
#define DBG_CT_LOOKUP4_1 48
#define DBG_CT_LOOKUP4_2 49
#define DBG_CT_CREATED4 50
#define DBG_CT_LOOKUP6_1 51
#define DBG_CT_LOOKUP6_2 52
#define DBG_CT_CREATED6 53
#define DBG_L4_CREATE 55
#define DBG_IP_ID_MAP_FAILED4 56
#define DBG_IP_ID_MAP_FAILED6 57
#define DBG_IP_ID_MAP_SUCCEED4 58
#define DBG_IP_ID_MAP_SUCCEED6 59

/* Of DBG_CT_LOOKUP*_2: which way, and that the connection is that of the packet inside an ICMP error. */
#define DEBUG_TUPLE_OUT 0
#define DEBUG_TUPLE_IN 1
#define DEBUG_TUPLE_RELATED 2

/* Of DBG_CT_VERDICT. */
#define DEBUG_CT_NEW 0
#define DEBUG_CT_ESTABLISHED 1
#define DEBUG_CT_REPLY 2
#define DEBUG_CT_RELATED 3

/* One record; `source` is the endpoint whose program or policy speaks. They take at most half of the ring, so
 * that flows are not lost to them; what finds no room is counted.
 */
static __always_inline void debug3(const struct packet_ctx *ctx, u16 source, u8 what, u32 arg1, u32 arg2, u32 arg3)
{
	struct state_value *lost;
	struct record *r;

	if (!CONFIG(debug))
		return;
	r = events_have_room() ? events_reserve() : NULL;
	if (unlikely(!r)) {
		lost = state_map(STATE_DEBUG_LOST);
		if (lost)
			__sync_fetch_and_add(&lost->number, 1);
		return;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->time_ns = ktime_get_boot_ns();
	r->position = state_number(STATE_POSITION);
	r->type = RECORD_DEBUG;
	r->subtype = what;
	r->source = source;
	r->cpu = get_smp_processor_id();
	r->hash = get_hash_recalc(ctx);
	r->arg1 = arg1;
	r->arg2 = arg2;
	r->arg3 = arg3;
	record_end(r);
}

static __always_inline void debug(const struct packet_ctx *ctx, u16 source, u8 what, u32 arg1, u32 arg2)
{
	debug3(ctx, source, what, arg1, arg2, 0);
}

/* A kernel helper, by its number, has failed. */
static __always_inline void debug_error(const struct packet_ctx *ctx, u16 source, u32 helper, long error)
{
	debug(ctx, source, DBG_ERROR_RET, helper, error);
}

/* What there is to say of an address: an IPv6 address shows its end. */
static __always_inline u32 debug_addr(const struct addr *addr, const struct packet *p)
{
	return packet_is_v6(p) ? addr->word[3] : addr->word[0];
}

/* The ipcache was asked for an address; `found` says whether it has a prefix for it. */
static __always_inline void debug_identity(const struct packet_ctx *ctx, u16 source, const struct packet *p,
					   const struct addr *addr, u32 identity, bool found)
{
	u8 what = found ? DBG_IP_ID_MAP_SUCCEED4 : DBG_IP_ID_MAP_FAILED4;

	debug(ctx, source, packet_is_v6(p) ? what + 1 : what, debug_addr(addr, p), identity);
}

/* Conntrack is asked for the connection of a packet. */
static __always_inline void debug_ct_lookup(const struct packet_ctx *ctx, u16 source, const struct packet *p,
					    const u8 direction)
{
	u32 ports = (u32)bpf_ntohs(p->dport) << 16 | bpf_ntohs(p->sport);
	u8 flags = direction == DIRECTION_INGRESS ? DEBUG_TUPLE_IN : DEBUG_TUPLE_OUT;
	bool v6 = packet_is_v6(p);

	if (p->shape == SHAPE_ERROR)
		flags |= DEBUG_TUPLE_RELATED;
	debug3(ctx, source, v6 ? DBG_CT_LOOKUP6_1 : DBG_CT_LOOKUP4_1, debug_addr(&p->saddr, p),
	       debug_addr(&p->daddr, p), ports);
	debug(ctx, source, v6 ? DBG_CT_LOOKUP6_2 : DBG_CT_LOOKUP4_2, (u32)p->protocol << 8 | flags,
	      direction == DIRECTION_INGRESS);
}

#endif
