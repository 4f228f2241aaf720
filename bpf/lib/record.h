/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one record: reserved in the ring and written in place. */
#ifndef CPLANE_RECORD_H
#define CPLANE_RECORD_H

#define TRACE_NEW 0
#define TRACE_ESTABLISHED 1
#define TRACE_REPLY 2
#define TRACE_RELATED 3
#define TRACE_UNKNOWN 5

static __always_inline bool record_is_wanted(u32 kind)
{
	return state_number(STATE_MONITOR) & kind;
}

/* Room for a record; NULL, and counted as lost, when the ring is full. */
static __always_inline struct record *record_reserve(u8 type)
{
	struct record *r = events_reserve();

	if (unlikely(!r)) {
		struct state_value *lost = state_map(STATE_LOST);

		if (lost)
			__sync_fetch_and_add(&lost->number, 1);
		return NULL;
	}
	r->time_ns = ktime_get_boot_ns();
	r->position = state_number(STATE_POSITION);
	r->type = type;
	return r;
}

/* A record about `p`, all but what its type adds; NULL, and counted as lost, when the ring is full. */
static __always_inline struct record *record_begin(const struct packet_ctx *ctx, const struct packet *p, u8 type)
{
	struct record *r = record_reserve(type);
	struct ethhdr *eth;

	if (unlikely(!r))
		return NULL;
	r->subtype = 0;
	r->flags = p->flags;
	r->match_type = 0;
	r->trace_reason = TRACE_UNKNOWN;
	r->protocol = p->protocol;
	r->tcp_flags = p->tcp_flags;
	r->file = 0;
	r->saddr = p->saddr;
	r->daddr = p->daddr;
	r->sport = p->sport;
	r->dport = p->dport;
	r->src_identity = p->src_identity;
	r->dst_identity = p->dst_identity;
	r->src_lxc = p->src_lxc;
	r->dst_lxc = p->dst_lxc;
	r->ifindex = ctx_device(ctx);
	r->verdict = 0;
	r->cookie = p->cookie;
	r->length = ctx_length(ctx);
	eth = ctx_data(ctx);
	if (likely((void *)(eth + 1) <= ctx_data_end(ctx))) {
		mac_copy(r->smac, eth->source);
		mac_copy(r->dmac, eth->dest);
	} else {
		*(u32 *)r->smac = 0;
		*(u32 *)(r->smac + 4) = 0;
		*(u32 *)(r->smac + 8) = 0;
	}
	r->line = 0;
	r->icmp_type = p->icmp_type;
	r->icmp_code = p->icmp_code;
	__builtin_memset(&r->hash, 0, sizeof(*r) - __builtin_offsetof(struct record, hash));
	return r;
}

/* The reader polls on a timer: a wake-up per record would cost more than the record. */
static __always_inline void record_end(struct record *r)
{
	ringbuf_submit(r, BPF_RB_NO_WAKEUP);
}

#endif
