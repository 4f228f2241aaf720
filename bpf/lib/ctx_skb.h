/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet that has a socket buffer: programs on tcx. */
#ifndef CPLANE_CTX_SKB_H
#define CPLANE_CTX_SKB_H

/* struct __sk_buff, as far as programs read it. */
struct packet_ctx {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
	u32 unread[23];
	u32 gso_size;
};

_Static_assert(__builtin_offsetof(struct packet_ctx, gso_size) == 176, "struct __sk_buff is another one");

#define CTX_XDP 0

/* enum tcx_action_base */
#define CTX_ACT_OK 0
#define CTX_ACT_DROP 2
#define CTX_ACT_REDIRECT 7
#define CTX_ACT_TX CTX_ACT_REDIRECT	/* nobody returns it here */

#define BPF_F_PSEUDO_HDR (1 << 4)
#define BPF_F_MARK_MANGLED_0 (1 << 5)
#define BPF_F_IPV6 (1 << 7)

HELPER(long, l4_csum_replace, 11, struct packet_ctx *ctx, u32 offset, u64 from, u64 to, u64 flags);
HELPER(long, skb_load_bytes, 26, const struct packet_ctx *ctx, u32 offset, void *to, u32 len);
HELPER(long, skb_change_type, 32, struct packet_ctx *ctx, u32 type);
HELPER(u32, get_hash_recalc, 34, const struct packet_ctx *ctx);
HELPER(long, skb_pull_data, 39, struct packet_ctx *ctx, u32 len);
HELPER(long, skb_adjust_room, 50, struct packet_ctx *ctx, s32 size, u32 mode, u64 flags);
HELPER(long, skb_change_tail, HELPER_SKB_CHANGE_TAIL, struct packet_ctx *ctx, u32 len, u64 flags);
HELPER(long, redirect_peer, 155, u32 ifindex, u64 flags);
HELPER(long, sk_assign, 124, struct packet_ctx *ctx, void *sk, u64 flags);

#define BPF_F_INGRESS 1

#define PACKET_HOST 0	/* of pkt_type: sent to us and nobody else */

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
	return ctx->len;
}

/* The device that the program runs on. */
static __always_inline u32 ctx_device(const struct packet_ctx *ctx)
{
	return CTX_FIXED(ctx, ifindex);
}

/* The device by which the packet came into the node; 0 for one that was made here. */
static __always_inline u32 ctx_came_in(const struct packet_ctx *ctx)
{
	return CTX_FIXED(ctx, ingress_ifindex);
}

/* An 802.1Q tag, which lies outside of the packet. */
static __always_inline bool ctx_is_tagged(const struct packet_ctx *ctx)
{
	return ctx->vlan_present;
}

/* Payload of each of the packets that this one will be cut to; 0: it is a packet. */
static __always_inline u32 ctx_segment_size(const struct packet_ctx *ctx)
{
	return ctx->gso_size;
}

static __always_inline long ctx_load(const struct packet_ctx *ctx, u32 offset, void *to, u32 size)
{
	return skb_load_bytes(ctx, offset, to, size);
}

/* `size` readable bytes at `offset`, or NULL if the packet ends before. Pointers into the packet that were
 * taken earlier must be taken again after this. `size` is a constant.
 */
static __always_inline void *ctx_at(struct packet_ctx *ctx, u32 offset, u32 size)
{
	void *at = ctx_data(ctx) + offset;

	if (likely(at + size <= ctx_data_end(ctx)))
		return at;
	/* Not in the linear part: seldom, and the only place that pays for it. */
	if (skb_pull_data(ctx, offset + size))
		return NULL;
	at = ctx_data(ctx) + offset;
	return at + size <= ctx_data_end(ctx) ? at : NULL;
}

/* `size` new bytes behind the network header, before its options. Pieces stay as large as they were, as everywhere here:
 * the kernel makes no smaller ones of datagrams. Who grows a packet has asked whether they fit.
 */
static __always_inline long ctx_grow_l3(struct packet_ctx *ctx, const bool v6, const u32 size)
{
	return skb_adjust_room(ctx, size, BPF_ADJ_ROOM_NET, BPF_F_FIXED_GSO);
}

/* `size` new bytes between the Ethernet header and all else, for what `flags` say. */
static __always_inline long ctx_grow_outer(struct packet_ctx *ctx, const u32 size, const u64 flags)
{
	return skb_adjust_room(ctx, size, BPF_ADJ_ROOM_MAC, flags);
}

/* The checksum at `offset` follows what has changed under it (csum.h). CSUM_PSEUDO: in the pseudo-header, which
 * whoever computes it later has to know of, too.
 */
static __always_inline s32 ctx_csum_change(struct packet_ctx *ctx, u32 offset, u32 change, const u32 flags)
{
	u64 known = BPF_F_MARK_MANGLED_0 * !!(flags & CSUM_OPTIONAL) + BPF_F_PSEUDO_HDR * !!(flags & CSUM_PSEUDO);

	if (!(flags & CSUM_IPV6))
		return l4_csum_replace(ctx, offset, 0, change, known);
	/* Kernels before 6.16 do not know the flag, and are wrong about checksums that a device has computed. */
	if (!l4_csum_replace(ctx, offset, 0, change, known | BPF_F_IPV6))
		return 0;
	return l4_csum_replace(ctx, offset, 0, change, known);
}

#endif
