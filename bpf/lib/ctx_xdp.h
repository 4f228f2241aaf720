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
