/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packet context, return codes, kernel helpers and compiler idioms. No kernel header is used: what
 * is declared here is kernel ABI (include/uapi/linux/bpf.h), so bcc and clang compile the same text.
 */
#ifndef CPLANE_CTX_H
#define CPLANE_CTX_H

typedef signed char s8;
typedef unsigned char u8;
typedef short s16;
typedef unsigned short u16;
typedef int s32;
typedef unsigned int u32;
typedef long long s64;
typedef unsigned long long u64;
typedef u16 __be16;
typedef u32 __be32;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

#ifdef __always_inline
#undef __always_inline
#endif
#define __always_inline inline __attribute__((always_inline, unused))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* An entry point. bcc places functions itself and is called with an empty PROGRAM. */
#ifndef PROGRAM
#define PROGRAM __attribute__((section("tcx"), used))
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the programs and their Python twins are little-endian"
#endif
#define bpf_htons(x) ((__be16)(__builtin_constant_p(x) ? \
	((((u16)(x)) & 0xff) << 8 | ((u16)(x)) >> 8) : __builtin_bswap16(x)))
#define bpf_ntohs(x) bpf_htons(x)
#define bpf_htonl(x) ((__be32)__builtin_bswap32(x))

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
};

/* enum tcx_action_base */
#define CTX_ACT_OK 0
#define CTX_ACT_DROP 2
#define CTX_ACT_REDIRECT 7

/* enum bpf_func_id */
#define HELPER_MAP_UPDATE_ELEM 2
#define HELPER_SKB_CHANGE_TAIL 38
#define HELPER(type, name, id, ...) \
	static type (*const name)(__VA_ARGS__) __attribute__((unused)) = (void *)id
HELPER(void *, map_lookup_elem, 1, void *map, const void *key);
HELPER(long, map_update_elem, HELPER_MAP_UPDATE_ELEM, void *map, const void *key, const void *value, u64 flags);
HELPER(u32, get_smp_processor_id, 8, void);
HELPER(long, redirect, 23, u32 ifindex, u64 flags);
HELPER(long, skb_load_bytes, 26, const struct packet_ctx *ctx, u32 offset, void *to, u32 len);
HELPER(s64, csum_diff, 28, const void *from, u32 from_size, const void *to, u32 to_size, u32 seed);
HELPER(u32, get_hash_recalc, 34, const struct packet_ctx *ctx);
HELPER(long, skb_change_tail, HELPER_SKB_CHANGE_TAIL, struct packet_ctx *ctx, u32 len, u64 flags);
HELPER(long, skb_pull_data, 39, struct packet_ctx *ctx, u32 len);
HELPER(u64, ktime_get_boot_ns, 125, void);
HELPER(void *, ringbuf_reserve, 131, void *map, u64 size, u64 flags);
HELPER(void, ringbuf_submit, 132, void *record, u64 flags);
HELPER(u64, ringbuf_query, 134, void *map, u64 what);
HELPER(long, redirect_peer, 155, u32 ifindex, u64 flags);
HELPER(u64, ktime_get_coarse_ns, 160, void);

#define BPF_ANY 0
#define BPF_RB_NO_WAKEUP 1
#define BPF_RB_AVAIL_DATA 0
#define BPF_RB_RING_SIZE 1

/* A field of the context, loaded as the verifier wants it: from the context's own register and a constant
 * offset. LLVM likes to keep &ctx->field in a register, which the verifier calls a modified pointer.
 */
#define CTX_LOAD(ctx, field) ({ \
	unsigned long __value; \
	asm volatile("%[value] = *(u32 *)(%[base] + %[at])" \
		     : [value] "=r"(__value) \
		     : [base] "r"(ctx), [at] "i"(__builtin_offsetof(struct packet_ctx, field))); \
	__value; })

static __always_inline void *ctx_data(const struct packet_ctx *ctx)
{
	return (void *)CTX_LOAD(ctx, data);
}

static __always_inline void *ctx_data_end(const struct packet_ctx *ctx)
{
	return (void *)CTX_LOAD(ctx, data_end);
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

#endif
