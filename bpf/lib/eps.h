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

/* The row of the longest prefix that has `bits` or fewer. */
static __always_inline struct remote_endpoint_info *ipcache_row(const struct addr *addr, u8 family, u32 bits)
{
	struct ipcache_key key = {
		.prefixlen = IPCACHE_STATIC_BITS + bits,
		.family = family,
		.addr = *addr,
	};

	return ipcache_map(&key);
}

/* Identity of an address; world if the ipcache has none. */
static __always_inline u32 identity_of(const struct addr *addr, u8 family)
{
	struct remote_endpoint_info *info = ipcache_row(addr, family, family == FAMILY_V6 ? 128 : 32);

	return info ? info->sec_identity : IDENTITY_WORLD;
}

/* True for an address of the node, or of one of its endpoints. */
static __always_inline bool address_is_local(const struct addr *addr, u8 family)
{
	return endpoint_of(addr, family) || identity_of(addr, family) == IDENTITY_HOST;
}

/* The identity of all that is outside: that of the empty prefix, which in dual stack has one per family. */
static __always_inline u32 identity_of_world(const struct addr *addr, u8 family)
{
	struct remote_endpoint_info *info = ipcache_row(addr, family, 0);

	return info ? info->sec_identity : IDENTITY_WORLD;
}

#endif
