/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The contexts of programs on a cgroup: the call that is about to be made, and the socket that makes it. As in ctx.h,
 * what is declared here is kernel ABI.
 */
#ifndef CPLANE_CTX_SOCK_H
#define CPLANE_CTX_SOCK_H

HELPER(u64, get_socket_cookie, 46, void *ctx);
HELPER(u64, get_current_cgroup_id, 80, void);
HELPER(u64, get_netns_cookie, 122, void *ctx);
HELPER(long, set_retval, 187, s64 value);

#define SOCK_PASS 1
#define SOCK_REFUSE 0
#define ENOMEM 12
#define ECONNREFUSED 111

/* struct bpf_sock_addr, as far as programs read it. */
struct sock_addr_ctx {
	u32 user_family;
	u32 user_ip4;
	u32 user_ip6[4];
	u32 user_port;
	u32 family;
	u32 type;
	u32 protocol;
	u32 msg_src_ip4;
	u32 msg_src_ip6[4];
	struct sock_ctx *sk;
};

/* struct bpf_sock, likewise. */
struct sock_ctx {
	u32 bound_dev_if;
	u32 family;
	u32 type;
	u32 protocol;
	u32 mark;
	u32 priority;
	u32 src_ip4;
	u32 src_ip6[4];
	u32 src_port;		/* in the host's byte order */
	__be16 dst_port;
	u16 pad;
	u32 dst_ip4;
	u32 dst_ip6[4];
	u32 state;
};

#define SOCK_CONNECTED 1	/* of state: TCP_ESTABLISHED, for datagrams too */

/* Fields of the context, read and written at constant offsets from its own register, as the verifier wants it. */
#define SOCK_LOAD(type, ctx, field) ({ \
	unsigned long __value; \
	asm volatile("%[value] = *(u32 *)(%[base] + %[at])" \
		     : [value] "=r"(__value) \
		     : [base] "r"(ctx), [at] "i"(__builtin_offsetof(type, field))); \
	(u32)__value; })
#define SOCK_STORE(ctx, field, what) ({ \
	unsigned long __value = (what); \
	asm volatile("*(u32 *)(%[base] + %[at]) = %[value]" \
		     : \
		     : [base] "r"(ctx), [at] "i"(__builtin_offsetof(struct sock_addr_ctx, field)), \
		       [value] "r"(__value) \
		     : "memory"); })
#define ADDR_LOAD(ctx, field) SOCK_LOAD(struct sock_addr_ctx, ctx, field)

/* The address that a call names, as a frontend or a backend would have it. */
struct sock_place {
	struct addr addr;
	__be16 port;
	u8 protocol;
	u8 family;
};

/* ::ffff:a.b.c.d becomes a.b.c.d; false for any other address, which stays as it is. */
static __always_inline bool sock_unmap(struct addr *addr)
{
	if (addr->word[0] | addr->word[1] || addr->word[2] != bpf_htonl(0xffff))
		return false;
	addr->word[0] = addr->word[3];
	addr->word[2] = 0;
	addr->word[3] = 0;
	return true;
}

static __always_inline void sock_read(struct sock_addr_ctx *ctx, struct sock_place *place, const bool v6)
{
	__builtin_memset(place, 0, sizeof(*place));
	place->port = ADDR_LOAD(ctx, user_port);
	place->protocol = ADDR_LOAD(ctx, protocol);
	place->family = FAMILY_V4;
	if (!v6) {
		place->addr.word[0] = ADDR_LOAD(ctx, user_ip4);
		return;
	}
	place->addr.word[0] = ADDR_LOAD(ctx, user_ip6[0]);
	place->addr.word[1] = ADDR_LOAD(ctx, user_ip6[1]);
	place->addr.word[2] = ADDR_LOAD(ctx, user_ip6[2]);
	place->addr.word[3] = ADDR_LOAD(ctx, user_ip6[3]);
	if (!sock_unmap(&place->addr))
		place->family = FAMILY_V6;
}

/* The family stays what `sock_read` has found. */
static __always_inline void sock_write(struct sock_addr_ctx *ctx, const struct addr *addr, __be16 port, u8 family,
				       const bool v6)
{
	SOCK_STORE(ctx, user_port, port);
	if (!v6) {
		SOCK_STORE(ctx, user_ip4, addr->word[0]);
	} else if (family == FAMILY_V4) {
		SOCK_STORE(ctx, user_ip6[3], addr->word[0]);
	} else {
		SOCK_STORE(ctx, user_ip6[0], addr->word[0]);
		SOCK_STORE(ctx, user_ip6[1], addr->word[1]);
		SOCK_STORE(ctx, user_ip6[2], addr->word[2]);
		SOCK_STORE(ctx, user_ip6[3], addr->word[3]);
	}
}

#endif
