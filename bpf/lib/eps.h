/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who is behind an address. */
#ifndef CPLANE_EPS_H
#define CPLANE_EPS_H

/* The local endpoint with this address; NULL if it is not local. */
static __always_inline struct endpoint_info *endpoint_of(const struct addr *addr, u8 family)
{
	struct endpoint_key key = { .addr = *addr, .family = family };

	return lxc_map(&key);
}

/* Identity by the longest prefix that has `bits` or fewer; world if the ipcache has none. */
static __always_inline u32 ipcache_identity(const struct addr *addr, u8 family, u32 bits)
{
	struct ipcache_key key = {
		.prefixlen = IPCACHE_STATIC_BITS + bits,
		.family = family,
		.addr = *addr,
	};
	struct remote_endpoint_info *info = ipcache_map(&key);

	return info ? info->sec_identity : IDENTITY_WORLD;
}

static __always_inline u32 identity_of(const struct addr *addr, u8 family)
{
	return ipcache_identity(addr, family, family == FAMILY_V6 ? 128 : 32);
}

/* The identity of all that is outside: that of the empty prefix, which in dual stack has one per family. */
static __always_inline u32 identity_of_world(const struct addr *addr, u8 family)
{
	return ipcache_identity(addr, family, 0);
}

/* Who sent a packet that the stack hands to an endpoint. What came in by a device is not the host, whatever
 * its source says: such a packet was masqueraded by the node, or lies; either way the sender is outside. And
 * a local endpoint's packets come in by that endpoint's device only.
 */
static __always_inline s32 identity_of_source(const struct packet_ctx *ctx, struct packet *p)
{
	struct endpoint_info *info = endpoint_of(&p->saddr, p->family);
	u32 identity;

	if (info && !(info->flags & ENDPOINT_FLAG_HOST)) {
		if (ctx->ingress_ifindex && ctx->ingress_ifindex != info->ifindex)
			return DROP(INVALID_SOURCE_IP, LXC);
		p->src_identity = info->sec_id;
		p->src_lxc = info->lxc_id;
		return 0;
	}
	identity = info ? info->sec_id : identity_of(&p->saddr, p->family);
	if (identity == IDENTITY_HOST && ctx->ingress_ifindex)
		identity = identity_of_world(&p->saddr, p->family);
	p->src_identity = identity;
	return 0;
}

#endif
