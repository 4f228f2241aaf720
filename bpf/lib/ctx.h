/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Kernel helpers, compiler idioms, and the packet context with its return codes. No kernel header is used: what
 * is declared here is kernel ABI (include/uapi/linux/bpf.h), so bcc and clang compile the same text.
 *
 * A packet is met in one of two contexts, whose files have the same functions: ctx_skb.h for programs on tcx, and
 * ctx_xdp.h for a unit that defines CPLANE_XDP before anything else.
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

/* enum bpf_func_id */
#define HELPER_MAP_UPDATE_ELEM 2
#define HELPER_SKB_CHANGE_TAIL 38
#define HELPER(type, name, id, ...) \
	static type (*const name)(__VA_ARGS__) __attribute__((unused)) = (void *)id
HELPER(void *, map_lookup_elem, 1, void *map, const void *key);
HELPER(long, map_update_elem, HELPER_MAP_UPDATE_ELEM, void *map, const void *key, const void *value, u64 flags);
HELPER(long, map_delete_elem, 3, void *map, const void *key);
HELPER(u32, get_prandom_u32, 7, void);
HELPER(u32, get_smp_processor_id, 8, void);
HELPER(long, redirect, 23, u32 ifindex, u64 flags);
HELPER(s64, csum_diff, 28, const void *from, u32 from_size, const void *to, u32 to_size, u32 seed);
HELPER(u64, jiffies64, 118, void);
HELPER(u64, ktime_get_boot_ns, 125, void);
HELPER(void *, ringbuf_reserve, 131, void *map, u64 size, u64 flags);
HELPER(void, ringbuf_submit, 132, void *record, u64 flags);
HELPER(u64, ringbuf_query, 134, void *map, u64 what);
HELPER(u64, ktime_get_coarse_ns, 160, void);

#define BPF_ANY 0
#define BPF_NOEXIST 1
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

/* The same of a field that stays what it is: it need not be loaded again. */
#define CTX_FIXED(ctx, field) ({ \
	unsigned long __value; \
	asm("%[value] = *(u32 *)(%[base] + %[at])" \
	    : [value] "=r"(__value) \
	    : [base] "r"(ctx), [at] "i"(__builtin_offsetof(struct packet_ctx, field))); \
	__value; })

/* An offset into the packet that comes from a map, where the verifier loses sight of it. It is in reach already, as
 * whoever kept it there has asked.
 */
#define CTX_REACH 0x7ff
static __always_inline unsigned long ctx_offset(u32 offset)
{
	unsigned long near = offset;

	asm volatile("%[near] &= %[reach]" : [near] "+r"(near) : [reach] "i"(CTX_REACH));
	return near;
}

#define BPF_ADJ_ROOM_NET 0	/* behind the network header */
#define BPF_ADJ_ROOM_MAC 1	/* before it */
/* What a tunnel header is to the kernel, which cuts large packets to pieces behind it. */
#define BPF_F_FIXED_GSO (1ULL << 0)	/* pieces of a large packet stay as large as they were */
#define BPF_F_ENCAP_L3_IPV4 (1ULL << 1)
#define BPF_F_ENCAP_L3_IPV6 (1ULL << 2)
#define BPF_F_ENCAP_L4_UDP (1ULL << 4)
#define BPF_F_ENCAP_L2_ETH (1ULL << 6)
#define BPF_F_ENCAP_L2(size) ((u64)(size) << 56)	/* of the header before the inner network header */
#define BPF_F_DECAP_L3_IPV4 (1ULL << 7)
#define BPF_F_DECAP_L3_IPV6 (1ULL << 8)

#include "csum.h"
#ifdef CPLANE_XDP
#include "ctx_xdp.h"
#else
#include "ctx_skb.h"
#endif

#endif
