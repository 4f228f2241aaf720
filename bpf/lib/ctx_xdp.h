/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet as its driver has received it: XDP programs. */
#ifndef CPLANE_CTX_XDP_H
#define CPLANE_CTX_XDP_H

/* struct xdp_md */
struct packet_ctx {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

#define CTX_XDP 1

/* enum xdp_action */
#define CTX_ACT_DROP 1
#define CTX_ACT_OK 2
#define CTX_ACT_TX 3
#define CTX_ACT_REDIRECT 4

HELPER(long, xdp_adjust_head, 44, struct packet_ctx *ctx, s32 size);
/* Of socket buffers only; what shares a header with programs on tcx has them in branches that are never taken here. */
HELPER(long, skb_adjust_room, 50, struct packet_ctx *ctx, s32 size, u32 mode, u64 flags);
HELPER(long, skb_change_tail, HELPER_SKB_CHANGE_TAIL, struct packet_ctx *ctx, u32 len, u64 flags);

HELPER(long, xdp_load_bytes, 189, const struct packet_ctx *ctx, u32 offset, void *to, u32 len);

static __always_inline void *ctx_data(const struct packet_ctx *ctx)
{
	return (void *)CTX_LOAD(ctx, data);
}

static __always_inline void *ctx_data_end(const struct packet_ctx *ctx)
{
	return (void *)CTX_LOAD(ctx, data_end);
}

/* Bytes from the Ethernet header on. */
static __always_inline u32 ctx_length(const struct packet_ctx *ctx)
{
	return CTX_LOAD(ctx, data_end) - CTX_LOAD(ctx, data);
}

/* The device that the program runs on. */
static __always_inline u32 ctx_device(const struct packet_ctx *ctx)
{
	return CTX_FIXED(ctx, ingress_ifindex);
}

/* The device by which the packet came into the node. */
static __always_inline u32 ctx_came_in(const struct packet_ctx *ctx)
{
	return CTX_FIXED(ctx, ingress_ifindex);
}

/* An 802.1Q tag lies in the packet here, as another EtherType. */
static __always_inline bool ctx_is_tagged(const struct packet_ctx *ctx)
{
	return false;
}

static __always_inline u32 ctx_segment_size(const struct packet_ctx *ctx)
{
	return 0;
}

static __always_inline long ctx_load(const struct packet_ctx *ctx, u32 offset, void *to, u32 size)
{
	return xdp_load_bytes(ctx, offset, to, size);
}

/* `size` bytes at `offset`, or NULL if the packet ends before. `size` is a constant. */
static __always_inline void *ctx_at(struct packet_ctx *ctx, u32 offset, u32 size)
{
	void *at = ctx_data(ctx) + offset;

	return likely(at + size <= ctx_data_end(ctx)) ? at : NULL;
}

/* `size` new bytes behind the first `before` ones. */
static __always_inline long ctx_grow(struct packet_ctx *ctx, const u32 before, const u32 size)
{
	u16 *to, *from;
	u32 i;

	if (xdp_adjust_head(ctx, -(s32)size))
		return -1;
	to = ctx_at(ctx, 0, before + size);
	if (!to)
		return -1;
	from = (void *)to + size;
#pragma clang loop unroll(full)
	for (i = 0; i < before / 2; i++)
		to[i] = from[i];
	return 0;
}

/* `size` new bytes behind the network header, before its options. */
static __always_inline long ctx_grow_l3(struct packet_ctx *ctx, const bool v6, const u32 size)
{
	return v6 ? ctx_grow(ctx, 14 + 40, size) : ctx_grow(ctx, 14 + 20, size);
}

/* `size` new bytes between the Ethernet header and all else; `flags` are for socket buffers. */
static __always_inline long ctx_grow_outer(struct packet_ctx *ctx, const u32 size, const u64 flags)
{
	return ctx_grow(ctx, 14, size);
}

/* The checksum at `offset` follows what has changed under it (csum.h). Nobody computes it later. */
static __always_inline s32 ctx_csum_change(struct packet_ctx *ctx, u32 offset, u32 change, const u32 flags)
{
	u16 *check = ctx_at(ctx, ctx_offset(offset), sizeof(*check));

	if (!check)
		return -1;
	if ((flags & CSUM_OPTIONAL) && !*check)
		return 0;
	*check = csum_changed(*check, change);
	if ((flags & CSUM_OPTIONAL) && !*check)
		*check = 0xffff;
	return 0;
}

#endif
